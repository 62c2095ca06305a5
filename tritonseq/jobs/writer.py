"""The writer of a job: samples come in any order, and are written in that of the input.

Into files that a job can go on with, or straight into a pipe.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import select
import stat
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, Protocol

from tritonseq.errors import JobFailed
from tritonseq.stages.sample import InOrder

from .disk import Appender, digest_of, remove, sync_folder, writing
from .journal import Done, State, store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tritonseq.stages.sample import Sample

    from .disk import JobPaths
    from .lines import Formatter
    from .traces import Traces

MEMBER_LINES = 1000
"""Lines of the input whose outputs are compressed together, so that no bytes depend on chance; the
next number of whole units, where samples are found together."""


class Sink(Protocol):
    """What a writer needs of the place that it writes to. All of it may raise JobFailed."""

    def write(self, data: bytes) -> None:
        """Add to the output."""

    def reject(self, sample: Sample) -> None:
        """Tell of a sample without an output."""

    def record(self, state: State) -> None:
        """Make durable what was written, and that it was; the numbers of bytes are filled in."""

    def finish(self, state: State) -> None:
        """Record for the last time, and give the output its name."""

    def close(self) -> None:
        """Let go; what was recorded stays."""


class JournaledFile:
    """An output that grows as OUTPUT.partial, with a journal of what is durable.

    `locked` is the descriptor of OUTPUT.partial that `disk.lock` gave; `may_replace` says whether
    an OUTPUT that is there in the end may be lost.
    """

    def __init__(
        self, paths: JobPaths, formatter: Formatter, state: State, locked: int, *, may_replace: bool
    ) -> None:
        self._paths = paths
        self._formatter = formatter
        self._may_replace = may_replace
        self._is_named = is_named(paths, state)
        if self._is_named:
            state = replace(state, output_bytes=0, output_digest=0)
        # What other users may not read must not be readable while it grows.
        self._take_mode(may_write=True)
        self._output = Appender(paths.partial, state.output_bytes, state.output_digest, locked)
        self._rejected = Appender(paths.rejected, state.rejected_bytes, state.rejected_digest)

    def write(self, data: bytes) -> None:
        self._output.append(data)

    def reject(self, sample: Sample) -> None:
        self._rejected.append(self._formatter.rejection(sample))

    def record(self, state: State) -> None:
        # The journal comes last: it speaks only of what is there.
        self._output.sync()
        self._rejected.sync()
        store(
            self._paths.journal,
            replace(
                state,
                output_bytes=self._output.size,
                output_digest=self._output.digest,
                rejected_bytes=self._rejected.size,
                rejected_digest=self._rejected.digest,
            ),
        )

    def finish(self, state: State) -> None:
        if not self._is_named:
            self.record(replace(state, is_complete=True, ahead=()))
            self._refuse_existing()
        with writing(self._paths.output):
            if self._is_named:
                remove(self._paths.partial)
            else:
                self._take_mode()
                os.replace(self._paths.partial, self._paths.output)
            sync_folder(self._paths.output.parent)
            remove(self._paths.journal)
            sync_folder(self._paths.output.parent)
        self.close()

    def close(self) -> None:
        self._rejected.close()
        self._output.close()

    def _take_mode(self, *, may_write: bool = False) -> None:
        """Give the output the mode of the file that it will replace, if there is one."""
        try:
            mode = stat.S_IMODE(self._paths.output.stat().st_mode)
        except FileNotFoundError:
            return
        # A file system without modes refuses this, and has none to keep.
        with contextlib.suppress(OSError):
            self._paths.partial.chmod(mode | (stat.S_IWUSR | stat.S_IRUSR) * may_write)

    def _refuse_existing(self) -> None:
        if self._paths.output.exists() and not self._may_replace:
            raise JobFailed(
                f"{self._paths.output} has been made by others meanwhile: move it away, then run "
                "the same command with --resume"
            )


class Pipe:
    """An output that is read while it is written, and that no job can go on with.

    `is_ours` says whether to close the stream in the end; `warn` is told of rejected lines.
    """

    def __init__(
        self, stream: BinaryIO, name: str, warn: Callable[[str], None], *, is_ours: bool
    ) -> None:
        stream.flush()
        # Bytes that a buffer kept after a failure would fail once more when the program ends.
        self._stream = getattr(stream, "raw", stream)
        self._name = name
        self._warn = warn
        self._is_ours = is_ours

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                count = self._stream.write(left)
                if count is None:  # it does not block, and is full
                    select.select((), (self._stream,), ())
                left = left[count or 0 :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise JobFailed(
                f"{self._name} cannot be written ({error.strerror}), and no job can go on with it: "
                "name a file as OUTPUT"
            ) from error

    def reject(self, sample: Sample) -> None:
        self._warn(f"line {sample.number + 1} is rejected: {sample.completion.fault}")

    def record(self, state: State) -> None:
        pass

    def finish(self, state: State) -> None:
        self.close()

    def close(self) -> None:
        if self._is_ours:
            self._stream.close()


def is_named(paths: JobPaths, state: State) -> bool:
    """Whether a complete output has its name already, so that only the journal is left over."""
    if not state.is_complete or not paths.output.is_file():
        return False
    left = paths.partial.stat().st_size if paths.partial.exists() else 0
    if left or paths.output.stat().st_size != state.output_bytes:
        return False
    return digest_of(paths.output) == (state.output_bytes, state.output_digest)


class Writer:
    """Made by `OutputFile.open`. After an error only `close` may be called.

    JobFailed is raised if the disk is full or fails; what was recorded stays, and a job can go on
    with it. BrokenPipeError says that the reader of a pipe has gone.
    """

    def __init__(
        self,
        formatter: Formatter,
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
        self._formatter = formatter
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
            self.rejected += sample.completion.fault is not None
            self.tokens += sample.completion.tokens
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
        return b"".join(map(self._formatter.output, samples))

    def _packed_members(self, samples: list[Sample]) -> bytes:
        """Compressed, a member of the file at a time; no sample at all makes one member, too."""
        starts = range(0, max(1, len(samples)), self._at_once)
        parts = (self._bytes(samples[start : start + self._at_once]) for start in starts)
        return b"".join(gzip.compress(part, 6, mtime=0) for part in parts)

    def _write(self, samples: list[Sample]) -> None:
        self._sink.write(self._packed_members(samples) if self._packed else self._bytes(samples))
        if self.traces is not None:
            self.traces.add(samples)
        rejected = [sample for sample in samples if sample.completion.fault is not None]
        for sample in rejected:
            self._sink.reject(sample)
        self._now = replace(
            self._now,
            lines=self._now.lines + len(samples),
            digest=samples[-1].digest if samples else self._now.digest,
            rejected=self._now.rejected + len(rejected),
            tokens=self._now.tokens + sum(sample.completion.tokens for sample in samples),
        )
