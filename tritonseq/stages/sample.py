"""A sample on its way through the stages, each of which adds what it found; and their order."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tritonseq.decoding.outputs import BeamTrace


@dataclass(slots=True)
class Sample:
    """A source on its way to its outputs. It belongs to one stage at a time."""

    number: int
    """Its place in the input, from 0."""
    digest: int
    """CRC-32 of the input up to the end of its line."""
    text: str | list[str] | None
    """The source, or its tokens if it is tokenized already; None if it cannot be read."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What a JSON line carries through to the output; `Members` are written as they were."""
    fault: str | None = None
    """Why there will be no output."""
    ids: list[int] | None = None
    """The source, tokenized."""
    sequences: list[list[int]] | None = None
    """The ids that were generated, the best sequence first."""
    scores: list[float] | None = None
    """Of each sequence, where beams gave them."""
    trace: bytes | None = None
    """The search that found them, as `packed_trace` packs it, where it is kept."""
    tokens: int = 0
    """How many were generated for it: the end token counts, padding does not."""
    texts: list[str] | None = None
    """The outputs, one for each sequence."""
    is_company: bool = False
    """It was done by an earlier run, and its ids still decide about others of its batch."""

    @property
    def is_done(self) -> bool:
        """Is there nothing left to do but to write it?"""
        return self.fault is not None or self.texts is not None

    def reject(self, reason: str) -> None:
        """Give it up, for a reason that its user can do something about."""
        self.fault = reason
        self.ids = self.sequences = self.scores = self.texts = self.trace = None
        self.tokens = 0


class InOrder:
    """Holds samples back until all before them have come."""

    def __init__(self, first: int = 0) -> None:
        self._next = first
        self._held: dict[int, Sample] = {}

    def add(self, samples: Iterable[Sample]) -> list[Sample]:
        """Take some, and give those whose turn it is now."""
        self._held.update((sample.number, sample) for sample in samples)
        ready = []
        while self._next in self._held:
            ready.append(self._held.pop(self._next))
            self._next += 1
        return ready

    @property
    def held(self) -> list[Sample]:
        """Those that wait for an earlier one."""
        return list(self._held.values())


def packed_trace(trace: BeamTrace | None) -> bytes:
    """A search as a file of them holds it, `[T, K]` each; nothing in it of a sample without one."""
    frames = ([], [], []) if trace is None else (frame.tolist() for frame in trace)
    return pickle.dumps(dict(zip(("scores", "wids", "ptrs"), frames, strict=True)))
