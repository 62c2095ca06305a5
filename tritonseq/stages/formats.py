"""What files hold: lines of text, or JSON lines; and how an object is written in one line."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

Format = Literal["lines", "json"]

_JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")


def format_of(name: str, given: str | None = None) -> Format:
    """The format `given`, else the one that the name of a file tells, with .gz or without.

    "-" and names without a known ending are lines. Raises ValueError for an unknown format.
    """
    if given is not None:
        if given not in ("lines", "json"):
            raise ValueError(f"the format is {given!r}: it must be 'lines' or 'json'")
        return cast("Format", given)
    plain = name.lower().removesuffix(".gz")
    return "json" if PurePath(plain).suffix in _JSON_SUFFIXES else "lines"


def is_gzip(name: str) -> bool:
    """Does the name of a file say that it is compressed?"""
    return name.lower().endswith(".gz")


def encode_object(value: Mapping[str, Any]) -> bytes:
    """One line of JSON, newline included.

    Half a surrogate pair, which JSON can hold and UTF-8 cannot, stays the escape that it was.
    """
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value).encode() + b"\n"
