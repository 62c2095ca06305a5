"""Varlen batches: prompts or sources of different lengths, packed without padding."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tritonseq.kernels import is_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Tokens that a prefill sends through the layers at once: enough to keep a matrix product busy,
# few enough that the activations stay small beside weights and caches.
PREFILL_TOKENS = 1024
# On a GPU every group costs its launches, and larger ones fill the chip; their activations are
# small beside its memory.
PREFILL_TOKENS_ON_GPU = 32768


@dataclass(frozen=True)
class VarlenBatch:
    """Some samples of a batch with their tokens packed: no row is spent on padding."""

    samples: slice
    tokens: Tensor
    """`[N]` the true tokens of all samples, one after the other, or their states `[N, d]`."""
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


def varlen_batches(tokens: Tensor, lengths: Tensor, *, padded: bool) -> Iterator[VarlenBatch]:
    """Neighbouring samples of the right-padded `tokens [B, S]`, or of states `[B, S, d]`, as many
    as suit the device.

    `padded` says that the reader pads its groups, so that pads count as tokens. A sample that is
    longer than that makes a group of its own.
    """
    known = lengths.tolist()
    most = PREFILL_TOKENS_ON_GPU if is_gpu(tokens.device) else PREFILL_TOKENS
    for samples in _groups(known, most, padded=padded):
        own = tuple(known[samples])
        longest = max(own)
        ragged = min(own) < longest
        group, offsets = tokens[samples, :longest], torch.arange(longest, device=tokens.device)
        valid = offsets < lengths[samples, None]
        yield VarlenBatch(
            samples=samples,
            tokens=group[valid] if ragged else group.flatten(0, 1),
            positions=offsets.expand_as(valid)[valid] if ragged else offsets.repeat(group.shape[0]),
            last=lengths[samples].cumsum(0) - 1,
            valid=valid if ragged else None,
            source_len=lengths[samples] if ragged else None,
            lengths=own,
        )


def _groups(lengths: Sequence[int], most: int, *, padded: bool) -> Iterator[slice]:
    """Runs of samples that are read together."""
    start = total = longest = 0
    for sample, length in enumerate(lengths):
        longest = max(longest, length)
        total += length
        cost = longest * (sample + 1 - start) if padded else total
        if sample > start and cost > most:
            yield slice(start, sample)
            start, total, longest = sample, length, length
    yield slice(start, len(lengths))
