"""The choice between two ways to answer a window: whole batches, or slots that are refilled."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")

# After so many windows both ways are tried again.
RETRIAL = 32


class Ways:
    """Which way is faster here: to fill the slots of those who have ended, or whole batches?

    Refilling wastes no step on rows that have ended, but reads sources more often, a few at a
    time. What that costs depends on the machine, the model and how much lengths differ, so both
    ways are tried on parts of the first window, and again now and then.
    """

    def __init__(self, refill: bool | None) -> None:
        """`refill`: None to find out; else that is the way."""
        self._refill = refill
        self._cost: dict[bool, float] = {}
        self._windows = 0

    def share_out(self, rows: Sequence[T], enough: int) -> Iterator[tuple[bool, Sequence[T]]]:
        """Which rows of a window are refilled, and which are not.

        Where it is time to compare, each way first gets `enough` rows of all lengths to judge by,
        and the faster one the rest: `learn` is to be called before the next part is asked for.
        """
        if self._refill is not None:
            yield self._refill, rows
            return
        self._windows += 1
        if len(rows) >= 2 * enough and (len(self._cost) < 2 or self._windows % RETRIAL == 0):
            step = len(rows) // enough
            yield False, rows[::step]
            yield True, rows[1::step]
            rows = [row for place, row in enumerate(rows) if place % step > 1]
        if rows:
            yield len(self._cost) == 2 and self._cost[True] < self._cost[False], rows

    def learn(self, refilled: bool, cost: float) -> None:
        """So many seconds a token were taken."""
        before = self._cost.get(refilled, cost)
        self._cost[refilled] = (before + cost) / 2
