"""Files that outlive a crash: where they lie, who may write them, and when they are durable."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .faults import JobFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BUFFER = 1 << 20
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "free some space or raise the limit on the size of files (ulimit -f)",
}
_UNKNOWN = (errno.EINVAL, errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)
"""What file systems answer that cannot lock a file, or make a folder durable."""


@dataclass(frozen=True)
class Places:
    """The files of a job: `output` is there when it is complete, the others until then."""

    output: Path

    @property
    def partial(self) -> Path:
        """The output while it grows."""
        return self._beside(".partial")

    @property
    def journal(self) -> Path:
        """What of it is durable."""
        return self._beside(".journal")

    @property
    def rejected(self) -> Path:
        """The lines without an output; it stays."""
        return self._beside(".rejected.jsonl")

    def _beside(self, ending: str) -> Path:
        return self.output.with_name(self.output.name + ending)


class Appender:
    """A file that grows behind its first `size` bytes; what came after them is cut off.

    It is made when there is something to write; or it is there already, with the descriptor
    `locked` that `lock` gave. Raises ValueError if it has fewer bytes.
    """

    def __init__(self, path: Path, size: int, locked: int | None = None) -> None:
        self._path = path
        self._descriptor = locked
        self._buffer = bytearray()
        self._written = size
        self._is_durable = True
        with writing(path):
            if size == 0 and locked is None:
                remove(path)
            else:
                self._cut(size)

    @property
    def size(self) -> int:
        """Its bytes, with those that are still to be written."""
        return self._written + len(self._buffer)

    def append(self, data: bytes) -> None:
        """Add to its end, soon. Raises JobFailed if the disk will not take it."""
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system, where it outlives this process."""
        if not self._buffer:
            return
        with writing(self._path):
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                sync_folder(self._path.parent)
            self._is_durable = False
            while self._buffer:
                count = os.write(self._descriptor, self._buffer)
                self._written += count
                del self._buffer[:count]

    def sync(self) -> None:
        """Make everything durable, so that it outlives the machine."""
        self.flush()
        if self._descriptor is not None and not self._is_durable:
            with writing(self._path):
                os.fsync(self._descriptor)
            self._is_durable = True

    def close(self) -> None:
        """Let go of the file, without what is still to be written."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _cut(self, size: int) -> None:
        there = os.path.getsize(self._path) if self._path.exists() else 0
        if there < size:
            raise ValueError(
                f"{self._path} has {there} bytes, fewer than the {size} that the journal knows: it "
                "was changed. Start afresh with --overwrite instead of --resume"
            )
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_WRONLY)
        if there > size:
            os.ftruncate(self._descriptor, size)
        os.lseek(self._descriptor, size, os.SEEK_SET)


def lock(path: Path, name: str) -> int:
    """A descriptor of the file, made if there is none, that only one process has at a time.

    The operating system lets go of it with the process. Raises ValueError, about the output
    `name`, if another has it.
    """
    while True:
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, name)
            # Whoever had it may have renamed it in between: then this is no longer the file.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def refuse_locked(path: Path, name: str) -> None:
    """Raise ValueError if a process has the file to itself."""
    with contextlib.suppress(FileNotFoundError, PermissionError), open(path, "rb") as file:
        _lock(file.fileno(), name)


def _lock(descriptor: int, name: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"{name} is being written by another job: wait for its end, or name another OUTPUT"
        ) from None
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file as a whole: after a crash it holds the old bytes or the new ones."""
    fresh = path.with_name(f"{path.name}.new")
    with writing(path):
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                left = memoryview(data)
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(fresh, path)
        except OSError:
            remove(fresh)
            raise
        sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def sync_folder(path: Path) -> None:
    """Make durable which files a folder has."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the operating system has against it into a JobFailed that says what to do."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "put that in order")
        raise JobFailed(
            f"{path} cannot be written ({error.strerror or error}): {remedy}, then run the same "
            "command with --resume"
        ) from error
