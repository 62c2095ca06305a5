"""`beam_advance` and kin in plain torch: vectorised, in place, without a value on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from .state import FAR_BELOW

if TYPE_CHECKING:
    from torch import Tensor

    from .state import Group, Pool, Written


class AdvanceRules(NamedTuple):
    """The arguments of `beam_advance` that stay the same."""

    powers: Tensor
    ends: Tensor | None
    stops_when_full: bool
    bounds_by_limit: bool
    retire: bool


def advance(
    written: Written,
    group: Group,
    scores: Tensor,
    tokens: Tensor,
    parents: Tensor,
    hits: Tensor | None,
    rules: AdvanceRules,
) -> None:
    """`beam_advance` for checked arguments."""
    parents = parents.clamp(0, written.tokens.shape[2] - 1)
    tokens, parents, ended = choose_beams(
        written, group, scores, tokens, parents, hits=hits, rules=rules
    )
    append_beams(written, tokens, parents, ended, retire=rules.retire)


def choose_beams(
    written: Written,
    group: Group,
    scores: Tensor,
    tokens: Tensor,
    parents: Tensor,
    *,
    hits: Tensor | None,
    rules: AdvanceRules,
) -> tuple[Tensor, Tensor, Tensor]:
    """The first half of `beam_advance`, for all beams of a sample or one group of `k`.

    Changes the group alone, and not that of a sample that rests. Returns tokens and parents
    `[B, k]` of the beams that go on, and in which samples the group has ended, `[B]` bool.
    """
    beams = group.running.shape[1]
    active = written.step >= 0
    length = written.generated + 1
    at_limit = length >= written.limit
    is_end = is_in(tokens, rules.ends)
    hits = (is_end if hits is None else hits) | at_limit[:, None]

    # At the limit all end at once. Then it matters to later groups only which beams are chosen
    # here, and adding FAR_BELOW to all of them would blur their order.
    barred = torch.where(at_limit[:, None], is_end, hits)
    live_scores = scores + barred.to(torch.float32) * FAR_BELOW
    live = live_scores.topk(beams, dim=1).indices
    running = live_scores.gather(1, live)

    pool = _collect(group, scores, tokens, parents, hits, written.generated, rules)
    best_length = written.limit if rules.bounds_by_limit else length
    best = running[:, :1] / _at(rules.powers, best_length)
    worst = pool.scores.min(dim=1, keepdim=True).values
    worst = torch.where(pool.done, worst, FAR_BELOW)
    improvable = group.improvable & (best > worst).any(dim=1)

    ended = hits.all(dim=1) | ~improvable
    if rules.stops_when_full:
        ended = ended | pool.done.all(dim=1)
    update(group.running, running, active)
    update(group.improvable, improvable, active)
    for field, new in zip(group.pool, pool, strict=True):
        update(field, new, active)
    return tokens.gather(1, live), parents.gather(1, live), ended


def _collect(
    group: Group,
    scores: Tensor,
    tokens: Tensor,
    parents: Tensor,
    hits: Tensor,
    generated: Tensor,
    rules: AdvanceRules,
) -> Pool:
    """The pool with the candidates that have finished and earn a place."""
    old, beams = group.pool, group.running.shape[1]
    # Only the first beams may finish; the others are there to keep enough beams alive.
    done = hits & (torch.arange(hits.shape[1], device=hits.device) < beams)
    final = scores / _at(rules.powers, generated + 1)
    if rules.stops_when_full:
        final = final + old.done.all(dim=1, keepdim=True).to(torch.float32) * FAR_BELOW
    final = final + (~group.improvable)[:, None].to(torch.float32) * FAR_BELOW
    final = final + (~done).to(torch.float32) * FAR_BELOW
    new = (final, done, generated[:, None].expand_as(tokens), parents, tokens)
    joined = [torch.cat(pair, dim=1) for pair in zip(old, new, strict=True)]
    best = joined[0].topk(beams, dim=1).indices
    return type(old)(*(field.gather(1, best) for field in joined))


def _at(powers: Tensor, lengths: Tensor) -> Tensor:
    """`[B, 1]`: the power of each length, or the nearest that there is."""
    return powers.index_select(0, lengths.clamp(0, len(powers) - 1))[:, None]


def append_beams(
    written: Written, tokens: Tensor, parents: Tensor | None, ended: Tensor, *, retire: bool = True
) -> None:
    """The second half: write tokens `[B, K]` that continue beams `parents [B, K]`; None: their own.

    `ended [B]` bool: in which samples the search is over.
    """
    active = written.step >= 0
    at = place_of(written, tokens.shape[1])
    if parents is not None:
        positions = torch.arange(written.tokens.shape[1], device=tokens.device)
        history = (positions < written.generated[:, None]) & active[:, None]
        moved = written.lineage.gather(2, parents[:, None].expand_as(written.lineage))
        update(written.lineage, moved, history[:, :, None])
        write(written.parents, at, parents, active)
    write(written.tokens, at, tokens, active)
    update(written.newest, tokens, active)
    written.generated.add_(active)
    written.done.logical_or_(ended & active)
    written.step.add_(active & (written.generated > 1))
    if retire:
        written.step.masked_fill_(written.done, -1)


def advance_rows(
    written: Written,
    ended: Tensor,
    tokens: Tensor,
    hits: Tensor | None,
    ends: Tensor | None,
    retire: bool,
) -> None:
    """`row_advance` for checked arguments."""
    at_limit = written.generated + 1 >= written.limit
    hits = (is_in(tokens, ends) if hits is None else hits) | at_limit[:, None]
    ended.logical_or_(hits & (written.step >= 0)[:, None])
    append_beams(written, tokens, None, ended.all(dim=1), retire=retire)


def is_in(tokens: Tensor, those: Tensor | None) -> Tensor:
    """Which of `tokens` are among `those [E]`; None: none is."""
    if those is None:
        return torch.zeros_like(tokens, dtype=torch.bool)
    return (tokens[..., None] == those).any(dim=-1)


def place_of(written: Written, count: int) -> Tensor:
    """`[B, 1, count]`: where the step to come is written, in buffers `[B, T, count]`."""
    last = written.tokens.shape[1] - 1
    return written.generated.clamp(0, last)[:, None, None].expand(-1, 1, count)


def write(buffer: Tensor, at: Tensor, new: Tensor, where: Tensor) -> None:
    """Put `new [B, count]` into `buffer [B, T, count]` at `place_of`; `where` is `[B]` or
    `[B, count]`.

    What is not to be written rewrites some place with what is there.
    """
    where = where.view(where.shape[0], 1, -1)
    buffer.scatter_(1, at, torch.where(where, new[:, None], buffer.gather(1, at)))


def update(old: Tensor, new: Tensor, where: Tensor) -> None:
    """Overwrite `old` where samples are active; `where` has its leading dimensions."""
    where = where.view(where.shape + (1,) * (old.dim() - where.dim()))
    old.copy_(torch.where(where, new, old))
