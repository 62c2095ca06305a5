"""The stages put together: samples go in at one end, and come out finished at the other.

    read -> tokenize -> window -> generate -> detokenize -> whoever iterates

Each is a thread, or several; between two stands a queue of bounded length, and what is between the
first and the last is bounded as well, so that memory does not grow with the input.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from tritonseq.engine.torch_state import let_go_of_threads

from .queue import Aborted, Ended
from .steps import CHUNK, Windows, detokenizing, generating, tokenizing
from .threads import Flow, Gate, Horizon

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from .sample import Sample
    from .timings import Clock
    from .workers import Workers

# Batches whose samples are put in order of length together.
BATCHES = 16

# The first window is this part of a batch, so that there is something to see soon; the next ones
# grow. Fewer samples at once cost more each, and a batch of `FEWEST` is soon answered as a whole.
PARTS = 8
FEWEST = 16

# Samples that wait between two stages, at most.
QUEUE = 4 * CHUNK


class Assembly:
    """One run of samples through the stages; iterate over it once, then close it."""

    def __init__(
        self,
        samples: Iterable[Sample],
        workers: Workers,
        clock: Clock,
        first: int = 0,
    ) -> None:
        """`first`: the number of the first sample; the others follow without a gap."""
        self._workers = workers
        self._process = os.getpid()
        self._drains = threading.Event()
        unit, batch, window = workers.facts.unit, workers.facts.batch, workers.run.window
        size = _whole(window or BATCHES * batch, unit)
        # A window for every seat, one that waits, one that is gathered: then somebody always
        # works at the sample that the last stage waits for.
        self._horizon = Horizon((len(workers.responds) + 2) * size + QUEUE, first)
        self._flow = Flow(clock)
        self._flow.on_abort(self._horizon.abort)
        smallest = None if window else max(-(-batch // PARTS), min(batch, FEWEST))
        self._connect(
            samples,
            lambda awaited: Windows(
                size, unit, awaited, first, smallest, is_cut_short=self._has_failed
            ),
        )

    def _connect(
        self, samples: Iterable[Sample], windows: Callable[[Callable[[], bool]], Windows]
    ) -> None:
        """All stages, and the queues between them."""
        flow, workers = self._flow, self._workers
        self._read = flow.queue(QUEUE)
        self._tokenized = flow.queue(QUEUE, feeders=len(workers.encodes))
        gathered = flow.queue(1)
        generated = flow.queue(QUEUE, feeders=len(workers.responds))
        self._finished = flow.queue(QUEUE, feeders=len(workers.decodes))

        each = ([sample] for sample in samples)
        encode = [tokenizing(encode, workers.look) for encode in workers.encodes]
        gather = [windows(lambda: gathered.is_awaited).gather]
        respond = [generating(respond, self._admits) for respond in workers.responds]
        decode = [detokenizing(decode) for decode in workers.decodes]
        flow.first_stage("read", each, Gate(self._horizon, self._read))
        flow.stage("tokenize", encode, self._read, self._tokenized)
        flow.stage("window", gather, self._tokenized, gathered)
        flow.stage("generate", respond, gathered, generated)
        flow.stage("detokenize", decode, generated, self._finished)

    def run(self, tick: float | None = None) -> Generator[list[Sample], None, None]:
        """Finished samples, as many as there are, in the order in which they are finished.

        `[]` comes if there are none for `tick` seconds. Raises what a stage has failed with. When
        that happens, or the iterator is closed, all stages end.
        """
        # Those of the thread that generates would be slowed down by those that this one has.
        let_go_of_threads()
        clock = self._flow.clock.seat("write")
        clock.start()
        try:
            self._flow.start()
            while True:
                clock.stop()
                self._check_process()
                try:
                    samples, waited = self._finished.take(CHUNK, tick)
                    clock.waited_for_input += waited
                finally:
                    clock.start()
                yield samples
        except Ended:
            clock.stop()
            self._flow.check()
        except Exception:
            # A queue that is aborted says so; why is what its user wants to know.
            self._flow.check()
            raise
        finally:
            # Threads and children are those of the process that began.
            if os.getpid() == self._process:
                self.abort()
                self._workers.close()
                self._flow.join()

    def abort(self) -> None:
        """Give up, from any thread: `run` ends, whatever is on its way.

        In a child of the process that began there is nothing to end.
        """
        if os.getpid() == self._process:
            self._flow.abort()

    def leave(self, count: int) -> None:
        """So many more samples have left, in the order of the input: as many more may come."""
        self._horizon.advance(count)

    def drain(self) -> None:
        """Read no more, begin nothing more, and end when what is begun is done."""
        self._drains.set()
        self._read.cut()
        self._tokenized.cut()
        self._horizon.abort()
        self._workers.drain()

    def _has_failed(self) -> bool:
        return self._flow.has_failed

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                "this pipeline began before the process was forked, and its threads are not here: "
                "make another in this process"
            )

    def _admits(self) -> bool:
        """May something begin? Raises Aborted when nothing is to go on either."""
        if self._flow.is_aborted:
            raise Aborted
        return not self._drains.is_set()


def _whole(size: int, unit: int) -> int:
    """The size, made up to whole units."""
    return -(-size // unit) * unit
