"""Files of a checkpoint: regular ones, read as a whole, with faults in words; and the config."""

from __future__ import annotations

import io
import json
import os
import stat
from typing import TYPE_CHECKING, Any, BinaryIO

from tritonseq.shown import shown

if TYPE_CHECKING:
    from pathlib import Path


MOST_BYTES = 2**28
"""Of a file that is read as a whole. The largest tokenizer.json in use has some 40 MiB."""

KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
"""What is no regular file, by its mode."""

_POINTER = b"version https://git-"

USUAL = ("config.json", "bert_config.json")
# Those of other things.
OTHERS = frozenset(
    f"{thing}_config.json"
    for thing in ("adapter", "generation", "preprocessor", "processor", "quantize", "tokenizer")
)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError that names the file if there is none.

    A key may be said twice only if both say the same: which one was meant, the file does not say.
    """
    content = read_bytes(path)
    _refuse_start_of_pointer(path, content)
    try:
        value = json.loads(content, object_pairs_hook=_object)
    except RecursionError:
        # Without the thousands of frames that led there.
        raise ValueError(f"{path} is nested too deep to be read: fetch it again") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object but a {type(value).__name__}")
    return value


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """All of a text file, its lines ended by "\\n" alone; ValueError if it cannot be read."""
    content = read_bytes(path)
    _refuse_start_of_pointer(path, content)
    try:
        return io.TextIOWrapper(io.BytesIO(content), encoding=encoding).read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: fetch it again ({error})") from None


def read_lines(path: Path) -> list[str]:
    """The tokens of a `vocab.txt`, whose ids are the numbers of their lines.

    Raises ValueError if it is empty or no UTF-8.
    """
    # Lines end as Python's text files have it; other separators of Unicode are tokens.
    lines = read_text(path, "utf-8-sig").split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise ValueError(f"{path} is empty: it must hold one token a line, fetch it again")
    return lines


def read_bytes(path: Path) -> bytes:
    """All of a regular file.

    Raises ValueError for what is none, for what is not there and for what is too large; a pipe
    or a device is not waited for.
    """
    with _opened(path) as file:
        content = file.read(MOST_BYTES + 1)
    _refuse_size(path, len(content))  # It may have grown since it was opened.
    return content


def refuse_unfit(path: Path) -> None:
    """Raise ValueError, as the readers above do, for a file that a library is to read by its name.

    Those read whatever is there, for ever from a pipe, and all of a file of any size.
    """
    with _opened(path) as file:
        _refuse_start_of_pointer(path, file.read(len(_POINTER)))


def refuse_irregular(path: Path) -> None:
    """Raise ValueError, without opening it, unless `path` is a regular file or a link to one."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreadable(path, error) from error
    _refuse_kind(path, mode)


def is_there(path: Path) -> bool:
    """Whether there is a file to read; what stands in its place is refused, not overlooked.

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
            _refuse_start_of_pointer(path, file.read(len(_POINTER)))


def _opened(path: Path) -> BinaryIO:
    """A regular file of no more than `MOST_BYTES`, to be read."""
    refuse_irregular(path)
    # Between the look and the opening another may have taken its place: that is not waited for.
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise _unreadable(path, error) from error
    file = os.fdopen(descriptor, "rb")
    try:
        found = os.fstat(descriptor)
        _refuse_kind(path, found.st_mode)
        _refuse_size(path, found.st_size)
    except ValueError:
        file.close()
        raise
    return file


def _refuse_kind(path: Path, mode: int) -> None:
    for is_kind, kind in KINDS:
        if is_kind(mode):
            raise ValueError(f"{path} is {kind}, not a file: put the file there")


def _refuse_size(path: Path, size: int) -> None:
    if size > MOST_BYTES:
        raise ValueError(
            f"{path} has {size} bytes or more: no such file has more than {MOST_BYTES}, "
            "fetch it again"
        )


def _refuse_start_of_pointer(path: Path, content: bytes) -> None:
    if content.startswith(_POINTER):
        raise ValueError(f"{path} is only a Git LFS pointer: run `git lfs pull` in its folder")


def _unreadable(path: Path, error: OSError) -> ValueError:
    return ValueError(f"{path} cannot be read: {error.strerror or error}")


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


def find_config(path: Path) -> Path | None:
    """The configuration in a checkpoint folder, or beside a file with weights.

    `config.json` or `bert_config.json`, else the only file whose name ends in `config.json`.
    Before all comes one that is named after the file: `NAME-config.json` beside `NAME.bin`.
    Raises ValueError for what has such a name and is no file.
    """
    folder = path.parent if path.is_file() else path
    own = (f"{path.stem}-config.json", f"{path.stem}_config.json") if path.is_file() else ()
    for name in (*own, *USUAL):
        if is_there(folder / name):
            return folder / name
    found = [file for file in folder.glob("*config.json") if file.name not in OTHERS]
    return found[0] if len(found) == 1 and is_there(found[0]) else None


def read_config(path: Path, other: Path | None = None) -> dict[str, Any]:
    """What `find_config` finds; ValueError if there is none, there and in the folder `other`."""
    for place in (path, other):
        found = None if place is None else find_config(place)
        if found is not None:
            return read_json(found)
    raise ValueError(
        f"{path.parent if path.is_file() else path} has no config.json, and no single other file "
        "with the configuration of a network: put it there, or name a folder that has it by "
        "tokenizer= (--tokenizer), or pass all of its keys as config="
    )
