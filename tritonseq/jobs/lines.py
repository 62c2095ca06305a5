"""The lines of a file, text or JSON: from one to a source, or to the reason why it is rejected."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from .foreign import kind_by_name
from .members import Members

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tritonseq.stages.sample import Sample


Format = Literal["lines", "json"]

FORMATS: Mapping[str, Format] = {
    "lines": "lines", "json": "json", "text": "lines", "jsonl": "json",
}  # fmt: skip
"""What formats may be called."""

_JSON_SUFFIXES = (".jsonl", ".jsonlines", ".ndjson", ".json")


_SHOWN_FIELDS = 8
"""Fields of an object that a message names."""
_DEEPEST = 200
_KINDS = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}


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


@dataclass(frozen=True)
class Parser:
    """Reads lines of one format; the fields are those of `InputFile`."""

    format: Format
    source_field: str
    id_field: str | None
    taken: Collection[str]
    keep_source: bool
    tokenized: bool
    longest: int

    def fill(self, sample: Sample, line: bytes) -> None:
        """Give the sample what its line holds; where that is faulty, reject it and say why."""
        try:
            text = self._decoded(line, first=sample.number == 0)
            if self.format == "json" and text.strip():
                self._read_object(sample, text)
            else:
                self._read_line(sample, text)
        except ValueError as error:
            sample.reject(str(error))

    def _decoded(self, line: bytes, *, first: bool) -> str:
        body = line.removesuffix(b"\n").removesuffix(b"\r")
        if len(body) > self.longest:
            raise ValueError(f"the line has more than {self.longest:,} bytes: split it")
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"invalid UTF-8: byte {error.start + 1} of the line, 0x{body[error.start]:02x} "
                f"({error.reason})"
            ) from None
        # The mark that editors put before UTF-8 is no text.
        return text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}") if first else text

    def _read_line(self, sample: Sample, text: str) -> None:
        sample.text = text.split() if self.tokenized else text
        if self.format == "lines":
            sample.fields = {"line": sample.number + 1}
            if self.keep_source:
                sample.fields[self.source_field] = text

    def _read_object(self, sample: Sample, text: str) -> None:
        _check_object(text)
        dropped = {*self.taken} if self.keep_source else {*self.taken, self.source_field}
        fields = Members(text, dropped)
        sample.fields = fields
        sample.text = self._source(self._field(fields, self.source_field))
        if self.id_field is not None:
            self._field(fields, self.id_field, " (id)")
        for name in self.taken:
            if name in fields.names and (name != self.source_field or self.keep_source):
                scores = name in ("score", "scores")
                other = (
                    "" if scores else "choose another name for the output's (--output-field), or "
                )
                raise ValueError(
                    f"there is a field {name!r} already: {other}rename it in the input"
                )

    def _field(self, fields: Members, name: str, what: str = "") -> str:
        """The value of a field that must be there, as JSON."""
        value = fields.raw(name)
        if value is None:
            raise ValueError(f"there is no field {name!r}{what}, {named(fields.names)}")
        return value

    def _source(self, value: str) -> str | list[str]:
        source = json.loads(value)
        tokens = [source] if isinstance(source, str) else source
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise ValueError(
                f"the field {self.source_field!r} holds {_kind(source)}: it must be a text or a "
                "list of tokens"
            )
        try:
            "".join(tokens).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the field {self.source_field!r} holds half a surrogate pair, "
                f"\\u{ord(error.object[error.start]):04x}, which is no character"
            ) from None
        return source.split() if self.tokenized and isinstance(source, str) else source


def _check_object(text: str) -> None:
    """Raise ValueError if the line is no JSON object, or too deep a one."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"invalid JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"invalid JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"invalid JSON: it is nested more than {_DEEPEST} deep") from None
    if text.count("[") + text.count("{") > _DEEPEST and _is_deep(value):
        # One that could just be read might be too deep to be written.
        raise ValueError(f"invalid JSON: it is nested more than {_DEEPEST} deep")
    if not isinstance(value, dict):
        raise ValueError(f"invalid JSON: the line holds {_kind(value)}, not an object")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        inner = [list(item.values()) if isinstance(item, dict) else item for item in level]
        level = [value for item in inner if isinstance(item, list) for value in item]
    return any(isinstance(item, (dict, list)) for item in level)


def _kind(value: Any) -> str:
    if isinstance(value, list) and any(not isinstance(item, str) for item in value):
        item = next(item for item in value if not isinstance(item, str))
        return f"a list with {_kind(item)}"
    if isinstance(value, dict):
        return "an object"
    return _KINDS.get(type(value), "a number")


def named(names: Sequence[str]) -> str:
    """The fields of an object, as the end of a sentence."""
    if not names:
        return "and the object is empty"
    shown = ", ".join(map(repr, names[:_SHOWN_FIELDS]))
    return f"only {shown}" + (", ..." if len(names) > _SHOWN_FIELDS else "")
