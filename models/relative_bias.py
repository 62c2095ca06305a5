"""Relative bias: what T5 and UniLM 2 add to attention scores in the place of positions.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
2020.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .layers import empty_parameter

if TYPE_CHECKING:
    from torch import Tensor


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
