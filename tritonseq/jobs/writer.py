"""The output of a job: finished samples come in any order, and are written in the input's."""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from tritonseq.stages.order import InOrder

from .journal import Done

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tritonseq.stages.sample import Sample

    from .formatter import Layout
    from .journal import State
    from .sinks import Sink
    from .traces import Traces

MEMBER_LINES = 1000
"""Lines of the input whose outputs are compressed together, so that no bytes depend on chance; the
next number of whole units, where samples are found together."""


class Writer:
    """Made by `Target.open`. After an error only `close` may be called.

    JobFailed is raised if the disk is full or fails; what was recorded stays, and a job can go on
    with it. BrokenPipeError says that nobody reads a pipe any more.
    """

    def __init__(
        self,
        layout: Layout,
        sink: Sink,
        state: State,
        *,
        packed: bool,
        unit: int = 1,
        whole_units: bool = False,
    ) -> None:
        """`packed`: compress the output. `unit`: so many consecutive samples are found together:
        a job that goes on must see all of them again, or none. `whole_units`: a part of them says
        nothing about the others, and is found again."""
        self.state = state
        """What the job goes on from: the lines that are done, and samples that are finished."""
        self.lines = state.lines
        """Samples that have come, with those of earlier runs; so for the other counts."""
        self.rejected = state.rejected
        self.tokens = state.tokens
        self._layout = layout
        self._sink = sink
        self._packed = packed
        self._at_once = unit * -(-MEMBER_LINES // unit) if packed else unit
        """Samples that are written together."""
        self._kept_whole = unit if whole_units else 1
        self._now = state
        self._durable = state.lines + len(state.ahead)
        """Samples that are recorded."""
        self._order = InOrder(state.lines)
        self._next: list[Sample] = []
        self._ahead = {done.number: done for done in state.ahead}
        self._changed = False
        self.traces: Traces | None = None
        """Where the searches of samples go, if they are kept."""

    def add(self, samples: Iterable[Sample]) -> int:
        """Take finished samples, and write those whose turn it is; returns how many that were.

        Raises ValueError if the output was complete already, so that its input has grown.
        """
        came = list(samples)
        if came and self.state.is_complete:
            raise ValueError(
                f"the output is complete with {self.state.lines} lines, and the input has more: "
                "pass --overwrite instead of --resume to start afresh"
            )
        self._changed |= any(sample.number not in self._ahead for sample in came)
        for sample in came:
            self._ahead.pop(sample.number, None)
            self.lines += 1
            self.rejected += sample.fault is not None
            self.tokens += sample.tokens
        ready = self._order.add(came)
        self._next += ready
        size = self._at_once
        if not self._packed:
            size = max(size, len(self._next) - len(self._next) % size)
        while len(self._next) >= size:
            self._write(self._next[:size])
            del self._next[:size]
        return len(ready)

    def checkpoint(self) -> bool:
        """Make durable what has come since the last time; False if that is nothing."""
        if not self._changed:
            return False
        self._changed = False
        ahead = tuple(self._finished_ahead())
        durable = self._now.lines + len(ahead)
        if durable == self._durable:
            return False
        if self.traces is not None:
            self.traces.sync()
        self._sink.record(replace(self._now, ahead=ahead))
        self._durable = durable
        return True

    def _finished_ahead(self) -> list[Done]:
        """Samples that are finished and not in the output yet."""
        waiting = map(Done.of, [*self._next, *self._order.held])
        # Those of an earlier run may still be on their way here.
        finished = sorted([*waiting, *self._ahead.values()], key=lambda done: done.number)
        size = self._kept_whole
        there = Counter(done.number // size for done in finished)
        return [done for done in finished if there[done.number // size] == size]

    def finish(self) -> None:
        """All samples have come: write the rest, and give the output its name."""
        assert not self._order.held and not self._ahead
        if self._next or (self._packed and self._now.lines == 0 and not self.state.is_complete):
            self._write(self._next)
            self._next = []
        if self.traces is not None:
            self.traces.finish()
        self._sink.finish(self._now)
        if self.traces is not None:
            self.traces.clean()

    def close(self) -> None:
        """Let go of the files, wherever the job stands: the last checkpoint stays."""
        self._sink.close()
        if self.traces is not None:
            self.traces.close()

    def _bytes(self, samples: list[Sample]) -> bytes:
        return b"".join(map(self._layout.output, samples))

    def _packed_members(self, samples: list[Sample]) -> bytes:
        """Compressed, a member of the file at a time; no sample at all makes one member, too."""
        starts = range(0, max(1, len(samples)), self._at_once)
        parts = (self._bytes(samples[start : start + self._at_once]) for start in starts)
        return b"".join(gzip.compress(part, 6, mtime=0) for part in parts)

    def _write(self, samples: list[Sample]) -> None:
        self._sink.write(self._packed_members(samples) if self._packed else self._bytes(samples))
        if self.traces is not None:
            self.traces.add(samples)
        rejected = [sample for sample in samples if sample.fault is not None]
        for sample in rejected:
            self._sink.reject(sample)
        self._now = replace(
            self._now,
            lines=self._now.lines + len(samples),
            digest=samples[-1].digest if samples else self._now.digest,
            rejected=self._now.rejected + len(rejected),
            tokens=self._now.tokens + sum(sample.tokens for sample in samples),
        )
