"""Threads that run stages, and how they end: when all is done, or together when one fails."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from .queue import Aborted, Channel, Ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .sample import Sample
    from .timings import Clock, SeatClock

    Work = Callable[["Inlet"], Iterable[list[Any]]]
    Queue = Channel[Any]


class Inlet:
    """Where a seat takes samples from; its clock knows when it waits."""

    def __init__(self, queue: Queue, clock: SeatClock) -> None:
        self._queue = queue
        self._clock = clock

    def take(self, limit: int, timeout: float | None = None) -> list[Any]:
        """As `Channel.take`. Raises Ended when there will be no more: a seat lets it pass."""
        self._clock.stop()
        try:
            taken, waited = self._queue.take(limit, timeout)
            self._clock.waited_for_input += waited
        finally:
            self._clock.start()
        return taken


class Horizon:
    """How far the first stage may be ahead of the last: what lies between is held in memory."""

    def __init__(self, distance: int, start: int = 0) -> None:
        self._distance = distance
        self._done = start
        self._aborted = False
        self._changed = threading.Condition()

    def wait_for(self, number: int) -> float:
        """Until sample `number` may be read; returns the seconds that took. Raises Aborted."""
        start = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or number < self._done + self._distance)
            if self._aborted:
                raise Aborted
        return time.perf_counter() - start

    def advance(self, count: int) -> None:
        """So many more samples have left, in the order of the input."""
        with self._changed:
            self._done += count
            self._changed.notify_all()

    def abort(self) -> None:
        """Wake who waits: nothing will be read any more."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()


class Gate:
    """The way into the first queue, which ends at the horizon."""

    def __init__(self, horizon: Horizon, queue: Queue) -> None:
        self._horizon = horizon
        self._queue = queue

    def put_all(self, samples: Iterable[Sample]) -> float:
        """As `Channel.put_all`, each when it may come."""
        return sum(
            self._horizon.wait_for(sample.number) + self._queue.put(sample) for sample in samples
        )

    def close(self) -> None:
        """As `Channel.close`."""
        self._queue.close()


class Flow:
    """Stages between channels; every seat of a stage is a thread."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.is_aborted = False
        self._first: list[threading.Thread] = []
        self._threads: list[threading.Thread] = []
        self._aborts: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._is_aborted = False

    def queue(self, capacity: int, feeders: int = 1) -> Queue:
        """A channel that ends with the flow."""
        queue: Queue = Channel(capacity, feeders)
        self.on_abort(queue.abort)
        return queue

    def on_abort(self, act: Callable[[], None]) -> None:
        """Called when the flow is given up, to wake who waits elsewhere."""
        self._aborts.append(act)

    def stage(self, name: str, works: Sequence[Work], source: Queue, sink: Queue) -> None:
        """A seat for each of `works`, between the same two channels.

        A work takes from its inlet until that raises Ended, and yields lists of samples.
        """
        for number, work in enumerate(works):
            clock = self.clock.seat(name, number)
            outputs = work(Inlet(source, clock))
            self._thread(f"{name} {number}", outputs, clock, sink)

    def first_stage(self, name: str, outputs: Iterable[list[Any]], sink: Queue | Gate) -> None:
        """One seat that takes from no channel, and is not waited for: it may never wake up.

        If it fails, what came before goes on to the end; then `check` raises the error.
        """
        self._thread(name, outputs, self.clock.seat(name), sink, is_first=True)

    def start(self) -> None:
        """Let all threads run."""
        _RUNNING.add(self)
        for thread in (*self._threads, *self._first):
            thread.start()

    def abort(self) -> None:
        """Give up: whoever waits is woken, and all threads end. What fails from now on fails
        because of it."""
        with self._lock:
            self._is_aborted = True
        self.is_aborted = True
        for act in self._aborts:
            act()

    @property
    def has_failed(self) -> bool:
        """Has a thread failed? What came before a failure of the first stage still goes on."""
        return self._failure is not None

    def check(self) -> None:
        """Raise what a thread has failed with."""
        if self._failure is not None:
            raise self._failure

    def join(self) -> None:
        """Wait for the threads that have nothing more to do, or have been told to stop."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _thread(
        self,
        name: str,
        outputs: Iterable[list[Any]],
        clock: SeatClock,
        sink: Queue | Gate,
        *,
        is_first: bool = False,
    ) -> None:
        thread = threading.Thread(
            target=self._run,
            args=(outputs, clock, sink, is_first),
            name=f"tritonseq {name}",
            daemon=True,
        )
        (self._first if is_first else self._threads).append(thread)

    def _run(
        self, outputs: Iterable[list[Any]], clock: SeatClock, sink: Queue | Gate, is_first: bool
    ) -> None:
        clock.start()
        try:
            for samples in outputs:
                clock.stop(len(samples))
                clock.waited_for_output += sink.put_all(samples)
                clock.start()
            clock.stop()
        except (Ended, Aborted):
            clock.stop()
        except BaseException as error:
            with self._lock:
                if self._failure is None and not self._is_aborted:
                    self._failure = error
            if not is_first:
                self.abort()
        finally:
            sink.close()


# A thread that is cut off in the middle of torch, because the interpreter ends, ends it by a crash.
_RUNNING: weakref.WeakSet[Flow] = weakref.WeakSet()


# In a child, after a fork, their threads are no more, and their locks may be held for ever.
os.register_at_fork(after_in_child=_RUNNING.clear)


@atexit.register
def _end_all() -> None:
    for flow in list(_RUNNING):
        flow.abort()
        flow.join()
