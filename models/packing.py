"""Prompts of different lengths, packed so that no matrix product is spent on padding."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

# Tokens that a prefill sends through the layers at once: enough to keep a matrix product busy,
# few enough that the activations stay small beside weights and caches.
PREFILL_TOKENS = 1024


@dataclass(frozen=True)
class Prompt:
    """Some samples of a batch with their tokens packed: no row is spent on padding."""

    samples: slice
    tokens: Tensor
    """`[N]` the true tokens of all samples, one after the other."""
    positions: Tensor
    """`[N]` the position of each token in its sample."""
    last: Tensor
    """`[b]` row of each sample's last token."""
    valid: Tensor | None
    """`[b, s]` where the tokens stand in the padded batch; None when there is no padding."""
    source_len: Tensor | None
    """`[b]` true lengths; None when there is no padding."""
    lengths: tuple[int, ...]
    """The same lengths, padding or not, as the host knows them."""

    def pad(self, packed: Tensor) -> Tensor:
        """`[N, x]` rows to `[b, s, x]`, zeros behind each sample's end."""
        if self.valid is None:
            return packed.view(self.last.shape[0], -1, packed.shape[1])
        padded = packed.new_zeros(*self.valid.shape, packed.shape[1])
        padded[self.valid] = packed
        return padded

    def pack(self, padded: Tensor) -> Tensor:
        """The inverse of `pad`."""
        return padded.flatten(0, 1) if self.valid is None else padded[self.valid]

    def runs(self) -> Iterator[tuple[slice, slice, int]]:
        """Neighbouring samples of equal length: their places in the batch, rows, and length."""
        sample, row = self.samples.start, 0
        for length, equal in itertools.groupby(self.lengths):
            count = len(list(equal))
            yield slice(sample, sample + count), slice(row, row + count * length), length
            sample, row = sample + count, row + count * length


def split_prompts(tokens: Tensor, lengths: Tensor) -> Iterator[Prompt]:
    """Whole samples of the right-padded `tokens [B, S]`, about PREFILL_TOKENS at a time."""
    per_group = max(1, PREFILL_TOKENS // tokens.shape[1])
    for start in range(0, tokens.shape[0], per_group):
        samples = slice(start, min(start + per_group, tokens.shape[0]))
        group_lengths = lengths[samples]
        known = tuple(group_lengths.tolist())
        longest = max(known)
        padded = min(known) < longest
        group, offsets = tokens[samples, :longest], torch.arange(longest, device=tokens.device)
        valid = offsets < group_lengths[:, None]
        yield Prompt(
            samples=samples,
            tokens=group[valid],
            positions=offsets.expand_as(group)[valid],
            last=group_lengths.cumsum(0) - 1,
            valid=valid if padded else None,
            source_len=group_lengths if padded else None,
            lengths=known,
        )
