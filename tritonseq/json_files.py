"""Small files of a checkpoint, JSON above all: regular ones only, with faults in words."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

from .shown import shown

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 2**28
"""Of a file that is read as a whole. The largest tokenizer.json in use has some 40 MiB."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError that names the file if there is none.

    A key may be said twice only if both say the same: which one was meant, nobody knows.
    """
    refuse_pointer(path)
    try:
        value = json.loads(read_bytes(path), object_pairs_hook=_object)
    except RecursionError:
        # Without the thousands of frames that led there.
        raise ValueError(f"{path} is nested too deep to be read: fetch it again") from None
    except ValueError as error:
        if isinstance(error, _OfFile):
            raise
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object but a {type(value).__name__}")
    return value


def read_bytes(path: Path) -> bytes:
    """All of a regular file.

    Raises ValueError for what is none, for what is not there and for what is too large; a pipe
    or a device is not waited for.
    """
    refuse_irregular(path)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise _OfFile(f"{path} has {size} bytes: no such file has more than {MOST_BYTES}")
    # Between the look and the opening another may have taken its place: that is not waited for.
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(file, "rb") as opened:
        return opened.read(MOST_BYTES)


def refuse_irregular(path: Path) -> None:
    """Raise ValueError, without opening it, unless `path` is a regular file or a link to one."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _OfFile(f"{path} cannot be read: {error.strerror or error}") from error
    for is_kind, kind in _KINDS:
        if is_kind(mode):
            raise _OfFile(f"{path} is {kind}, not a file: put the file there")


def is_there(path: Path) -> bool:
    """Is there a file to read? What stands in its place is refused, rather than overlooked.

    Raises ValueError for a folder, a pipe or a device, and for a link that leads nowhere.
    """
    if not os.path.lexists(path):
        return False
    refuse_irregular(path)
    return True


def refuse_pointer(path: Path) -> None:
    """Raise ValueError if a clone without Git LFS left a pointer where the file should be."""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(20)
        if start.startswith(b"version https://git-"):
            raise ValueError(f"{path} is only a Git LFS pointer: run `git lfs pull` in its folder")


class _OfFile(ValueError):
    """What is wrong with a file before a byte of it is looked at."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        for key, said in pairs:
            # Not by ==, which takes 1 for true, and NaN for another than itself.
            if repr(said) != repr(value[key]):
                raise ValueError(
                    f"it says {key!r} twice, {shown(said)} and {shown(value[key])}: keep one"
                )
    return value
