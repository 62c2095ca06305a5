"""Files that hold no lines of text or JSON: told by their names or first bytes, with the remedy."""

from __future__ import annotations

import shlex
from pathlib import PurePath
from typing import NamedTuple

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
    def is_table(self) -> bool:
        """Is it text all the same?"""
        return not self.magic

    def told(self, name: str) -> str:
        """The remedy for the file of this name."""
        quoted = shlex.quote("/dev/stdin" if name == "stdin" else name)
        remedy = self.remedy.replace("{quoted}", quoted).replace("{name}", name)
        return remedy.replace("cat ", "gzip -dc ", 1) if name.lower().endswith(".gz") else remedy


_KINDS = (
    Kind("CSV", (".csv",), (), "make JSON lines of it: cat {quoted} | " + _CSV.format(more="")),
    Kind(
        "TSV", (".tsv", ".tab"), (),
        "make JSON lines of it: cat {quoted} | " + _CSV.format(more=', delimiter="\\t"'),
    ),
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

_ZEROS = 0.2
"""Text has hardly any zero bytes; UTF-16 without a mark and binary files have more than this."""

_ENOUGH = 16
"""Bytes to judge by."""

_TAR_MAGIC = (257, b"ustar")


def kind_by_name(name: str) -> Kind | None:
    """The kind that the ending of a name tells, before .gz or without."""
    ending = PurePath(name.lower().removesuffix(".gz")).suffix
    return next((kind for kind in _KINDS if ending and ending in kind.endings), None)


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
