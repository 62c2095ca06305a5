"""A machine that stops in the middle of writing files, at any call to the operating system."""

from __future__ import annotations

import errno
import math
import os
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from pathlib import Path

    import pytest

CALLS = ("open", "write", "fsync", "replace", "unlink", "ftruncate")


class Killed(BaseException):
    """The process is gone: nothing that it would still do happens."""


class Machine:
    """Stands for `os` in modules that write files: the calls that change them are counted.

    The call number `stop` does not happen, or half of it if it writes, and raises `error`. Now and
    then, a write takes only a part of what it is given. Afterwards `cut_power` undoes what was not
    made durable: bytes of files, and changes of the names in `folder`.
    """

    def __init__(self, folder: Path, stop: int | None, error: BaseException | None = None) -> None:
        self._folder = folder
        self._stop = stop
        self._error = error or Killed()
        self.calls = 0
        # Files by their inodes: kept from being deleted, and how much of them is durable.
        self._kept = folder.parent / f"{folder.name}.kept"
        self._durable: dict[int, int] = {}
        self._names: dict[str, int] = {}
        self._changes: list[tuple[str, int | None, str]] = []
        self._kept.mkdir(exist_ok=True)
        for path in folder.iterdir():
            self._names[path.name] = self._keep(path)
            self._durable[path.stat().st_ino] = path.stat().st_size

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def install(self, patch: pytest.MonkeyPatch, *modules: Any) -> None:
        for name in CALLS:
            setattr(self, name, self._counted(name))
        for module in modules:
            patch.setattr(module, "os", self)

    def cut_power(self, rng: random.Random) -> None:
        """Leave what was durable, and of the changes of names since then any."""
        for name, inode, gone in self._changes:
            if rng.random() < 0.5:
                self._names.pop(gone, None)
                if inode is not None:
                    self._names[name] = inode
        for path in self._folder.iterdir():
            path.unlink()
        for name, inode in self._names.items():
            path = self._folder / name
            os.link(self._kept / str(inode), path)
            durable = self._durable.get(inode, 0)
            if path.stat().st_size > durable:
                os.truncate(path, durable)

    def _counted(self, name: str) -> Any:
        do = getattr(self, f"_{name}", getattr(os, name))

        def call(*args: Any, **options: Any) -> Any:
            if name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY):
                return do(*args, **options)  # to read a file changes nothing
            self.calls += 1
            if self.calls == self._stop:
                if name == "write":
                    self._write(*args, part=0.5)
                raise self._error
            return do(*args, **options)

        return call

    def _open(self, path: Path, flags: int, *mode: int) -> int:
        is_new = not path.exists()
        descriptor = os.open(path, flags, *mode)
        if is_new:
            self._changes.append((path.name, self._keep(path), ""))
        return descriptor

    def _write(self, descriptor: int, data: Any, part: float | None = None) -> int:
        part = part or (0.5 if self.calls % 3 == 0 else 1)
        return os.write(descriptor, bytes(data)[: math.ceil(len(data) * part)])

    def _fsync(self, descriptor: int) -> None:
        """Remember what is durable from now on; the disk itself need not be troubled."""
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self._changes.clear()
            self._names = {path.name: self._keep(path) for path in self._folder.iterdir()}
        else:
            self._durable[status.st_ino] = status.st_size

    def _replace(self, old: Path, new: Path) -> None:
        self._changes.append((new.name, self._keep(old), old.name))
        os.replace(old, new)

    def _unlink(self, path: Path) -> None:
        os.unlink(path)
        self._changes.append(("", None, path.name))

    def _keep(self, path: Path) -> int:
        inode = path.stat().st_ino
        if not (self._kept / str(inode)).exists():
            os.link(path, self._kept / str(inode))
        return inode


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
