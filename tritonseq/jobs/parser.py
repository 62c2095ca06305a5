"""From the line of a file to a source, or to the reason why there is none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .members import Members

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tritonseq.stages.sample import Sample

    from .formats import Format

_SHOWN_FIELDS = 8
"""Fields of an object that a message names."""

_DEEPEST = 200

_KINDS = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}


@dataclass(frozen=True)
class Parser:
    """Reads lines of one format; the fields are those of `Source`."""

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
