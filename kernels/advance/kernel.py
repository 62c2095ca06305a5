"""`beam_advance` and `greedy_advance` in Triton: one program per sample, which changes its state.

Nothing is sorted: every candidate counts those that stand ahead of it, and is written to the place
that results. Of equal scores the one that came first stands ahead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from tritonseq.kernels.launch import (
    Launch,
    check_device,
    in_order,
    next_power_of_two,
    readable_columns,
    run_on,
    strides,
)

from .state import FAR_BELOW

if TYPE_CHECKING:
    from torch import Tensor

    from .eager import AdvanceRules
    from .state import Group, Written

# Logits that are under way at once while a row is searched for the best: 32 for each thread.
CHUNK = 16384

# Places of the lineage that are permuted at once: two 16-byte loads for each thread of 4 warps.
PLACES = 512

_UNSPECIALIZED = ["positions", "beams", "candidates", "ends_size"]

_FAR_BELOW = tl.constexpr(FAR_BELOW)


@triton.jit
def _is_in(tokens, ends, ends_size):
    """Which of the tokens are among the ends, if there are any."""
    m_in = tokens != tokens
    if ends is not None:
        for i_e in range(0, ends_size):
            m_in = m_in | (tokens == tl.load(ends + i_e))
    return m_in


@triton.jit
def _ahead(b_x, o_x, b_y, o_y, m_y):
    """How many of `y` stand ahead of each of `x`; `o_x` and `o_y` are their places before."""
    # Places must differ whatever the scores are: NaN counts as the highest, as in torch.
    x = tl.where(b_x != b_x, float("inf"), b_x)[:, None]
    y = tl.where(b_y != b_y, float("inf"), b_y)[None, :]
    m_ahead = (y > x) | ((y == x) & (o_y[None, :] < o_x[:, None]))
    return tl.sum((m_ahead & m_y[None, :]).to(tl.int32), 1)


@triton.jit
def _clamped(i, size):
    """An index that may be anything, as one of `size` places."""
    return tl.minimum(tl.maximum(i, 0), size - 1)


@triton.jit
def _count(mask):
    return tl.sum(mask.to(tl.int32), 0)


@triton.jit
def _finish(
    i_b, at_step, length, ended, generated, step, done, RETIRE: tl.constexpr
):  # fmt: skip
    """The counters of a sample that has now written `length` tokens."""
    over = ended | (tl.load(done + i_b) != 0)
    tl.debug_barrier()
    at_step += (length > 1).to(at_step.dtype)
    if RETIRE:
        at_step = tl.where(over, -1, at_step)
    tl.store(generated + i_b, length)
    tl.store(step + i_b, at_step)
    tl.store(done + i_b, over.to(tl.uint8))


@triton.jit(do_not_specialize=[*_UNSPECIALIZED, "powers_size"])
def _advance(
    own_tokens, lineage, own_parents, newest, generated, step, limit, done,
    running, improvable, pool_scores, pool_done, pool_end, pool_slot, pool_token,
    scores, tokens, parents, powers, ends,
    positions, beams, candidates, ends_size, powers_size,
    STOPS_WHEN_FULL: tl.constexpr, BOUNDS_BY_LIMIT: tl.constexpr, RETIRE: tl.constexpr,
    BK: tl.constexpr, BC: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """One program takes one sample a step further. Booleans are bytes."""
    i_b = tl.program_id(0).to(tl.int64)
    at_step = tl.load(step + i_b)
    if at_step < 0:
        return
    at = tl.load(generated + i_b)
    length, most = at + 1, tl.load(limit + i_b)
    power = tl.load(powers + _clamped(length, powers_size))
    could = tl.load(improvable + i_b) != 0

    o_c = tl.arange(0, BC)
    m_c = o_c < candidates
    o_bc = i_b * candidates + o_c
    b_score = tl.load(scores + o_bc, mask=m_c, other=-float("inf"))
    b_token = tl.load(tokens + o_bc, mask=m_c, other=0)
    b_parent = _clamped(tl.load(parents + o_bc, mask=m_c, other=0), beams)
    m_end = _is_in(b_token, ends, ends_size) & m_c
    m_hit = (m_end | (length >= most)) & m_c
    # Even at the limit only an end bars: there it matters no more which beams go on.
    b_live = tl.where(m_end, b_score + _FAR_BELOW, b_score)
    b_place = _ahead(b_live, o_c, b_live, o_c, m_c)
    m_live = m_c & (b_place < beams)

    o_k = tl.arange(0, BK)
    m_k = o_k < beams
    o_bk = i_b * beams + o_k
    b_old = tl.load(pool_scores + o_bk, mask=m_k, other=-float("inf"))
    m_old = tl.load(pool_done + o_bk, mask=m_k, other=0) != 0
    b_end = tl.load(pool_end + o_bk, mask=m_k, other=0)
    b_slot = tl.load(pool_slot + o_bk, mask=m_k, other=0)
    b_last = tl.load(pool_token + o_bk, mask=m_k, other=0)
    b_new = tl.div_rn(b_score, power)
    if STOPS_WHEN_FULL:
        b_new = tl.where(_count(m_old) == beams, b_new + _FAR_BELOW, b_new)
    b_new = tl.where(could, b_new, b_new + _FAR_BELOW)
    # Only the first beams may finish; the others are there to keep enough beams alive.
    m_new = m_hit & (o_c < beams)
    b_new = tl.where(m_new, b_new, b_new + _FAR_BELOW)
    b_old_place = _ahead(b_old, o_k, b_old, o_k, m_k) + _ahead(b_old, o_k, b_new, o_c + BK, m_c)
    b_new_place = _ahead(b_new, o_c, b_new, o_c, m_c) + _ahead(b_new, o_c + BK, b_old, o_k, m_k)
    m_old_stays, m_new_comes = m_k & (b_old_place < beams), m_c & (b_new_place < beams)

    finished = _count(m_old_stays & m_old) + _count(m_new_comes & m_new)
    worst = tl.minimum(
        tl.min(tl.where(m_old_stays, b_old, float("inf")), 0),
        tl.min(tl.where(m_new_comes, b_new, float("inf")), 0),
    )
    if BOUNDS_BY_LIMIT:
        power = tl.load(powers + _clamped(most, powers_size))
    best = tl.sum(tl.where(m_c & (b_place == 0), b_live, 0.0), 0)
    bound = tl.div_rn(best, power)
    beats_one = (finished > 0) & (bound > worst)
    takes_a_place = (finished < beams) & (bound > _FAR_BELOW)
    can = could & (beats_one | takes_a_place)
    ended = (_count(m_hit) == candidates) | (can == 0)
    if STOPS_WHEN_FULL:
        ended = ended | (finished == beams)

    # The next slots are written while some threads may still have to read the present ones.
    tl.debug_barrier()
    o_old, o_new, o_live = (
        i_b * beams + b_old_place,
        i_b * beams + b_new_place,
        i_b * beams + b_place,
    )
    tl.store(pool_scores + o_old, b_old, mask=m_old_stays)
    tl.store(pool_done + o_old, m_old.to(tl.uint8), mask=m_old_stays)
    tl.store(pool_end + o_old, b_end, mask=m_old_stays)
    tl.store(pool_slot + o_old, b_slot, mask=m_old_stays)
    tl.store(pool_token + o_old, b_last, mask=m_old_stays)
    tl.store(pool_scores + o_new, b_new, mask=m_new_comes)
    tl.store(pool_done + o_new, m_new.to(tl.uint8), mask=m_new_comes)
    tl.store(pool_end + o_new, tl.zeros([BC], tl.int64) + at, mask=m_new_comes)
    tl.store(pool_slot + o_new, b_parent, mask=m_new_comes)
    tl.store(pool_token + o_new, b_token, mask=m_new_comes)
    tl.store(running + o_live, b_live, mask=m_live)
    tl.store(newest + o_live, b_token, mask=m_live)
    p_row = (i_b * positions + _clamped(at, positions)) * beams + b_place
    tl.store(own_tokens + p_row, b_token, mask=m_live)
    tl.store(own_parents + p_row, b_parent, mask=m_live)
    tl.store(improvable + i_b, can.to(tl.uint8))
    _finish(i_b, at_step, length, ended, generated, step, done, RETIRE)

    m_place = (b_place[:, None] == o_k[None, :]) & m_live[:, None]
    b_slots = tl.sum(tl.where(m_place, b_parent[:, None], 0), 0)
    history = _clamped(at, positions + 1).to(tl.int32)
    for i_t in range(0, history, BT):
        o_t = i_t + tl.arange(0, BT)
        m_tk = (o_t < history)[:, None] & m_k[None, :]
        p_t = lineage + ((i_b * positions + o_t) * beams)[:, None]
        b_lineage = tl.load(p_t + b_slots[None, :], mask=m_tk, other=0)
        tl.debug_barrier()
        tl.store(p_t + o_k[None, :], b_lineage, mask=m_tk)


@triton.jit
def _best(p_logits, size, readable, logits_stride_v, BN: tl.constexpr):
    """The first of the highest logits; a NaN counts as the highest."""
    b_best = tl.full([BN], -float("inf"), tl.float32)
    b_token = tl.zeros([BN], tl.int32)
    for i_v in range(0, size, BN):
        o_v = i_v + tl.arange(0, BN)
        p_logit = p_logits + o_v.to(tl.int64) * logits_stride_v
        b_logit = tl.load(p_logit, mask=o_v < readable, other=-float("inf")).to(tl.float32)
        b_logit = tl.where(o_v < size, b_logit, -float("inf"))
        b_logit = tl.where(b_logit != b_logit, float("inf"), b_logit)
        b_token = tl.where(b_logit > b_best, o_v, b_token)
        b_best = tl.maximum(b_best, b_logit)
    m_best = b_best == tl.max(b_best, 0)
    return tl.min(tl.where(m_best, b_token, 2147483647), 0).to(tl.int64)


@triton.jit(do_not_specialize=["vocab_size", "pad_token_id", *_UNSPECIALIZED])
def _greedy(
    logits, own_tokens, newest, generated, step, limit, done, row_ended, ends,
    vocab_size, readable, positions, beams, ends_size, pad_token_id,
    logits_stride_b, logits_stride_k, logits_stride_v,
    RETIRE: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One program chooses the tokens of all rows of one sample, one row after the other.

    A sample of several rows is rare in greedy search. Booleans are bytes.
    """
    i_b = tl.program_id(0).to(tl.int64)
    at_step = tl.load(step + i_b)
    if at_step < 0:
        return
    at = tl.load(generated + i_b)
    length = at + 1
    at_limit = length >= tl.load(limit + i_b)
    p_own = own_tokens + (i_b * positions + _clamped(at, positions)) * beams
    p_logits = logits + i_b * logits_stride_b
    ended = at_step >= 0
    for i_k in range(0, beams):
        i_row = i_b * beams + i_k
        was = tl.load(row_ended + i_row) != 0
        # Nothing is read of a row that has ended.
        size = tl.where(was, 0, vocab_size)
        token = _best(p_logits, size, readable, logits_stride_v, BN)
        token = tl.where(was, pad_token_id, token)
        row_ends = was | at_limit | _is_in(token, ends, ends_size)
        ended = ended & row_ends
        tl.debug_barrier()
        tl.store(row_ended + i_row, row_ends.to(tl.uint8))
        tl.store(newest + i_row, token)
        tl.store(p_own + i_k, token)
        p_logits += logits_stride_k
    _finish(i_b, at_step, length, ended, generated, step, done, RETIRE)


def advance_in_triton(
    written: Written,
    group: Group,
    scores: Tensor,
    tokens: Tensor,
    parents: Tensor,
    rules: AdvanceRules,
) -> None:
    """`beam_advance` for checked arguments."""
    state = _by_name(written, group)
    candidates = {"scores": scores, "tokens": tokens, "parents": parents}
    check_device(_advance, scores)
    check_contiguous(**state, **candidates)
    run_on(scores.device, advance_launches(written, group, scores, tokens, parents, rules))


def advance_launches(
    written: Written,
    group: Group,
    scores: Tensor,
    tokens: Tensor,
    parents: Tensor,
    rules: AdvanceRules,
) -> list[Launch]:
    """The kernel, unless there are no samples."""
    samples, positions, beams = written.tokens.shape
    if samples == 0:
        return []
    candidates = scores.shape[1]
    block, warps = next_power_of_two(beams), advance_warps(next_power_of_two(candidates))
    launch = Launch(
        _advance,
        (samples,),
        {
            **{name: _as_bytes(tensor) for name, tensor in _by_name(written, group).items()},
            "scores": scores,
            "tokens": tokens,
            "parents": parents,
            "powers": in_order(rules.powers),
            "ends": in_order(rules.ends),
            "positions": positions,
            "beams": beams,
            "candidates": candidates,
            "ends_size": 0 if rules.ends is None else rules.ends.shape[0],
            "powers_size": rules.powers.shape[0],
            "STOPS_WHEN_FULL": rules.stops_when_full,
            "BOUNDS_BY_LIMIT": rules.bounds_by_limit,
            "RETIRE": rules.retire,
            "BK": block,
            "BC": next_power_of_two(candidates),
            "BT": max(1, PLACES // block),
        },
        num_warps=warps,
        # All that there are. Left alone, NVIDIA's assembler spills some to fit more programs into
        # a multiprocessor, and there is one for every sample.
        max_registers=min(255, 2048 // warps),
    )
    return [launch]


def advance_warps(candidates: int) -> int:
    """Every thread holds up to 32 comparisons of two candidates; four warps share the lineage."""
    return min(16, max(4, candidates * candidates // 1024))


def greedy_in_triton(
    written: Written,
    ended: Tensor,
    logits: Tensor,
    ends: Tensor | None,
    pad_token_id: int,
    retire: bool,
) -> None:
    """`greedy_advance` for checked arguments."""
    check_device(_greedy, logits)
    check_contiguous(ended=ended, **written._asdict())
    launches = greedy_launches(written, ended, logits, ends, pad_token_id, retire)
    run_on(logits.device, launches)


def greedy_launches(
    written: Written,
    ended: Tensor,
    logits: Tensor,
    ends: Tensor | None,
    pad_token_id: int,
    retire: bool,
) -> list[Launch]:
    """The kernel, unless there are no samples."""
    samples, beams, vocab_size = logits.shape
    if samples == 0:
        return []
    chunk = min(CHUNK, max(1024, next_power_of_two(vocab_size)))
    launch = Launch(
        _greedy,
        (samples,),
        {
            "logits": logits,
            "own_tokens": written.tokens,
            "newest": written.newest,
            "generated": written.generated,
            "step": written.step,
            "limit": written.limit,
            "done": _as_bytes(written.done),
            "row_ended": _as_bytes(ended),
            "ends": in_order(ends),
            "vocab_size": vocab_size,
            "readable": readable_columns(logits, 16),
            "positions": written.tokens.shape[1],
            "beams": beams,
            "ends_size": 0 if ends is None else ends.shape[0],
            "pad_token_id": pad_token_id,
            **strides("logits", logits, "bkv"),
            "RETIRE": retire,
            "BN": chunk,
        },
        num_warps=chunk // 1024,
    )
    return [launch]


def check_contiguous(**tensors: Tensor) -> None:
    """Raise ValueError unless all tensors are as a kernel without strides reads them."""
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueError(
                f"{name} has strides {list(tensor.stride())}; make it contiguous, "
                'or pass impl="torch"'
            )


def _by_name(written: Written, group: Group) -> dict[str, Tensor]:
    """The state under the names of the kernel's arguments."""
    state = written._asdict()
    state["own_tokens"], state["own_parents"] = state.pop("tokens"), state.pop("parents")
    pool = {f"pool_{name}": tensor for name, tensor in group.pool._asdict().items()}
    return {**state, "running": group.running, "improvable": group.improvable, **pool}


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
