"""BART and its family against transformers: every option, prefill and steps, half precision."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import networks
import pytest
import torch
import transformers

import tritonseq
from tritonseq.models import matmul
from tritonseq.models.bart import LAYOUTS, BartConfig
from tritonseq.models.feed_forward import ACTIVATIONS

LENGTHS = [9, 1, 6, 6, 30]
FAMILY = ("bart", "mbart", "pegasus", "marian", "m2m_100", "fsmt", "blenderbot")
# model_type and options.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in FAMILY}
VARIANTS |= {name: (name, {}) for name in ("mvp", "plbart")}
VARIANTS |= {f"{name} scaled": (name, {"scale_embedding": True}) for name in FAMILY[:4]}
VARIANTS |= {f"{name} not scaled": (name, {"scale_embedding": False}) for name in FAMILY[4:6]}
VARIANTS |= {
    f"{name} uneven": (
        name,
        {
            "encoder_layers": 3,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 6,
            "encoder_ffn_dim": 13,
            "decoder_ffn_dim": 51,
            "vocab_size": 53,
        },
    )
    for name in FAMILY
}
VARIANTS |= {f"{name} untied": (name, {"tie_word_embeddings": False}) for name in FAMILY}
VARIANTS["fsmt tied"] = ("fsmt", {"tie_word_embeddings": True, "tgt_vocab_size": networks.VOCAB})
# Two rows of positions more, or fewer, stand before the first.
VARIANTS |= {f"{name} pad": (name, {"pad_token_id": 3}) for name in networks.COUNTING_PADS}
VARIANTS |= {f"act-{name}": ("bart", {"activation_function": name}) for name in ACTIVATIONS}
VARIANTS |= {
    # The channels do not split evenly into sines and cosines.
    "pegasus odd": (
        "pegasus",
        {"d_model": 27, "encoder_attention_heads": 3, "decoder_attention_heads": 9},
    ),
    "marian odd": ("marian", {"d_model": 21}),
    "m2m_100 odd": ("m2m_100", {"d_model": 21}),
    "fsmt odd": ("fsmt", {"d_model": 15}),
    "marian swish": ("marian", {"activation_function": "swish", "scale_embedding": True}),
    "deep": ("mbart", {"encoder_layers": 1, "decoder_layers": 4}),
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("model_type", FAMILY)
def test_half_precision_stays_within_torchs_own_error(model_type: str, dtype: torch.dtype) -> None:
    model = networks.network(model_type, seed=4)
    networks.assert_close_in_half_precision(model, dtype)


def louder(model: Any, factors: dict[str, float]) -> Any:
    """A copy with the parameters whose names contain a key multiplied by its factor."""
    model = copy.deepcopy(model)
    for name, parameter in model.model.named_parameters():
        parameter.data *= next((x for part, x in factors.items() if part in name), 1.0)
    return model


@pytest.mark.parametrize("model_type", ["mbart", "pegasus"])
def test_float16_where_the_residual_stream_overflows(model_type: str) -> None:
    """Where norms stand before each part, the stream may grow and the results stay the same."""
    model = networks.network(
        model_type, seed=5, tie_word_embeddings=False, activation_function="relu"
    )
    # What blocks add outgrows what comes in, which must be within float16.
    tame = louder(model, {"out_proj": 16.0, "fc2": 16.0})
    start = {"mbart": "layernorm_embedding", "pegasus": "embed_"}[model_type]
    bias = dict.fromkeys(("out_proj.bias", "fc2.bias", "shared", start), 2.0**12)
    first, second = dict.fromkeys(("v_proj", "fc1"), 2.0**8), dict.fromkeys(("out_proj", "fc2"), 16)
    model = louder(tame, bias | first | second)
    tokens, lengths = networks.sources([9, 30])
    targets = torch.arange(8).view(2, 1, 4)
    wanted = networks.all_logits(model, tokens, lengths, targets)
    torch.testing.assert_close(
        wanted, networks.all_logits(tame, tokens, lengths, targets), rtol=1e-4, atol=1e-4
    )
    theirs = networks.all_logits(copy.deepcopy(model).half(), tokens, lengths, targets)
    assert not (theirs - wanted).abs().max() < 1.0
    networks.assert_close_in_half_precision(model, torch.float16, tame=tame)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder_layers": 0}, "encoder_layers must be a positive integer, not 0"),
        ({"decoder_ffn_dim": True}, "decoder_ffn_dim must be a positive integer, not True"),
        ({"max_position_embeddings": "1k"}, "max_position_embeddings must be a positive integer"),
        ({"d_model": 30}, "d_model 30 is not a multiple of encoder_attention_heads 16"),
        (
            {"decoder_attention_heads": 7},
            "d_model 1024 is not a multiple of decoder_attention_heads 7",
        ),
        ({"activation_function": 3}, "activation_function must be a name, not 3"),
        ({"activation_function": "swosh"}, "'swosh' is not supported; known: gelu"),
    ],
)
def test_impossible_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BartConfig.from_dict(config)


@pytest.mark.parametrize("model_type", LAYOUTS)
def test_defaults_are_those_of_the_model_type(model_type: str) -> None:
    theirs = transformers.CONFIG_MAPPING[model_type]()
    ours = BartConfig.from_dict({"model_type": model_type})
    for field in dataclasses.fields(ours):
        # A pad has a position like any token, in most families.
        is_said = getattr(ours, field.name) is not None
        if is_said and hasattr(theirs, field.name) and field.name != "vocab_size":
            assert getattr(ours, field.name) == getattr(theirs, field.name), field.name
    sources = "src_vocab_size" if model_type == "fsmt" else "vocab_size"
    assert ours.vocab_size == getattr(theirs, sources)


def test_general_names_of_sizes_win_over_exact_ones() -> None:
    general = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BartConfig.from_dict(general)
    sizes = (config.d_model, config.encoder_layers, config.encoder_attention_heads)
    assert sizes == (48, 2, 4)
    both = {"d_model": 32, **general}
    theirs = transformers.BartConfig.from_dict(both)
    assert BartConfig.from_dict(both).d_model == theirs.d_model == 48


def test_positions_are_limited() -> None:
    ours = tritonseq.from_transformers(networks.network("marian")).decoder
    assert ours.max_positions == ours.max_source_positions == 64
    learned = tritonseq.from_transformers(networks.network("bart")).decoder
    assert learned.source.positions.weight.shape[0] == 64 + 2
