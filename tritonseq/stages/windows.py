"""Samples gathered until there are enough to choose from: what is answered together is like."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .order import InOrder
from .queue import Ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .sample import Sample
    from .threads import Inlet

# Seconds that a window waits for more samples if the model has nothing else to do, however they
# trickle in.
LINGER = 0.05

# How many times the window before it a window may be, at first: two that are less than a batch
# then bring the first results, and cost little.
GROWTH = 4


class Windows:
    """Gathers `size` samples at a time; fewer at the end, and when the model would have to wait.

    Where `unit` is more than 1, windows hold whole units of consecutive samples: those whose
    numbers give the same when divided by it.
    """

    def __init__(
        self,
        size: int,
        unit: int,
        is_awaited: Callable[[], bool],
        first: int = 0,
        smallest: int | None = None,
        is_cut_short: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            is_awaited: does the next stage wait for a window?
            first: the first number.
            smallest: the first window has so many, and each of the next ones twice as many as the
                one before, up to `size`: the first results do not wait for a whole window.
            is_cut_short: has the input failed, so that it does not end where no more comes?
        """
        self._largest = size
        self._size = min(size, smallest or size)
        self._unit = unit
        self._is_awaited = is_awaited
        self._is_cut_short = is_cut_short
        self._order = InOrder(first) if unit > 1 else None
        self._held: list[Sample] = []

    def gather(self, inlet: Inlet) -> Iterator[list[list[Sample]]]:
        """Take from the inlet, and yield windows, one at a time."""
        due = 0.0
        while True:
            if not self._held:
                due = 0.0
            try:
                came = inlet.take(self._size, LINGER if self._held else None)
            except Ended:
                if rest := self._held[: self._count_rest()]:
                    yield [rest]
                raise
            self._held += came if self._order is None else self._order.add(came)
            due = due or time.monotonic() + LINGER
            is_late = not came or time.monotonic() >= due
            while (count := self._complete(is_late=is_late)) > 0:
                window, self._held = self._held[:count], self._held[count:]
                due, is_late = 0.0, False
                self._size = min(self._largest, GROWTH * self._size)
                yield [window]

    def _count_rest(self) -> int:
        """How many of the last samples may be answered: a unit that lacks some would be another."""
        if self._unit == 1 or not self._is_cut_short():
            return len(self._held)
        return max(
            (n for n, sample in enumerate(self._held, 1) if self._ends_unit(sample)), default=0
        )

    def _complete(self, *, is_late: bool) -> int:
        """How many samples make a window now; 0 if it is to be waited for more."""
        if self._unit == 1:
            enough = len(self._held) >= self._size or (is_late and self._is_awaited())
            return min(len(self._held), self._size) if enough else 0
        ends = [n for n, sample in enumerate(self._held, 1) if self._ends_unit(sample)]
        full = [n for n in ends if n >= self._size]
        if full:
            return full[0]
        return ends[-1] if ends and is_late and self._is_awaited() else 0

    def _ends_unit(self, sample: Sample) -> bool:
        return (sample.number + 1) % self._unit == 0
