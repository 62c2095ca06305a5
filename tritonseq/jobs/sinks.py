"""Where outputs go: into files that a job can go on with, or straight into a pipe."""

from __future__ import annotations

import contextlib
import os
import select
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, Protocol

from tritonseq.errors import JobFailed

from .disk import Appender, digest_of, remove, sync_folder, writing
from .journal import State, store

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritonseq.stages.sample import Sample

    from .formatter import Layout
    from .places import Places


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


class Files:
    """An output that grows as OUTPUT.partial, with a journal of what is durable.

    `locked` is the descriptor of OUTPUT.partial that `disk.lock` gave; `may_replace` says whether
    an OUTPUT that is there in the end may be lost.
    """

    def __init__(
        self, places: Places, layout: Layout, state: State, locked: int, *, may_replace: bool
    ) -> None:
        self._places = places
        self._layout = layout
        self._may_replace = may_replace
        self._is_named = is_named(places, state)
        if self._is_named:
            state = replace(state, output_bytes=0, output_digest=0)
        # What nobody else may read must not be readable while it grows.
        self._take_mode(may_write=True)
        self._output = Appender(places.partial, state.output_bytes, state.output_digest, locked)
        self._rejected = Appender(places.rejected, state.rejected_bytes, state.rejected_digest)

    def write(self, data: bytes) -> None:
        self._output.append(data)

    def reject(self, sample: Sample) -> None:
        self._rejected.append(self._layout.rejection(sample))

    def record(self, state: State) -> None:
        # The journal comes last: it speaks only of what is there.
        self._output.sync()
        self._rejected.sync()
        store(
            self._places.journal,
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
        with writing(self._places.output):
            if self._is_named:
                remove(self._places.partial)
            else:
                self._take_mode()
                os.replace(self._places.partial, self._places.output)
            sync_folder(self._places.output.parent)
            remove(self._places.journal)
            sync_folder(self._places.output.parent)
        self.close()

    def close(self) -> None:
        self._rejected.close()
        self._output.close()

    def _take_mode(self, *, may_write: bool = False) -> None:
        """Give the output the mode of the file that it will replace, if there is one."""
        try:
            mode = stat.S_IMODE(self._places.output.stat().st_mode)
        except FileNotFoundError:
            return
        # A file system without modes refuses this, and has none to keep.
        with contextlib.suppress(OSError):
            self._places.partial.chmod(mode | (stat.S_IWUSR | stat.S_IRUSR) * may_write)

    def _refuse_existing(self) -> None:
        if self._places.output.exists() and not self._may_replace:
            raise JobFailed(
                f"{self._places.output} has been made by others meanwhile: move it away, then run "
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
        self._warn(f"line {sample.number + 1} is rejected: {sample.fault}")

    def record(self, state: State) -> None:
        pass

    def finish(self, state: State) -> None:
        self.close()

    def close(self) -> None:
        if self._is_ours:
            self._stream.close()


def is_named(places: Places, state: State) -> bool:
    """Has a complete output its name already, so that only the journal is left over?"""
    if not state.is_complete or not places.output.is_file():
        return False
    left = places.partial.stat().st_size if places.partial.exists() else 0
    if left or places.output.stat().st_size != state.output_bytes:
        return False
    return digest_of(places.output) == (state.output_bytes, state.output_digest)
