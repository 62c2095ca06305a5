"""The input of a job: the lines of a file or a pipe, with a checksum, as samples in order."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import os
import stat
import sys
import warnings
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from tritonseq.errors import JobFailed
from tritonseq.stages.sample import Sample

from .disk import AFRESH, descriptor_of
from .formats import BEGIN, FORMATS, format_of, is_gzip, refuse_binary, refuse_kind
from .lines import Parser, shown
from .sniff import has_object_first, lacking, refuse_unlike_format

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


GZIP_MAGIC = b"\x1f\x8b"

_BLOCK = 1 << 20
_LONGEST = 16 << 20


def buffered(stream: BinaryIO) -> io.BufferedReader:
    """The stream itself, or one that can look ahead in it."""
    # Everything that reads into a buffer will do, though the stubs ask for a raw file.
    plain = stream if hasattr(stream, "peek") else io.BufferedReader(cast("io.RawIOBase", stream))
    return cast("io.BufferedReader", plain)


def unpacked(reader: io.BufferedReader) -> io.BufferedReader:
    """The bytes of a stream, decompressed if it begins as gzip does."""
    if reader.peek(2)[:2] != GZIP_MAGIC:
        return reader
    return io.BufferedReader(_Unpacked(reader), BEGIN)


class _Unpacked(io.RawIOBase):
    """Gives what can be decompressed as soon as it can: what stands before damage is read."""

    def __init__(self, reader: io.BufferedReader) -> None:
        self._file = gzip.GzipFile(fileobj=reader)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class RawLines:
    """Lines are split at newlines only, and keep theirs; the last one need not have one.

    Of a line with more than `longest` bytes, only its beginning is kept: at least `longest` + 1
    bytes besides the end of the line, which tells it from others.
    """

    def __init__(self, stream: BinaryIO, name: str, longest: int) -> None:
        self._file = buffered(stream)
        self._size = _size(self._file) or 0
        self._stream = unpacked(self._file)
        self._name = name
        self._most = longest + len(b"\r\n")
        self._fault: Exception | None = None
        self.count = 0
        """The lines that were read."""
        self.digest = 0
        """CRC-32 of all their bytes."""

    def __iter__(self) -> Iterator[bytes]:
        """The lines not read yet. Raises JobFailed if the file is cut short, damaged or lost."""
        while line := self._line():
            yield line
        self._refuse_shrunk()

    def peek(self) -> bytes:
        """What comes next, as far as it is there; nothing where it cannot be read."""
        try:
            return self._stream.peek(BEGIN)
        except (EOFError, OSError, zlib.error) as error:
            # It would not come again: reading on shall raise it, and not find an early end.
            self._fault = error
            return b""

    def skip(self, lines: int, digest: int) -> None:
        """Read past the first lines; ValueError if there are fewer, or others than `digest` says.

        Raises JobFailed as reading does.
        """
        while self.count < lines and self._line():
            pass
        if self.count < lines:
            raise ValueError(changed_input(self._name, f"of {lines} lines, {self.count} are left"))
        if self.digest != digest:
            raise ValueError(changed_input(self._name, f"the first {lines} lines are others"))

    def _refuse_shrunk(self) -> None:
        """Raise JobFailed if its end is not the end that it had, but that of a file cut short."""
        size = _size(self._file)
        if size is None:
            return
        read = self._file.tell()
        if read < self._size or size < read:
            raise JobFailed(
                f"{self._name} was cut short while it was read: it had "
                f"{max(read, self._size)} bytes, and ends after {min(read, size)} now. Put it in "
                "order, then run the same command with --resume"
            )

    def _line(self) -> bytes:
        line = piece = self._piece(self._most)
        while len(piece) > 0 and len(line) == self._most and not piece.endswith(b"\n"):
            piece = self._piece(_BLOCK)
        self.count += len(line) > 0
        return line

    def _piece(self, limit: int) -> bytes:
        try:
            if self._fault is not None:
                raise self._fault
            piece = self._stream.readline(limit)
        except (EOFError, OSError, zlib.error) as error:
            raise JobFailed(
                f"{self._name} cannot be read further than line {self.count} ({error}): put it in "
                "order, then run the same command with --resume"
            ) from error
        self.digest = zlib.crc32(piece, self.digest)
        return piece


def _size(file: io.BufferedReader) -> int | None:
    """The bytes that a file has now; None for what is none."""
    try:
        known = os.fstat(file.fileno())
    except (OSError, ValueError):
        return None
    return known.st_size if stat.S_ISREG(known.st_mode) else None


def changed_input(name: str, how: str) -> str:
    """The message for an input that is another one than before."""
    return (
        f"{name} is not what the job began with: {how}. Give it the same input again, or {AFRESH}"
    )


class InputFile:
    """A file of sources, or stdin for "-"; compressed ones are read by their first bytes.

    - `format`: "lines" of text, or "json" lines; None goes by the name, and "any" by the first
      line, as UniLM does: it is an object or a text.
    - `has_fields`: something was said of fields, so that it is JSON lines whatever its name.
    - `source_field`: where objects hold the source, a text or a list of tokens; a name with dots
      that no object has, such as "translation.en", leads into objects.
    - `id_field`: a field that every object must have.
    - `src_lang_field`, `tgt_lang_field`: where objects may name their languages, by default
      "src_lang" and "tgt_lang".
    - `taken`: the fields that the output takes, which objects must not have: `Formatter.taken`.
    - `keep_source`: carry the source through to the output.
    - `tokenized`: sources are tokens with spaces between them.
    - `trims_blanks`: a blank source is empty, whatever it is blank with.
    - `limit`: read the first lines only.
    - `copies`: the outputs of every sample; it may be set later, before the first one is read.
    - `longest`: the bytes that a line may have, its end not counted.
    - `stream`: read this for "-" instead of stdin.

    Iterating gives a `Sample` for each line; it can be done once. A line that cannot be read, or
    holds no source, becomes a sample with a fault; a blank one becomes one that is done. Raises
    ValueError, here and not later, if there is no such file or it cannot be opened.
    """

    def __init__(
        self,
        name: str | os.PathLike[str],
        *,
        format: str | None = None,
        has_fields: bool = False,
        source_field: str = "source",
        id_field: str | None = None,
        src_lang_field: str | None = None,
        tgt_lang_field: str | None = None,
        taken: Collection[str] = (),
        keep_source: bool = False,
        tokenized: bool = False,
        trims_blanks: bool = False,
        limit: int | None = None,
        copies: int = 1,
        longest: int = _LONGEST,
        stream: BinaryIO | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"the limit is {limit} lines: it must be at least 1")
        self.path = os.fspath(name)
        self.name = "stdin" if self.path == "-" else self.path
        self._goes_by_line = format == "any"
        self._is_said = format in FORMATS and not has_fields
        if self._goes_by_line:
            format = "lines"
        self.format = format_of(self.path, format, is_read=True, has_fields=has_fields)
        languages = {"src_lang_field": src_lang_field, "tgt_lang_field": tgt_lang_field}
        for what, field in {"id_field": id_field, **languages}.items():
            if field is not None and self.format == "lines":
                name = what.removesuffix("_field")
                raise ValueError(
                    f"lines of text have no field {field!r} ({name}): give JSON lines "
                    f"(--input-format json), or drop --{what.replace('_', '-')}"
                )
        if self.format == "lines" and "line" in taken:
            raise ValueError("'line' holds the number of the line: name another --output-field")
        self._named = {
            field: f"--{what.replace('_', '-')}"
            for what, field in languages.items()
            if field is not None
        }
        self._parser = Parser(
            self.format, source_field, id_field, taken, keep_source, tokenized, longest,
            **{name: field for name, field in languages.items() if field is not None},
        )  # fmt: skip
        self.copies = copies
        self._limit = limit
        self._trims_blanks = trims_blanks
        self._stream = stream
        self._lines: RawLines | None = None
        self._check()

    @property
    def settings(self) -> dict[str, Any]:
        """What decides about the samples, as JSON values."""
        names = ("src_lang_field", "tgt_lang_field") if self.format == "json" else ()
        return {
            **{name: getattr(self._parser, name) for name in names},
            "input_format": self.format,
            "source_field": self._parser.source_field,
            "keep_source": self._parser.keep_source,
            "tokenized": self._parser.tokenized,
            "limit": self._limit,
        }

    def look(self) -> None:
        """See that it begins as what it is taken for, before anything is made of it.

        Waits for the first bytes of a pipe, but not for what is typed. Raises ValueError
        for files of another kind or format, with the way to convert them; warns if the first lines
        lack a field of languages that was named.
        """
        if self.path == "-" and self._standard().isatty():
            return
        begin = self._begin()
        refuse_kind(begin, self.name)
        refuse_binary(begin, self.name)
        if self._goes_by_line and has_object_first(begin):
            # Only texts can be tokens with spaces between them there.
            self.format = "json"
            self._parser = replace(self._parser, format="json", tokenized=False)
        named = {self._parser.id_field: "--id-field", self._parser.source_field: "--source-field"}
        fields = {field: flag for field, flag in named.items() if field is not None}
        refuse_unlike_format(begin, self.name, self.format, fields, is_said=self._is_said)
        for message in lacking(begin, self.name, self._named):
            warnings.warn(message, stacklevel=2)

    def __iter__(self) -> Iterator[Sample]:
        """The samples not read yet. Raises JobFailed if the file is cut short, damaged or lost."""
        lines = self._opened()
        left = None if self._limit is None else max(0, self._limit - lines.count)
        for line in itertools.islice(lines, left):
            sample = Sample(lines.count - 1, lines.digest, None)
            self._parser.fill(sample, line)
            if not sample.is_done and not shown(sample).strip():
                sample.finish([""] * self.copies)
                sample.text = "" if self._trims_blanks else sample.text
            yield sample

    def skip(self, lines: int, digest: int) -> None:
        """Read past the lines that are done, without a look at what they hold.

        Raises ValueError if there are fewer, or their CRC-32 is not `digest`.
        """
        self._opened().skip(lines, digest)

    def count_lines(self) -> int | None:
        """How many samples there will be; None where only reading would tell."""
        if self.path == "-" or not os.path.isfile(self.path):
            return None
        count, block = 0, b"\n"
        with open(self.path, "rb") as file:
            if file.peek(2)[:2] == GZIP_MAGIC:
                return None
            while (self._limit is None or count < self._limit) and (read := file.read(_BLOCK)):
                count, block = count + read.count(b"\n"), read
        count += not block.endswith(b"\n")
        return count if self._limit is None else min(count, self._limit)

    def count_all(self) -> int | None:
        """As `count_lines`, of a compressed file too, which is read for it; None of a stream.

        Raises JobFailed if it is damaged.
        """
        if self.path == "-" or not os.path.isfile(self.path):
            return None
        with self._readable(), open(self.path, "rb") as file:
            lines = RawLines(file, self.name, self._parser.longest)
            return sum(1 for _ in itertools.islice(lines, self._limit))

    def stat(self) -> os.stat_result | None:
        """What the operating system knows of the file; None for a stream that is no file."""
        try:
            return os.stat(self.path) if self.path != "-" else os.fstat(self._standard().fileno())
        except (OSError, ValueError):
            return None

    def _check(self) -> None:
        """See that it can be opened. A pipe is not touched: that could wait, or lose its bytes."""
        is_stdin = self.path == "-" or descriptor_of(self.path) == 0
        if is_stdin and self._stream is None and sys.stdin is None:
            raise ValueError(f"stdin is closed: name a file instead of {self.path}")
        if self.path == "-":
            return
        with self._readable():
            kind = os.stat(self.path).st_mode
            if stat.S_ISDIR(kind):
                raise ValueError(f"{self.name} is a folder: name a file in it")
            if not stat.S_ISREG(kind):
                return
            with open(self.path, "rb") as file:
                begin = file.read(BEGIN)
        if is_gzip(self.path) and not begin.startswith(GZIP_MAGIC):
            raise ValueError(
                f"{self.name} is no gzip file: drop the .gz from its name if it is text"
            )
        refuse_kind(begin, self.name)

    def _begin(self) -> bytes:
        """Its first bytes, unpacked. Of a pipe they stay where they are read from."""
        if self.path == "-" or not os.path.isfile(self.path):
            return self._opened().peek()
        with self._readable(), open(self.path, "rb") as file:
            return RawLines(file, self.name, self._parser.longest).peek()

    def _opened(self) -> RawLines:
        if self._lines is None:
            with self._readable():
                stream = self._unshared() if self.path == "-" else _buffered(self.path)
                self._lines = RawLines(stream, self.name, self._parser.longest)
        return self._lines

    def _unshared(self) -> BinaryIO:
        """stdin with a buffer of its own: to end, Python wants the lock of its buffer, and never
        gets it from a thread that waits for a line."""
        stream = self._standard()
        try:
            return _buffered(stream.fileno()) if self._stream is None else stream
        except (OSError, ValueError):
            return stream

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ValueError(f"{self.name} cannot be read: {error.strerror or error}") from None

    def _standard(self) -> BinaryIO:
        if self._stream is not None:
            return self._stream
        if not hasattr(sys.stdin, "buffer"):
            # A caller has put a text in its place.
            self._stream = io.BytesIO(sys.stdin.read().encode())
            return self._stream
        return sys.stdin.buffer


def _buffered(file: str | int) -> BinaryIO:
    """A file by its name, or an open one by its descriptor, which stays open."""
    return io.BufferedReader(io.FileIO(file, closefd=isinstance(file, str)), BEGIN)
