"""Whether an input begins as what it is taken for: texts, or JSON objects a line."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .formats import Format

_LINES = 8
"""Lines that are looked at."""

_SHOWN = 40
"""Characters of a line that a message shows."""

_NAME = r'\{\s*"(?:[^"\\]|\\.)*"\s*:'
_OBJECT = re.compile(r"\s*" + _NAME)
_ARRAY = re.compile(r"\s*\[\s*" + _NAME)

_SPLIT = (
    "python -c 'import json, sys; [print(json.dumps(row)) for row in json.load(sys.stdin)]' < "
    "{quoted} > in.jsonl"
)


def refuse_shape(begin: bytes, name: str, format: Format, field: str, *, is_said: bool) -> None:
    """Raise ValueError, with the remedy, if the first lines are plainly of another format.

    Single lines that are faulty are no reason: they are rejected. `field`: what objects must
    have. `is_said`: the user has named the format, so that texts may look as they like.
    """
    text = begin.decode("utf-8-sig", errors="replace")
    *whole, rest = text.split("\n")
    lines = [line for line in whole if line.strip()][:_LINES] or [rest]
    if not lines[0].strip() or (format == "lines" and is_said):
        return
    if format == "lines":
        _refuse_objects(text, lines, name)
    else:
        _refuse_others(text, lines, name, field)


def begins_with_object(begin: bytes) -> bool:
    """Is the first thing that is not white space a brace?"""
    return begin.decode("utf-8-sig", errors="replace").lstrip().startswith("{")


def _refuse_objects(text: str, lines: Sequence[str], name: str) -> None:
    """In the place of texts."""
    if _ARRAY.match(text):
        raise ValueError(f"{name} holds a JSON array: {_array(name)}")
    if lines[0].strip() == "{" and _OBJECT.match(text):
        raise ValueError(f"{name} holds a JSON object over several lines: {_several(name)}")
    is_cut = "\n" not in text and _OBJECT.match(text)
    objects = [_is_object(line) for line in lines]
    if is_cut or (objects[0] and 2 * sum(objects) > len(objects)):
        raise ValueError(
            f"{name} is taken for lines of text and holds JSON objects: pass --input-format json "
            "(and --source-field NAME), or --input-format lines if these are the texts"
        )


def _refuse_others(text: str, lines: Sequence[str], name: str, field: str) -> None:
    """In the place of JSON objects."""
    first = lines[0].lstrip()
    begun = any(line.lstrip().startswith("{") for line in lines)
    if first.startswith("[") and (not begun or not _is_json(first)):
        raise ValueError(f"{name} holds a JSON array, not an object a line: {_array(name)}")
    if not begun:
        raise ValueError(
            f"{name} is taken for JSON lines, and begins {first[:_SHOWN].strip()!r}; lines of text "
            f"have no field {field!r}: name JSON lines, or pass --input-format lines and no flags "
            "about fields"
        )
    open_brace = first.startswith("{") and not _is_object(first)
    if open_brace and (first.strip() == "{" or _OBJECT.match(text)) and _goes_on(lines):
        raise ValueError(f"{name} holds a JSON object over several lines: {_several(name)}")


def _goes_on(lines: Sequence[str]) -> bool:
    """Is the second line in the middle of an object?"""
    return len(lines) > 1 and lines[1].lstrip().startswith('"')


def _is_object(line: str) -> bool:
    return line.lstrip().startswith("{") and _is_json(line)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _array(name: str) -> str:
    return f"make JSON lines of it: {_SPLIT.format(quoted=_quoted(name))}"


def _several(name: str) -> str:
    return f"put each object in one line: jq -c . < {_quoted(name)} > in.jsonl"


def _quoted(name: str) -> str:
    return shlex.quote("/dev/stdin" if name == "stdin" else name)
