"""`sample_tokens` in Triton: one program for a row, which reads it chunk by chunk.

A row of a usual vocabulary does not fit into registers, but it stays in the first-level cache, so
that reading it again is cheap. No row is sorted: what a cut keeps are the logits from a threshold
up, and that is found by bisection.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from tritonseq.kernels.launch import (
    Launch,
    ceil_div,
    check_device,
    next_power_of_two,
    run_on,
    strides,
)

if TYPE_CHECKING:
    from torch import Tensor

    from .call import Cuts

# Logits of a chunk at most: 16 for each thread of 16 warps, so that many loads are under way and
# few rounds of them, each as long as the latency of memory, make up a row.
CHUNK = 8192
ITEMS_PER_THREAD = 16

# Bits of a float32 that are the same in all numbers of a dtype: bisection leaves them out.
UNUSED_BITS = {torch.float32: 0, torch.bfloat16: 16, torch.float16: 13}

_UNSPECIALIZED = ["vocab_size", "top_k"]


@triton.jit
def load_chunk(p_logits, i_v, vocab_size, readable, logits_stride_v, BN: tl.constexpr):
    """Logits `i_v..i_v+BN`, minus infinity past the end."""
    o_v = i_v + tl.arange(0, BN)
    p_logit = p_logits + o_v.to(tl.int64) * logits_stride_v
    b_logit = tl.load(p_logit, mask=o_v < readable, other=-float("inf")).to(tl.float32)
    return o_v, tl.where(o_v < vocab_size, b_logit, -float("inf"))


@triton.jit
def _weights(b_logit, best, scale):
    """Probabilities as shares of the best one's."""
    # An infinite best logit would make NaN of itself.
    return tl.where(b_logit == best, 1.0, tl.exp2((b_logit - best) * scale))


@triton.jit
def _ordered(bits):
    """Bits of a float32 as an integer in the order of the floats; the same function leads back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _sum_from(
    p_logits, threshold, best, scale, vocab_size, readable, logits_stride_v,
    MASS: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """How many logits there are from a threshold up, and with `MASS` also their weights' sum."""
    b_count = tl.zeros([BN], tl.int32)
    b_mass = tl.zeros([BN], tl.float32)
    for i_v in range(0, vocab_size, BN):
        _, b_logit = load_chunk(p_logits, i_v, vocab_size, readable, logits_stride_v, BN)
        m_kept = b_logit >= threshold
        b_count += m_kept.to(tl.int32)
        if MASS:
            b_mass += tl.where(m_kept, _weights(b_logit, best, scale), 0.0)
    count = tl.sum(b_count)
    if MASS:
        reached = tl.sum(b_mass)
    else:
        reached = count
    return count, reached


@triton.jit
def _threshold(
    p_logits, threshold, count, target, best, scale, vocab_size, readable, logits_stride_v,
    MASS: tl.constexpr, SHIFT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The highest threshold from which up there are `target` logits, or weights of that sum.

    The one passed in is low enough: from there up there are `count` logits.
    """
    low = _ordered(threshold.to(tl.int32, bitcast=True)) >> SHIFT
    high = _ordered(best.to(tl.int32, bitcast=True)) >> SHIFT
    # As soon as no more than these are left, a higher threshold would keep too few.
    enough = 1
    if not MASS:
        enough = target
    while (low < high) & (count > enough):
        # Half way and rounded up, where the sum of both could overflow.
        middle = (low | high) - ((low ^ high) >> 1)
        tried = _ordered(middle << SHIFT).to(tl.float32, bitcast=True)
        above, reached = _sum_from(
            p_logits, tried, best, scale, vocab_size, readable, logits_stride_v, MASS, BN
        )
        if reached >= target:
            low, count, threshold = middle, above, tried
        else:
            high = middle - 1
            if MASS:
                enough = above + 1
    return threshold, count


@triton.jit
def _arrival_times(seed, step, i_v, BN: tl.constexpr):
    """Exponentially distributed times of tokens `i_v..i_v+BN`."""
    o_group = i_v // 4 + tl.arange(0, BN // 4)
    low, high = step.to(tl.uint32), (step >> 32).to(tl.uint32)
    b_0, b_1, b_2, b_3 = tl.philox(seed, o_group.to(tl.uint32), low, high, high * 0)
    b_word = tl.interleave(tl.interleave(b_0, b_2), tl.interleave(b_1, b_3))
    b_uniform = (b_word.to(tl.float32) + 0.5) * (1.0 / 4294967296.0)
    # A logarithm of 1 - x knows little of a small x, and small times decide the race.
    b_series = b_uniform * (1 / 3 + b_uniform * (1 / 4))
    b_series = b_uniform * (1.0 + b_uniform * (0.5 + b_series))
    b_log = -tl.log(tl.maximum(1.0 - b_uniform, 1.0 / 33554432.0))
    return tl.where(b_uniform < 1 / 64, b_series, b_log)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _sample(
    logits, seeds, steps, tokens,
    vocab_size, readable,
    logits_stride_r, logits_stride_v, seeds_stride_r, steps_stride_r,
    scale, top_k, top_p, min_p,
    TOP_K: tl.constexpr, TOP_P: tl.constexpr, MIN_P: tl.constexpr,
    SHIFT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One program draws the token of one row.

    `scale` is log2(e) over the temperature. The first `readable` columns may be read.
    """
    i_r = tl.program_id(0).to(tl.int64)
    p_logits = logits + i_r * logits_stride_r
    b_best = tl.full([BN], -float("inf"), tl.float32)
    for i_v in range(0, vocab_size, BN):
        _, b_logit = load_chunk(p_logits, i_v, vocab_size, readable, logits_stride_v, BN)
        b_best = tl.maximum(b_best, b_logit)
    best = tl.max(b_best)

    threshold, count = tl.full([], -float("inf"), tl.float32), vocab_size
    if TOP_K:
        threshold, count = _threshold(
            p_logits, threshold, count, top_k, best, scale, vocab_size, readable, logits_stride_v,
            False, SHIFT, BN,
        )  # fmt: skip
    if TOP_P:
        count, mass = _sum_from(
            p_logits, threshold, best, scale, vocab_size, readable, logits_stride_v, True, BN
        )
        threshold, count = _threshold(
            p_logits, threshold, count, mass * top_p, best, scale,
            vocab_size, readable, logits_stride_v, True, SHIFT, BN,
        )  # fmt: skip

    seed, step = tl.load(seeds + i_r * seeds_stride_r), tl.load(steps + i_r * steps_stride_r)
    seed, step = seed.to(tl.int64), step.to(tl.int64)
    b_first = tl.full([BN], -1.0, tl.float32)
    b_token = tl.zeros([BN], tl.int32)
    for i_v in range(0, vocab_size, BN):
        o_v, b_logit = load_chunk(p_logits, i_v, vocab_size, readable, logits_stride_v, BN)
        b_weight = _weights(b_logit, best, scale)
        m_kept = (o_v < vocab_size) & (b_logit >= threshold)
        if MIN_P:
            m_kept = m_kept & (b_weight >= min_p)
        some = True
        if TOP_K or TOP_P or MIN_P:
            # After a cut most chunks are empty, and random numbers are most of the work.
            some = tl.max(m_kept.to(tl.int32)) > 0
        if some:
            b_rate = tl.where(m_kept, b_weight / _arrival_times(seed, step, i_v, BN), -1.0)
            b_token = tl.where(b_rate > b_first, o_v, b_token)
            b_first = tl.maximum(b_first, b_rate)
    m_first = b_first == tl.max(b_first)
    tl.store(tokens + i_r, tl.min(tl.where(m_first, b_token, vocab_size - 1)).to(tl.int64))


def sample_in_triton(logits: Tensor, seeds: Tensor, steps: Tensor, cuts: Cuts) -> Tensor:
    """`sample_tokens` for checked arguments."""
    check_device(_sample, logits)
    tokens = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
    run_on(logits.device, sampling_launches(logits, seeds, steps, tokens, cuts))
    return tokens


def sampling_launches(
    logits: Tensor, seeds: Tensor, steps: Tensor, tokens: Tensor, cuts: Cuts
) -> list[Launch]:
    """The kernel, unless there are no rows: it writes `tokens [R]`."""
    rows, vocab_size = logits.shape
    if rows == 0:
        return []
    chunk = chunk_size(vocab_size)
    launch = Launch(
        _sample,
        (rows,),
        {
            "logits": logits,
            "seeds": seeds,
            "steps": steps,
            "tokens": tokens,
            "vocab_size": vocab_size,
            "readable": readable_columns(logits),
            **strides("logits", logits, "rv"),
            **strides("seeds", seeds, "r"),
            **strides("steps", steps, "r"),
            "scale": math.log2(math.e) / cuts.temperature,
            "top_k": min(cuts.top_k, vocab_size),
            "top_p": float(cuts.top_p),
            "min_p": float(cuts.min_p),
            "TOP_K": 0 < cuts.top_k < vocab_size,
            "TOP_P": cuts.top_p < 1.0,
            "MIN_P": cuts.min_p > 0.0,
            "SHIFT": UNUSED_BITS[logits.dtype],
            "BN": chunk,
        },
        num_warps=max(1, chunk // (32 * ITEMS_PER_THREAD)),
    )
    return [launch]


def chunk_size(vocab_size: int) -> int:
    """The whole row if it is short, else `CHUNK`; no less than a warp has to do."""
    return min(CHUNK, max(32 * ITEMS_PER_THREAD, next_power_of_two(vocab_size)))


def readable_columns(logits: Tensor) -> int:
    """`V`, or the next multiple of 16 if every row `[..., V]` has that many columns in memory.

    A bound that is no multiple of 16 would break every load into single elements.
    """
    padded = ceil_div(logits.shape[-1], 16) * 16
    rows = zip(logits.shape[:-1], logits.stride(), strict=False)
    end = logits.storage_offset() + sum((size - 1) * stride for size, stride in rows) + padded
    has_room = end * logits.element_size() <= logits.untyped_storage().nbytes()
    return padded if has_room and logits.stride(-1) == 1 else logits.shape[-1]
