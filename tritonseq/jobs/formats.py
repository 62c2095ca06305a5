"""File formats: text or JSON lines by the name of a file; others are refused with the remedy."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

Format = Literal["lines", "json"]

FORMATS: Mapping[str, Format] = {
    "lines": "lines", "json": "json", "text": "lines", "jsonl": "json",
}  # fmt: skip
"""What formats may be called."""

_JSON_SUFFIXES = (".jsonl", ".jsonlines", ".ndjson", ".json")

BEGIN = 1 << 16
"""Bytes of a file that are looked at."""

_CSV = (
    "python -c 'import csv, json, sys; [print(json.dumps(row)) for row in csv.DictReader(sys.stdin"
    "{more})]' > in.jsonl"
)
_PANDOC = "extract its text: pandoc -t plain {quoted} > in.txt"
_YAML = (
    "python -c 'import json, sys, yaml; [print(json.dumps(row)) for row in "
    "yaml.safe_load(sys.stdin)]' > in.jsonl"
)
AS_IT_IS = " (--input-format lines takes each line for a text as it is)"
"""What may be added to a remedy for text."""
_TEXT = "name a file of UTF-8 text or JSON lines"

_BZIP2 = tuple(b"BZh%d1AY&SY" % level for level in range(1, 10))
_PICKLES = tuple(b"\x80%c" % version for version in range(2, 6))

_ZEROS = 0.2
"""Text has hardly any zero bytes; UTF-16 without a mark and binary files have more than this."""

_ENOUGH = 16
"""Bytes to judge by."""

_TAR_MAGIC = (257, b"ustar")


def advice(remedy: str, name: str) -> str:
    """A remedy for the file of this name."""
    quoted = shlex.quote("/dev/stdin" if name == "stdin" else name)
    if name.lower().endswith(".gz"):
        remedy = remedy.replace("cat {quoted}", "gzip -dc {quoted}")
        # A command that reads the file reads what comes of it.
        remedy = re.sub(r"(: |by )(.*) < \{quoted\}", r"\1gzip -dc {quoted} | \2", remedy)
    return remedy.replace("{quoted}", quoted).replace("{name}", name)


class FileKind(NamedTuple):
    """A kind of file."""

    name: str
    endings: tuple[str, ...]
    magic: tuple[bytes, ...]
    """What such files begin with; none where only a name tells."""
    remedy: str

    @property
    def is_text(self) -> bool:
        """Whether it is text all the same, so that its lines can be taken as they are."""
        return not self.magic

    def advice(self, name: str) -> str:
        """The remedy for the file of this name, and that for all text."""
        return advice(self.remedy, name) + (AS_IT_IS if self.is_text else "")


def _pandas(how: str) -> str:
    return (
        f'make JSON lines of it: python -c \'import pandas; pandas.read_{how}("{{name}}").to_json('
        '"in.jsonl", orient="records", lines=True)\''
    )


def _unpack(how: str) -> str:
    return f"hand on what is in it: {how} {{quoted}} | tritonseq generate MODEL - OUTPUT"


def _iconv(encoding: str) -> str:
    return f"convert it with `iconv -f {encoding} -t UTF-8` first"


def table_remedy(delimiter: str) -> str:
    """What to do with a table whose cells are so delimited."""
    more = "" if delimiter == "," else f', delimiter="{delimiter}"'
    more = more.replace("\t", "\\t")
    return "make JSON lines of it: cat {quoted} | " + _CSV.format(more=more)


_KINDS = (
    FileKind("CSV", (".csv",), (), table_remedy(",")),
    FileKind("TSV", (".tsv", ".tab"), (), table_remedy("\t")),
    FileKind("HTML", (".html", ".htm", ".xhtml"), (), _PANDOC),
    FileKind("XML", (".xml",), (), "take its texts out of the tags, one a line"),
    FileKind("RTF", (".rtf",), (), _PANDOC),
    FileKind("YAML", (".yaml", ".yml"), (), "make JSON lines of it: cat {quoted} | " + _YAML),
    FileKind("Parquet", (".parquet",), (b"PAR1\x15",), _pandas("parquet")),
    FileKind("Arrow", (".arrow", ".feather"), (b"ARROW1\0\0", b"FEA1\0"), _pandas("feather")),
    FileKind("an Excel sheet", (".xlsx", ".xls"), (b"\xd0\xcf\x11\xe0",), _pandas("excel")),
    FileKind("zip", (".zip",), (b"PK\x03\x04", b"PK\x05\x06"), _unpack("unzip -p")),
    FileKind("bzip2", (".bz2",), _BZIP2, _unpack("bzip2 -dc")),
    FileKind("xz", (".xz", ".lzma"), (b"\xfd7zXZ\0", b"]\0\0"), _unpack("xz -dc")),
    FileKind("Zstandard", (".zst",), (b"\x28\xb5\x2f\xfd",), _unpack("zstd -dc")),
    FileKind("LZ4", (".lz4",), (b"\x04\x22\x4d\x18",), _unpack("lz4 -dc")),
    FileKind("7-Zip", (".7z",), (b"7z\xbc\xaf\x27\x1c",), _unpack("7z x -so")),
    FileKind("tar", (".tar", ".tgz"), (b"./PaxHeaders",), _unpack("tar -xOf")),
    FileKind("UTF-32", (), (b"\xff\xfe\0\0", b"\0\0\xfe\xff"), _iconv("UTF-32")),
    FileKind("UTF-16", (), (b"\xff\xfe", b"\xfe\xff"), _iconv("UTF-16")),
    FileKind("PDF", (".pdf",), (b"%PDF-",), "extract its text: pdftotext {quoted} in.txt"),
    FileKind("NumPy", (".npy", ".npz"), (b"\x93NUMPY",), _TEXT),
    FileKind("pickle", (".pkl", ".pickle"), _PICKLES, _TEXT),
    FileKind("SQLite", (".sqlite", ".db"), (b"SQLite format 3\0",), _TEXT),
    FileKind("an image", (".png", ".jpg", ".jpeg"), (b"\x89PNG", b"\xff\xd8\xff"), _TEXT),
    FileKind("an image", (".gif",), (b"GIF87a", b"GIF89a"), _TEXT),
    FileKind("a program", (), (b"\x7fELF",), _TEXT),
)  # fmt: skip


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
    raise ValueError(f"{name} is {kind.name}, which is not read: {kind.advice(name)}")


def kind_by_name(name: str) -> FileKind | None:
    """The kind that the ending of a name tells, before .gz or without."""
    ending = PurePath(name.lower().removesuffix(".gz")).suffix
    return next((kind for kind in _KINDS if ending and ending in kind.endings), None)


def is_gzip(name: str) -> bool:
    """Whether the name of a file says that it is compressed."""
    return name.lower().endswith(".gz")


def refuse_kind(begin: bytes, name: str) -> None:
    """Raise ValueError, with the remedy, if a file begins with the mark of another kind."""
    for kind in _KINDS:
        if begin.startswith(kind.magic):
            raise ValueError(f"{name} is {kind.name}: {kind.advice(name)}")
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
        raise ValueError(f"{name} looks like UTF-16 without a mark: {_iconv('UTF-16' + order)}")
    raise ValueError(f"{name} is a binary file, not text: {_TEXT}")
