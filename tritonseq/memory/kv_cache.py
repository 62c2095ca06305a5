"""KV cache: keys and values of every layer, stored once per sample, never copied or reordered.

The functions at the end are for every record of tensors (a dataclass, tuple or list) that has one
entry per sample: they view, copy or write some of them. What in a cache is not of samples, its own
methods leave as it is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .huge_pages import zeros

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Sizes(NamedTuple):
    """What the caches of a batch must hold."""

    samples: int
    beams: int
    """Of each sample."""
    source_length: int
    """Positions of what is read: sources, or prompts where there is no encoder."""
    target_length: int
    """Generated positions that are fed back to the model: one less than are chosen."""
    prompt_length: int = 0
    """Positions that the targets of an encoder-decoder model start with."""


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
    source_len: Tensor
    """`[B]` true lengths of the source part."""
    target_keys: list[Tensor]
    target_values: list[Tensor]
    step: Tensor
    """`[B]` positions stored in the generated part, where the next one goes; -1 for a sample that
    rests."""
    counters: Tensor
    """`[B * H * K]` int32 at least, zeros: where programs that share a sample's keys meet."""
    bias: Tensor | None = None
    """What attention adds to its scores by distance: `[H, N]` float32, or None."""

    @classmethod
    def allocate(
        cls,
        sizes: Sizes,
        *,
        layers: int,
        heads: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
        bias: Tensor | None = None,
    ) -> KVCache:
        """Caches of zeros; its samples have sources of one position until a prefill."""
        samples, beams, source_length, target_length, _ = sizes

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
            source_len=torch.ones(samples, device=device, dtype=torch.int64),
            target_keys=[target for _, target in keys],
            target_values=[target for _, target in values],
            step=torch.zeros(samples, device=device, dtype=torch.int64),
            counters=torch.zeros(samples * heads * beams, device=device, dtype=torch.int32),
            bias=bias,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values: `2 L B H D (S + T K)` elements."""
        return self.source_nbytes + nbytes((self.target_keys, self.target_values))

    @property
    def source_nbytes(self) -> int:
        """Those of the source part."""
        return nbytes((self.source_keys, self.source_values))

    @property
    def source_length(self) -> int:
        """`S`, the positions of the source part."""
        return self.source_keys[0].shape[2]

    @property
    def target_length(self) -> int:
        """`T`, the positions of the generated part."""
        return self.target_keys[0].shape[2]

    def source(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the source part, `[B, H, S, D]` each."""
        return self.source_keys[layer], self.source_values[layer]

    def target(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the generated part, `[B, H, T, K, D]` each."""
        return self.target_keys[layer], self.target_values[layer]

    def next_positions(self) -> Tensor:
        """`[B]` the position of the next token of each sample, counted from its true start.

        A sample that rests has some position that exists.
        """
        return self.step + self.source_len

    def advance(self) -> None:
        """Count the position that every layer has just written; resting samples go on resting."""
        self.step += self.step >= 0

    def of_samples(self, first: int, count: int) -> KVCache:
        """`count` samples from sample `first` on, in the same memory."""
        views = of_samples(self, first, count)
        return dataclasses.replace(views, counters=self.counters, bias=self.bias)

    def take_sources(self, other: KVCache, samples: Tensor) -> None:
        """Copy the source part of `other` to samples `[N]`."""
        scatter(
            (self.source_keys, self.source_values, self.source_len),
            samples,
            (other.source_keys, other.source_values, other.source_len),
        )


@dataclass
class EncoderDecoderCache:
    """What the decoder of an encoder-decoder model reads: its own history and the source.

    The source is there once per sample, whatever the number of beams: as keys and values of every
    layer, or, without those, as the encoder's states for all layers together.
    """

    own: KVCache
    """Self-attention: the decoder's prompt is the source part, what was generated the target."""
    cross_keys: list[Tensor]
    """Cross-attention: one `[B, H, S, D]` per layer of the decoder, or none."""
    cross_values: list[Tensor]
    states: Tensor | None
    """The encoder's states `[B, S, d]` in place of those, or None."""
    source_len: Tensor
    """`[B]` true lengths of the sources."""
    bias: list[Tensor | None]
    """Per layer, what self-attention adds to scores by distance: `[H, N]`, or None. Where that
    depends on what asks, the bucket of each distance, `[N]`."""

    @classmethod
    def allocate(
        cls,
        sizes: Sizes,
        *,
        biases: list[Tensor | None],
        heads: int,
        head_dim: int,
        rows: int = 1,
        device: torch.device,
        dtype: torch.dtype,
        states_width: int | None = None,
    ) -> EncoderDecoderCache:
        """Caches for sources, for the decoder's prompts, and for generated positions.

        `biases` has one entry per layer; `rows` are those that a beam brings to a step. With
        `states_width`, sources are kept as states of so many channels; by default as keys and
        values of every layer.
        """
        own = KVCache.allocate(
            sizes._replace(source_length=sizes.prompt_length),
            layers=len(biases),
            heads=heads,
            head_dim=head_dim,
            device=device,
            dtype=dtype,
        )

        def source(*shape: int) -> Tensor:
            return zeros((sizes.samples, *shape), device=device, dtype=dtype, keep=True)

        keys: list[Tensor] = []
        values: list[Tensor] = []
        states = None
        if states_width is None:
            shape = (heads, sizes.source_length, head_dim)
            keys, values = ([source(*shape) for _ in biases] for _ in range(2))
        else:
            states = source(sizes.source_length, states_width)
        source_len = torch.ones(sizes.samples, device=device, dtype=torch.int64)
        # A prompt is read with its positions in the place of beams.
        most = max(sizes.beams * rows, sizes.prompt_length + rows - 1)
        counters = sizes.samples * heads * most
        own.counters = torch.zeros(counters, device=device, dtype=torch.int32)
        return cls(own, keys, values, states, source_len, biases)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values: `2 L B H D (S + P + T K)` elements.

        With states `2 L B H D (P + T K) + B S d`.
        """
        return self.own.nbytes + nbytes(self._source)

    @property
    def source_nbytes(self) -> int:
        """Those of the sources and of the decoder's prompts."""
        return self.own.source_nbytes + nbytes(self._source)

    @property
    def _source(self) -> tuple[list[Tensor], list[Tensor], Tensor | None]:
        """What is kept of the sources."""
        return self.cross_keys, self.cross_values, self.states

    @property
    def step(self) -> Tensor:
        """As of the decoder's own cache."""
        return self.own.step

    @property
    def target_length(self) -> int:
        """As of the decoder's own cache."""
        return self.own.target_length

    def advance(self) -> None:
        """As of the decoder's own cache."""
        self.own.advance()

    def of_samples(self, first: int, count: int) -> EncoderDecoderCache:
        """`count` samples from sample `first` on, in the same memory."""
        source = of_samples((*self._source, self.source_len), first, count)
        return EncoderDecoderCache(self.own.of_samples(first, count), *source, self.bias)

    def take_sources(self, other: EncoderDecoderCache, samples: Tensor) -> None:
        """Copy the sources of `other`, and the prompts, to samples `[N]`."""
        scatter((*self._source, self.source_len), samples, (*other._source, other.source_len))
        self.own.take_sources(other.own, samples)


def of_samples(record: T, first: int, count: int) -> T:
    """The same record for `count` samples from sample `first` on, in the same memory.

    Dataclasses, tuples and lists are looked into; what holds no tensor stays as it is.
    """
    own = slice(first, first + count)
    answer: Any = _map(record, lambda tensor: tensor[own])
    return answer


def gather(record: T, samples: Tensor) -> T:
    """A copy of the record for the samples `[N]`, in this order."""
    answer: Any = _map(record, lambda tensor: tensor.index_select(0, samples))
    return answer


def scatter(record: Any, samples: Tensor, other: Any) -> None:
    """Copy the entries of `other` to those of the samples `[N]` in `record`."""
    if isinstance(record, Tensor):
        record.index_copy_(0, samples, other)
        return
    for part, new in zip(_parts(record), _parts(other), strict=True):
        scatter(part, samples, new)


def nbytes(record: Any) -> int:
    """Bytes of all tensors in a record."""
    if isinstance(record, Tensor):
        return record.nbytes
    return sum(map(nbytes, _parts(record)))


def _map(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(record, Tensor):
        return change(record)
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        parts = {f.name: _map(getattr(record, f.name), change) for f in dataclasses.fields(record)}
        return dataclasses.replace(record, **parts)
    if isinstance(record, tuple) and hasattr(record, "_fields"):
        return type(record)(*(_map(part, change) for part in record))
    if isinstance(record, (tuple, list)):
        return type(record)(_map(part, change) for part in record)
    return record


def _parts(record: Any) -> list[Any]:
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return [getattr(record, f.name) for f in dataclasses.fields(record)]
    return list(record) if isinstance(record, (tuple, list)) else []
