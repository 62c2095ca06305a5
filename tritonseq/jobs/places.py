"""The files of a job: where they lie, and what must not lie there."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tritonseq.checkpoint.files import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOUNTS = Path("/proc/self/mountinfo")
OWN = os.O_NOFOLLOW | os.O_NONBLOCK
"""To open files of a job with: no link is followed, and nothing is waited for."""
_STREAMS = ("/dev/stdin", "/dev/stdout", "/dev/stderr")
_DESCRIPTOR = re.compile(r"(?:/dev|/proc/(?:self|thread-self))/fd/([0-9]+)")
_LINKS = 40
"""So many links in a row lead nowhere, to the operating system as well."""


@dataclass(frozen=True)
class Places:
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


def open_to_read(path: Path) -> int:
    """The descriptor of a file of a job. Raises ValueError as `refuse_foreign` does, OSError if it
    cannot be opened."""
    refuse_foreign(path)
    # Should it become a link or a pipe right now, this fails, too.
    return os.open(path, os.O_RDONLY | OWN)


def refuse_mounted(paths: Iterable[Path]) -> None:
    """Raise ValueError if one of the files is a mount point, which no other file can replace."""
    for path in mount_points().intersection(paths):
        raise ValueError(
            f"{path} is a mount point, and a complete OUTPUT takes its place by being renamed, "
            f"which no mount point allows: mount its folder and not the file (a volume of "
            f"{path.parent}), or name an OUTPUT in a folder that is mounted"
        )


def is_same(path: str | Path, other: str | Path) -> bool:
    """Are they one file, through links or by two names of it?"""
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def refuse_guarded(path: Path) -> None:
    """Raise ValueError if the file is of another user, and its folder lets only that one replace
    it, as /tmp does."""
    try:
        folder, file = os.stat(path.parent), os.lstat(path)
    except FileNotFoundError:
        return
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, folder.st_uid, file.st_uid):
        raise ValueError(
            f"{path} is of another user, and {path.parent} lets only that one replace it: name an "
            "OUTPUT in another folder"
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
