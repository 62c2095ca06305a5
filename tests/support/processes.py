"""Threads and processes, as the operating system tells of them."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60.0
"""Seconds after which what has not happened is taken for what never will."""


def wait_until(
    happened: Callable[[], bool], *, patience: float = PATIENCE, rest: float = 0.005
) -> None:
    """Look now and then; AssertionError if it never happens."""
    deadline = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(rest)


def threads() -> list[str]:
    """The threads of pipelines, by name."""
    names = (thread.name for thread in threading.enumerate())
    return [name for name in names if name.startswith("tritonseq")]


def children(pid: int) -> list[int]:
    """The living children of a process, but for Python's own, which stays once it was needed."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                command = (folder / "cmdline").read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            if int(parent) == pid and state != "Z" and b"resource_tracker" not in command:
                found.append(int(folder.name))
    return sorted(found)


def is_alive(pid: int) -> bool:
    """Does the process exist, and is more than its exit code left?"""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
