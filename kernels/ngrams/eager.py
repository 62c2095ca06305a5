"""`ban_ngrams` and its relatives in plain torch: vectorised, and without waiting for the device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .call import NgramCall


class TokenSpan(NamedTuple):
    """Rows of tokens `[R, L]`, valid from `start [R]` up to, but without, `end [R]`."""

    tokens: Tensor
    start: Tensor
    end: Tensor


def ban_in_torch(scores: Tensor, call: NgramCall) -> None:
    """Write -inf to `scores [R, V]` at the banned tokens."""
    if scores.numel() == 0 or call.places == 0:
        return
    index, banned = _banned(call)
    # A minimum with +inf leaves a score alone, however often the same token is met.
    limit = torch.where(banned, -math.inf, math.inf).to(scores.dtype)
    scores.scatter_reduce_(1, index, limit, "amin")


def mask_in_torch(call: NgramCall) -> Tensor:
    """The banned tokens as a boolean `[R, V]`."""
    shape = (call.rows, call.vocab_size)
    mask = torch.zeros(shape, dtype=torch.uint8, device=call.tokens.device)
    if mask.numel() == 0 or call.places == 0:
        return mask.view(torch.bool)
    index, banned = _banned(call)
    return mask.scatter_reduce_(1, index, banned.to(torch.uint8), "amax").view(torch.bool)


def list_in_torch(call: NgramCall) -> Tensor:
    """The banned tokens as int32 `[R, N]`, -1 at places that ban nothing."""
    shape = (call.rows, call.places)
    if 0 in shape or call.vocab_size == 0:
        return torch.full(shape, -1, dtype=torch.int32, device=call.tokens.device)
    index, banned = _banned(call)
    return torch.where(banned, index, -1).int()


def _banned(call: NgramCall) -> tuple[Tensor, Tensor]:
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


def _hypothesis(call: NgramCall) -> TokenSpan:
    """What each row has so far: its prefix, if any, and its own tokens."""
    tokens, rows = call.tokens, call.rows
    if call.lineage is not None:
        slots = call.lineage.long().clamp(0, tokens.shape[2] - 1)
        tokens = tokens.gather(2, slots).transpose(1, 2).reshape(rows, -1)
    start, end = _bounds(call.starts, call.lengths, tokens.shape[1], call)
    if call.prefix is None:
        return TokenSpan(tokens, start, end)
    prefix = _padded_on_the_left(call.prefix, call)
    tokens = torch.cat([prefix.tokens, tokens], 1)
    return TokenSpan(tokens, prefix.start, end + prefix.end)


def _padded_on_the_left(prefix: Tensor, call: NgramCall) -> TokenSpan:
    """The prefix of each row, moved to the right so that nothing stands behind it."""
    size = prefix.shape[1]
    start, end = _bounds(call.prefix_starts, call.prefix_lengths, size, call)
    tokens = _expand(prefix, call)
    if call.prefix_lengths is None:
        return TokenSpan(tokens, start, end)
    shift = size - end
    place = torch.arange(size, device=prefix.device)
    tokens = tokens.gather(1, (place - shift[:, None]).clamp_(min=0))
    return TokenSpan(tokens, start + shift, end + shift)


def _source(call: NgramCall) -> TokenSpan:
    assert call.source is not None
    size = call.source.shape[1]
    return TokenSpan(
        _expand(call.source, call), *_bounds(call.source_starts, call.source_lengths, size, call)
    )


def _expand(tokens: Tensor, call: NgramCall) -> Tensor:
    """`[B, L]` for every row of its sample."""
    return tokens.repeat_interleave(call.rows // tokens.shape[0], 0)


def _bounds(
    starts: Tensor | None, ends: Tensor | None, size: int, call: NgramCall
) -> tuple[Tensor, Tensor]:
    """Where each row starts and ends, `[R]`: from 0 to `size`, and no end before its start."""
    end = _per_row(ends, size, call).clamp_(0, size)
    return torch.minimum(_per_row(starts, 0, call).clamp_(min=0), end), end


def _per_row(bound: Tensor | None, default: int, call: NgramCall) -> Tensor:
    """A bound of each row, from one of each row or of each sample; new memory."""
    if bound is None:
        return torch.full((call.rows,), default, device=call.tokens.device)
    return bound.long().repeat_interleave(call.rows // bound.shape[0], 0)
