"""`ban_ngrams`, `ngram_mask` and `ngram_bans` by definition."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tritonseq.kernels.checks import Impl


def ban_ngrams(
    scores: Tensor,
    tokens: Tensor,
    n: int,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    lineage: Tensor | None = None,
    prefix: Tensor | None = None,
    prefix_starts: Tensor | None = None,
    prefix_lengths: Tensor | None = None,
    source: Tensor | None = None,
    source_starts: Tensor | None = None,
    source_lengths: Tensor | None = None,
    ignored: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """`tritonseq.kernels.ban_ngrams`, one row after the other."""
    mask = ngram_mask(
        tokens,
        n,
        scores.shape[1],
        lengths=lengths,
        starts=starts,
        lineage=lineage,
        prefix=prefix,
        prefix_starts=prefix_starts,
        prefix_lengths=prefix_lengths,
        source=source,
        source_starts=source_starts,
        source_lengths=source_lengths,
        ignored=ignored,
    )
    return scores.masked_fill_(mask, -math.inf)


def ngram_mask(
    tokens: Tensor,
    n: int,
    vocab_size: int,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    lineage: Tensor | None = None,
    prefix: Tensor | None = None,
    prefix_starts: Tensor | None = None,
    prefix_lengths: Tensor | None = None,
    source: Tensor | None = None,
    source_starts: Tensor | None = None,
    source_lengths: Tensor | None = None,
    ignored: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """`tritonseq.kernels.ngram_mask`, on lists of Python integers."""
    rows = tokens.shape[0] if lineage is None else tokens.shape[0] * tokens.shape[2]
    mask = torch.zeros(rows, vocab_size, dtype=torch.bool)
    free = set() if ignored is None else set(ignored.nonzero().flatten().tolist())
    for row in range(rows):
        if lineage is None:
            own = _valid(tokens, row, starts, lengths)
        else:
            sample, beam = divmod(row, tokens.shape[2])
            slots = _valid(lineage[:, :, beam], sample, None, lengths)
            last = tokens.shape[2] - 1
            own = [int(tokens[sample, t, min(max(s, 0), last)]) for t, s in enumerate(slots)]
        if prefix is not None:
            own = _valid(prefix, row * len(prefix) // rows, prefix_starts, prefix_lengths) + own
        searched = own
        if source is not None:
            searched = _valid(source, row * len(source) // rows, source_starts, source_lengths)
        if len(own) < n - 1:
            continue
        suffix = own[len(own) - (n - 1) :]
        if free.intersection(suffix):
            continue
        for start in range(len(searched) - n + 1):
            *head, token = searched[start : start + n]
            if head == suffix and 0 <= token < vocab_size and token not in free:
                mask[row, token] = True
    return mask.to(tokens.device)


def ngram_bans(
    tokens: Tensor,
    n: int,
    vocab_size: int,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    lineage: Tensor | None = None,
    prefix: Tensor | None = None,
    prefix_starts: Tensor | None = None,
    prefix_lengths: Tensor | None = None,
    source: Tensor | None = None,
    source_starts: Tensor | None = None,
    source_lengths: Tensor | None = None,
    ignored: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """`tritonseq.kernels.ngram_bans`: the tokens of the mask, in order, once each."""
    mask = ngram_mask(
        tokens,
        n,
        vocab_size,
        lengths=lengths,
        starts=starts,
        lineage=lineage,
        prefix=prefix,
        prefix_starts=prefix_starts,
        prefix_lengths=prefix_lengths,
        source=source,
        source_starts=source_starts,
        source_lengths=source_lengths,
        ignored=ignored,
    )
    width = tokens.shape[1] + (0 if prefix is None else prefix.shape[1])
    places = max((width if source is None else source.shape[1]) - n + 1, 0)
    bans = torch.full((len(mask), places), -1, dtype=torch.int32, device=tokens.device)
    for row, banned in enumerate(mask):
        found = banned.nonzero().flatten()
        bans[row, : len(found)] = found.int()
    return bans


def _valid(tokens: Tensor, row: int, starts: Tensor | None, ends: Tensor | None) -> list[int]:
    size = tokens.shape[1]
    end = size if ends is None else min(max(int(ends[row]), 0), size)
    start = 0 if starts is None else min(max(int(starts[row]), 0), end)
    values: list[int] = tokens[row, start:end].tolist()
    return values
