"""stdin, stdout and stderr as a command finds them: closed, full, or read by nobody."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING

from tritonseq.errors import JobFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


@contextlib.contextmanager
def forgiving_stderr() -> Iterator[None]:
    """Meanwhile, messages that nobody can be told are dropped: no work may fail for them.

    A stderr that a caller has put in its place is left as it is.
    """
    before = sys.stderr
    if before is not sys.__stderr__:
        yield
        return
    if before is not None:
        with contextlib.suppress(OSError):
            before.flush()
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Forgiving(2, "w", closefd=False)),
        encoding=getattr(before, "encoding", None),
        errors="backslashreplace",
        line_buffering=True,
        write_through=True,
    )
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before


class _Forgiving(io.FileIO):
    """A file that is told all, and need not take it."""

    def write(self, data: Any) -> int:
        """As of every file, but what it refuses counts as written."""
        with contextlib.suppress(OSError):
            written = super().write(data)
            if written is not None:
                return written
        return memoryview(data).nbytes


def flush_stdout() -> None:
    """Hand over what was printed. Raises BrokenPipeError if nobody reads it, JobFailed if it cannot
    be written; then it is dropped."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
        raise
    except OSError as error:
        silence_stdout()
        raise JobFailed(f"stdout cannot be written ({error.strerror})") from error


def silence_stdout() -> None:
    """Let what is still to be printed go nowhere, lest the interpreter fails at it as it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
