"""A step as a GPU takes it: how many kernels it launches, and what they compute."""

from __future__ import annotations

from collections import Counter
from typing import Any

import networks
import pytest
import tiny_unilm
import torch
from launches import counted
from walk import begin

import tritonseq

SAMPLES, BEAMS = 2, 3

# What a layer launches: qkv, attend, out, norm; query, attend, out, norm; in, act, out, norm.
LAYER = 12
# UniLM's: query, kv, attend, out, norm; in, act, out, norm.
UNILM_LAYER = 9


def step(decoder: Any, **options: Any) -> Counter[str]:
    """What the first step of a few beams launches, by name; its logits are those of the CPU."""
    tokens, lengths = networks.sources([5, 3])
    cache, _ = begin(decoder, tokens, lengths, beams=BEAMS, target_length=4, **options)
    newest = torch.arange(1, 1 + SAMPLES * BEAMS).view(SAMPLES, BEAMS)
    lineage = torch.arange(BEAMS).expand(SAMPLES, 4, BEAMS)
    # Both write the same position.
    wanted = decoder.step(newest, lineage, cache)
    with counted() as names:
        result = decoder.step(newest, lineage, cache)
    torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-4)
    return Counter(names)


def encoder_decoder(model_type: str, layers: int) -> Any:
    key = "num_decoder_layers" if "t5" in model_type else "decoder_layers"
    model = networks.network(model_type, **{key: layers})
    return tritonseq.from_transformers(model).decoder


@pytest.mark.parametrize("model_type", networks.SIZES)
def test_encoder_decoder(model_type):
    start = torch.ones(SAMPLES, 1, dtype=torch.int64)
    one, two = (step(encoder_decoder(model_type, n), prompt=start) for n in (1, 2))
    layer = two - one
    assert layer.total() <= LAYER, layer
    assert layer["attend"] == 2
    assert layer["add_norm"] == 3
    # Beside the layers: positions, the embedding, a norm behind it or at the end, a scale, the
    # head.
    assert one.total() - layer.total() <= 5, one - layer


@pytest.mark.parametrize("shift", [False, True])
def test_unilm(shift):
    two, three = (
        step(tiny_unilm.tiny(num_hidden_layers=n, pos_shift=shift).engine()) for n in (2, 3)
    )
    layer = three - two
    assert layer.total() <= UNILM_LAYER, layer
    assert layer["attend"] == 1
    assert layer["add_norm"] == 2
    # Beside the layers: two rows per beam and their positions, the embedding and its norm, what
    # stands before the head, and the head. With pos_shift one row is all that there is.
    assert two.total() - 2 * layer.total() <= (7 if shift else 11), two - layer - layer
