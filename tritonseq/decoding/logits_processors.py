"""Logits processors that ban, force, favour or disfavour tokens, made once per request.

Each factory returns a closure `(hypotheses, scores [R, V] float32) -> scores` that works in place
where it can and touches only the columns concerned. The arithmetic is transformers', operation by
operation, so that results are equal bit by bit. Nothing waits for the device: what depends on how
far a sample is, is computed there for every sample.

Those that can be said in the terms of `beam_topk`, which needs no pass over the scores for them,
carry these terms as well, which stand at the end of this file; the two mean the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tritonseq.kernels import ban_ngrams, ngram_bans, ngram_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .hypotheses import Hypotheses

    Apply = Callable[[Hypotheses, Tensor], Tensor]
    Terms = Callable[[Hypotheses, Tensor], dict[str, Any]]


# No token has this id; it stands where there is no token to match.
_NOTHING = -1


class TokenSet:
    """Distinct token ids as column indices; ids that are no tokens have no column."""

    def __init__(self, ids: Iterable[int]) -> None:
        self._ids = sorted(set(ids))
        self._columns: Tensor | None = None
        self._table: Tensor | None = None

    def columns(self, scores: Tensor) -> Tensor:
        """`[C]` indices into the last dimension of `scores`, which is the same at every step."""
        if self._columns is None:
            inside = [token for token in self._ids if 0 <= token < scores.shape[-1]]
            self._columns = torch.tensor(inside, device=scores.device, dtype=torch.int64)
        return self._columns

    def table(self, scores: Tensor) -> Tensor:
        """bool `[V]`, True at these ids."""
        if self._table is None:
            none = torch.zeros(scores.shape[-1], device=scores.device, dtype=torch.bool)
            self._table = none.index_fill_(0, self.columns(scores), True)
        return self._table


def ban(
    tokens: TokenSet,
    when: Callable[[Hypotheses], Tensor] | None = None,
    *,
    score: float = -math.inf,
) -> Apply:
    """Ban tokens, in the samples that `when` picks as `[B]` bool.

    They get `score`, unless they are banned already.
    """

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        columns = tokens.columns(scores)
        if when is None and score == -math.inf:
            return scores.index_fill_(1, columns, score)
        kept = scores.index_select(1, columns)
        banned = torch.where(kept == -math.inf, kept, score)
        if when is not None:
            banned = torch.where(hypotheses.by_row(when(hypotheses))[:, None], banned, kept)
        return scores.index_copy_(1, columns, banned)

    return apply


def force(
    tokens: Sequence[int], when: Callable[[Hypotheses], Tensor], device: torch.device
) -> Apply:
    """Leave nothing but `tokens`, with score 0, in the samples that `when` picks as `[B]` bool."""
    columns = torch.tensor(tokens, device=device)

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        rows = hypotheses.by_row(when(hypotheses))[:, None]
        kept = scores.index_select(1, columns).masked_fill_(rows, 0.0)
        return scores.masked_fill_(rows, -math.inf).index_copy_(1, columns, kept)

    return apply


def force_first(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
    """Leave nothing but the token that comes first, with score 0, in samples that have one."""
    rows = hypotheses.by_row(_begins_forced(hypotheses))[:, None]
    columns = hypotheses.by_row(hypotheses.first).clamp(min=0)[:, None]
    kept = scores.gather(1, columns).masked_fill_(rows, 0.0)
    return scores.masked_fill_(rows, -math.inf).scatter_(1, columns, kept)


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
        starts, ends = map(hypotheses.by_row, (hypotheses.prompt_starts, hypotheses.ends))
        text = without_pads(hypotheses.texts, starts, ends)
        return _penalize(scores, text, penalty, (ends > starts)[:, None])

    return apply


def favour_source(penalty: float) -> Apply:
    """Raise the scores of tokens of the source, for a penalty over 1."""

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        assert hypotheses.source is not None
        text = without_pads(*hypotheses.source)
        rows = text.repeat_interleave(scores.shape[0] // text.shape[0], dim=0)
        return _penalize(scores, rows, 1 / penalty)

    return apply


def no_repeat_ngram(
    n: int,
    *,
    count_pads: bool,
    ignored: Iterable[int] | None = None,
    of_source: bool = False,
    added: float | None = None,
) -> Apply:
    """Ban tokens that would repeat `n` tokens of the hypothesis, or of the source.

    Tokens that are `ignored` may be repeated, and so may any that follows one of them. With
    `added`, that is added to the scores of what is banned, in place of minus infinity.
    """
    free = None if ignored is None else TokenSet(ignored)

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        starts = hypotheses.edges if count_pads else hypotheses.prompt_starts
        text: dict[str, Tensor] = {}
        if of_source:
            assert hypotheses.source is not None
            names = ("source", "source_starts", "source_lengths")
            text = dict(zip(names, hypotheses.source, strict=True))
        spans: dict[str, Any] = {
            "lengths": hypotheses.by_row(hypotheses.ends),
            "starts": hypotheses.by_row(starts),
            "ignored": None if free is None else free.table(scores),
            **text,
        }
        if added is None:
            return ban_ngrams(scores, hypotheses.texts, n, **spans)
        banned = ngram_mask(hypotheses.texts, n, scores.shape[1], **spans)
        return scores.add_(banned, alpha=added)

    return apply


def remove_invalid(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
    """Make NaN 0 and infinities the extremes of the dtype."""
    return scores.nan_to_num_(nan=0.0)


def decay_length(
    tokens: TokenSet, start: int, factor: float, *, longest: int, device: torch.device
) -> Apply:
    """Raise the end tokens' scores exponentially behind `start` new tokens.

    `longest`: the most new tokens that a hypothesis may have.
    """
    over = range(max(longest - start, 0) + 1)
    powers = torch.tensor([_power(factor, n) - 1 for n in over], device=device, dtype=torch.float32)

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        past = hypotheses.by_row(hypotheses.generated - start)[:, None]
        columns = tokens.columns(scores)
        ends = scores.index_select(1, columns)
        penalty = ends.abs() * powers[past.clamp(0, len(powers) - 1)]
        penalty = penalty.masked_fill(~ends.isfinite() | (past <= 0), 0.0)
        return scores.index_copy_(1, columns, ends + penalty)

    return apply


def without_pads(ids: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """`ids [R, L]` with what is outside of the text replaced by its nearest token."""
    positions = torch.arange(ids.shape[1], device=ids.device)
    inside = torch.maximum(positions, starts[:, None])
    # A text may be empty; its row means nothing then.
    return ids.gather(1, torch.minimum(inside, ends[:, None] - 1).clamp_(min=0))


def _begins_forced(hypotheses: Hypotheses) -> Tensor:
    """`[B]` bool: whether the next token is the first, and is forced."""
    return (hypotheses.generated == 0) & (hypotheses.first >= 0)


def _penalize(scores: Tensor, ids: Tensor, penalty: float, where: Tensor | None = None) -> Tensor:
    """Penalise the tokens `ids [R, L]`, in the rows `where [R, 1]`."""
    # An id that stands in a row twice writes the same value twice.
    found = scores.gather(1, ids)
    changed = torch.where(found < 0, found * penalty, found / penalty)
    return scores.scatter_(1, ids, changed if where is None else torch.where(where, changed, found))


def _tail(hypotheses: Hypotheses, width: int, *, count_pads: bool) -> Tensor:
    """`[R, width]` the last tokens of every hypothesis, `_NOTHING` before its first."""
    starts = hypotheses.edges if count_pads else hypotheses.prompt_starts
    starts, ends = map(hypotheses.by_row, (starts, hypotheses.ends))
    texts = hypotheses.texts
    positions = ends[:, None] + torch.arange(-width, 0, device=texts.device)
    tail = texts.gather(1, positions.clamp(min=0))
    return tail.masked_fill(positions < starts[:, None], _NOTHING)


def _first(biases: Mapping[tuple[int, ...], float], length: int) -> int:
    return next(i for i, ids in enumerate(biases) if len(ids) == length)


def _power(factor: float, exponent: int) -> float:
    """`factor ** exponent`, or the largest float32 where it is beyond that."""
    largest = torch.finfo(torch.float32).max
    try:
        return min(math.pow(factor, exponent), largest)
    except OverflowError:
        return largest


def ngram_terms(n: int, *, count_pads: bool, ignored: TokenSet | None) -> Terms:
    """Tokens that would repeat an n-gram, as lists: `banned [B, K, N]`."""

    def terms(hypotheses: Hypotheses, logits: Tensor) -> dict[str, Any]:
        written = hypotheses.written
        prefix: dict[str, Any] = {}
        if hypotheses.prompt_length:
            starts = hypotheses.edges if count_pads else hypotheses.prompt_starts
            prefix = {"prefix": hypotheses.prompt, "prefix_starts": starts}
        banned = ngram_bans(
            written.tokens,
            n,
            logits.shape[-1],
            lengths=written.generated,
            lineage=written.lineage,
            ignored=None if ignored is None else ignored.table(logits),
            **prefix,
        )
        return {"banned": banned.unflatten(0, (-1, hypotheses.beams))}

    return terms


def end_terms(ends: TokenSet) -> Terms:
    """No end before the minimum: `ends [E]` and lengths `[B]`."""

    def terms(hypotheses: Hypotheses, logits: Tensor) -> dict[str, Any]:
        return {
            "ends": ends.columns(logits),
            "length": hypotheses.generated,
            "min_length": hypotheses.minimum,
        }

    return terms


def first_terms(hypotheses: Hypotheses, logits: Tensor) -> dict[str, Any]:
    """What `force_first` does: `forced [B]`."""
    return {"forced": torch.where(_begins_forced(hypotheses), hypotheses.first, -1)}


def force_terms(token: int, when: Callable[[Hypotheses], Tensor]) -> Terms:
    """One token and no other, in some samples: `forced [B]`."""

    def terms(hypotheses: Hypotheses, logits: Tensor) -> dict[str, Any]:
        return {"forced": torch.where(when(hypotheses), token, -1)}

    return terms


def combined(terms_of_each: Iterable[Terms | None]) -> Terms | None:
    """What a list of processors asks for, the later over the earlier; None if that is not all."""
    each = list(terms_of_each)
    if any(terms is None for terms in each):
        return None

    def terms(hypotheses: Hypotheses, logits: Tensor) -> dict[str, Any]:
        wanted: dict[str, Any] = {}
        for one in each:
            assert one is not None
            found = one(hypotheses, logits)
            if "forced" in found and "forced" in wanted:
                forced = found["forced"]
                found["forced"] = torch.where(forced >= 0, forced, wanted["forced"])
            wanted |= found
        return wanted

    return terms
