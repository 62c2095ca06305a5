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
    bias: Tensor | None = None
    """What attention adds to its scores by distance: `[H, N]` float32, or None."""

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

            They are adjacent in memory, so that the attention on the CPU reads both as one. Zeros,
            because a slot that was never written and holds NaN would send it down its slow path.
            """
            slots = source_length + target_length * beams
            both = zeros((samples, heads, slots, head_dim), device=device, dtype=dtype, keep=True)
            source, target = both[:, :, :source_length], both[:, :, source_length:]
            return source, target.unflatten(2, (target_length, beams))

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

    @property
    def source_length(self) -> int:
        """`S`, the positions of the source part."""
        return self.source_keys[0].shape[2]

    def source(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the source part, `[B, H, S, D]` each."""
        return self.source_keys[layer], self.source_values[layer]

    def target(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the generated part up to and with the next position."""
        end = self.bound + 1
        return self.target_keys[layer][:, :, :end], self.target_values[layer][:, :, :end]

    def next_positions(self) -> Tensor:
        """`[B]` the position of the next token of each sample, counted from its true start."""
        source_len = self.source_length if self.source_len is None else self.source_len
        return self.step + source_len

    def advance(self) -> None:
        """Count the position that every layer has just written."""
        self.step += 1
        self.bound += 1


@dataclass
class EncoderDecoderCache:
    """What the decoder of an encoder-decoder model reads: its own history and the source.

    The source is there once per sample, whatever the number of beams.
    """

    own: KVCache
    """Self-attention: the decoder's prompt is the source part, what was generated the target."""
    cross_keys: list[Tensor]
    """Cross-attention: one `[B, H, S, D]` per layer of the decoder."""
    cross_values: list[Tensor]
    source_len: Tensor | None
    """`[B]` true lengths of the sources, or None when all have length `S`."""
    bias: list[Tensor | None]
    """Per layer, what self-attention adds to scores by distance: `[H, N]`, or None."""

    @classmethod
    def allocate(
        cls,
        *,
        biases: list[Tensor | None],
        samples: int,
        beams: int,
        heads: int,
        head_dim: int,
        source_length: int,
        prompt_length: int,
        target_length: int,
        source_len: Tensor | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> EncoderDecoderCache:
        """Caches for sources, for the decoder's prompts, and for generated positions.

        `biases` has one entry per layer.
        """
        own = KVCache.allocate(
            layers=len(biases),
            samples=samples,
            beams=beams,
            heads=heads,
            head_dim=head_dim,
            source_length=prompt_length,
            target_length=target_length,
            source_len=None,
            device=device,
            dtype=dtype,
        )
        shape = (samples, heads, source_length, head_dim)
        keys, values = (
            [zeros(shape, device=device, dtype=dtype, keep=True) for _ in biases] for _ in range(2)
        )
        return cls(own, keys, values, source_len, biases)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values: `2 L B H D (S + P + T K)` elements."""
        cross = sum(tensor.nbytes for tensor in (*self.cross_keys, *self.cross_values))
        return self.own.nbytes + cross
