"""`ban_ngrams` and its relatives in plain torch: vectorised, and without waiting for the device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ._checks import Ngrams


class Span(NamedTuple):
    """Rows of tokens `[R, L]`, valid from `start [R]` up to, but without, `end [R]`."""

    tokens: Tensor
    start: Tensor
    end: Tensor


def ban_in_torch(scores: Tensor, call: Ngrams) -> None:
    """Write -inf to `scores [R, V]` at the banned tokens."""
    index, banned = _banned(call)
    # A minimum with +inf leaves a score alone, however often the same token is met.
    limit = torch.where(banned, -math.inf, math.inf).to(scores.dtype)
    scores.scatter_reduce_(1, index, limit, "amin")


def mask_in_torch(call: Ngrams) -> Tensor:
    """The banned tokens as a boolean `[R, V]`."""
    index, banned = _banned(call)
    mask = torch.zeros(call.rows, call.vocab_size, dtype=torch.uint8, device=index.device)
    return mask.scatter_reduce_(1, index, banned.to(torch.uint8), "amax").view(torch.bool)


def list_in_torch(call: Ngrams) -> Tensor:
    """The banned tokens as int32 `[R, N]`, -1 at places that ban nothing."""
    index, banned = _banned(call)
    return torch.where(banned, index, -1).int()


def _banned(call: Ngrams) -> tuple[Tensor, Tensor]:
    """For every place `[R, N]` where an n-gram may end: its token, and whether that is banned.

    Tokens outside the vocabulary come back as 0, not banned.
    """
    n, hypothesis = call.n, _hypothesis(call)
    searched = hypothesis if call.source is None else _source(call)
    last = searched.tokens[:, n - 1 :]
    place = torch.arange(last.shape[1], device=last.device)
    banned = (place >= searched.start[:, None]) & (place + n <= searched.end[:, None])
    if n > 1:
        # A row with too short a hypothesis reads wrong tokens here and is dropped right after.
        first = hypothesis.end - (n - 1)
        size = hypothesis.tokens.shape[1]
        for offset in range(min(n - 1, size)):
            at = (first + offset).clamp(0, size - 1)[:, None]
            wanted = hypothesis.tokens.gather(1, at)
            banned &= searched.tokens[:, offset : offset + last.shape[1]] == wanted
            if call.ignored is not None:
                banned &= ~_looked_up(call.ignored, wanted)
        banned &= (first >= hypothesis.start)[:, None]
    inside = (last >= 0) & (last < call.vocab_size)
    if call.ignored is not None:
        inside &= ~_looked_up(call.ignored, last)
    return torch.where(inside, last, 0).long(), banned & inside


def _looked_up(table: Tensor, tokens: Tensor) -> Tensor:
    """`table [V]` at every token; False at those outside the vocabulary."""
    inside = (tokens >= 0) & (tokens < len(table))
    return table[torch.where(inside, tokens, 0).long()] & inside


def _hypothesis(call: Ngrams) -> Span:
    """What each row has so far: its prefix, if any, and its own tokens."""
    tokens, rows = call.tokens, call.rows
    if call.lineage is not None:
        slots = call.lineage.long().clamp(0, tokens.shape[2] - 1)
        tokens = tokens.gather(2, slots).transpose(1, 2).reshape(rows, -1)
    end = _per_row(call.lengths, tokens.shape[1], call)
    if call.prefix is None:
        return Span(tokens, _per_row(call.starts, 0, call), end)
    prefix = _padded_on_the_left(call)
    tokens = torch.cat([prefix.tokens, tokens], 1)
    return Span(tokens, prefix.start, end + prefix.end)


def _padded_on_the_left(call: Ngrams) -> Span:
    """The prefix of each row, moved to the right so that nothing stands behind it."""
    prefix = call.prefix
    assert prefix is not None
    size = prefix.shape[1]
    start = _per_row(call.prefix_starts, 0, call)
    full = _per_row(None, size, call)
    if call.prefix_lengths is None:
        return Span(_expand(prefix, call), start, full)
    shift = size - call.prefix_lengths[:, None]
    place = torch.arange(size, device=prefix.device)
    moved = prefix.gather(1, (place - shift).clamp(0, max(size - 1, 0)))
    shift_of_row = full - _per_row(call.prefix_lengths, size, call)
    return Span(_expand(moved, call), start + shift_of_row, full)


def _source(call: Ngrams) -> Span:
    assert call.source is not None
    tokens = _expand(call.source, call)
    end = _per_row(call.source_lengths, tokens.shape[1], call)
    return Span(tokens, _per_row(call.source_starts, 0, call), end)


def _expand(tokens: Tensor, call: Ngrams) -> Tensor:
    """`[B, L]` for every row of its sample."""
    return tokens.repeat_interleave(call.rows // tokens.shape[0], 0)


def _per_row(bound: Tensor | None, default: int, call: Ngrams) -> Tensor:
    """A bound of each row, from one of each row or of each sample."""
    if bound is None:
        return torch.full((call.rows,), default, device=call.tokens.device)
    return bound.long().repeat_interleave(call.rows // bound.shape[0], 0)
