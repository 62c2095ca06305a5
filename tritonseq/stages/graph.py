"""The graph of the stages: what each does, the windows in between, and how samples go through.

    read -> tokenize -> window -> generate -> detokenize -> the caller that iterates

Each is a thread, or several; between two stands a queue of bounded length, and what is between the
first and the last is bounded as well, so that memory does not grow with the input.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from tritonseq.decoding.completion import together
from tritonseq.engine.pool import let_go_of_threads
from tritonseq.sentences import Parts, joined, split
from tritonseq.text.encoding import Fault, TextOfLanguages

from .batching import BatchRow
from .runtime import Aborted, Ended, InFlightLimit, StageRuntime
from .sample import InOrder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from tritonseq.decoding.completion import Completion
    from tritonseq.sentences import Splitting
    from tritonseq.text.encoding import Text

    from .batching import Generate
    from .runtime import Clock, Take, Work
    from .sample import Sample
    from .workers import Decode, Encode, Workers


# Texts that are tokenized, and rows that are decoded, by one call: enough for a call to cost
# little, few enough for the next stage to have them soon.
CHUNK = 128

# Samples that wait between two stages, at most.
QUEUE = 4 * CHUNK

# Batches whose samples are put in order of length together.
BATCHES = 16

# The first window is this part of a batch, so that there is something to see soon; the next ones
# grow. Fewer samples at once cost more each, and a batch of `FEWEST` is soon generated as a whole.
PARTS = 8
FEWEST = 16

# How many times the window before it a window may be, at first: few that are less than a batch
# then bring the first results, and cost little.
GROWTH = 4

# Seconds that a window waits for more samples if the model has nothing else to do, however they
# trickle in.
LINGER = 0.05


class StageGraph:
    """One run of samples through the stages; iterate over it once, then close it."""

    def __init__(
        self, samples: Iterable[Sample], workers: Workers, clock: Clock, first: int = 0
    ) -> None:
        """`first`: the number of the first sample; the others follow without a gap."""
        self._workers = workers
        self._process = os.getpid()
        self._drains = threading.Event()
        unit, batch, window = workers.info.unit, workers.info.batch, workers.run.window
        # Made up to whole units.
        size = -(-(window or BATCHES * batch) // unit) * unit
        smallest = None if window else max(-(-batch // PARTS), min(batch, FEWEST))
        # A window for every model, one that waits, one that is gathered: then the sample that the
        # last stage waits for is always being worked at.
        self._limit = InFlightLimit((len(workers.generates) + 2) * size + QUEUE)
        self._runtime = runtime = StageRuntime(clock)
        self._read = runtime.queue(QUEUE)
        self._tokenized = runtime.queue(QUEUE, producers=len(workers.encodes))
        gathered = runtime.queue(1)
        generated = runtime.queue(QUEUE, producers=len(workers.generates))
        self._finished = runtime.queue(QUEUE, producers=len(workers.decodes))

        each = ([sample] for sample in samples)
        windows = Windows(
            size,
            unit,
            lambda: gathered.is_awaited,
            first,
            smallest,
            is_cut_short=lambda: runtime.has_failed,
        )
        cut = workers.info.text.encoding.sentences
        encode = [tokenizing(encode, workers.look, cut) for encode in workers.encodes]
        generate = [generating(generate, self._admits) for generate in workers.generates]
        decode = [detokenizing(decode) for decode in workers.decodes]
        runtime.first_stage("read", each, self._read, self._limit)
        runtime.stage("tokenize", encode, self._read, self._tokenized)
        runtime.stage("window", [windows.gather], self._tokenized, gathered)
        runtime.stage("generate", generate, gathered, generated)
        runtime.stage("detokenize", decode, generated, self._finished)

    def run(self, tick: float | None = None) -> Generator[list[Sample], None, None]:
        """Finished samples, as many as there are, in the order in which they are finished.

        `[]` comes if there are none for `tick` seconds. Raises what a stage has failed with. When
        that happens, or the iterator is closed, all stages end.
        """
        # Those of the thread that generates would be slowed down by those that this one has.
        let_go_of_threads()
        clock = self._runtime.clock.thread("write")
        clock.start()
        try:
            self._runtime.start()
            while True:
                with clock.waiting_for_input():
                    self._check_process()
                    samples = self._finished.take(CHUNK, tick)
                yield samples
        except Ended:
            clock.stop()
            self._runtime.check()
        except Exception:
            # A queue that is aborted says so; why is what its user wants to know.
            self._runtime.check()
            raise
        finally:
            # Threads and children are those of the process that began.
            if os.getpid() == self._process:
                self.abort()
                self._workers.close()
                self._runtime.join()

    def abort(self) -> None:
        """Give up, from any thread: `run` ends, and what is on its way is dropped.

        In a child of the process that began there is nothing to end.
        """
        if os.getpid() == self._process:
            self._runtime.abort()

    def leave(self, count: int) -> None:
        """So many more samples have left, in the order of the input: as many more may come."""
        self._limit.release(count)

    def drain(self) -> None:
        """Read no more, begin nothing more, and end when what is begun is done."""
        self._drains.set()
        self._read.cut()
        self._tokenized.cut()
        self._limit.abort()
        self._workers.drain()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                "this pipeline began before the process was forked, and its threads are not here: "
                "make another in this process"
            )

    def _admits(self) -> bool:
        """Whether something may begin. Raises Aborted when nothing is to go on either."""
        if self._runtime.is_aborted:
            raise Aborted
        return not self._drains.is_set()


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
            is_awaited: whether the next stage waits for a window.
            first: the first number.
            smallest: the first window has so many, and each of the next ones `GROWTH` times as many
                as the one before, up to `size`: the first results do not wait for a whole window.
            is_cut_short: whether the input has failed, so that it does not end where no more comes.
        """
        self._largest = size
        self._size = min(size, smallest or size)
        self._unit = unit
        self._is_awaited = is_awaited
        self._is_cut_short = is_cut_short
        self._order = InOrder(first) if unit > 1 else None
        self._held: list[Sample] = []

    def gather(self, take: Take) -> Iterator[list[list[Sample]]]:
        """Take samples, and yield windows, one at a time."""
        due = 0.0
        while True:
            if not self._held:
                due = 0.0
            try:
                came = take(self._size, LINGER if self._held else None)
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
        """How many of the last samples may go on: a unit that lacks some would be another."""
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


def tokenizing(
    encode: Encode, look: Callable[[Sequence[Text]], None], cut: Splitting | None = None
) -> Work:
    """From texts, or their sentences, to ids; `look` is shown the first texts."""

    def work(take: Take) -> Iterator[list[Sample]]:
        is_first = True
        while True:
            samples = take(CHUNK)
            waiting = [sample for sample in samples if not sample.is_done or sample.is_company]
            texts: list[Any] = [sample.told for sample in waiting]
            if is_first and texts:
                look(texts)
                is_first = False
            parts = [_parts(text, cut) for text in texts]
            cuts = [each for each in parts if not isinstance(each, Fault)]
            rows = iter(encode([sentence for each in cuts for sentence in each.sentences]))
            for sample, each in zip(waiting, parts, strict=True):
                if isinstance(each, Fault):
                    _read(sample, [each])
                    continue
                sample.gaps = each.gaps
                _read(sample, [next(rows) for _ in each.sentences])
            yield samples

    return work


def generating(generate: Generate, admits: Callable[[], bool]) -> Work:
    """From windows of ids to sequences; samples come out as they are done."""

    def work(take: Take) -> Iterator[list[Sample]]:
        while True:
            for window in take(1):
                yield from completed(window)

    def completed(window: list[Sample]) -> Iterator[list[Sample]]:
        rows = [
            BatchRow(sample.number, ids, sample.is_done, sample.tgt_lang, part)
            for sample in window
            if sample.rows is not None
            for part, ids in enumerate(sample.rows)
        ]
        waiting = {sample.number: sample for sample in window if not sample.is_done}
        found: dict[int, dict[int, Completion]] = {number: {} for number in waiting}
        yield [sample for sample in window if sample.is_done]
        for completions in generate(rows, admits) if rows else ():
            ready = []
            for (number, part), each in completions:
                found[number][part] = each
                if len(found[number]) == len(waiting[number].rows or ()):
                    parts = [done for _, done in sorted(found.pop(number).items())]
                    ready.append(_completed(waiting.pop(number), together(parts)))
            yield ready

    return work


def detokenizing(decode: Decode) -> Work:
    """From sequences to texts."""

    def work(take: Take) -> Iterator[list[Sample]]:
        while True:
            samples = take(CHUNK)
            waiting = [sample for sample in samples if not sample.is_done]
            texts = iter(decode([ids for each in waiting for ids in each.completion.sequences]))
            for sample in waiting:
                _give(sample, [next(texts) for _ in sample.completion.sequences])
            yield samples

    return work


def _parts(text: Any, cut: Splitting | None) -> Parts | Fault:
    """A text in sentences, each of which names the languages that it names; or why there are none,
    where it is cut by the rules of a language of its own."""
    if not isinstance(text, TextOfLanguages):
        return split(text, cut)
    try:
        parts = split(text.text, None if cut is None else cut.of(text.src_lang))
    except ValueError as error:
        return Fault(str(error))
    named: list[Any] = [text._replace(text=sentence) for sentence in parts.sentences]
    return Parts(named, parts.gaps)


def _read(sample: Sample, rows: Sequence[list[int] | Fault]) -> None:
    """Give a sample the ids of its sentences, or the first fault among them."""
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Fault):
            if not sample.is_done:
                sample.reject(f"sentence {number}: {row.reason}" if sample.gaps else row.reason)
            return
    sample.rows = [row for row in rows if not isinstance(row, Fault)]


def _completed(sample: Sample, completion: Completion) -> Sample:
    sample.rows, sample.completion = None, completion
    return sample


def _give(sample: Sample, texts: list[str | Fault]) -> None:
    faults = [text for text in texts if isinstance(text, Fault)]
    if faults:
        sample.reject(faults[0].reason)
    else:
        # Of n sentences, the k-th output is the k-th of each.
        copies = len(texts) // (len(sample.gaps) + 1)
        told = [str(text) for text in texts]
        done = [joined(told[copy::copies], sample.gaps) for copy in range(copies)]
        sample.completion = sample.completion._replace(sequences=(), texts=done)
