"""Processors that ban, force, favour or disfavour tokens, made once per request.

Each factory returns a closure `(hypotheses, scores [R, V] float32) -> scores` that works in place
where it can and touches only the columns concerned. The arithmetic is transformers', operation by
operation, so that results are equal bit by bit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tritonseq.kernels import ban_ngrams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .hypotheses import Hypotheses

    Apply = Callable[[Hypotheses, Tensor], Tensor]

# No token has this id; it stands where there is no token to match.
_NOTHING = -1


class TokenSet:
    """Distinct token ids as column indices; ids beyond the vocabulary have no column."""

    def __init__(self, ids: Iterable[int]) -> None:
        self._ids = sorted(set(ids))
        self._columns: Tensor | None = None
        self._table: Tensor | None = None

    def columns(self, scores: Tensor) -> Tensor:
        """`[C]` indices into the last dimension of `scores`, which is the same at every step."""
        if self._columns is None:
            inside = [token for token in self._ids if token < scores.shape[-1]]
            self._columns = torch.tensor(inside, device=scores.device, dtype=torch.int64)
        return self._columns

    def table(self, scores: Tensor) -> Tensor:
        """bool `[V]`, True at these ids."""
        if self._table is None:
            none = torch.zeros(scores.shape[-1], device=scores.device, dtype=torch.bool)
            self._table = none.index_fill_(0, self.columns(scores), True)
        return self._table


def ban(tokens: TokenSet, when: Callable[[Hypotheses], bool]) -> Apply:
    """Ban tokens at the steps that `when` picks."""

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        if when(hypotheses):
            scores.index_fill_(1, tokens.columns(scores), -math.inf)
        return scores

    return apply


def force(tokens: Sequence[int], length: int, device: torch.device) -> Apply:
    """Leave nothing but `tokens`, with score 0, to hypotheses of `length` tokens."""
    columns = torch.tensor(tokens, device=device)

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        if hypotheses.length == length:
            scores.fill_(-math.inf).index_fill_(1, columns, 0.0)
        return scores

    return apply


def bias_sequences(
    biases: Mapping[tuple[int, ...], float], *, count_pads: bool, device: torch.device
) -> Apply:
    """Add a bias to the last token of each sequence wherever the tokens before it stand already.

    `count_pads=True` lets left pads match as if they were text.
    """
    width = max(map(len, biases)) - 1
    # transformers sums in order of length, lengths in order of appearance; single tokens first.
    lengths = sorted({len(ids) for ids in biases}, key=lambda n: (n > 1, _first(biases, n)))
    ordered = [ids for n in lengths for ids in biases if len(ids) == n]
    highest = max(map(max, biases))
    prefixes = torch.tensor(
        [[_NOTHING] * (width + 1 - len(ids)) + list(ids[:-1]) for ids in ordered],
        device=device,
        dtype=torch.int64,
    )
    wildcard = prefixes == _NOTHING
    values = torch.tensor([biases[ids] for ids in ordered], device=device, dtype=torch.float32)
    last = torch.tensor([ids[-1] for ids in ordered], device=device)
    columns, slots = torch.unique(last, return_inverse=True)

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        if highest >= scores.shape[-1]:
            raise ValueError(
                f"sequence_bias or bad_words_ids names token id {highest}, outside the "
                f"vocabulary of {scores.shape[-1]} tokens"
            )
        rows = scores.shape[0]
        tail = _tail(hypotheses, width, count_pads=count_pads)
        matches = ((tail[:, None] == prefixes) | wildcard).all(dim=-1)
        bias = torch.where(matches, values, 0.0)
        total = scores.new_zeros(rows, columns.shape[0])
        total.scatter_add_(1, slots.expand(rows, -1), bias)
        return scores.scatter_add_(1, columns.expand(rows, -1), total)

    return apply


def penalize_repetition(penalty: float) -> Apply:
    """Divide positive scores of tokens already there by `penalty`, multiply negative ones.

    Keskar et al., "CTRL", 2019. The prompt counts, its pads do not.
    """

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        return _penalize(scores, without_pads(hypotheses.ids, hypotheses.starts), penalty)

    return apply


def favour_source(penalty: float, source: Tensor) -> Apply:
    """Raise the scores of tokens of `source [B, S]`, which holds no pads, for a penalty over 1."""

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        rows = source.repeat_interleave(scores.shape[0] // source.shape[0], dim=0)
        return _penalize(scores, rows, 1 / penalty)

    return apply


def no_repeat_ngram(
    n: int,
    *,
    count_pads: bool,
    ignored: Iterable[int] | None = None,
    source: Tensor | None = None,
    source_starts: Tensor | None = None,
    source_lengths: Tensor | None = None,
) -> Apply:
    """Ban tokens that would repeat `n` tokens of the hypothesis, or of `source [B, S]`.

    Tokens that are `ignored` may be repeated, and so may any that follows one of them.
    """
    free = None if ignored is None else TokenSet(ignored)

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        starts = None if count_pads else hypotheses.starts
        return ban_ngrams(
            scores,
            hypotheses.ids,
            n,
            starts=starts,
            source=source,
            source_starts=None if count_pads else source_starts,
            source_lengths=None if count_pads else source_lengths,
            ignored=None if free is None else free.table(scores),
        )

    return apply


def remove_invalid(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
    """Make NaN 0 and infinities the extremes of the dtype."""
    return scores.nan_to_num_(nan=0.0)


def decay_length(tokens: TokenSet, start: int, factor: float) -> Apply:
    """Raise the end tokens' scores exponentially in hypotheses longer than `start` tokens."""

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        over = hypotheses.length - start
        if over <= 0:
            return scores
        columns = tokens.columns(scores)
        ends = scores[:, columns]
        penalty = ends.abs() * (_power(factor, over) - 1)
        penalty = penalty.masked_fill(~ends.isfinite(), 0.0)
        return scores.index_copy_(1, columns, ends + penalty)

    return apply


def without_pads(ids: Tensor, starts: Tensor | None, ends: Tensor | None = None) -> Tensor:
    """`ids [R, L]` with pads replaced by the nearest real token of their row."""
    if starts is None and ends is None:
        return ids
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    if starts is not None:
        positions = torch.maximum(positions, starts[:, None])
    if ends is not None:
        positions = torch.minimum(positions, ends[:, None] - 1)
    return ids.gather(1, positions)


def _penalize(scores: Tensor, ids: Tensor, penalty: float) -> Tensor:
    # An id that stands in a row twice writes the same value twice.
    found = scores.gather(1, ids)
    found = torch.where(found < 0, found * penalty, found / penalty)
    return scores.scatter_(1, ids, found)


def _tail(hypotheses: Hypotheses, width: int, *, count_pads: bool) -> Tensor:
    """`[R, width]` the last tokens of every hypothesis, `_NOTHING` before its first."""
    ids = hypotheses.ids
    length = ids.shape[1]
    tail = ids[:, length - min(width, length) :]
    tail = torch.nn.functional.pad(tail, (width - tail.shape[1], 0), value=_NOTHING)
    if count_pads or hypotheses.starts is None:
        return tail
    positions = torch.arange(length - width, length, device=ids.device)
    return tail.masked_fill(positions < hypotheses.starts[:, None], _NOTHING)


def _first(biases: Mapping[tuple[int, ...], float], length: int) -> int:
    return next(i for i, ids in enumerate(biases) if len(ids) == length)


def _power(factor: float, exponent: int) -> float:
    """`factor ** exponent`, or the largest float32 where it is beyond that."""
    largest = torch.finfo(torch.float32).max
    try:
        return min(math.pow(factor, exponent), largest)
    except OverflowError:
        return largest
