"""What files hold: lines of text, or JSON lines; and how an object is written in one line."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from .foreign import kind_by_name
from .members import Members

if TYPE_CHECKING:
    from collections.abc import Mapping

Format = Literal["lines", "json"]

FORMATS: Mapping[str, Format] = {
    "lines": "lines", "json": "json", "text": "lines", "jsonl": "json",
}  # fmt: skip
"""What formats may be called."""

_JSON_SUFFIXES = (".jsonl", ".jsonlines", ".ndjson", ".json")


class RawJson(str):
    """A value as it stands in a file, which is written again byte for byte."""

    __slots__ = ()


def format_of(
    name: str, given: str | None = None, *, is_read: bool = False, has_fields: bool = False
) -> Format:
    """The format `given`, else the one that the name of a file tells, with .gz or without.

    "-" and names without a known ending are lines, unless something was said of its fields. Raises
    ValueError for an unknown format, and for names of other kinds of files: those that lines could
    be written to or read from under such a name need a format that is given.
    """
    if given is not None and given not in FORMATS:
        raise ValueError(f"the format is {given!r}: it must be 'lines' or 'json'")
    _check_name(name, is_given=given is not None, is_read=is_read)
    if given is not None:
        return FORMATS[given]
    suffix = PurePath(name.lower().removesuffix(".gz")).suffix
    return "json" if has_fields or suffix in _JSON_SUFFIXES else "lines"


def _check_name(name: str, *, is_given: bool, is_read: bool) -> None:
    kind = kind_by_name(name)
    # What an output with tabs in it or for a page of the web is called is no matter.
    is_free = is_given or (kind is not None and kind.name != "CSV" and not is_read)
    if kind is None or (kind.is_text and is_free):
        return
    if not is_read:
        raise ValueError(
            f"OUTPUT is {name}, and {kind.name} cannot be written: name it .jsonl or .txt, with "
            ".gz or without"
        )
    raise ValueError(f"{name} is {kind.name}, which is not read: {kind.told(name)}")


def is_gzip(name: str) -> bool:
    """Does the name of a file say that it is compressed?"""
    return name.lower().endswith(".gz")


def encode_object(*parts: Mapping[str, Any]) -> bytes:
    """One line of JSON with the members of all parts, newline included.

    `Members` and `RawJson` keep the bytes that they had. Half a surrogate pair, which JSON can
    hold and UTF-8 cannot, stays the escape that it was.
    """
    try:
        return _line(parts, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return _line(parts, ensure_ascii=True).encode()


def _line(parts: tuple[Mapping[str, Any], ...], *, ensure_ascii: bool) -> str:
    def json_of(value: Any) -> str:
        if isinstance(value, RawJson):
            return value
        return json.dumps(value, ensure_ascii=ensure_ascii)

    texts = [
        part.carried
        if isinstance(part, Members)
        else ", ".join(f"{json_of(name)}: {json_of(value)}" for name, value in part.items())
        for part in parts
    ]
    return "{" + ", ".join(filter(None, texts)) + "}\n"
