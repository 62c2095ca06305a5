"""T5 and its family against transformers: every option, prefill and steps, and half precision."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import networks
import pytest
import torch
import transformers
from launches import as_on_gpu

import tritonseq
from tritonseq.models import matmul
from tritonseq.models.feed_forward import ACTIVATIONS
from tritonseq.models.t5 import T5Config

LENGTHS = [9, 1, 6, 6, 30]
GATED = {"feed_forward_proj": "gated-gelu"}
# model_type and options. The distances of 30 positions go beyond all max_distances but the last.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("t5", {}),
    "gated": ("t5", GATED),
    "v1.1": ("t5", GATED | {"tie_word_embeddings": False}),
    "unscaled": ("t5", {"tie_word_embeddings": False}),
    "mt5": ("mt5", {}),
    "mt5 relu": ("mt5", {"feed_forward_proj": "relu"}),
    "umt5": ("umt5", {}),
    "umt5 deep": ("umt5", {"num_layers": 4, "num_decoder_layers": 3}),
    "shallow decoder": ("t5", {"num_layers": 3, "num_decoder_layers": 1}),
    "one head": ("t5", {"num_heads": 1, "d_kv": 24}),
    "narrow heads": ("t5", {"num_heads": 5, "d_kv": 3}),
    "wide heads": ("t5", {"num_heads": 4, "d_kv": 33}),
    "odd": ("t5", {"d_model": 25, "d_ff": 7, "vocab_size": 53}),
    "epsilon": ("t5", {"layer_norm_epsilon": 0.3}),
    "few buckets": (
        "t5",
        {"relative_attention_num_buckets": 4, "relative_attention_max_distance": 3},
    ),
    "odd buckets": (
        "mt5",
        {"relative_attention_num_buckets": 11, "relative_attention_max_distance": 17},
    ),
    "real buckets": (
        "umt5",
        {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
    ),
}
VARIANTS |= {f"act-{name}": ("t5", {"feed_forward_proj": name}) for name in ACTIVATIONS}
VARIANTS |= {
    f"gated-{name}": ("t5", {"feed_forward_proj": f"gated-{name}"}) for name in ("silu", "relu")
}


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_prefill_and_steps(
    variant: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if packed:
        monkeypatch.setattr(matmul, "PACKED_FROM", 1)
    model_type, config = VARIANTS[variant]
    model = networks.network(model_type, seed=1, **config)
    ours = tritonseq.from_transformers(model).decoder
    networks.assert_same_walk(model, ours, LENGTHS, beams=3, seed=2)
    networks.assert_same_walk(model, ours, LENGTHS, prompt_length=5, seed=3)


KINDS = {
    "relu": ("t5", {}),
    "gated": ("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", {}),
    "umt5": ("umt5", {}),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_stays_within_torchs_own_error(kind: str, dtype: torch.dtype) -> None:
    model_type, config = KINDS[kind]
    model = networks.network(model_type, seed=4, **config)
    networks.assert_close_in_half_precision(model, dtype)


def louder(model: Any, factors: dict[str, float]) -> Any:
    """A copy with the weights whose names end in a key multiplied by its factor."""
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        owner = name.removesuffix(".weight")
        parameter.data *= next((x for part, x in factors.items() if owner.endswith(part)), 1.0)
    return model


def peaks(model: Any, part: str) -> float:
    """The largest output, over a prefill in float32, of the modules called `part`."""
    seen = [0.0]
    hooks = [
        module.register_forward_hook(lambda _, __, out: seen.append(out.abs().max().item()))
        for name, module in model.named_modules()
        if name.endswith(part)
    ]
    networks.reference_logits(model, torch.arange(20), torch.arange(4)[None])
    for hook in hooks:
        hook.remove()
    return max(seen)


# Norms divide the stream by its size before anything looks at it, so what writes to it may grow
# as one, the activation being linear on either side of zero.
STREAM = {"shared": 2.0**15, ".v": 2.0**8, ".o": 2.0**7}
WIDE_OUTPUT = {".wi": 2.0**8, ".wi_1": 2.0**8, ".wo": 2.0**7}
WIDE_INNER = {".wi": 2.0**15, ".wi_1": 2.0**15}


@pytest.mark.parametrize(
    ("config", "factors", "overflow"),
    [
        ({}, WIDE_OUTPUT, "wo"),
        ({}, WIDE_INNER, "wi"),
        (GATED, WIDE_OUTPUT, "wo"),
        (GATED, WIDE_INNER, "wi_1"),
    ],
    ids=["output", "inner", "gated output", "gated inner"],
)
def test_float16_where_plain_float16_overflows(
    config: dict[str, Any], factors: dict[str, float], overflow: str
) -> None:
    config = config | {"tie_word_embeddings": False, "layer_norm_epsilon": 1e-20, "num_layers": 1}
    tame = networks.network("t5", seed=5, **config)
    # A head of its own does not grow with the embedding.
    tame.lm_head.weight = torch.nn.Parameter(torch.randn(networks.VOCAB, 24))
    model = louder(tame, STREAM | factors)
    # The same results in float32, and infinities in a float16 without precautions.
    tokens, lengths = networks.sources([9, 30])
    targets = torch.arange(8).view(2, 1, 4)
    wanted = networks.all_logits(model, tokens, lengths, targets)
    torch.testing.assert_close(wanted, networks.all_logits(tame, tokens, lengths, targets))
    assert peaks(copy.deepcopy(model).half(), overflow) == math.inf
    networks.assert_close_in_half_precision(model, torch.float16, tame=tame)
    with as_on_gpu():
        networks.assert_close_in_half_precision(model, torch.float16, tame=tame, lengths=[2])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_layers": 0}, "num_layers must be a positive integer, not 0"),
        ({"num_decoder_layers": -1}, "num_decoder_layers must be a positive integer, not -1"),
        ({"d_kv": True}, "d_kv must be a positive integer, not True"),
        ({"d_model": "512"}, "d_model must be a positive integer, not '512'"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon must be a positive number, not 0"),
        ({"feed_forward_proj": None}, "feed_forward_proj must be a name, not None"),
        ({"feed_forward_proj": "double-relu"}, "'double-relu' must be the name of an activation"),
        ({"feed_forward_proj": "gated-gelu-new"}, "'gated-gelu-new' must be the name"),
        ({"feed_forward_proj": "gated-swosh"}, "'swosh' is not supported; known: gelu"),
        ({"relative_attention_num_buckets": 3}, "buckets 3 must be at least 4"),
        ({"relative_attention_max_distance": 16}, "max_distance 16 more than half"),
    ],
)
def test_impossible_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        T5Config.from_dict({"model_type": "t5", **config})


@pytest.mark.parametrize("model_type", ["t5", "mt5", "umt5"])
def test_defaults_are_those_of_the_model_type(model_type: str) -> None:
    theirs = transformers.CONFIG_MAPPING[model_type]()
    ours = T5Config.from_dict({"model_type": model_type})
    # What these say where they stand is in feed_forward_proj otherwise.
    overruling = ("dense_act_fn", "is_gated_act")
    for field in dataclasses.fields(ours):
        if hasattr(theirs, field.name) and field.name not in overruling:
            assert getattr(ours, field.name) == getattr(theirs, field.name), field.name
    assert ours.activation_name == theirs.dense_act_fn
    assert ours.is_gated == theirs.is_gated_act


def test_the_decoder_is_as_deep_as_the_encoder_unless_said_otherwise() -> None:
    for depth in ({}, {"num_decoder_layers": None}):
        config = T5Config.from_dict({"model_type": "t5", "num_layers": 9, **depth})
        assert (config.num_layers, config.num_decoder_layers) == (9, 9)
    config = T5Config.from_dict({"model_type": "t5", "num_layers": 9, "num_decoder_layers": 2})
    assert (config.num_layers, config.num_decoder_layers) == (9, 2)


def test_general_names_of_sizes_are_understood() -> None:
    config = T5Config.from_dict(
        {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 5, "head_dim": 7}
    )
    assert (config.d_model, config.num_heads, config.num_layers, config.d_kv) == (48, 3, 5, 7)
    assert config.num_decoder_layers == 5


def test_positions_are_unlimited() -> None:
    ours = tritonseq.from_transformers(networks.network("t5")).decoder
    assert ours.max_positions is ours.max_source_positions is None
