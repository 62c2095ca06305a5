"""A bounded queue between two stages. Whoever is faster waits for the other."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")


class Ended(Exception):
    """No more will come: the channel is empty, and those who fed it have closed it."""


class Aborted(Exception):
    """The job has failed or is abandoned: whoever puts or takes stops at once."""


class Channel(Generic[T]):
    """Holds up to `capacity` things; any number of threads put and take.

    It ends when each of its `feeders` has closed it.
    """

    def __init__(self, capacity: int, feeders: int = 1) -> None:
        self._capacity = capacity
        self._feeders = feeders
        self._items: deque[T] = deque()
        self._takers = 0
        self._is_cut = False
        self._aborted = False
        self._changed = threading.Condition()

    def put(self, item: T) -> float:
        """Add one, when there is room; returns the seconds that it waited. Raises Aborted."""
        return self.put_all((item,))

    def put_all(self, items: Iterable[T]) -> float:
        """Add several, as room comes; returns the seconds that it waited. Raises Aborted."""
        rest = deque(items)
        waited = 0.0
        with self._changed:
            while rest:
                waited += self._wait(self._has_room)
                if self._is_cut:
                    raise Aborted
                while rest and self._has_room():
                    self._items.append(rest.popleft())
                self._changed.notify_all()
        return waited

    def take(self, limit: int, timeout: float | None = None) -> tuple[list[T], float]:
        """From 1 to `limit` of what is there, the oldest first, and the seconds that it waited.

        Waits for one to come; `[]` if none has after `timeout` seconds. Raises Ended or Aborted.
        """
        with self._changed:
            self._takers += 1
            try:
                waited = self._wait(lambda: bool(self._items) or self._feeders == 0, timeout)
            finally:
                self._takers -= 1
            if not self._items and self._feeders == 0:
                raise Ended
            taken = [self._items.popleft() for _ in range(min(limit, len(self._items)))]
            self._changed.notify_all()
        return taken, waited

    def close(self) -> None:
        """One of those who feed it has nothing more."""
        with self._changed:
            self._feeders = max(0, self._feeders - 1)
            self._changed.notify_all()

    @property
    def is_awaited(self) -> bool:
        """Does somebody wait for more than is there?"""
        with self._changed:
            return self._takers > len(self._items)

    def cut(self) -> None:
        """End it at once: what is in it is dropped, and Aborted stops those who feed it."""
        with self._changed:
            self._items.clear()
            self._feeders = 0
            self._is_cut = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Let go of everything; all who wait are woken."""
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return len(self._items) < self._capacity or self._is_cut

    def _wait(self, ready: Callable[[], bool], timeout: float | None = None) -> float:
        """Until `ready()`, or for `timeout` seconds; raises Aborted."""
        if self._aborted:
            raise Aborted
        if ready():
            return 0.0
        start = time.perf_counter()
        self._changed.wait_for(lambda: self._aborted or ready(), timeout)
        if self._aborted:
            raise Aborted
        return time.perf_counter() - start
