"""Samples that are done in any order, handed on in that of the input."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .sample import Sample


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
