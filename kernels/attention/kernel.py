"""`decode_attention` in Triton: one program for all beams of a (sample, head, split)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from tritonseq.kernels.launch import (
    Launch,
    beams_per_program,
    block_dim,
    ceil_div,
    check_device,
    in_order,
    is_interpreted,
    key_block,
    max_registers,
    merged_rows,
    next_power_of_two,
    query_rows,
    run_on,
    split_lengths,
    stages,
    strides,
    warps,
)

from .reference import FARTHEST

if TYPE_CHECKING:
    from torch import Tensor

    from .call import AttentionCall

_FARTHEST = tl.constexpr(FARTHEST)

_UNSPECIALIZED = [
    "source_size", "target_size", "bias_size", "source_split", "target_split",
    "lineage_stride_b", "lineage_stride_t", "lineage_stride_k",
    "bias_stride_b", "bias_stride_k", "bias_stride_q", "bias_stride_h",
]  # fmt: skip


@triton.jit
def _load(pointers, mask, UPCAST: tl.constexpr):
    b_x = tl.load(pointers, mask=mask, other=0.0)
    if UPCAST:
        b_x = b_x.to(tl.float32)
    return b_x


@triton.jit
def _scores(b_query, b_key):
    """Queries [M, D] times keys [N, D]. One or two rows are not worth a tile product."""
    if b_query.shape[0] <= 2:
        b_products = b_query.to(tl.float32)[:, None, :] * b_key.to(tl.float32)[None, :, :]
        return tl.sum(b_products, 2)
    return tl.dot(b_query, tl.trans(b_key), input_precision="ieee")


@triton.jit
def _accumulate(b_scores, b_value, b_max, b_sum, b_acc):
    """One step of the online softmax over scores [M, N], in powers of two, and values [N, D]."""
    b_new = tl.maximum(b_max, tl.max(b_scores, 1))
    # A row that has seen nothing yet has the maximum -inf, from which nothing is subtracted.
    b_base = tl.where(b_new == -float("inf"), 0.0, b_new)
    b_weight = tl.exp2(b_scores - b_base[:, None])
    b_decay = tl.exp2(b_max - b_base)
    b_sum = b_sum * b_decay + tl.sum(b_weight, 1)
    b_acc *= b_decay[:, None]
    if b_weight.shape[0] <= 2:
        b_acc += tl.sum(b_weight[:, :, None] * b_value.to(tl.float32)[None, :, :], 1)
    else:
        b_acc = tl.dot(b_weight.to(b_value.dtype), b_value, b_acc, input_precision="ieee")
    return b_new, b_sum, b_acc


@triton.jit
def _accumulate_own(b_scores, b_value, b_max, b_sum, b_acc):
    """The same for one key per row: scores [M], values [M, D]."""
    b_new = tl.maximum(b_max, b_scores)
    b_base = tl.where(b_new == -float("inf"), 0.0, b_new)
    b_weight = tl.exp2(b_scores - b_base)
    b_decay = tl.exp2(b_max - b_base)
    b_acc = b_acc * b_decay[:, None] + b_weight[:, None] * b_value.to(tl.float32)
    return b_new, b_sum * b_decay + b_weight, b_acc


@triton.jit
def _bias(p_bias, bias_size, distance, mask):
    at = tl.minimum(tl.maximum(distance, 0), bias_size - 1)
    return tl.load(p_bias + at, mask=mask, other=0.0) * 1.4426950408889634


@triton.jit
def _merge(
    p_partial, p_lse, p_output,
    o_r, m_r, splits,
    partial_stride_r, partial_stride_split, lse_stride_r, output_stride_r,
    D: tl.constexpr, BS: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Merge and store the rows `o_r` [R] of one (sample, head), all splits of them at once.

    A split that saw nothing has the log-sum-exp -inf, and with it the weight 0.
    """
    o_s, o_d = tl.arange(0, BS), tl.arange(0, BD)
    m_rs, m_d = m_r[:, None] & (o_s < splits)[None, :], o_d < D
    p_lse += o_r[:, None] * lse_stride_r + o_s[None, :]
    b_lse = tl.load(p_lse, mask=m_rs, other=-float("inf"), cache_modifier=".cg")  # [R, BS]
    b_max = tl.max(b_lse, 1)
    b_weight = tl.exp2(b_lse - tl.where(b_max == -float("inf"), 0.0, b_max)[:, None])
    b_total = tl.sum(b_weight, 1)
    b_weight = b_weight / tl.where(b_total == 0.0, 1.0, b_total)[:, None]
    p_partial += o_r[:, None, None] * partial_stride_r
    p_partial += o_s[None, :, None] * partial_stride_split + o_d[None, None, :]
    m_partial = m_rs[:, :, None] & m_d[None, None, :]
    b_partial = tl.load(p_partial, mask=m_partial, other=0.0, cache_modifier=".cg")  # [R, BS, BD]
    b_output = tl.sum(b_partial * b_weight[:, :, None], 1)
    p_output += o_r[:, None] * output_stride_r + o_d[None, :]
    m_output = m_r[:, None] & m_d[None, :]
    tl.store(p_output, b_output.to(p_output.dtype.element_ty), mask=m_output)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _attend(
    query, new_key, new_value, source_key, source_value, source_len,
    target_key, target_value, lineage, step, bias, output, partial, lse, counters,
    source_size, target_size, bias_size, source_split, target_split,
    query_stride_b, query_stride_k, query_stride_q, query_stride_h,
    new_key_stride_b, new_key_stride_k, new_key_stride_q, new_key_stride_h,
    new_value_stride_b, new_value_stride_k, new_value_stride_q, new_value_stride_h,
    source_key_stride_b, source_key_stride_h, source_key_stride_s,
    source_value_stride_b, source_value_stride_h, source_value_stride_s,
    target_key_stride_b, target_key_stride_h, target_key_stride_t, target_key_stride_k,
    target_value_stride_b, target_value_stride_h, target_value_stride_t, target_value_stride_k,
    lineage_stride_b, lineage_stride_t, lineage_stride_k,
    bias_stride_b, bias_stride_k, bias_stride_q, bias_stride_h,
    output_stride_b, output_stride_h, output_stride_r,
    partial_stride_b, partial_stride_h, partial_stride_r, partial_stride_split,
    lse_stride_b, lse_stride_h, lse_stride_r,
    scale,
    K: tl.constexpr, Q: tl.constexpr, R: tl.constexpr, D: tl.constexpr,
    BK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
    BS: tl.constexpr, BR: tl.constexpr, STAGES: tl.constexpr, UPCAST: tl.constexpr,
    BIAS_BY_ROW: tl.constexpr,
):  # fmt: skip
    """One program computes `BK` beams of one (sample, head) over one split of the keys.

    A pointer that is None leaves its part out. The queries are the last `Q` of `R` new rows.
    `scale` includes log2(e): the softmax is taken in powers of two. With one split the result goes
    to `output`. With several, each leaves its own in `partial`, with its log-sum-exp in `lse`:
    `_reduce` merges them, or, where there are `counters`, the program that comes last.
    """
    i_b, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    i_block, i_split = tl.program_id(2) % tl.cdiv(K, BK), tl.program_id(2) // tl.cdiv(K, BK)
    o_m, o_d = tl.arange(0, BM), tl.arange(0, BD)
    o_beam, o_query = i_block * BK + o_m // Q, o_m % Q
    o_row = o_query + (R - Q)
    m_m = (o_m < BK * Q) & (o_beam < K)
    m_d = o_d < D
    m_md = m_m[:, None] & m_d[None, :]
    o_beam64 = o_beam.to(tl.int64)

    p_bias = bias
    if bias is not None:
        p_bias = bias + i_h * bias_stride_h
    # The same once more for tiles, where rows are the first dimension.
    p_tile_bias = p_bias
    if BIAS_BY_ROW:
        p_bias += i_b * bias_stride_b + o_beam64 * bias_stride_k + o_query * bias_stride_q  # [BM]
        p_tile_bias = p_bias[:, None]
    i_step = tl.zeros([], tl.int32)
    if step is not None:
        i_step = tl.minimum(tl.maximum(tl.load(step + i_b), -1), _FARTHEST).to(tl.int32)
    active = i_step >= 0
    length = tl.zeros([], tl.int32)
    if source_key is not None:
        length += source_size
        if source_len is not None:
            # 64 bits are clamped before 32 are taken.
            length = tl.minimum(tl.maximum(tl.load(source_len + i_b), 0), source_size).to(tl.int32)
    if counters is not None:
        # The splits that have anything to read; the others, and those of an idle sample, leave.
        live = tl.maximum(tl.cdiv(tl.where(active, length, 0), source_split), 1)
        if target_key is not None:
            live = tl.maximum(live, tl.cdiv(tl.minimum(i_step, target_size), target_split))
        if i_split >= live:
            return

    p_query = query + i_b * query_stride_b + i_h * query_stride_h
    p_query += o_beam64[:, None] * query_stride_k + o_query[:, None] * query_stride_q + o_d[None, :]
    b_query = _load(p_query, m_md, UPCAST)  # [BM, BD]
    b_max = tl.full([BM], -float("inf"), tl.float32)
    b_sum = tl.zeros([BM], tl.float32)
    b_acc = tl.zeros([BM, BD], tl.float32)

    if new_key is not None:
        p_new_key = new_key + i_b * new_key_stride_b + i_h * new_key_stride_h
        p_new_key += o_beam64[:, None] * new_key_stride_k + o_d[None, :]
        p_new_value = new_value + i_b * new_value_stride_b + i_h * new_value_stride_h
        p_new_value += o_beam64[:, None] * new_value_stride_k + o_d[None, :]
        # One split of an active sample takes them. The loop is not unrolled, or the rows would
        # hold their registers side by side.
        for i_row in tl.range(tl.where(active & (i_split == 0), R, 0)):
            m_own = m_m & (o_row >= i_row)
            m_new = m_own[:, None] & m_d[None, :]
            b_new_key = tl.load(p_new_key + i_row * new_key_stride_q, mask=m_new, other=0.0)
            b_new_value = tl.load(p_new_value + i_row * new_value_stride_q, mask=m_new, other=0.0)
            b_own = tl.sum(b_query.to(tl.float32) * b_new_key.to(tl.float32), 1) * scale
            if bias is not None:
                b_own += _bias(p_bias, bias_size, o_row - i_row, m_own)
            b_own = tl.where(m_own, b_own, -float("inf"))
            b_max, b_sum, b_acc = _accumulate_own(b_own, b_new_value, b_max, b_sum, b_acc)
            if target_key is not None:  # noqa: SIM102  (Triton takes an `and` to run time)
                if i_row == 0:
                    # Nothing reads position `step` in this launch: there is nothing to wait for.
                    m_store = m_own & (o_query == 0) & (o_m < tl.where(i_step < target_size, BM, 0))
                    m_store = m_store[:, None] & m_d[None, :]
                    i_step64 = i_step.to(tl.int64)
                    p_row = target_key + i_b * target_key_stride_b + i_h * target_key_stride_h
                    p_row += i_step64 * target_key_stride_t + o_d[None, :]
                    tl.store(
                        p_row + o_beam64[:, None] * target_key_stride_k, b_new_key, mask=m_store
                    )
                    p_row = target_value + i_b * target_value_stride_b
                    p_row += i_h * target_value_stride_h + i_step64 * target_value_stride_t
                    p_row += o_beam64[:, None] * target_value_stride_k + o_d[None, :]
                    tl.store(p_row, b_new_value, mask=m_store)

    # Within a tile 32 bits are enough to count in.
    o_tile = tl.arange(0, BN)
    if source_key is not None:
        p_key = source_key + i_b * source_key_stride_b + i_h * source_key_stride_h
        p_value = source_value + i_b * source_value_stride_b + i_h * source_value_stride_h
        o_key = o_tile[:, None] * source_key_stride_s + o_d[None, :]
        o_value = o_tile[:, None] * source_value_stride_s + o_d[None, :]
        start = i_split * source_split
        end = tl.where(active, tl.minimum(start + source_split, length), 0)
        for i_n in tl.range(start, end, BN, num_stages=STAGES):
            i_n64 = tl.cast(i_n, tl.int64)
            m_n = o_tile < end - i_n
            m_nd = m_n[:, None] & m_d[None, :]
            b_key = _load(p_key + i_n64 * source_key_stride_s + o_key, m_nd, UPCAST)  # [BN, BD]
            b_scores = _scores(b_query, b_key) * scale
            if bias is not None:
                distance = (length + i_step - i_n) + o_row[:, None] - o_tile[None, :]
                m_mn = m_m[:, None] & m_n[None, :]
                b_scores += _bias(p_tile_bias, bias_size, distance, m_mn)
            b_scores = tl.where(m_n[None, :], b_scores, -float("inf"))
            b_value = _load(p_value + i_n64 * source_value_stride_s + o_value, m_nd, UPCAST)
            b_max, b_sum, b_acc = _accumulate(b_scores, b_value, b_max, b_sum, b_acc)

    if target_key is not None:
        p_key = target_key + i_b * target_key_stride_b + i_h * target_key_stride_h
        p_value = target_value + i_b * target_value_stride_b + i_h * target_value_stride_h
        start = i_split * target_split * K
        end = tl.minimum((i_split + 1) * target_split, tl.minimum(i_step, target_size)) * K
        # The slots of all positions, one after the other.
        for i_n in tl.range(start, end, BN, num_stages=STAGES):
            i_t = i_n // K
            i_t64 = tl.cast(i_t, tl.int64)
            o_t, o_slot = (i_n + o_tile) // K - i_t, (i_n + o_tile) % K
            m_n = o_tile < end - i_n
            m_seen = m_m[:, None] & m_n[None, :]  # [BM, BN]
            if lineage is not None:
                p_slot = lineage + i_b * lineage_stride_b + i_t64 * lineage_stride_t
                p_slot += o_t[None, :] * lineage_stride_t + o_beam[:, None] * lineage_stride_k
                m_seen = m_seen & (tl.load(p_slot, mask=m_seen, other=-1) == o_slot[None, :])
                # A slot that no beam here descends from is not read at all.
                m_n = tl.max(m_seen.to(tl.int32), 0) > 0
            m_nd = m_n[:, None] & m_d[None, :]
            o_key = o_t * target_key_stride_t + o_slot * target_key_stride_k
            o_key = o_key[:, None] + o_d[None, :]
            b_key = _load(p_key + i_t64 * target_key_stride_t + o_key, m_nd, UPCAST)  # [BN, BD]
            b_scores = _scores(b_query, b_key) * scale
            if bias is not None:
                distance = (i_step - i_t) + o_row[:, None] - o_t[None, :]
                b_scores += _bias(p_tile_bias, bias_size, distance, m_seen)
            b_scores = tl.where(m_seen, b_scores, -float("inf"))
            o_value = o_t * target_value_stride_t + o_slot * target_value_stride_k
            o_value = o_value[:, None] + o_d[None, :]
            b_value = _load(p_value + i_t64 * target_value_stride_t + o_value, m_nd, UPCAST)
            b_max, b_sum, b_acc = _accumulate(b_scores, b_value, b_max, b_sum, b_acc)

    # What saw nothing is 0, in a share of the keys as in all of them.
    b_sum = tl.where(b_sum == 0.0, 1.0, b_sum)
    b_acc = b_acc / b_sum[:, None]
    o_r = o_beam64 * Q + o_query
    p_output = output + i_b * output_stride_b + i_h * output_stride_h
    p_own = p_output + o_r[:, None] * output_stride_r + o_d[None, :]
    if lse is None:
        tl.store(p_own, b_acc.to(output.dtype.element_ty), mask=m_md)
    else:
        p_partial = partial + i_b * partial_stride_b + i_h * partial_stride_h
        p_part = p_partial + i_split * partial_stride_split
        p_part += o_r[:, None] * partial_stride_r + o_d[None, :]
        p_lse = lse + i_b * lse_stride_b + i_h * lse_stride_h
        p_share = p_lse + o_r * lse_stride_r + i_split
        b_lse = b_max + tl.log2(b_sum)
        if counters is None:
            tl.store(p_part, b_acc, mask=m_md)
            tl.store(p_share, b_lse, mask=m_m)
        elif live == 1:
            tl.store(p_own, b_acc.to(output.dtype.element_ty), mask=m_md)
        else:
            tl.store(p_part, b_acc, mask=m_md)
            tl.store(p_share, b_lse, mask=m_m)
            # The barrier puts the stores of all threads before the one thread that counts, and its
            # release makes them visible to the whole device before the count. A reader of the last
            # count has acquired what was stored before every other. The loads in `_merge` cannot
            # run ahead: they depend on the count, which reaches the other threads through a second
            # barrier. `.cg` passes by the first-level cache, where an earlier step may linger.
            tl.debug_barrier()
            p_counter = counters + (i_b * tl.num_programs(1) + i_h) * tl.cdiv(K, BK) + i_block
            if tl.atomic_add(p_counter, 1, sem="acq_rel", scope="gpu") == live - 1:
                for i_r in tl.range(i_block * BK * Q, tl.minimum((i_block + 1) * BK, K) * Q, BR):
                    o_merged = (i_r + tl.arange(0, BR)).to(tl.int64)
                    m_merged = o_merged < tl.minimum((i_block + 1) * BK, K) * Q
                    _merge(
                        p_partial, p_lse, p_output, o_merged, m_merged, live,
                        partial_stride_r, partial_stride_split, lse_stride_r, output_stride_r,
                        D, BS, BD,
                    )  # fmt: skip
                tl.store(p_counter, 0)


@triton.jit(do_not_specialize=["splits"])
def _reduce(
    partial, lse, output,
    splits,
    partial_stride_b, partial_stride_h, partial_stride_r, partial_stride_split,
    lse_stride_b, lse_stride_h, lse_stride_r,
    output_stride_b, output_stride_h, output_stride_r,
    D: tl.constexpr, BS: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One program merges the splits of one (sample, query row, head)."""
    i_b, i_h = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    o_r = (tl.program_id(1) + tl.arange(0, 1)).to(tl.int64)
    _merge(
        partial + i_b * partial_stride_b + i_h * partial_stride_h,
        lse + i_b * lse_stride_b + i_h * lse_stride_h,
        output + i_b * output_stride_b + i_h * output_stride_h,
        o_r, o_r >= 0, splits,
        partial_stride_r, partial_stride_split, lse_stride_r, output_stride_r,
        D, BS, BD,
    )  # fmt: skip


def attend_in_triton(call: AttentionCall) -> Tensor:
    """Launch the kernels for a checked call; no value is read on the host."""
    query = call.query
    check_device(_attend, query)
    dtype = torch.float32 if _has_wrong_products(query.dtype) else query.dtype
    output = torch.empty(query.shape, dtype=dtype, device=query.device)
    if output.numel():
        run_on(query.device, attention_launches(call, output))
    return output.to(query.dtype)


def attention_launches(call: AttentionCall, output: Tensor) -> list[Launch]:
    """The kernel, and the reduction where several programs share keys and nothing counts them."""
    query = call.query
    samples, beams, rows, heads, head_dim = query.shape
    per_program = beams_per_program(beams, rows, head_dim)
    query_block = query_rows(per_program * rows)
    block = key_block(query_block, head_dim, query.element_size())
    source = 0 if call.source_key is None else call.source_key.shape[2]
    target = 0 if call.target_key is None else call.target_key.shape[2]
    splits, source_split, target_split = split_lengths(source, target, call.splits, block)
    # A barrier of AMD's does not wait for the stores of other waves, as counting demands.
    counters = None if splits == 1 or torch.version.hip is not None else call.counters
    # A lone beam descends from itself, whatever the lineage says.
    lineage = call.lineage if beams > 1 else None
    bias = call.bias if call.has_bias_by_row else in_order(call.bias)
    # [B, H, K * Q, D] whatever the memory behind it.
    result = output.flatten(1, 2).transpose(1, 2)
    partial, lse = None, None
    if splits > 1:
        shape = (samples, heads, beams * rows, splits, head_dim)
        partial = torch.empty(shape, dtype=torch.float32, device=query.device)
        lse = torch.empty(shape[:4], dtype=torch.float32, device=query.device)
    attend = Launch(
        _attend,
        (samples, heads, ceil_div(beams, per_program) * splits),
        {
            "query": query,
            "new_key": call.new_key,
            "new_value": call.new_value,
            "source_key": call.source_key,
            "source_value": call.source_value,
            "source_len": in_order(call.source_len),
            "target_key": call.target_key,
            "target_value": call.target_value,
            "lineage": lineage,
            "step": in_order(call.step),
            "bias": bias,
            "output": result,
            "partial": partial,
            "lse": lse,
            "counters": counters,
            "source_size": source,
            "target_size": target,
            "bias_size": 0 if bias is None else bias.shape[-1],
            "source_split": source_split,
            "target_split": target_split,
            **strides("query", query, "bkqh"),
            **strides("new_key", call.new_key, "bkqh"),
            **strides("new_value", call.new_value, "bkqh"),
            **strides("source_key", call.source_key, "bhs"),
            **strides("source_value", call.source_value, "bhs"),
            **strides("target_key", call.target_key, "bhtk"),
            **strides("target_value", call.target_value, "bhtk"),
            **strides("lineage", lineage, "btk"),
            **strides("bias", None if bias is None else bias.expand(*query.shape[:4], -1), "bkqh"),
            **strides("output", result, "bhr"),
            **strides("partial", partial, ("b", "h", "r", "split")),
            **strides("lse", lse, "bhr"),
            "scale": call.scale * math.log2(math.e),
            "K": beams,
            "Q": rows,
            "R": rows + call.first_row,
            "D": head_dim,
            "BK": per_program,
            "BM": query_block,
            "BN": block,
            "BD": block_dim(head_dim),
            "BS": next_power_of_two(splits),
            "BR": merged_rows(query_block, splits, head_dim),
            "STAGES": stages(query_block),
            "UPCAST": _has_wrong_products(query.dtype),
            "BIAS_BY_ROW": call.has_bias_by_row,
        },
        num_warps=warps(query_block, head_dim),
        num_stages=stages(query_block),
        max_registers=max_registers(query_block, head_dim, query.element_size()),
    )
    if splits == 1 or counters is not None:
        return [attend]
    reduce = Launch(
        _reduce,
        (samples, beams * rows, heads),
        {
            "partial": partial,
            "lse": lse,
            "output": result,
            "splits": splits,
            **strides("partial", partial, ("b", "h", "r", "split")),
            **strides("lse", lse, "bhr"),
            **strides("output", result, "bhr"),
            "D": head_dim,
            "BS": next_power_of_two(splits),
            "BD": block_dim(head_dim),
        },
    )
    return [attend, reduce]


def _has_wrong_products(dtype: torch.dtype) -> bool:
    """Whether products are wrong: the interpreter's in bfloat16, which it also truncates to."""
    return dtype == torch.bfloat16 and is_interpreted(_attend)
