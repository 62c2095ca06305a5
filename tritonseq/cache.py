"""Keys and values of every layer: stored once per sample, never copied or reordered."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .memory import zeros


@dataclass
class KVCache:
    """The caches of `B` samples with `K` beams each, one tensor pair per layer.

    The source part `[B, H, S, D]` is written once by the prefill and read by all beams of the
    sample. The generated part `[B, H, T, K, D]` has a slot for every beam at every position; a
    beam finds its own history through the lineage `[B, T, K]` that generation keeps, so choosing
    other beams moves no key and no value.
    """

    source_keys: list[Tensor]
    source_values: list[Tensor]
    source_len: Tensor | None
    """`[B]` true lengths, or None when every sample fills the source part."""
    target_keys: list[Tensor]
    target_values: list[Tensor]
    step: Tensor
    """`[B]` positions written to the generated part so far."""
    bound: int = 0
    """An upper bound of `step` that the host knows without asking the device."""

    @classmethod
    def allocate(
        cls,
        *,
        layers: int,
        samples: int,
        beams: int,
        heads: int,
        head_dim: int,
        source_length: int,
        target_length: int,
        source_len: Tensor | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> KVCache:
        """Caches for `target_length` generated positions that are fed back to the model."""

        def pair() -> tuple[Tensor, Tensor]:
            """Source and target part of the keys, or values, of one layer.

            Zeros, because a slot that was never written and holds NaN would send the attention on
            the CPU down its slow path.
            """
            if beams == 1:
                # What one beam generates stands right behind its prompt: both read as one.
                shape = (samples, heads, source_length + target_length, head_dim)
                both = zeros(shape, device=device, dtype=dtype)
                return both[:, :, :source_length], both[:, :, source_length:].unsqueeze(3)
            source = (samples, heads, source_length, head_dim)
            target = (samples, heads, target_length, beams, head_dim)
            return (
                zeros(source, device=device, dtype=dtype),
                zeros(target, device=device, dtype=dtype),
            )

        keys = [pair() for _ in range(layers)]
        values = [pair() for _ in range(layers)]
        return cls(
            source_keys=[source for source, _ in keys],
            source_values=[source for source, _ in values],
            source_len=source_len,
            target_keys=[target for _, target in keys],
            target_values=[target for _, target in values],
            step=torch.zeros(samples, device=device, dtype=torch.int64),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values: `2 L B H D (S + T K)` elements."""
        parts = (self.source_keys, self.source_values, self.target_keys, self.target_values)
        return sum(tensor.nbytes for part in parts for tensor in part)

    def source(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the source part, `[B, H, S, D]` each."""
        return self.source_keys[layer], self.source_values[layer]

    def target(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the generated part up to and with the next position."""
        end = self.bound + 1
        return self.target_keys[layer][:, :, :end], self.target_values[layer][:, :, :end]

    def advance(self) -> None:
        """Count the position that every layer has just written."""
        self.step += 1
        self.bound += 1
