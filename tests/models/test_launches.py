"""A step as a GPU takes it: how many kernels it launches, and what they compute."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import networks
import pytest
import tiny_unilm
import torch
from launches import as_on_gpu, counted
from walk import begin

import tritonseq

SAMPLES, BEAMS = 2, 3

# What a layer launches for a few rows, beside attention: `norm_linear` takes a norm with the
# product behind it, an activation, and the addition of what a part gives; norms behind an addition
# are launches of their own, with it.
PRE_NORM = {"norm_linear": 6}
POST_NORM = {"addmm": 5, "norm_linear": 1, "add_norm": 3}
LAYERS = {
    "t5": PRE_NORM,
    "mt5": PRE_NORM | {"activate": 1},  # gated
    "umt5": PRE_NORM | {"activate": 1},
    "mbart": PRE_NORM,
    "pegasus": PRE_NORM,
    "bart": POST_NORM,
    "marian": POST_NORM,
    "m2m_100": PRE_NORM,
    "fsmt": POST_NORM,
    "mvp": POST_NORM,
    "plbart": POST_NORM,
    "blenderbot": PRE_NORM,
}
UNILM_LAYER = {"attend": 1, "addmm": 4, "norm_linear": 1, "add_norm": 2}
# Queries apart from keys and values, and the bias of every row by distance from its buckets.
PROPHETNET_LAYER = Counter(
    {"attend": 2, "addmm": 7, "index_select": 1, "activate": 1, "add_norm": 3}
)
# With a [MASK] for every beam rows are no longer few.
UNILM_LAYER_OF_PAIRS = {"attend": 1, "addmm": 5, "activate": 1, "add_norm": 2}


def step(decoder: Any, *, dry: bool = False, **options: Any) -> Counter[str]:
    """What the first step of a few beams launches, by name; its logits are those of the CPU.

    Those of a `dry` run are not.
    """
    tokens, lengths = networks.sources([5, 3])
    cache, _ = begin(decoder, tokens, lengths, beams=BEAMS, target_length=4, **options)
    newest = torch.arange(1, 1 + SAMPLES * BEAMS).view(SAMPLES, BEAMS)
    lineage = torch.arange(BEAMS).expand(SAMPLES, 4, BEAMS)
    # Both write the same position.
    wanted = decoder.step(newest, lineage, cache)
    with counted(dry=dry) as names:
        result = decoder.step(newest, lineage, cache)
    if not dry:
        torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-4)
    return Counter(names)


def encoder_decoder(model_type: str, layers: int, **config: Any) -> Any:
    key = "num_decoder_layers" if "t5" in model_type else "decoder_layers"
    model = networks.network(model_type, **{key: layers}, **config)
    return tritonseq.from_transformers(model).decoder


# Built of the same blocks as others.
LIKE_OTHERS = ("mt5", "mbart", "pegasus", "umt5", "m2m_100", "mvp", "plbart", "blenderbot")


@pytest.mark.parametrize(
    "model_type",
    [
        pytest.param(name, marks=pytest.mark.long if name in LIKE_OTHERS else ())
        for name in networks.SIZES
    ],
)
def test_encoder_decoder(model_type):
    start = torch.ones(SAMPLES, 1, dtype=torch.int64)
    one, two = (step(encoder_decoder(model_type, n), prompt=start) for n in (1, 2))
    layer = two - one
    assert layer == {"attend": 2, **LAYERS[model_type]}
    # Beside the layers: positions, the embedding, a norm behind it or at the end, a scale, the
    # head; of M2M100 the row that is zero for pads.
    assert one.total() - layer.total() <= 5 + (model_type == "m2m_100"), one - layer


def test_prophetnet() -> None:
    start = torch.ones(SAMPLES, 1, dtype=torch.int64)
    sizes = {"num_decoder_attention_heads": 1, "num_encoder_layers": 1}
    models = (networks.network("prophetnet", num_decoder_layers=n, **sizes) for n in (1, 2))
    one, two = (tritonseq.from_transformers(model).decoder for model in models)
    alone = step(one, prompt=start, dry=True)
    assert step(two, prompt=start, dry=True) - alone == PROPHETNET_LAYER
    # Beside the layers: positions and embeddings of both rows, side by side, their norm, the head.
    assert alone.total() - PROPHETNET_LAYER.total() <= 6, alone


@pytest.mark.parametrize("shift", [False, True])
def test_unilm(shift):
    two, three = (
        step(tiny_unilm.tiny(num_hidden_layers=n, pos_shift=shift).engine()) for n in (2, 3)
    )
    layer = three - two
    assert layer == (UNILM_LAYER if shift else UNILM_LAYER_OF_PAIRS)
    # Beside the layers: two rows per beam and their positions, the embedding and its norm, what
    # stands before the head, and the head. With pos_shift one row is all that there is.
    assert two.total() - 2 * layer.total() <= (7 if shift else 11), two - layer - layer


AWKWARD: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5", {"d_model": 25, "d_kv": 5, "d_ff": 7, "vocab_size": 53}),
    "gated": ("mt5", {"d_model": 21, "d_ff": 9, "num_heads": 1, "vocab_size": 67}),
    "unknown activation": ("t5", {"feed_forward_proj": "quick_gelu"}),
    "pre-norm": ("mbart", {"d_model": 27, "decoder_ffn_dim": 5, "activation_function": "gelu"}),
    "post-norm": ("bart", {"d_model": 15, "decoder_ffn_dim": 33, "activation_function": "silu"}),
}
# The last are more rows than are few: what any number does that is no product of few rows.
ROWS = pytest.mark.parametrize(
    ("samples", "beams"), [(1, 1), (2, 3), pytest.param(3, 3, marks=pytest.mark.long)]
)


@ROWS
@pytest.mark.parametrize("name", AWKWARD)
def test_logits_at_awkward_sizes(name, samples, beams):
    """Of the prefill and of a step, with rows that are few and those that are more than few."""
    model_type, config = AWKWARD[name]
    one = "num_layers" if "t5" in model_type else "encoder_layers"
    decoder = encoder_decoder(model_type, layers=1, **{one: 1}, **config)
    tokens, lengths = networks.sources([3, 1, 4][:samples])
    targets = torch.randint(0, networks.VOCAB, (samples, 1, 2)).expand(-1, beams, -1)
    wanted = networks.stepped_logits(decoder, tokens, lengths, targets)
    with as_on_gpu():
        result = networks.stepped_logits(decoder, tokens, lengths, targets)
    torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-4)


@ROWS
@pytest.mark.parametrize("config", [{}, {"pos_shift": True}, {"hidden_act": "quick_gelu"}], ids=str)
def test_logits_of_unilm_at_awkward_sizes(config, samples, beams):
    decoder = tiny_unilm.tiny(hidden_size=20, intermediate_size=7, **config).engine()
    tokens, lengths = networks.sources([3, 1, 4][:samples])
    results = []
    for place in (contextlib.nullcontext(), as_on_gpu()):
        with place:
            cache, first = begin(decoder, tokens, lengths, beams=beams, target_length=1)
            newest = torch.arange(samples * beams).view(samples, beams)
            lineage = torch.arange(beams).expand(samples, 1, beams)
            results.append((first, decoder.step(newest, lineage, cache)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


def test_float16_of_a_few_rows():
    """No product that float16 cannot hold is left to it: the stream is as wide as on the CPU."""
    model = networks.network("mbart", encoder_layers=1, decoder_layers=1)
    with as_on_gpu():
        networks.assert_close_in_half_precision(model, torch.float16, lengths=[2])
