"""Durable files of a job: where they lie, locked against other processes, and made to last."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tritonseq.checkpoint.files import KINDS
from tritonseq.errors import JobFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OWN = os.O_NOFOLLOW | os.O_NONBLOCK
"""To open files of a job with: no link is followed, and nothing is waited for."""
AFRESH = "start afresh with --overwrite instead of --resume"
"""The remedy for files that were changed."""

_BUFFER = 1 << 20
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EBUSY: "unmount it, as a mount point cannot be replaced",
    errno.EFBIG: "free some space or raise the limit on the size of files (ulimit -f)",
}
_STANDARD = 2
"""The last of the descriptors that stdin, stdout and stderr have."""
_UNKNOWN = (errno.EINVAL, errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)
"""What file systems answer that cannot lock a file, or make a folder durable."""
_MOUNTS = Path("/proc/self/mountinfo")
_STREAMS = ("/dev/stdin", "/dev/stdout", "/dev/stderr")
_DESCRIPTOR = re.compile(r"(?:/dev|/proc/(?:self|thread-self))/fd/([0-9]+)")
_LINKS = 40
"""So many links in a row lead nowhere, to the operating system as well."""


@dataclass(frozen=True)
class JobPaths:
    """The files of a job: `output` is there when it is complete, the others until then."""

    output: Path
    traces: Path | None = None
    """The whole searches; it is there with the output."""

    @property
    def partial(self) -> Path:
        """The output while it grows."""
        return partial(self.output)

    @property
    def journal(self) -> Path:
        """What of it is durable."""
        return self._beside(".journal")

    @property
    def rejected(self) -> Path:
        """The lines without an output; it stays."""
        return self._beside(".rejected.jsonl")

    @property
    def own(self) -> tuple[Path, ...]:
        """Those that a job makes, writes and removes as it needs."""
        own = (self.partial, self.journal, new(self.journal), self.rejected)
        if self.traces is None:
            return own
        return (*own, partial(self.traces), new(self.traces))

    @property
    def renamed(self) -> tuple[Path, ...]:
        """Those that others become by being renamed."""
        return (self.output,) if self.traces is None else (self.output, self.traces)

    def _beside(self, ending: str) -> Path:
        return self.output.with_name(self.output.name + ending)


def partial(path: Path) -> Path:
    """Where a file is while it grows."""
    return path.with_name(f"{path.name}.partial")


def new(path: Path) -> Path:
    """Where a file is written that will replace another as a whole."""
    return path.with_name(f"{path.name}.new")


class Appender:
    """A file that grows behind its first `size` bytes, whose CRC-32 is `digest`; what came after
    them is cut off.

    It is made when there is something to write; or it is there already, with the descriptor
    `locked` that `lock` gave. Raises ValueError if its first bytes are fewer, or others.
    """

    def __init__(self, path: Path, size: int, digest: int, locked: int | None = None) -> None:
        self._path = path
        self._descriptor = locked
        self._buffer = bytearray()
        self._written = size
        self.digest = digest
        """CRC-32 of its bytes, with those that are still to be written."""
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
        self.digest = zlib.crc32(data, self.digest)
        if len(self._buffer) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system, where it outlives this process."""
        if not self._buffer:
            return
        with writing(self._path):
            if self._descriptor is None:
                self._descriptor = open_own(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                sync_folder(self._path.parent)
            self._is_durable = False
            while self._buffer:
                count = os.write(self._descriptor, self._buffer)
                self._written += count
                del self._buffer[:count]

    def sync(self) -> None:
        """Make everything durable, so that it outlives the machine."""
        self.flush()
        if self._descriptor is None:
            return
        self._refuse_lost(self._descriptor)
        if not self._is_durable:
            with writing(self._path):
                os.fsync(self._descriptor)
            self._is_durable = True

    def close(self) -> None:
        """Let go of the file, without what is still to be written."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _cut(self, size: int) -> None:
        if self._descriptor is None:
            try:
                self._descriptor = open_own(self._path, os.O_RDWR)
            except FileNotFoundError:
                raise _changed(self._path, f"it is gone, with the {size} bytes") from None
        there = os.fstat(self._descriptor).st_size
        if there < size:
            raise _changed(self._path, f"it has {there} bytes, fewer than the {size}")
        if _digest(self._descriptor, size) != self.digest:
            raise _changed(self._path, f"its first {size} bytes are not those")
        if there > size:
            os.ftruncate(self._descriptor, size)
        os.lseek(self._descriptor, size, os.SEEK_SET)

    def _refuse_lost(self, descriptor: int) -> None:
        """Raise JobFailed if it has no longer its name: all that would be written would be lost."""
        try:
            if os.path.samestat(os.fstat(descriptor), os.lstat(self._path)):
                return
        except OSError:
            pass
        raise JobFailed(
            f"{self._path} was removed or replaced by others while it was written: start afresh "
            "with --overwrite"
        )


def digest_of(path: Path) -> tuple[int, int]:
    """The size of a file of a job, and the CRC-32 of its bytes."""
    descriptor = open_to_read(path)
    try:
        size = os.fstat(descriptor).st_size
        return size, _digest(descriptor, size)
    finally:
        os.close(descriptor)


def read_own(path: Path) -> bytes:
    """All bytes of a file of a job. Raises as `open_to_read` does."""
    with open(open_to_read(path), "rb") as file:
        return file.read()


def _digest(descriptor: int, size: int) -> int:
    """CRC-32 of the first bytes of a file."""
    digest, at = 0, 0
    while at < size and (block := os.pread(descriptor, min(_BUFFER, size - at), at)):
        digest = zlib.crc32(block, digest)
        at += len(block)
    return digest


def _changed(path: Path, how: str) -> ValueError:
    return ValueError(
        f"{path} was changed: {how} that the journal knows. Start afresh with --overwrite instead "
        "of --resume"
    )


def refuse_foreign(path: Path) -> None:
    """Raise ValueError if there is something that is no file: a job would write to another one
    through a link, and wait for ever for a pipe."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    for is_kind, name in KINDS:
        if is_kind(mode):
            raise ValueError(
                f"{path} is {name}, and the job keeps a file of its own there: move it away, or "
                "name another OUTPUT"
            )


def open_to_read(path: Path) -> int:
    """The descriptor of a file of a job. Raises ValueError as `refuse_foreign` does, OSError if it
    cannot be opened."""
    refuse_foreign(path)
    # Should it become a link or a pipe right now, this fails, too.
    return os.open(path, os.O_RDONLY | OWN)


def open_own(path: Path, flags: int) -> int:
    """The descriptor of a file of a job that is written.

    Raises ValueError as `refuse_foreign` does, OSError if it cannot be opened.
    """
    refuse_foreign(path)
    # Should it become a link or a pipe right now, this fails, too.
    descriptor = os.open(path, flags | OWN, 0o666)
    if descriptor <= _STANDARD:
        # What is printed to a standard stream that was closed would go into this file.
        low, descriptor = descriptor, fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _STANDARD + 1)
        os.close(low)
    return descriptor


def lock(path: Path, name: str) -> int:
    """A descriptor of the file, made if there is none, that only one process has at a time.

    The operating system lets go of it with the process. Raises ValueError, about the output
    `name`, if another has it.
    """
    while True:
        with writing(path):
            descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        try:
            _lock(descriptor, name)
            # The job that had it may have renamed it in between: then this is no longer the file.
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def lock_afresh(path: Path, name: str, locked: int) -> int:
    """As `lock`, of an empty file: `locked`, that of the file that is there, is closed.

    Others may have that one by another name, and would lose what is in it.
    """
    if os.fstat(locked).st_size == 0:
        return locked
    with writing(path):
        remove(path)
    fresh = lock(path, name)
    os.close(locked)
    return fresh


def refuse_locked(path: Path, name: str) -> None:
    """Raise ValueError if a process has the file to itself."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        descriptor = open_to_read(path)
        try:
            _lock(descriptor, name)
        finally:
            os.close(descriptor)


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
    fresh = new(path)
    with writing(path):
        try:
            remove(fresh)
            descriptor = open_own(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
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


def descriptor_of(path: str) -> int | None:
    """The number of the open file that a name such as /dev/stdout means; None of other names.

    What is open may be a file that others write to as well, and that ends where they have come to:
    it is written to as it is, and not replaced.
    """
    for _ in range(_LINKS):
        name = os.path.abspath(path).replace(f"/proc/{os.getpid()}/", "/proc/self/")
        if name in _STREAMS:
            return _STREAMS.index(name)
        if found := _DESCRIPTOR.fullmatch(name):
            return int(found[1])
        if not os.path.islink(name):
            return None
        path = os.path.join(os.path.dirname(name), os.readlink(name))
    return None


def refuse_mounted(paths: Iterable[Path]) -> None:
    """Raise ValueError if one of the files is a mount point, which no other file can replace."""
    for path in mount_points().intersection(paths):
        raise ValueError(
            f"{path} is a mount point, and a complete OUTPUT takes its place by being renamed, "
            f"which no mount point allows: mount its folder and not the file (a volume of "
            f"{path.parent}), or name an OUTPUT in a folder that is mounted"
        )


def mount_points() -> set[Path]:
    """Where something is mounted, as far as the system tells."""
    try:
        table = _MOUNTS.read_bytes()
    except OSError:
        return set()
    rows = [line.split(b" ") for line in table.splitlines()]
    return {Path(os.fsdecode(_unescaped(row[4]))) for row in rows if len(row) > 4}


def _unescaped(name: bytes) -> bytes:
    """Blanks and the like stand there as octal numbers."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), name)
