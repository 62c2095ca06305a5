"""Other formats: files and tables that are no lines of text or JSON, refused with the remedy."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


BEGIN = 1 << 16
"""Bytes of a file that are looked at."""

_CSV = (
    "python -c 'import csv, json, sys; [print(json.dumps(row)) for row in csv.DictReader(sys.stdin"
    "{more})]' > in.jsonl"
)
_PANDAS = (
    'make JSON lines of it: python -c \'import pandas; pandas.read_{how}("{name}").to_json('
    '"in.jsonl", orient="records", lines=True)\''
)
_UNPACK = "hand on what is in it: {how} {quoted} | tritonseq generate MODEL - OUTPUT"
_PANDOC = "extract its text: pandoc -t plain {quoted} > in.txt"
_YAML = (
    "python -c 'import json, sys, yaml; [print(json.dumps(row)) for row in "
    "yaml.safe_load(sys.stdin)]' > in.jsonl"
)
_AS_IT_IS = " (--input-format lines takes each line for a text as it is)"
_ICONV = "convert it with `iconv -f {how} -t UTF-8` first"
_TEXT = "name a file of UTF-8 text or JSON lines"


_BZIP2 = tuple(b"BZh%d1AY&SY" % level for level in range(1, 10))

_PICKLES = tuple(b"\x80%c" % version for version in range(2, 6))


class Kind(NamedTuple):
    """A kind of file."""

    name: str
    endings: tuple[str, ...]
    magic: tuple[bytes, ...]
    """What such files begin with; nothing where only a name tells."""
    remedy: str

    @property
    def is_text(self) -> bool:
        """Is it text all the same, so that its lines can be taken as they are?"""
        return not self.magic

    def told(self, name: str) -> str:
        """The remedy for the file of this name."""
        return _told(self.remedy, name) + (_AS_IT_IS if self.is_text else "")


def _told(remedy: str, name: str) -> str:
    quoted = shlex.quote("/dev/stdin" if name == "stdin" else name)
    remedy = remedy.replace("{quoted}", quoted).replace("{name}", name)
    return remedy.replace("cat ", "gzip -dc ", 1) if name.lower().endswith(".gz") else remedy


def _table(delimiter: str) -> str:
    more = "" if delimiter == "," else f', delimiter="{delimiter}"'
    more = more.replace("\t", "\\t")
    return "make JSON lines of it: cat {quoted} | " + _CSV.format(more=more)


_KINDS = (
    Kind("CSV", (".csv",), (), _table(",")),
    Kind("TSV", (".tsv", ".tab"), (), _table("\t")),
    Kind("HTML", (".html", ".htm", ".xhtml"), (), _PANDOC),
    Kind("XML", (".xml",), (), "take its texts out of the tags, one a line"),
    Kind("RTF", (".rtf",), (), _PANDOC),
    Kind("YAML", (".yaml", ".yml"), (), "make JSON lines of it: cat {quoted} | " + _YAML),
    Kind("Parquet", (".parquet",), (b"PAR1\x15",), _PANDAS.replace("{how}", "parquet")),
    Kind(
        "Arrow", (".arrow", ".feather"), (b"ARROW1\0\0", b"FEA1\0"),
        _PANDAS.replace("{how}", "feather"),
    ),
    Kind(
        "an Excel sheet", (".xlsx", ".xls"), (b"\xd0\xcf\x11\xe0",),
        _PANDAS.replace("{how}", "excel"),
    ),
    Kind("zip", (".zip",), (b"PK\x03\x04", b"PK\x05\x06"), _UNPACK.replace("{how}", "unzip -p")),
    Kind("bzip2", (".bz2",), _BZIP2, _UNPACK.replace("{how}", "bzip2 -dc")),
    Kind("xz", (".xz", ".lzma"), (b"\xfd7zXZ\0", b"]\0\0"), _UNPACK.replace("{how}", "xz -dc")),
    Kind("Zstandard", (".zst",), (b"\x28\xb5\x2f\xfd",), _UNPACK.replace("{how}", "zstd -dc")),
    Kind("LZ4", (".lz4",), (b"\x04\x22\x4d\x18",), _UNPACK.replace("{how}", "lz4 -dc")),
    Kind("7-Zip", (".7z",), (b"7z\xbc\xaf\x27\x1c",), _UNPACK.replace("{how}", "7z x -so")),
    Kind("tar", (".tar", ".tgz"), (b"./PaxHeaders",), _UNPACK.replace("{how}", "tar -xOf")),
    Kind("UTF-32", (), (b"\xff\xfe\0\0", b"\0\0\xfe\xff"), _ICONV.replace("{how}", "UTF-32")),
    Kind("UTF-16", (), (b"\xff\xfe", b"\xfe\xff"), _ICONV.replace("{how}", "UTF-16")),
    Kind("PDF", (".pdf",), (b"%PDF-",), "extract its text: pdftotext {quoted} in.txt"),
    Kind("NumPy", (".npy", ".npz"), (b"\x93NUMPY",), _TEXT),
    Kind("pickle", (".pkl", ".pickle"), _PICKLES, _TEXT),
    Kind("SQLite", (".sqlite", ".db"), (b"SQLite format 3\0",), _TEXT),
    Kind("an image", (".png", ".jpg", ".jpeg"), (b"\x89PNG", b"\xff\xd8\xff"), _TEXT),
    Kind("an image", (".gif",), (b"GIF87a", b"GIF89a"), _TEXT),
    Kind("a program", (), (b"\x7fELF",), _TEXT),
)  # fmt: skip

_MARKUP = (
    ("HTML", re.compile(r"\s*<(!doctype\s+html|html)\b", re.IGNORECASE)),
    ("XML", re.compile(r"\s*<\?xml\s")),
    ("RTF", re.compile(r"\{\\rtf\d")),
)
"""What texts that are written for other programs begin with."""

_ZEROS = 0.2
"""Text has hardly any zero bytes; UTF-16 without a mark and binary files have more than this."""

_ENOUGH = 16
"""Bytes to judge by."""

_TAR_MAGIC = (257, b"ustar")


def kind_by_name(name: str) -> Kind | None:
    """The kind that the ending of a name tells, before .gz or without."""
    ending = PurePath(name.lower().removesuffix(".gz")).suffix
    return next((kind for kind in _KINDS if ending and ending in kind.endings), None)


def table_told(name: str, delimiter: str) -> str:
    """The remedy for a table with so delimited cells."""
    return _told(_table(delimiter), name) + _AS_IT_IS


def refuse_markup(text: str, name: str) -> None:
    """Raise ValueError, with the remedy, if a text begins as a document with tags."""
    for found, begin in _MARKUP:
        if begin.match(text):
            kind = next(kind for kind in _KINDS if kind.name == found)
            raise ValueError(f"{name} is {found}, not plain text: {kind.told(name)}")


def refuse_kind(begin: bytes, name: str) -> None:
    """Raise ValueError, with the remedy, if a file begins with the mark of another kind."""
    for kind in _KINDS:
        if begin.startswith(kind.magic or (b"\0" * (BEGIN + 1),)):
            raise ValueError(f"{name} is {kind.name}: {kind.told(name)}")
    at, magic = _TAR_MAGIC
    if begin[at : at + len(magic)] == magic:
        raise ValueError(f"{name} is tar, not text: unpack it first")


def refuse_binary(begin: bytes, name: str) -> None:
    """Raise ValueError if what a file begins with has too many zeros to be text in UTF-8.

    Single lines that are none are no reason: they are rejected.
    """
    if len(begin) < _ENOUGH or begin.count(0) < _ZEROS * len(begin):
        return
    even, odd = begin[::2].count(0), begin[1::2].count(0)
    if max(even, odd) > 4 * min(even, odd):
        order = "LE" if odd > even else "BE"
        raise ValueError(
            f"{name} looks like UTF-16 without a mark: {_ICONV.replace('{how}', 'UTF-16' + order)}"
        )
    raise ValueError(f"{name} is a binary file, not text: {_TEXT}")


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
