"""Lines, text or JSON: parsed into samples, or rejected with the reason, and written of samples."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from tritonseq.stages.sample import Sample

    from .formats import Format

_SHOWN_FIELDS = 8
"""Fields of an object that a message names."""
_DEEPEST = 200
_OF_TOKENS = ("token_ids", "token_scores")
"""Fields of an output's tokens, and of a `Completion`."""
_TYPES = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}

_SPACE = re.compile(r"[ \t\r\n]*")

# Numbers are only passed over, and may be longer than Python likes to read.
_SCANNER = json.JSONDecoder(parse_int=len, parse_float=len)


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
    src_lang_field: str = "src_lang"
    tgt_lang_field: str = "tgt_lang"

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
        sample.src_lang = self._language(fields, self.src_lang_field)
        sample.tgt_lang = self._language(fields, self.tgt_lang_field)
        if self.id_field is not None:
            self._field(fields, self.id_field, " (id)")
        for name in self.taken:
            if name in fields.names and (name != self.source_field or self.keep_source):
                scores = name in ("score", "scores", *_OF_TOKENS)
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

    def _language(self, fields: Members, name: str) -> str | None:
        """The language that a line names, if it does."""
        value = fields.raw(name)
        code = None if value is None else json.loads(value)
        if not isinstance(code, str | None):
            raise ValueError(
                f"the field {name!r} holds {_kind(code)}: it must be the code of a language"
            )
        return code

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
    return _TYPES.get(type(value), "a number")


def named(names: Sequence[str]) -> str:
    """The fields of an object, as the end of a sentence."""
    if not names:
        return "and the object is empty"
    shown = ", ".join(map(repr, names[:_SHOWN_FIELDS]))
    return f"only {shown}" + (", ..." if len(names) > _SHOWN_FIELDS else "")


class Member(NamedTuple):
    """A name with its value, by their places in the text of the object."""

    name: str
    start: int
    """Where the name begins."""
    value: int
    """Where the value begins."""
    end: int
    """Where it ends."""


class Members(Mapping[str, Any]):
    """Those of one object, read from its text; the values of a name that comes twice are both kept.

    As a mapping it has the values that are carried through, the last one of each name.
    """

    def __init__(self, text: str, dropped: Collection[str] = ()) -> None:
        """`text` is one valid JSON object; the members `dropped` are not carried through."""
        self._text = text
        self._all = list(_members(text))
        self._carried = [member for member in self._all if member.name not in dropped]

    @property
    def carried(self) -> str:
        """The members that are carried through, as they stand in the text, commas between them."""
        if not self._carried:
            return ""
        after = {one.start: two.start for one, two in zip(self._all, self._all[1:], strict=False)}
        *others, last = self._carried
        parts = [self._text[member.start : after[member.start]] for member in others]
        return "".join(parts) + self._text[last.start : last.end]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all members, carried or not."""
        return tuple(member.name for member in self._all)

    def raw(self, path: str) -> str | None:
        """The value under a name as it stands in the text; None if there is none.

        A name with dots that no member has leads into objects: "a.b" is the "b" of "a". Raises
        ValueError if there are several.
        """
        found = [member for member in self._all if member.name == path]
        if len(found) > 1:
            raise ValueError(f"the field {path!r} is there {len(found)} times: leave one")
        if found:
            return self._text[found[0].value : found[0].end]
        outer, dot, inner = path.partition(".")
        value = self.raw(outer) if dot else None
        if value is None or not value.startswith("{"):
            return None
        return Members(value).raw(inner)

    def __getitem__(self, name: str) -> Any:
        for member in reversed(self._carried):
            if member.name == name:
                return json.loads(self._text[member.value : member.end])
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(member.name for member in self._carried))

    def __len__(self) -> int:
        return len({member.name for member in self._carried})


def _members(text: str) -> Iterator[Member]:
    at = _after_space(text, _after_space(text, 0) + 1)
    while text[at] != "}":
        name, end = _SCANNER.raw_decode(text, at)
        # Behind the name stands a colon.
        value = _after_space(text, _after_space(text, end) + 1)
        _, end = _SCANNER.raw_decode(text, value)
        yield Member(name, at, value, end)
        at = _after_space(text, end)
        if text[at] == ",":
            at = _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None, "it matches nothing, too"
    return found.end()


class RawJson(str):
    """A value as it stands in a file, which is written again byte for byte."""

    __slots__ = ()


def encode_object(*parts: Mapping[str, Any]) -> bytes:
    """One line of JSON with the members of all parts, newline included.

    `Members` and `RawJson` keep the bytes that they had. Half a surrogate pair, which JSON can
    hold and UTF-8 cannot, stays the escape that it was.
    """
    try:
        return _joined(parts, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return _joined(parts, ensure_ascii=True).encode()


def _joined(parts: tuple[Mapping[str, Any], ...], *, ensure_ascii: bool) -> str:
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
class Formatter:
    """How outputs are written; the fields are those of `OutputFile`."""

    format: Format
    copies: int = 1
    with_scores: bool = False
    output_field: str = "output"
    id_field: str | None = None
    whole: bool = False
    pair_field: str | None = None
    with_token_scores: bool = False

    @property
    def score_field(self) -> str:
        return "score" if self.copies == 1 else "scores"

    @property
    def taken(self) -> tuple[str, ...]:
        """The fields that an object of the input must not have."""
        if self.format == "lines" or self.pair_field is not None:
            return ()
        scores = (self.score_field,) if self.with_scores else ()
        return (self.output_field, *scores, *(_OF_TOKENS if self.with_token_scores else ()))

    def output(self, sample: Sample) -> bytes:
        """One object, or a line of text for each output; empty ones for a rejected sample."""
        done = sample.completion
        texts = done.texts if done.texts is not None else [""] * self.copies
        if self.pair_field is not None:
            source = {self.pair_field: shown(sample)}
            return b"".join(encode_object(source, {self.output_field: text}) for text in texts)
        if self.format == "json":
            return encode_object(sample.fields, self._added(sample, texts))
        prompt = shown(sample) if self.whole and done.fault is None else ""
        lines = [_in_one_line(prompt + text) for text in texts]
        if self.with_scores:
            scores = [""] * len(lines)
            if done.scores is not None:
                scores = [str(_rounded(score)) for score in done.scores]
            lines = [f"{score}\t{line}" for score, line in zip(scores, lines, strict=True)]
        # Half a surrogate pair is no text that UTF-8 could hold.
        return "".join(f"{line}\n" for line in lines).encode(errors="replace")

    def rejection(self, sample: Sample) -> bytes:
        """The object that says which line was rejected, and why."""
        rejection: dict[str, Any] = {"line": sample.number + 1}
        if self.id_field is not None:
            rejection |= _identity(sample.fields, self.id_field)
        rejection["reason"] = sample.completion.fault
        if sample.text is not None:
            rejection["source"] = sample.text
        return encode_object(rejection)

    def _added(self, sample: Sample, texts: list[str]) -> dict[str, Any]:
        """What an object has beside the fields that are carried through."""
        result: dict[str, Any] = {self.output_field: texts[0] if self.copies == 1 else texts}
        if self.with_scores:
            scores: list[float | None] = [None] * self.copies
            if (found := sample.completion.scores) is not None:
                scores = [_in_json(score) for score in found]
            result[self.score_field] = scores[0] if self.copies == 1 else scores
        if self.with_token_scores:
            result |= {name: self._by_token(sample, name) for name in _OF_TOKENS}
        return result

    def _by_token(self, sample: Sample, name: str) -> Any:
        """A list for each output, empty for that of a blank text, null for that of a rejected."""
        done = sample.completion
        lists = getattr(done, name)
        if lists is None:
            lists = [None if done.texts is None else []] * self.copies
        lists = [None if each is None else [_in_json(value) for value in each] for each in lists]
        return lists[0] if self.copies == 1 else lists


def _identity(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The field that names a line, if it has one, as it stands there."""
    if not isinstance(fields, Members):
        return {"id": fields[name]} if name in fields else {}
    try:
        value = fields.raw(name)
    except ValueError:  # It comes twice: then it names nothing.
        return {}
    return {} if value is None else {"id": RawJson(value)}


def shown(sample: Sample) -> str:
    """The source as one string."""
    if isinstance(sample.text, str):
        return sample.text
    return " ".join(sample.text or ())


def _in_one_line(text: str) -> str:
    """A text without what would end its line."""
    return text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")


def _in_json(value: float) -> float | None:
    """A score, rounded, or an id; JSON has no infinity."""
    if isinstance(value, int):
        return value
    return _rounded(value) if math.isfinite(value) else None


def _rounded(score: float) -> float:
    """Four decimals, and no minus before a zero: float32 has a few more, but not in every batch."""
    return round(score, 4) + 0.0
