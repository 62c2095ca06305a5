"""The choice between two ways to answer a window: whole batches, or slots that are refilled."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

# After so many windows both ways are tried again.
RETRIAL = 32


class Ways:
    """Which way is faster here: to fill the slots of those who have ended, or whole batches?

    Refilling wastes no step on rows that have ended, but reads sources more often, a few at a
    time. What that costs depends on the machine, the model and how much lengths differ, so both
    ways are tried on halves of the first window, and again now and then.
    """

    def __init__(self, refill: bool | None) -> None:
        """`refill`: None to find out; else that is the way."""
        self._refill = refill
        self._cost: dict[bool, float] = {}
        self._windows = 0

    def share_out(self, rows: Sequence[T], enough: int) -> list[tuple[bool, Sequence[T]]]:
        """Which rows of a window are refilled, and which are not.

        All of them one way; or, if each gets `enough` rows to judge by, halves of the same lengths
        to compare the two.
        """
        if self._refill is not None:
            return [(self._refill, rows)]
        self._windows += 1
        is_due = len(self._cost) < 2 or self._windows % RETRIAL == 0
        if is_due and len(rows) >= 2 * enough:
            return [(False, rows[::2]), (True, rows[1::2])]
        return [(len(self._cost) == 2 and self._cost[True] < self._cost[False], rows)]

    def learn(self, refilled: bool, cost: float) -> None:
        """So many seconds a token were taken."""
        before = self._cost.get(refilled, cost)
        self._cost[refilled] = (before + cost) / 2
