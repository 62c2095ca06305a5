"""`ban_ngrams` and its relatives in Triton: one program for a block of places in one row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from tritonseq.kernels.launch import Launch, ceil_div, check_device, in_order, run_on, strides

if TYPE_CHECKING:
    from torch import Tensor

    from .call import NgramCall

# Places where an n-gram may start, per program: two for every thread of four warps. Programs of
# a row share nothing, so that any length will do.
PLACES = 256

_UNSPECIALIZED = [
    "n", "places", "vocab_size", "beams", "rows_per_prefix", "rows_per_source",
    "tokens_size", "prefix_size", "source_size",
    "output_stride_r", "tokens_stride_b", "tokens_stride_t", "tokens_stride_k",
    "lineage_stride_b", "lineage_stride_t", "lineage_stride_k",
    "prefix_stride_b", "source_stride_b",
]  # fmt: skip


@triton.jit
def _bounds(starts, ends, i, size):
    """Where row `i` starts and ends: from 0 to `size`, and no end before its start."""
    start, end = tl.zeros([], tl.int32), tl.zeros([], tl.int32) + size
    if ends is not None:
        end = tl.minimum(tl.maximum(tl.load(ends + i), 0), size).to(tl.int32)
    if starts is not None:
        start = tl.minimum(tl.maximum(tl.load(starts + i), 0), end).to(tl.int32)
    return start, end


@triton.jit
def _hypothesis(
    o_i, mask, p_prefix, p_tokens, p_lineage,
    prefix_len, prefix_stride_p, tokens_stride_t, tokens_stride_k, lineage_stride_t, beams,
):  # fmt: skip
    """Tokens `o_i` of what a row has so far: its prefix, then its own tokens."""
    o_t = (o_i - prefix_len).to(tl.int64)
    m_t = mask & (o_t >= 0)
    p_token = p_tokens + o_t * tokens_stride_t
    if p_lineage is not None:
        i_slot = tl.load(p_lineage + o_t * lineage_stride_t, mask=m_t, other=0)
        i_slot = tl.minimum(tl.maximum(i_slot, 0), beams - 1)
        p_token += i_slot.to(tl.int64) * tokens_stride_k
    b_token = tl.load(p_token, mask=m_t, other=0).to(tl.int64)
    if p_prefix is not None:
        p_token = p_prefix + o_i.to(tl.int64) * prefix_stride_p
        b_prefix = tl.load(p_token, mask=mask & (o_t < 0), other=0)
        b_token = tl.where(o_t < 0, b_prefix.to(tl.int64), b_token)
    return b_token


@triton.jit
def _searched(
    o_i, mask, p_source, source_stride_s, p_prefix, p_tokens, p_lineage,
    prefix_len, prefix_stride_p, tokens_stride_t, tokens_stride_k, lineage_stride_t, beams,
):  # fmt: skip
    """Tokens `o_i` of what is searched for n-grams: the source if there is one."""
    if p_source is not None:
        p_token = p_source + o_i.to(tl.int64) * source_stride_s
        b_token = tl.load(p_token, mask=mask, other=0).to(tl.int64)
    else:
        b_token = _hypothesis(
            o_i, mask, p_prefix, p_tokens, p_lineage,
            prefix_len, prefix_stride_p, tokens_stride_t, tokens_stride_k, lineage_stride_t, beams,
        )  # fmt: skip
    return b_token


@triton.jit
def _looked_up(p_table, tokens, mask, vocab_size, table_stride_v):
    """Whether the table holds tokens: those under the mask and within the vocabulary."""
    inside = mask & (tokens >= 0) & (tokens < vocab_size)
    return tl.load(p_table + tokens * table_stride_v, mask=inside, other=0) != 0


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _ban(
    output, tokens, lengths, starts, lineage,
    prefix, prefix_starts, prefix_lengths, source, source_starts, source_lengths, ignored,
    n, places, vocab_size, beams, rows_per_prefix, rows_per_source,
    tokens_size, prefix_size, source_size,
    output_stride_r, output_stride_v,
    tokens_stride_b, tokens_stride_t, tokens_stride_k,
    lineage_stride_b, lineage_stride_t, lineage_stride_k,
    prefix_stride_b, prefix_stride_p, source_stride_b, source_stride_s, ignored_stride_v,
    LIST: tl.constexpr, MASK: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One program looks at `BN` places of one row and writes what they ban.

    That is -inf to scores or 1 to a mask, at the token, or the token itself to a list of places.
    A pointer that is None leaves its part out. Without a lineage every row is a sample of one
    beam, so far as its tokens are concerned.
    """
    i_r = tl.program_id(0).to(tl.int64)
    i_b, i_k = i_r // beams, i_r % beams
    # Without a lineage a row is a sample, with one there are no starts.
    start, end = _bounds(starts, lengths, i_b, tokens_size)
    p_tokens = tokens + i_b * tokens_stride_b + start.to(tl.int64) * tokens_stride_t
    p_lineage, p_prefix, prefix_len = lineage, prefix, 0
    if lineage is not None:
        p_lineage = lineage + i_b * lineage_stride_b + i_k * lineage_stride_k
    if prefix is not None:
        i_prefix = i_r // rows_per_prefix
        prefix_start, prefix_end = _bounds(prefix_starts, prefix_lengths, i_prefix, prefix_size)
        prefix_len = prefix_end - prefix_start
        p_prefix = prefix + i_prefix * prefix_stride_b
        p_prefix += prefix_start.to(tl.int64) * prefix_stride_p
    length = prefix_len + end - start

    p_source, searched_len = source, length
    if source is not None:
        i_source = i_r // rows_per_source
        source_start, source_end = _bounds(source_starts, source_lengths, i_source, source_size)
        searched_len = source_end - source_start
        p_source = source + i_source * source_stride_b
        p_source += source_start.to(tl.int64) * source_stride_s

    # A hypothesis that is too short to agree with anything searches nothing.
    searched_len = tl.where(length >= n - 1, searched_len, 0)
    o_i = tl.program_id(1) * BN + tl.arange(0, BN)
    m_i = o_i + n <= searched_len
    for i in range(n - 1):
        b_token = _searched(
            o_i + i, m_i, p_source, source_stride_s, p_prefix, p_tokens, p_lineage,
            prefix_len, prefix_stride_p, tokens_stride_t, tokens_stride_k, lineage_stride_t, beams,
        )  # fmt: skip
        b_wanted = _hypothesis(
            length - (n - 1) + i, searched_len > 0, p_prefix, p_tokens, p_lineage,
            prefix_len, prefix_stride_p, tokens_stride_t, tokens_stride_k, lineage_stride_t, beams,
        )  # fmt: skip
        m_i = m_i & (b_token == b_wanted)
        if ignored is not None:
            m_i = m_i & ~_looked_up(
                ignored, b_wanted, searched_len > 0, vocab_size, ignored_stride_v
            )  # fmt: skip
    b_token = _searched(
        o_i + n - 1, m_i, p_source, source_stride_s, p_prefix, p_tokens, p_lineage,
        prefix_len, prefix_stride_p, tokens_stride_t, tokens_stride_k, lineage_stride_t, beams,
    )  # fmt: skip
    m_i = m_i & (b_token >= 0) & (b_token < vocab_size)
    if ignored is not None:
        m_i = m_i & ~_looked_up(ignored, b_token, m_i, vocab_size, ignored_stride_v)
    p_output = output + i_r * output_stride_r
    if LIST:
        tl.store(p_output + o_i, tl.where(m_i, b_token, -1).to(tl.int32), mask=o_i < places)
    else:
        banned = tl.full([BN], 1.0 if MASK else -float("inf"), tl.float32)
        tl.store(p_output + b_token * output_stride_v, banned.to(output.dtype.element_ty), mask=m_i)


def ban_in_triton(scores: Tensor, call: NgramCall) -> None:
    """Write -inf to `scores [R, V]` at the banned tokens."""
    _run(scores, call)


def mask_in_triton(call: NgramCall) -> Tensor:
    """The banned tokens as a boolean `[R, V]`."""
    shape = (call.rows, call.vocab_size)
    mask = torch.zeros(shape, dtype=torch.uint8, device=call.tokens.device)
    _run(mask, call)
    return mask.view(torch.bool)


def list_in_triton(call: NgramCall) -> Tensor:
    """The banned tokens as int32 `[R, N]`, -1 at places that ban nothing."""
    places = torch.empty(call.rows, call.places, dtype=torch.int32, device=call.tokens.device)
    _run(places, call)
    return places


def _run(output: Tensor, call: NgramCall) -> None:
    check_device(_ban, output)
    run_on(output.device, ngram_launches(output, call))


def ngram_launches(output: Tensor, call: NgramCall) -> list[Launch]:
    """The kernel, unless there is no place for an n-gram.

    `output` is scores, a zero mask, or a list: int32 `[R, N]`.
    """
    if call.places == 0 or output.numel() == 0:
        return []
    # Kernels read and write bytes for booleans, as the mask does.
    ignored = None if call.ignored is None else call.ignored.view(torch.uint8)
    launch = Launch(
        _ban,
        (call.rows, ceil_div(call.places, PLACES)),
        {
            "output": output,
            "tokens": call.tokens,
            "lengths": in_order(call.lengths),
            "starts": in_order(call.starts),
            "lineage": call.lineage,
            "prefix": call.prefix,
            "prefix_starts": in_order(call.prefix_starts),
            "prefix_lengths": in_order(call.prefix_lengths),
            "source": call.source,
            "source_starts": in_order(call.source_starts),
            "source_lengths": in_order(call.source_lengths),
            "ignored": ignored,
            "n": call.n,
            "places": call.places,
            "vocab_size": call.vocab_size,
            "beams": 1 if call.lineage is None else call.lineage.shape[2],
            "rows_per_prefix": 0 if call.prefix is None else call.rows // call.prefix.shape[0],
            "rows_per_source": 0 if call.source is None else call.rows // call.source.shape[0],
            "tokens_size": call.tokens.shape[1],
            "prefix_size": 0 if call.prefix is None else call.prefix.shape[1],
            "source_size": 0 if call.source is None else call.source.shape[1],
            **strides("output", output, "rv"),
            **strides("tokens", call.tokens, "btk"),
            **strides("lineage", call.lineage, "btk"),
            **strides("prefix", call.prefix, "bp"),
            **strides("source", call.source, "bs"),
            **strides("ignored", ignored, "v"),
            "LIST": output.dtype == torch.int32,
            "MASK": output.dtype == torch.uint8,
            "BN": PLACES,
        },
    )
    return [launch]
