"""Content sniffing: whether an input begins as what it is taken for, texts or JSON objects."""

from __future__ import annotations

import csv
import json
import re
from typing import TYPE_CHECKING, Any

from .formats import AS_IT_IS, advice, kind_by_name, table_remedy
from .lines import Members, named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .formats import Format

_LINES = 8
"""Lines that are looked at."""

_SHOWN = 40
"""Characters of a line that a message shows."""

_NAME = r'\{\s*"(?:[^"\\]|\\.)*"\s*:'
_OBJECT = re.compile(r"\s*" + _NAME)
_ARRAY = re.compile(r"\s*\[\s*" + _NAME)
_OPENED = re.compile(r'\s*\[[ \t\r]*\n\s*("(?:[^"\\\n]|\\.)*"\s*[,\]]|\[)')
"""An array that begins in a line of its own."""
_CUT = re.compile(r'\s*\[\s*"(?:[^"\\]|\\.)*"\s*,\s*"')
_DICT = re.compile(r"\s*\{\s*'(?:[^'\\]|\\.)*'\s*:.*\}\s*,?\s*")
"""A dictionary as Python prints it."""

_EVAL = (
    "make JSON lines of them: python -c 'import ast, json, sys; "
    "[print(json.dumps(ast.literal_eval(line))) for line in sys.stdin]' < {quoted} > in.jsonl"
)
_WRAP = (
    'make JSON lines of it: python -c \'import json, sys; [print(json.dumps({"source": text})) for '
    "text in json.load(sys.stdin)]' < {quoted} > in.jsonl"
)
_SPLIT = (
    "make JSON lines of it: python -c 'import json, sys; [print(json.dumps(row)) for row in "
    "json.load(sys.stdin)]' < {quoted} > in.jsonl"
)
_JOIN = "put each object in one line: jq -c . < {quoted} > in.jsonl"
_NO_COMMAS = "remove them by sed 's/,[[:space:]]*$//' < {quoted} > in.jsonl"
_NO_RETURNS = "convert it by tr '\\r' '\\n' < {quoted} > in.txt"

_MARKUP = (
    ("page.html", re.compile(r"\s*<(!doctype\s+html|html)\b", re.IGNORECASE)),
    ("page.xml", re.compile(r"\s*<\?xml\s")),
    ("page.rtf", re.compile(r"\{\\rtf\d")),
)
"""What texts that are written for other programs begin with, by such a name of a file."""

_DELIMITERS = {"\t": "TSV", ",": "CSV", ";": "a table with ; between cells",
               "|": "a table with | between cells"}  # fmt: skip
_SPACED = "\t|"
"""What has spaces around it in tables only; commas are followed by spaces in sentences."""

_COLUMN = re.compile(r"[A-Za-z_][\w.-]{0,40}")

_USUAL = frozenset((
    "id", "idx", "index", "text", "texts", "source", "src", "target", "tgt", "input", "inputs",
    "output", "outputs", "sentence", "sentence1", "sentence2", "document", "article", "summary",
    "highlights", "abstract", "body", "title", "question", "answer", "context", "prompt",
    "response", "instruction", "label", "labels", "category", "score", "lang", "language",
    "translation", "query", "passage", "premise", "hypothesis", "reference", "dialogue", "en",
    "de", "fr", "es", "it", "nl", "ru", "zh", "ja",
))  # fmt: skip


def refuse_unlike_format(
    begin: bytes, name: str, format: Format, fields: Mapping[str, str], *, is_said: bool
) -> None:
    """Raise ValueError, with the remedy, if the first lines are plainly of another format.

    Single lines that are faulty are no reason: they are rejected. `fields`: what objects must
    have, each with the flag that says so. `is_said`: the user has named the format, so that texts
    may look as they like.
    """
    text = begin.decode("utf-8-sig", errors="replace")
    *whole, rest = text.split("\n")
    lines = [line for line in whole if line.strip()][:_LINES] or [rest]
    if not lines[0].strip() or (format == "lines" and is_said):
        return
    _refuse_returns(text, name)
    if format == "lines":
        _refuse_markup(text, name)
        _refuse_objects(text, lines, name)
        _refuse_values(text, lines, name)
        _refuse_table([line for line in [*whole, rest] if line.strip()][:_LINES], name)
    else:
        _refuse_others(text, lines, name, next(iter(fields)))
        _refuse_unlike(lines, name)
        _refuse_lacking(lines, name, fields)


def lacking(begin: bytes, name: str, fields: Mapping[str, str]) -> Iterator[str]:
    """Say of each field that objects may have whether none of the first ones has it.

    `fields`: those that the user has named, each with the flag that says so.
    """
    lines = begin.decode("utf-8-sig", errors="replace").split("\n")
    whole = [line for line in lines if line.strip()][:_LINES]
    objects = [Members(line.strip()) for line in whole if _is_object(line)]
    for field, flag in fields.items():
        if objects and not any(_has_field(one, field) for one in objects):
            yield (
                f"the first objects of {name} have no field {field!r} ({flag}), "
                f"{named(objects[0].names)}: those without it say no language of their own"
            )


def has_object_first(begin: bytes) -> bool:
    """Whether the first thing that is not white space is a brace."""
    return begin.decode("utf-8-sig", errors="replace").lstrip().startswith("{")


def _refuse_objects(text: str, lines: Sequence[str], name: str) -> None:
    """In the place of texts."""
    if _ARRAY.match(text):
        raise ValueError(f"{name} holds a JSON array: {advice(_SPLIT, name)}")
    if lines[0].strip() == "{" and _OBJECT.match(text):
        raise ValueError(f"{name} holds a JSON object over several lines: {advice(_JOIN, name)}")
    _refuse_unlike(lines, name)
    if _has_mostly(_is_python, lines):
        raise ValueError(
            f"{name} holds dictionaries as Python prints them: {advice(_EVAL, name)}{AS_IT_IS}"
        )
    is_cut = "\n" not in text and _OBJECT.match(text) and _behind_object(lines[0]) is None
    if is_cut or _has_mostly(_is_object, lines):
        raise ValueError(
            f"{name} is taken for lines of text and holds JSON objects: pass --input-format json "
            "(and --source-field NAME), or --input-format lines if these are the texts"
        )


def _refuse_returns(text: str, name: str) -> None:
    """The line ends of old Macs, by which everything would be one line."""
    if "\n" not in text and "\r" in text.strip("\r"):
        raise ValueError(
            f"{name} ends its lines with carriage returns: {advice(_NO_RETURNS, name)}{AS_IT_IS}"
        )


def _refuse_values(text: str, lines: Sequence[str], name: str) -> None:
    """JSON that is no object: an array over one line or all of them, or a list or text a line."""
    is_alone = len(text.split("\n", 1)[-1].strip()) == 0 or "\n" not in text
    if _OPENED.match(text) or (is_alone and (_CUT.match(text) or _is_list(lines[0]))):
        raise ValueError(f"{name} holds a JSON array: {advice(_WRAP, name)}{AS_IT_IS}")
    are_lists = len(lines) > 1 and all(map(_is_list, lines))
    # Whole lines in quotation marks may be speech; only JSON escapes what is in them.
    are_texts = all(map(_is_string, lines)) and any("\\" in line for line in lines)
    if are_lists or are_texts:
        what = "lists" if are_lists else "strings"
        raise ValueError(
            f'{name} holds JSON {what}: make an object of each line, {{"source": TEXT}}{AS_IT_IS}'
        )


def _refuse_unlike(lines: Sequence[str], name: str) -> None:
    """Objects that are not one a line, throughout."""
    behind = [_behind_object(line) for line in lines]
    if all(rest is not None and rest.startswith("{") for rest in behind):
        raise ValueError(f"{name} holds several JSON objects in a line: {advice(_JOIN, name)}")
    # The last one of an array that was cut open has no comma.
    if behind[0] == "," and all(rest == "," for rest in behind[:-1]) and behind[-1] in (",", ""):
        raise ValueError(
            f"{name} holds JSON objects with a comma behind each: {advice(_NO_COMMAS, name)}"
        )


def _refuse_lacking(lines: Sequence[str], name: str, fields: Mapping[str, str]) -> None:
    """Objects none of which has what all must have."""
    objects = [Members(line.strip()) for line in lines if _is_object(line)]
    for field, flag in fields.items():
        if objects and not any(_has_field(one, field) for one in objects):
            raise ValueError(
                f"the objects of {name} have no field {field!r}, {named(objects[0].names)}: name "
                f"another by {flag}"
            )


def _has_field(members: Members, field: str) -> bool:
    try:
        return members.raw(field) is not None
    except ValueError:  # it is there twice
        return True


def _has_mostly(is_such: Callable[[str], bool], lines: Sequence[str]) -> bool:
    """Whether most lines are such, the first among them, or all but the first one, a title."""
    such = [is_such(line) for line in lines]
    return (such[0] and 2 * sum(such) > len(such)) or (len(such) > 2 and all(such[1:]))


def _refuse_others(text: str, lines: Sequence[str], name: str, field: str) -> None:
    """In the place of JSON objects."""
    first = lines[0].lstrip()
    begun = any(line.lstrip().startswith("{") for line in lines)
    if first.startswith("[") and (not begun or not _is_json(first)):
        raise ValueError(f"{name} holds a JSON array, not an object a line: {advice(_SPLIT, name)}")
    if not begun:
        raise ValueError(
            f"{name} is taken for JSON lines, and begins {first[:_SHOWN].strip()!r}; lines of text "
            f"have no field {field!r}: name JSON lines, or pass --input-format lines and no flags "
            "about fields"
        )
    open_brace = first.startswith("{") and not _is_object(first)
    if open_brace and (first.strip() == "{" or _OBJECT.match(text)) and _is_in_object(lines):
        raise ValueError(f"{name} holds a JSON object over several lines: {advice(_JOIN, name)}")


def _is_in_object(lines: Sequence[str]) -> bool:
    """Whether the second line is in the middle of an object."""
    return len(lines) > 1 and lines[1].lstrip().startswith('"')


def _is_object(line: str) -> bool:
    return _behind_object(line) == ""


def _behind_object(line: str) -> str | None:
    """What follows the object that a line begins with; None if there is none."""
    text = line.strip()
    if not text.startswith("{"):
        return None
    try:
        _, end = json.JSONDecoder(parse_int=len).raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return text[end:].lstrip()


def _is_python(line: str) -> bool:
    return _DICT.fullmatch(line) is not None


def _is_list(line: str) -> bool:
    """Whether it is a JSON list with a string in it."""
    value = _value(line) if line.lstrip().startswith("[") else None
    return isinstance(value, list) and any(isinstance(item, str) for item in value)


def _is_string(line: str) -> bool:
    return isinstance(_value(line), str)


def _is_json(line: str) -> bool:
    return _value(line) is not None


def _value(line: str) -> Any:
    """What a line of JSON holds; None of others."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _refuse_markup(text: str, name: str) -> None:
    """Documents with tags."""
    for such, begin in _MARKUP:
        kind = kind_by_name(such)
        if kind is not None and begin.match(text):
            raise ValueError(f"{name} is {kind.name}, not plain text: {kind.advice(name)}")


def _refuse_table(lines: Sequence[str], name: str) -> None:
    """A header and rows of a table.

    Tabs and commas in texts are no reason: only a first line that holds nothing but names, among
    them one that columns are called, with as many cells in every line below it.
    """
    for delimiter, kind in _DELIMITERS.items():
        columns = _columns(lines, delimiter)
        if columns is not None:
            names = ", ".join(map(repr, columns))
            raise ValueError(
                f"{name} is taken for lines of text and is {kind} with the columns {names}: "
                f"{advice(table_remedy(delimiter), name)}{AS_IT_IS}"
            )


def _columns(lines: Sequence[str], delimiter: str) -> list[str] | None:
    """The names of the columns; None of what is no table for certain."""
    if delimiter not in lines[0]:
        return None
    try:
        header, *rows = (row for row in csv.reader(lines, delimiter=delimiter) if row)
    except csv.Error:
        return None
    names = [cell.strip() for cell in header] if delimiter in _SPACED else header
    usual = [name.lower() in _USUAL for name in names]
    if len(rows) > 1 and len(rows[-1]) < len(names):
        del rows[-1]  # it may be cut
    are_names = len({*names}) == len(names) > 1 and all(map(_COLUMN.fullmatch, names))
    if not rows or not are_names or not any(usual):
        return None
    # Where every name is a usual one, cells may hold what is between them, too.
    fits = all(len(row) == len(names) or (all(usual) and len(row) > len(names)) for row in rows)
    return names if fits else None
