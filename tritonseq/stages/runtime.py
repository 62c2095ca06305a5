"""Stage runtime: threads between bounded queues, how they end together, and what each did when."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Work = Callable[["Take"], Iterable[list[Any]]]
    """What a thread of a stage does: it takes samples until that raises Ended, and yields some."""

T = TypeVar("T")

# Pieces of work with less than so many seconds between them are one in a trace.
GAP = 0.001


class Ended(Exception):
    """No more will come: the queue is empty, and its producers have closed it."""


class Aborted(Exception):
    """The job has failed or is abandoned: all that put or take stop at once."""


class BoundedQueue(Generic[T]):
    """Holds up to `capacity` things; any number of threads put and take.

    It ends when each of its `producers` has closed it.
    """

    def __init__(self, capacity: int, producers: int = 1) -> None:
        self._capacity = capacity
        self._producers = producers
        self._items: deque[T] = deque()
        self._takers = 0
        self._is_cut = False
        self._is_aborted = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Add one, when there is room. Raises Aborted."""
        self.put_all((item,))

    def put_all(self, items: Iterable[T]) -> None:
        """Add several, as room comes. Raises Aborted."""
        rest = deque(items)
        with self._changed:
            while rest:
                self._wait(self._has_room)
                if self._is_cut:
                    raise Aborted
                while rest and self._has_room():
                    self._items.append(rest.popleft())
                self._changed.notify_all()

    def take(self, limit: int, timeout: float | None = None) -> list[T]:
        """From 1 to `limit` of what is there, the oldest first.

        Waits for one to come; `[]` if none has after `timeout` seconds. Raises Ended or Aborted.
        """
        with self._changed:
            self._takers += 1
            try:
                self._wait(lambda: bool(self._items) or self._producers == 0, timeout)
            finally:
                self._takers -= 1
            if not self._items and self._producers == 0:
                raise Ended
            taken = [self._items.popleft() for _ in range(min(limit, len(self._items)))]
            self._changed.notify_all()
        return taken

    def close(self) -> None:
        """One of its producers has nothing more."""
        with self._changed:
            self._producers = max(0, self._producers - 1)
            self._changed.notify_all()

    @property
    def is_awaited(self) -> bool:
        """Whether threads wait for more than is there."""
        with self._changed:
            return self._takers > len(self._items)

    def cut(self) -> None:
        """End it at once: what is in it is dropped, and Aborted stops its producers."""
        with self._changed:
            self._items.clear()
            self._producers = 0
            self._is_cut = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Let go of everything; all threads that wait are woken."""
        with self._changed:
            self._is_aborted = True
            self._items.clear()
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return len(self._items) < self._capacity or self._is_cut

    def _wait(self, is_ready: Callable[[], bool], timeout: float | None = None) -> None:
        """Until `is_ready()`, or for `timeout` seconds; raises Aborted."""
        self._changed.wait_for(lambda: self._is_aborted or is_ready(), timeout)
        if self._is_aborted:
            raise Aborted


class InFlightLimit:
    """How many samples may be between the first stage and the end: they are held in memory."""

    def __init__(self, most: int) -> None:
        self._free = threading.Semaphore(most)
        self._is_aborted = False

    def acquire(self) -> None:
        """Wait until one more may come. Raises Aborted."""
        self._free.acquire()
        if self._is_aborted:
            self._free.release()
            raise Aborted

    def release(self, count: int) -> None:
        """So many have left."""
        if count:
            self._free.release(count)

    def abort(self) -> None:
        """Wake the thread that waits: no more may come."""
        self._is_aborted = True
        self._free.release()


class StageTimes(NamedTuple):
    """Seconds of a stage, summed over its threads."""

    name: str
    seats: int
    """How many threads worked at it side by side."""
    busy: float
    waited_for_input: float
    waited_for_output: float
    """For room in the queue behind it."""


class WorkSpan(NamedTuple):
    """A piece of work without a wait of more than a millisecond in it."""

    stage: str
    thread: int
    """Which of the stage's."""
    start: float
    """Seconds since the job began; so for the end."""
    end: float
    samples: int
    """How many came out of it."""


class ThreadClock:
    """The times of one thread of a stage. Others read it when the thread is done, or do not mind
    figures that are a moment old."""

    def __init__(self, stage: str, thread: int, begin: float, *, traced: bool) -> None:
        self.stage = stage
        self.busy = self.waited_for_input = self.waited_for_output = 0.0
        self._thread = thread
        self._begin = begin
        self._spans: list[WorkSpan] | None = [] if traced else None
        self._since = time.perf_counter()

    @property
    def spans(self) -> list[WorkSpan]:
        """The pieces of work so far, if they are traced."""
        return list(self._spans or ())

    def start(self) -> float:
        """Work begins, or goes on; the time that it is."""
        self._since = time.perf_counter()
        return self._since

    def stop(self, samples: int = 0) -> float:
        """Work ends, or is about to wait, and so many samples come out of it; the time that it
        is."""
        now = time.perf_counter()
        self.busy += now - self._since
        if self._spans is not None:
            start, end = self._since - self._begin, now - self._begin
            if self._spans and start - self._spans[-1].end < GAP:
                last = self._spans.pop()
                start, samples = last.start, last.samples + samples
            self._spans.append(WorkSpan(self.stage, self._thread, start, end, samples))
        return now

    @contextlib.contextmanager
    def waiting_for_input(self) -> Iterator[None]:
        """What is done meanwhile is no work."""
        start = self.stop()
        try:
            yield
        finally:
            self.waited_for_input += self.start() - start

    @contextlib.contextmanager
    def waiting_for_output(self, samples: int) -> Iterator[None]:
        """Likewise, after so many samples came out of the work."""
        start = self.stop(samples)
        try:
            yield
        finally:
            self.waited_for_output += self.start() - start


class Clock:
    """Hands a clock to every thread, and sums them up."""

    def __init__(self, *, traced: bool = False) -> None:
        self._begin = time.perf_counter()
        self._traced = traced
        self._threads: list[ThreadClock] = []

    def thread(self, stage: str, number: int = 0) -> ThreadClock:
        """A clock for a thread of a stage."""
        self._threads.append(ThreadClock(stage, number, self._begin, traced=self._traced))
        return self._threads[-1]

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return time.perf_counter() - self._begin

    @property
    def spans(self) -> list[WorkSpan]:
        """What was done when, if it is traced, thread by thread."""
        return [span for thread in self._threads for span in thread.spans]

    def times(self) -> list[StageTimes]:
        """Of every stage, in the order in which they were made."""
        stages: dict[str, list[ThreadClock]] = {}
        for thread in self._threads:
            stages.setdefault(thread.stage, []).append(thread)
        return [
            StageTimes(
                name,
                len(threads),
                sum(thread.busy for thread in threads),
                sum(thread.waited_for_input for thread in threads),
                sum(thread.waited_for_output for thread in threads),
            )
            for name, threads in stages.items()
        ]


class Take(Protocol):
    """How the work of a stage takes its samples: `BoundedQueue.take`, while its clock waits."""

    def __call__(self, limit: int, timeout: float | None = None) -> list[Any]: ...


class StageRuntime:
    """The threads of all stages, and the queues between them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.is_aborted = False
        self._first: list[threading.Thread] = []
        self._threads: list[threading.Thread] = []
        self._aborts: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._failure: BaseException | None = None

    def queue(self, capacity: int, producers: int = 1) -> BoundedQueue[Any]:
        """A queue that ends with the runtime."""
        queue: BoundedQueue[Any] = BoundedQueue(capacity, producers)
        self._aborts.append(queue.abort)
        return queue

    def stage(
        self,
        name: str,
        works: Sequence[Work],
        source: BoundedQueue[Any],
        sink: BoundedQueue[Any],
    ) -> None:
        """A thread for each of `works`, between the same two queues."""
        for number, work in enumerate(works):
            clock = self.clock.thread(name, number)
            outputs = work(_taking(source, clock))
            self._threads.append(self._thread(f"{name} {number}", outputs, clock, sink))

    def first_stage(
        self, name: str, outputs: Iterable[list[Any]], sink: BoundedQueue[Any], limit: InFlightLimit
    ) -> None:
        """One thread that takes from no queue, and is not waited for: it may never wake up.

        If it fails, what came before goes on to the end; then `check` raises the error. `limit`
        is asked for every output.
        """
        self._aborts.append(limit.abort)
        clock = self.clock.thread(name)
        self._first.append(self._thread(name, outputs, clock, sink, limit))

    def start(self) -> None:
        """Let all threads run."""
        _RUNNING.add(self)
        for thread in (*self._threads, *self._first):
            thread.start()

    def abort(self) -> None:
        """Give up: threads that wait are woken, and all end. What fails from now on fails because
        of it."""
        with self._lock:
            self.is_aborted = True
        for act in self._aborts:
            act()

    @property
    def has_failed(self) -> bool:
        """Whether a thread has failed. What came before a failure of the first stage goes on."""
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

    def _thread(self, name: str, *arguments: Any) -> threading.Thread:
        return threading.Thread(
            target=self._run, args=arguments, name=f"tritonseq {name}", daemon=True
        )

    def _run(
        self,
        outputs: Iterable[list[Any]],
        clock: ThreadClock,
        sink: BoundedQueue[Any],
        limit: InFlightLimit | None = None,
    ) -> None:
        clock.start()
        try:
            for samples in outputs:
                with clock.waiting_for_output(len(samples)):
                    if limit is not None:
                        limit.acquire()
                    sink.put_all(samples)
        except (Ended, Aborted):
            pass
        except BaseException as error:
            with self._lock:
                if self._failure is None and not self.is_aborted:
                    self._failure = error
            if limit is None:
                self.abort()
        finally:
            clock.stop()
            sink.close()


def _taking(source: BoundedQueue[Any], clock: ThreadClock) -> Take:
    def take(limit: int, timeout: float | None = None) -> list[Any]:
        with clock.waiting_for_input():
            return source.take(limit, timeout)

    return take


# A thread that is cut off in the middle of torch, because the interpreter ends, ends it by a crash.
_RUNNING: weakref.WeakSet[StageRuntime] = weakref.WeakSet()


# In a child, after a fork, their threads are no more, and their locks may be held for ever.
os.register_at_fork(after_in_child=_RUNNING.clear)


@atexit.register
def _end_all() -> None:
    for runtime in list(_RUNNING):
        runtime.abort()
        runtime.join()
