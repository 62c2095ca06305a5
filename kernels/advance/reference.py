"""`beam_advance`, `greedy_advance` and `row_advance` by definition, one sample after the other."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from .state import FAR_BELOW

if TYPE_CHECKING:
    from torch import Tensor

    from tritonseq.kernels.checks import Impl

    from .state import Group, Pool, Written


class Candidate(NamedTuple):
    """What may become a beam, or a finished hypothesis, if its score is good enough."""

    score: float
    done: bool
    end: int
    slot: int
    token: int


def beam_advance(
    written: Written,
    group: Group,
    scores: Tensor,
    tokens: Tensor,
    parents: Tensor,
    *,
    powers: Tensor,
    ends: Tensor | None = None,
    hits: Tensor | None = None,
    stops_when_full: bool = False,
    bounds_by_limit: bool = False,
    retire: bool = True,
    impl: Impl = "auto",
) -> None:
    """`tritonseq.kernels.beam_advance`; of equal scores the first one wins."""
    beams, final = group.running.shape[1], set() if ends is None else set(ends.tolist())
    for b in _active(written):
        at, limit = int(written.generated[b]), int(written.limit[b])
        could, old = bool(group.improvable[b]), _read(group.pool, b)
        full = stops_when_full and all(x.done for x in old)
        live: list[Candidate] = []
        new: list[Candidate] = []
        completed: list[bool] = []
        continued = parents[b].clamp(0, beams - 1)
        rows = zip(scores[b].tolist(), tokens[b].tolist(), continued.tolist(), strict=True)
        for rank, (score, token, parent) in enumerate(rows):
            is_end = token in final
            hit = at + 1 >= limit or (is_end if hits is None else bool(hits[b, rank]))
            completed.append(hit)
            barred = is_end if at + 1 >= limit else hit
            live.append(Candidate(_lower(score, barred), False, at, parent, token))
            score = _lower(_divide(score, powers[_within(at + 1, len(powers))]), full)
            done = hit and rank < beams
            score = _lower(_lower(score, not could), not done)
            new.append(Candidate(score, done, at, parent, token))
        longest = limit if bounds_by_limit else at + 1
        live, pool = _best(live, beams), _best(old + new, beams)
        bound = _divide(live[0].score, powers[_within(longest, len(powers))])
        worst = min(x.score for x in pool)
        could = could and any(bound > (worst if x.done else FAR_BELOW) for x in pool)
        over = all(completed) or not could
        over = over or (stops_when_full and all(x.done for x in pool))
        for k in range(beams):
            group.running[b, k] = live[k].score
            for field, value in zip(group.pool, pool[k], strict=True):
                field[b, k] = value
        group.improvable[b] = could
        positions = written.tokens.shape[1]
        for t in range(min(at, positions)):
            slots = written.lineage[b, t].tolist()
            for k in range(beams):
                written.lineage[b, t, k] = slots[live[k].slot]
        for k in range(beams):
            written.parents[b, _within(at, positions), k] = live[k].slot
        _append(written, b, [x.token for x in live], over, retire)


def greedy_advance(
    written: Written,
    ended: Tensor,
    logits: Tensor,
    *,
    ends: Tensor | None = None,
    pad_token_id: int = 0,
    retire: bool = True,
    impl: Impl = "auto",
) -> None:
    """`tritonseq.kernels.greedy_advance`; of equal logits the first one wins."""
    tokens = written.newest.clone()
    for b, rows in enumerate(logits.tolist()):
        for k, row in enumerate(rows):
            tokens[b, k] = pad_token_id if ended[b, k] else row.index(max(row))
    row_advance(written, ended, tokens, ends=ends, retire=retire)


def row_advance(
    written: Written,
    ended: Tensor,
    tokens: Tensor,
    *,
    ends: Tensor | None = None,
    hits: Tensor | None = None,
    retire: bool = True,
) -> None:
    """`tritonseq.kernels.row_advance`."""
    final = set() if ends is None else set(ends.tolist())
    for b in _active(written):
        at_limit = int(written.generated[b]) + 1 >= int(written.limit[b])
        own = tokens[b].tolist()
        for k, token in enumerate(own):
            if at_limit or (token in final if hits is None else bool(hits[b, k])):
                ended[b, k] = True
        _append(written, b, own, all(ended[b].tolist()), retire)


def _active(written: Written) -> list[int]:
    return [b for b, step in enumerate(written.step.tolist()) if step >= 0]


def _append(written: Written, b: int, tokens: list[int], over: bool, retire: bool) -> None:
    """One token for each slot of sample `b`, and its counters."""
    at = int(written.generated[b])
    for k, token in enumerate(tokens):
        written.tokens[b, _within(at, written.tokens.shape[1]), k] = token
        written.newest[b, k] = token
    written.generated[b] = at + 1
    if at > 0:
        written.step[b] += 1
    if over:
        written.done[b] = True
    if retire and written.done[b]:
        written.step[b] = -1


def _read(pool: Pool, b: int) -> list[Candidate]:
    return [Candidate(*place) for place in zip(*(field[b].tolist() for field in pool), strict=True)]


def _best(candidates: list[Candidate], count: int) -> list[Candidate]:
    return sorted(candidates, key=lambda x: -x.score)[:count]


def _lower(score: float, condition: bool) -> float:
    return _rounded(score + FAR_BELOW) if condition else score


def _divide(score: float, power: Tensor) -> float:
    return _rounded(score / float(power))


def _within(i: int, size: int) -> int:
    """The nearest of `size` places."""
    return min(max(i, 0), size - 1)


def _rounded(x: float) -> float:
    """The nearest float32: what one operation on float32 gives."""
    nearest: float = struct.unpack("f", struct.pack("f", x))[0]
    return nearest
