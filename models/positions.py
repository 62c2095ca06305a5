"""Positions: tables that are learnt, or made of sines and cosines, and the row that a token has.

Networks count the tokens of a source or target from 0. Which row of its table that is, and what a
pad has that is read as text, or was generated, is for the table to say. At the end stands the
relative bias: what T5 and UniLM 2 add to attention scores in the place of positions (Raffel et
al., 2020).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .config_checks import refuse_large_table
from .layers import empty_parameter


def sinusoids(length: int, width: int) -> Tensor:
    """`[length, width]`: sines in the first half of the channels, cosines in the second.

    Vaswani et al., 2017, with the channels sorted. In float64 until the end, so that the result
    is the nearest float32.
    """
    channel = torch.arange(0, width, 2, dtype=torch.float64)
    angle = torch.arange(length, dtype=torch.float64)[:, None] / 10000 ** (channel / width)
    cosines = angle[:, : width // 2].cos()
    return torch.cat((angle.sin(), cosines), dim=1).float()


def fairseq_sinusoids(length: int, width: int) -> Tensor:
    """`[length, width]`: as in `sinusoids`, with wave lengths up to 10,000 x 2 pi itself.

    As fairseq and tensor2tensor have them: the last of an odd number of channels is 0. In float32
    all the way, and rounded as there: at position 1,000 that is an error of 1e-4, and models were
    trained with it.
    """
    half = width // 2
    channel = torch.arange(half, dtype=torch.float32)
    frequency = torch.exp(channel * -(math.log(10000) / (half - 1)))
    angle = torch.arange(length, dtype=torch.float32)[:, None] * frequency
    table = torch.cat((angle.sin(), angle.cos()), dim=1)
    return nn.functional.pad(table, (0, width % 2))


class Positions(nn.Module):
    """A table with a row for each of `count` positions."""

    is_stored: ClassVar[bool | None] = None
    """Whether checkpoints hold it: True, False, or None where they may."""
    counts_from_pad: ClassVar[bool] = False
    """Whether the pad token says where positions start."""
    least_width: ClassVar[int] = 1

    def __init__(self, count: int, width: int, pad: int | None) -> None:
        super().__init__()
        self.pad = pad
        self.weight = empty_parameter(self.first_row(pad) + count, width)

    @classmethod
    def first_row(cls, pad: int | None) -> int:
        """The row of position 0."""
        return 0

    @property
    def table(self) -> Tensor:
        """The rows of position 0 and all after it."""
        return self.weight[self.first_row(self.pad) :]

    def of_source(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """`[N]` rows of `table` for packed sources: tokens `[N]`, and the position of each."""
        return positions

    def of_target(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Rows of `table` for target tokens `[N]`: one each, or `[P]` like `positions`.

        `positions`: `[P]`, each that of `N / P` adjacent tokens.
        """
        return positions

    def computed(self) -> Tensor:
        """The whole table, where no checkpoint holds it."""
        raise NotImplementedError


class LearnedPositions(Positions):
    """Blenderbot's."""

    is_stored = True


class OffsetPositions(LearnedPositions):
    """BART's: before the first are two rows that fairseq kept for padding."""

    @classmethod
    def first_row(cls, pad: int | None) -> int:
        return 2


class Sines(Positions):
    """Marian's and Pegasus'."""

    def computed(self) -> Tensor:
        rows, width = self.weight.shape
        # Refused already, but for networks that were not compared with weights.
        refuse_large_table("max_position_embeddings", rows, width)
        return sinusoids(rows, width)


class FairseqSines(Sines):
    """FSMT's: positions start behind the row that has the number of the pad, and is zero.

    Pads in a source are not counted and have that row. One that was generated has the position
    before its own.
    """

    counts_from_pad = True
    least_width = 4

    @classmethod
    def first_row(cls, pad: int | None) -> int:
        assert pad is not None
        return pad + 1

    @property
    def table(self) -> Tensor:
        """The row of pads, and those of position 0 and all after it."""
        return self.weight[self.pad :]

    def of_source(self, tokens: Tensor, positions: Tensor) -> Tensor:
        is_pad = 1 - self._is_text(tokens).long()
        before = is_pad.cumsum(0) - is_pad
        # Of earlier samples: as many as there are at the start of this one.
        of_others = before.where(positions == 0, 0).cummax(0).values
        return (positions - (before - of_others) + 1) * (1 - is_pad)

    def of_target(self, tokens: Tensor, positions: Tensor) -> Tensor:
        is_text = self._is_text(tokens).view(positions.shape[0], -1)
        return (positions[:, None] + is_text).flatten()

    def computed(self) -> Tensor:
        rows, width = self.weight.shape
        refuse_large_table("max_position_embeddings", rows, width)
        table = fairseq_sinusoids(rows, width)
        table[self.pad] = 0
        return table

    def _is_text(self, tokens: Tensor) -> Tensor:
        assert self.pad is not None
        return tokens.ne(self.pad)


class M2MSines(FairseqSines):
    """M2M100's and NLLB's: a pad has the row of zeros wherever it stands.

    In a target it is counted, whether it was generated or is of a prompt, which so continues as
    what was generated does. transformers counts generated pads, and not those of a prompt.

    What early files hold of it is not read.
    """

    is_stored = False

    def of_target(self, tokens: Tensor, positions: Tensor) -> Tensor:
        is_text = self._is_text(tokens).view(positions.shape[0], -1)
        return ((positions[:, None] + 1) * is_text).flatten()


MOST_DISTANCE = 2**16
"""The bias of the decoder is kept for every distance up to the greatest; models have 128."""


def check_distance(key: str, distance: int) -> None:
    """Raise ValueError for a greatest distance that only a damaged config.json has."""
    if distance > MOST_DISTANCE:
        raise ValueError(f"config.json: {key} is {distance}: it must be at most {MOST_DISTANCE}")


def check_buckets(config: Any, buckets: str, distance: str) -> None:
    """Raise ValueError for numbers of buckets, and a greatest distance, that have no logarithm.

    buckets, distance: the keys of config.json.
    """
    count, farthest = getattr(config, buckets), getattr(config, distance)
    check_distance(distance, farthest)
    if count < 4 or farthest <= count // 2:
        raise ValueError(
            f"config.json: {buckets} {count} must be at least 4, and {distance} {farthest} more "
            "than half of it"
        )


class RelativeBias(nn.Module):
    """A learnt bias per head for buckets of distances, logarithmic in the far."""

    def __init__(
        self, buckets: int, max_distance: int, heads: int, *, is_bidirectional: bool
    ) -> None:
        super().__init__()
        self.buckets = buckets
        self.max_distance = max_distance
        """From here on all distances share a bucket."""
        self.is_bidirectional = is_bidirectional
        self.weight = empty_parameter(buckets, heads)

    def forward(self, offsets: Tensor) -> Tensor:
        """`[H, N]` float32 for `offsets [N]`, the position of the key minus that of the query."""
        buckets = bucket(
            offsets, self.buckets, self.max_distance, is_bidirectional=self.is_bidirectional
        )
        return self.weight[buckets].t().float().contiguous()

    def bidirectional(self, length: int) -> Tensor:
        """`[H, 2 S - 1]` float32 for the offsets `1 - S .. S - 1` within `length` positions."""
        return self(torch.arange(1 - length, length, device=self.weight.device))

    def causal(self) -> Tensor:
        """`[H, N]` float32 for keys that stand 0, 1, 2 ... before the query; the last one holds
        for everything farther off."""
        return self(-torch.arange(self.max_distance + 1, device=self.weight.device))


def bucket(offsets: Tensor, count: int, max_distance: int, *, is_bidirectional: bool) -> Tensor:
    """Which of `count` buckets has each of `offsets [N]`, a key's position minus the query's.

    From `max_distance` on all distances share one. Without `is_bidirectional`, keys to the right
    have the bucket of distance 0.
    """
    first = torch.zeros_like(offsets)
    if is_bidirectional:
        # The upper half of the buckets is for keys to the right.
        count //= 2
        first, distance = (offsets > 0) * count, offsets.abs()
    else:
        distance = (-offsets).clamp(min=0)
    exact = count // 2
    ratio = torch.log(distance.float() / exact) / math.log(max_distance / exact)
    # Distance 0 has the logarithm -inf, and is exact.
    far = exact + (ratio * (count - exact)).nan_to_num(neginf=0.0).long()
    return first + torch.where(distance < exact, distance, far.clamp(max=count - 1))
