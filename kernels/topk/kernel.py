"""`beam_topk` in Triton: one read of the logits, then a search among the best of each group.

The vocabulary is cut into groups of neighbours. The first kernel reads all logits and keeps the
maximum of each group, beside what log-softmax needs. The second, one program per sample, holds the
maxima of all its groups, opens the group with the highest, and takes its best token; the next best
of that group takes the place of its maximum. So `count` groups are read again, and the ban list
is compared with the tokens that come up alone. A single beam has one program do both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from tritonseq.kernels.launch import (
    Launch,
    ceil_div,
    check_device,
    in_order,
    next_power_of_two,
    readable_columns,
    run_on,
    strides,
)

if TYPE_CHECKING:
    from torch import Tensor

    from .call import TopKCall

# Continuations that the second kernel looks for one after the other; torch is better at more.
MOST = 64

# Tokens of a group at least: a cache line in half precision, which is read again when opened.
GROUP = 64

# Groups of a sample at most: 16 64-bit keys for each thread of sixteen warps.
GROUPS = 8192

# Tokens that a program of the first kernel reads: four vector loads in flight per thread of four
# warps in half precision. A constant, so that the order of a row's sum depends on no neighbour.
TILE = 4096

# What the program of a whole row reads at once, with sixteen warps: alone on a multiprocessor it
# needs this much in flight to hide the latency of memory. Log-softmax looks at a tile twice, and
# twice as many logits would not stay in registers for that.
ROW_TILE = {True: 8192, False: 16384}

# Banned ids that are compared at once.
BANS = 256

# A candidate is 64 bits: its score as an integer above its index, which counts downwards, so that
# the greatest is the best with the lowest index. NOTHING is below every candidate.
NOTHING = tl.constexpr(-(2**63))
LAST_INDEX = tl.constexpr(2**31 - 1)
MINUS_INFINITY = tl.constexpr(-0x7F800001)
NAN = tl.constexpr(2**31 - 1)

_UNSPECIALIZED = ["beams", "vocab_size", "groups", "tiles", "banned_size", "ends_size"]


@triton.jit
def _candidate(score, index):
    """Pack scores, which are sums and thus never -0: as integers most floats keep their order."""
    b_bits = score.to(tl.int32, bitcast=True)
    b_bits = tl.where(b_bits < 0, b_bits ^ 0x7FFFFFFF, b_bits)
    b_bits = tl.where(score != score, NAN, b_bits)
    return (b_bits.to(tl.int64) << 32) | (index ^ LAST_INDEX).to(tl.int64)


@triton.jit
def _score_of(candidate):
    """Unpack the score."""
    bits = (candidate >> 32).to(tl.int32)
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _score(x, peak, log_mass, raised, is_forced, forced, LOG_SOFTMAX: tl.constexpr):
    """From logits to scores. The order of operations keeps the order of logits."""
    if LOG_SOFTMAX:
        x = (x - peak) - log_mass
    x = tl.where(forced < 0, x, tl.where(is_forced, 0.0, -float("inf")))
    return x + raised


@triton.jit
def _logits(p_row, o_v, readable, vocab_size):
    """Logits `o_v`, and -inf behind the vocabulary. What is readable may end at a whole vector."""
    b_x = tl.load(p_row + o_v, mask=o_v < readable, other=0.0).to(tl.float32)
    return tl.where(o_v < vocab_size, b_x, -float("inf"))


@triton.jit
def _scan_tile(
    p_row, p_maxima, p_peaks, p_masses, i_t, readable, vocab_size,
    LOG_SOFTMAX: tl.constexpr, BG: tl.constexpr, GROUP_SIZE: tl.constexpr,
):  # fmt: skip
    """The maxima of `BG` groups, and their share of the softmax's denominator."""
    o_g = i_t * BG + tl.arange(0, BG)
    o_v = o_g[:, None] * GROUP_SIZE + tl.arange(0, GROUP_SIZE)[None, :]
    b_x = _logits(p_row, o_v, readable, vocab_size)
    b_max = tl.max(b_x, 1)
    tl.store(p_maxima + o_g, b_max)
    if LOG_SOFTMAX:
        peak = tl.max(b_max, 0)
        # From a tile of -inf nothing is subtracted.
        base = tl.where(peak == -float("inf"), 0.0, peak)
        tl.store(p_peaks + i_t, peak)
        tl.store(p_masses + i_t, tl.sum(tl.sum(tl.exp(b_x - base), 1), 0))


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _scan(
    logits, maxima, peaks, masses, beams, vocab_size, readable, tiles,
    logits_stride_b, logits_stride_k, maxima_stride_r,
    LOG_SOFTMAX: tl.constexpr, BG: tl.constexpr, GROUP_SIZE: tl.constexpr,
):  # fmt: skip
    """One program reads one tile of one beam."""
    i_r = tl.program_id(0).to(tl.int64)
    p_row = logits + (i_r // beams) * logits_stride_b + (i_r % beams) * logits_stride_k
    _scan_tile(
        p_row, maxima + i_r * maxima_stride_r, peaks + i_r * tiles, masses + i_r * tiles,
        tl.program_id(1), readable, vocab_size, LOG_SOFTMAX, BG, GROUP_SIZE,
    )  # fmt: skip


@triton.jit
def _softmax_terms(p_peaks, p_masses, o_k, beams, tiles, BT: tl.constexpr):
    """Of each beam, the highest logit and the logarithm of the sum of exponentials below it."""
    o_t = tl.arange(0, BT)
    # Beams that fill up the block repeat the last one.
    o_kt = tl.minimum(o_k, beams - 1)[:, None] * tiles + o_t[None, :]
    m_t = (o_t < tiles)[None, :]
    b_peaks = tl.load(p_peaks + o_kt, mask=m_t, other=-float("inf"))
    b_masses = tl.load(p_masses + o_kt, mask=m_t, other=0.0)
    b_peak = tl.max(b_peaks, 1)
    b_base = tl.where(b_peak == -float("inf"), 0.0, b_peak)
    b_mass = tl.sum(b_masses * tl.exp(b_peaks - b_base[:, None]), 1)
    return b_peak, tl.log(b_mass)


@triton.jit
def _pick(b_x, o_k, i_k):
    """`b_x[i_k]`."""
    return tl.sum(tl.where(o_k == i_k, b_x, 0.0), 0)


@triton.jit
def _holds(p_ids, size, stride, token, BI: tl.constexpr):
    """Whether a token is among `size` ids."""
    b_found = tl.zeros([BI], tl.int32)
    for start in range(0, size, BI):
        o_i = start + tl.arange(0, BI)
        b_id = tl.load(p_ids + o_i.to(tl.int64) * stride, mask=o_i < size, other=-1)
        b_found |= (b_id == token).to(tl.int32)
    return tl.max(b_found, 0) > 0


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _choose(
    logits, running, banned, ends, length, min_length, forced,
    maxima, peaks, masses, scores, tokens, parents,
    beams, vocab_size, readable, groups, tiles, banned_size, ends_size,
    logits_stride_b, logits_stride_k, running_stride_b, running_stride_k,
    banned_stride_b, banned_stride_k, banned_stride_n, ends_stride_e, maxima_stride_r,
    SCAN: tl.constexpr, LOG_SOFTMAX: tl.constexpr, COUNT: tl.constexpr,
    BC: tl.constexpr, BG: tl.constexpr, BI: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr,
    BT: tl.constexpr, GROUP_SIZE: tl.constexpr,
):  # fmt: skip
    """One program finds the best continuations of one sample, best first.

    With `SCAN` it reads the sample's only row itself, tile by tile. A pointer that is None leaves
    its part out.
    """
    i_b = tl.program_id(0).to(tl.int64)
    p_logits = logits + i_b * logits_stride_b
    p_maxima = maxima + i_b * beams * maxima_stride_r
    p_peaks, p_masses = peaks + i_b * beams * tiles, masses + i_b * beams * tiles
    if SCAN:
        for i_t in range(tiles):
            _scan_tile(
                p_logits, p_maxima, p_peaks, p_masses, i_t, readable, vocab_size,
                LOG_SOFTMAX, BG, GROUP_SIZE,
            )  # fmt: skip
        # The program's threads read below what others of them have written.
        tl.debug_barrier()

    o_k, o_g = tl.arange(0, BK), tl.arange(0, BN)
    b_raised = tl.zeros([BK], tl.float32)
    if running is not None:
        p_running = running + i_b * running_stride_b + o_k * running_stride_k
        b_raised = tl.load(p_running, mask=o_k < beams, other=0.0)
    b_peak, b_log_mass = b_raised, b_raised
    if LOG_SOFTMAX:
        b_peak, b_log_mass = _softmax_terms(p_peaks, p_masses, o_k, beams, tiles, BT)
    only = -1
    if forced is not None:
        # 64 bits are clamped before 32 are taken: at either end nothing changes its meaning.
        only = tl.minimum(tl.maximum(tl.load(forced + i_b), -1), vocab_size).to(tl.int32)
    if ends is not None:
        is_short = tl.load(length + i_b) < tl.load(min_length + i_b)
        ends_size = tl.where(is_short, ends_size, 0)

    # What the best of each group can be at most. [BK, BN]
    m_kg = (o_k < beams)[:, None] & (o_g < groups)[None, :]
    o_kg = o_k[:, None] * maxima_stride_r + o_g[None, :]
    b_max = tl.load(p_maxima + o_kg, mask=m_kg, other=0.0)
    b_max = _score(
        b_max, b_peak[:, None], b_log_mass[:, None], b_raised[:, None],
        (o_g == only // GROUP_SIZE)[None, :], only, LOG_SOFTMAX,
    )  # fmt: skip
    b_first = o_k[:, None] * vocab_size + o_g[None, :] * GROUP_SIZE
    b_best = tl.where(m_kg, _candidate(b_max, b_first), NOTHING)

    o_c, o_s = tl.arange(0, BC), tl.arange(0, GROUP_SIZE)
    b_index = tl.full([BC], -1, tl.int32)
    b_score = tl.full([BC], -float("inf"), tl.float32)
    count = 0
    best = tl.max(tl.max(b_best, 1), 0)
    while (count < COUNT) & ((best >> 32) > MINUS_INFINITY):
        index = ((best ^ LAST_INDEX) & LAST_INDEX).to(tl.int32)
        i_k, i_g = index // vocab_size, (index % vocab_size) // GROUP_SIZE
        # The group's candidates from this one on, best first.
        o_v = i_g * GROUP_SIZE + o_s
        b_x = _logits(p_logits + i_k.to(tl.int64) * logits_stride_k, o_v, readable, vocab_size)
        b_x = _score(
            b_x, _pick(b_peak, o_k, i_k), _pick(b_log_mass, o_k, i_k), _pick(b_raised, o_k, i_k),
            o_v == only, only, LOG_SOFTMAX,
        )  # fmt: skip
        b_group = tl.where(o_v < vocab_size, _candidate(b_x, i_k * vocab_size + o_v), NOTHING)
        candidate = tl.max(tl.where(b_group <= best, b_group, NOTHING), 0)
        following = tl.max(tl.where(b_group < candidate, b_group, NOTHING), 0)
        b_best = tl.where((o_k == i_k)[:, None] & (o_g == i_g)[None, :], following, b_best)

        index = ((candidate ^ LAST_INDEX) & LAST_INDEX).to(tl.int32)
        token = index - i_k * vocab_size
        taken = (candidate >> 32) > MINUS_INFINITY
        if banned is not None:
            p_banned = banned + i_b * banned_stride_b + i_k.to(tl.int64) * banned_stride_k
            is_banned = _holds(p_banned, banned_size, banned_stride_n, token, BI)
            taken = taken & ((only >= 0) | (is_banned == 0))
        if ends is not None:
            is_banned = _holds(ends, ends_size, ends_stride_e, token, BI)
            taken = taken & ((only >= 0) | (is_banned == 0))
        m_c = (o_c == count) & taken
        b_index = tl.where(m_c, index, b_index)
        b_score = tl.where(m_c, _score_of(candidate), b_score)
        count += taken.to(tl.int32)
        best = tl.max(tl.max(b_best, 1), 0)

    # All that is left is -inf: the first indices that have not been taken follow.
    if count < COUNT:
        b_free = tl.sum((b_index[:, None] == o_c[None, :]).to(tl.int32), 0) == 0
        o_place = count + tl.cumsum(b_free.to(tl.int32), 0) - 1
        m_cp = b_free[:, None] & (o_place[:, None] == o_c[None, :])
        b_index += tl.sum(tl.where(m_cp, o_c[:, None] + 1, 0), 0)
    o_out = i_b * COUNT + o_c
    tl.store(scores + o_out, b_score, mask=o_c < COUNT)
    tl.store(tokens + o_out, (b_index % vocab_size).to(tl.int64), mask=o_c < COUNT)
    tl.store(parents + o_out, (b_index // vocab_size).to(tl.int64), mask=o_c < COUNT)


def can_search(call: TopKCall) -> bool:
    """Whether the kernels take a call: few continuations, and groups that a program can hold."""
    _, beams, vocab_size = call.logits.shape
    return call.candidates <= MOST and group_size(beams, vocab_size) <= 1024


def topk_in_triton(call: TopKCall) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, tokens and parents `[B, count]`."""
    check_device(_choose, call.logits)
    shape, device = (call.logits.shape[0], call.candidates), call.logits.device
    scores = torch.empty(shape, dtype=torch.float32, device=device)
    tokens, parents = (torch.empty(shape, dtype=torch.int64, device=device) for _ in range(2))
    run_on(device, topk_launches(call, scores, tokens, parents))
    return scores, tokens, parents


def topk_launches(call: TopKCall, scores: Tensor, tokens: Tensor, parents: Tensor) -> list[Launch]:
    """The scan and the choice, for a single beam in one kernel; none for no samples.

    Whole rows are read by one program in about the time that a second kernel takes to start and
    to read the maxima. Several beams would make a program read several rows, one after the other.
    """
    samples, beams, vocab_size = call.logits.shape
    if samples == 0:
        return []
    size = group_size(beams, vocab_size)
    groups = ceil_div(vocab_size, size)
    tile = ROW_TILE[call.log_softmax] if beams == 1 else TILE
    tile_groups = min(tile // size, next_power_of_two(groups))
    tiles = ceil_div(groups, tile_groups)
    rows = samples * beams
    maxima = torch.empty(rows, tiles * tile_groups, device=scores.device, dtype=torch.float32)
    peaks, masses = torch.empty(2, rows, tiles, device=scores.device, dtype=torch.float32)
    shared = {
        "logits": call.logits,
        "maxima": maxima,
        "peaks": peaks,
        "masses": masses,
        "beams": beams,
        "vocab_size": vocab_size,
        "readable": readable_columns(call.logits, 64),
        "tiles": tiles,
        **strides("logits", call.logits, "bk"),
        **strides("maxima", maxima, "r"),
        "LOG_SOFTMAX": call.log_softmax,
        "BG": tile_groups,
        "GROUP_SIZE": size,
    }
    keys = (next_power_of_two(beams), next_power_of_two(groups))
    # The assembler would rather spill some registers than use more.
    warps = scan_warps(tile_groups * size)
    scan = Launch(_scan, (rows, tiles), shared, num_warps=warps, max_registers=255)
    choose = Launch(
        _choose,
        (samples,),
        {
            **shared,
            "running": call.running,
            "banned": call.banned,
            "ends": call.ends,
            "length": in_order(call.length),
            "min_length": in_order(call.min_length),
            "forced": in_order(call.forced),
            "scores": scores,
            "tokens": tokens,
            "parents": parents,
            "groups": groups,
            "banned_size": 0 if call.banned is None else call.banned.shape[2],
            "ends_size": 0 if call.ends is None else call.ends.shape[0],
            **strides("running", call.running, "bk"),
            **strides("banned", call.banned, "bkn"),
            **strides("ends", call.ends, "e"),
            "SCAN": beams == 1,
            "COUNT": call.candidates,
            "BC": next_power_of_two(call.candidates),
            "BI": BANS,
            "BK": keys[0],
            "BN": keys[1],
            "BT": next_power_of_two(tiles),
        },
        num_warps=choose_warps(keys[0] * keys[1], tile_groups * size if beams == 1 else 0),
        # All that each thread of sixteen warps can have.
        max_registers=128,
    )
    return [choose] if beams == 1 else [scan, choose]


def group_size(beams: int, vocab_size: int) -> int:
    """The tokens of a group: as few as let a program hold all groups of a sample."""
    size = GROUP
    while next_power_of_two(beams) * next_power_of_two(ceil_div(vocab_size, size)) > GROUPS:
        size *= 2
    return size


def scan_warps(tile: int) -> int:
    """32 elements per thread."""
    return max(1, tile // 1024)


def choose_warps(keys: int, tile: int) -> int:
    """16 keys per thread, and at most 32 elements of the tile that the program also scans."""
    return max(4, min(16, keys // 512), min(16, tile // 512))
