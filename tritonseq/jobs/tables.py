"""Tables that are taken for lines of text: told by a header of usual names, with the remedy."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING

from .foreign import table_told

if TYPE_CHECKING:
    from collections.abc import Sequence

_DELIMITERS = {"\t": "TSV", ",": "CSV", ";": "a table with ; between cells",
               "|": "a table with | between cells"}  # fmt: skip
_SPACED = "\t|"
"""What has spaces around it in tables only; commas are followed by spaces in sentences."""

_NAME = re.compile(r"[A-Za-z_][\w.-]{0,40}")

_USUAL = frozenset((
    "id", "idx", "index", "text", "texts", "source", "src", "target", "tgt", "input", "inputs",
    "output", "outputs", "sentence", "sentence1", "sentence2", "document", "article", "summary",
    "highlights", "abstract", "body", "title", "question", "answer", "context", "prompt",
    "response", "instruction", "label", "labels", "category", "score", "lang", "language",
    "translation", "query", "passage", "premise", "hypothesis", "reference", "dialogue", "en",
    "de", "fr", "es", "it", "nl", "ru", "zh", "ja",
))  # fmt: skip


def refuse_table(lines: Sequence[str], name: str) -> None:
    """Raise ValueError, with the remedy, if the first lines are a header and rows of a table.

    Tabs and commas in texts are no reason: only a first line that holds nothing but names, among
    them one that columns are called, with as many cells in every line below it.
    """
    for delimiter, kind in _DELIMITERS.items():
        columns = _columns(lines, delimiter)
        if columns is not None:
            raise ValueError(
                f"{name} is taken for lines of text and is {kind} with the columns "
                f"{', '.join(map(repr, columns))}: {table_told(name, delimiter)}"
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
    are_names = len({*names}) == len(names) > 1 and all(map(_NAME.fullmatch, names))
    if not rows or not are_names or not any(usual):
        return None
    # Where every name is a usual one, cells may hold what is between them, too.
    fits = all(len(row) == len(names) or (all(usual) and len(row) > len(names)) for row in rows)
    return names if fits else None
