"""Attention to the encoder's states equals attention to what is projected of them."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import networks
import pytest
import torch
from launches import as_on_gpu, counted
from torch import Tensor

import tritonseq
from tritonseq.memory.kv_cache import EncoderDecoderCache, Sizes
from tritonseq.models.attention import CrossAttention
from tritonseq.models.matmul import empty_weight, is_packed
from tritonseq.models.network import place_parameter
from tritonseq.models.source_states import StatesCrossAttention
from tritonseq.models.varlen import varlen_batches

CPU = torch.device("cpu")
LENGTHS = torch.tensor([9, 1, 5, 5])
# Heads whose sizes together are, and are not, the width: T5 has both.
SIZES = {"bart": (12, 3, 4), "t5": (10, 3, 7)}

PATHS = pytest.mark.parametrize("path", [nullcontext, as_on_gpu], ids=["cpu", "gpu"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
BY_SIZE = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


def parts(
    sizes: tuple[int, int, int], dtype: torch.dtype, *, has_bias: bool
) -> tuple[CrossAttention, StatesCrossAttention]:
    """Both kinds with the same weights."""
    usual = CrossAttention(1, *sizes, scale=0.4, has_bias=has_bias)
    own = StatesCrossAttention.in_place_of(usual)
    for name, parameter in list(usual.named_parameters()):
        value = torch.randn(parameter.shape).mul_(0.3).to(dtype)
        place_parameter(usual, name, value, pack=False)
        if value.dim() == 2:
            # In the layouts that a loader chooses: one has the outputs adjacent, one the inputs.
            value = empty_weight(value.shape, 0, device=CPU, dtype=dtype).copy_(value)
        place_parameter(own, name, value)
    return usual, own


def cache_for(part: CrossAttention, beams: int, dtype: torch.dtype) -> EncoderDecoderCache:
    """With NaN wherever nothing will be stored."""
    is_own = isinstance(part, StatesCrossAttention)
    cache = EncoderDecoderCache.allocate(
        Sizes(len(LENGTHS), beams, 11, 6, 1),
        biases=[None, None],
        heads=part.heads,
        head_dim=part.head_dim,
        device=CPU,
        dtype=dtype,
        states_width=part.width if is_own else None,
    )
    cache.source_len.copy_(LENGTHS)
    for tensor in (*cache.cross_keys, *cache.cross_values, cache.states):
        if tensor is not None:
            tensor.fill_(math.nan)
    return cache


def seen(part: CrossAttention, query: Tensor, states: Tensor, beams: int) -> Tensor:
    """What queries see of the states, which the layer below has stored if all share them."""
    cache, part.layer = cache_for(part, beams, states.dtype), 1
    (source,) = varlen_batches(torch.zeros(4, 9, dtype=torch.int64), LENGTHS, padded=False)
    if isinstance(part, StatesCrossAttention):
        part.store(states, source, cache)
        assert bool(cache.states.isnan().all()), "layers above the first store nothing"
        part.layer = 0
    part.store(states, source, cache)
    return part.attend(query, cache)


@PATHS
@DTYPES
@BY_SIZE
@pytest.mark.parametrize("has_bias", [True, False])
def test_states_and_projections_are_attended_to_alike(
    sizes: tuple[int, int, int], dtype: torch.dtype, has_bias: bool, path: Any
) -> None:
    """Each source to its end, for any number of beams; NaN behind it reaches nothing."""
    usual, own = parts(sizes, dtype, has_bias=has_bias)
    states = torch.randn(20, sizes[0]).to(dtype)
    # As close as roundings of inputs, weights and sums in half precision.
    tolerance = 1e-5 if dtype == torch.float32 else 20 * torch.finfo(dtype).eps
    for beams in (1, 3, 20):
        query = torch.randn(4 * beams, sizes[1] * sizes[2]).to(dtype)
        wanted = seen(usual, query, states, beams)
        with path():
            found = seen(own, query, states, beams)
        assert found.dtype == dtype
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@PATHS
def test_a_sample_that_rests_is_not_read(path: Any) -> None:
    _, own = parts(SIZES["bart"], torch.float32, has_bias=False)
    cache = cache_for(own, 2, torch.float32)
    cache.own.step[1] = -1
    assert cache.states is not None
    cache.states.nan_to_num_()
    cache.states[1] = math.nan
    with path():
        found = own.attend(torch.randn(8, 12), cache).view(4, 2, 12)
    assert bool((found[1] == 0).all())
    assert bool(found.isfinite().all())


def test_products_wait_for_no_device() -> None:
    """And are four: two of the projections of all heads, two with the states of all samples."""
    _, own = parts(SIZES["t5"], torch.float32, has_bias=True)
    cache = cache_for(own, 2, torch.float32)
    with counted() as names:
        own.attend(torch.randn(8, 21), cache)
    assert names.count("bmm") == 4
    assert not {"_local_scalar_dense", "nonzero", "equal"} & {*names}


def test_the_weights_are_there_once_and_can_be_indexed() -> None:
    theirs = networks.network("bart", d_model=576, encoder_layers=1, decoder_layers=1)
    usual, own = (
        tritonseq.from_transformers(theirs, dtype="bfloat16", source_cache=kind).decoder
        for kind in ("projected", "states")
    )
    assert own.size == usual.size
    assert own.checksum() == usual.checksum()
    for block in own.decoder:
        assert not is_packed(block.cross.kv.weight)
    for network in (own.float(), own.half()):
        assert not any(is_packed(block.cross.kv.weight) for block in network.decoder)
