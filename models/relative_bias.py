"""Relative bias: what T5 and UniLM 2 add to attention scores in the place of positions.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
2020.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

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
        return self.weight[self._bucket(offsets)].t().float().contiguous()

    def bidirectional(self, length: int) -> Tensor:
        """`[H, 2 S - 1]` float32 for the offsets `1 - S .. S - 1` within `length` positions."""
        return self(torch.arange(1 - length, length, device=self.weight.device))

    def causal(self) -> Tensor:
        """`[H, N]` float32 for keys that stand 0, 1, 2 ... before the query; the last one holds
        for everything farther off."""
        return self(-torch.arange(self.max_distance + 1, device=self.weight.device))

    def _bucket(self, offsets: Tensor) -> Tensor:
        buckets, first = self.buckets, torch.zeros_like(offsets)
        if self.is_bidirectional:
            # The upper half of the buckets is for keys to the right.
            buckets //= 2
            first, distance = (offsets > 0) * buckets, offsets.abs()
        else:
            distance = (-offsets).clamp(min=0)
        exact = buckets // 2
        ratio = torch.log(distance.float() / exact) / math.log(self.max_distance / exact)
        # Distance 0 has the logarithm -inf, and is exact.
        far = exact + (ratio * (buckets - exact)).nan_to_num(neginf=0.0).long()
        return first + torch.where(distance < exact, distance, far.clamp(max=buckets - 1))
