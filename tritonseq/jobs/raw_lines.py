"""The lines of a file or a pipe as bytes, with a checksum over all that was read."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from tritonseq.errors import JobFailed

from .foreign import BEGIN

if TYPE_CHECKING:
    from collections.abc import Iterator

GZIP_MAGIC = b"\x1f\x8b"

_PIECE = 1 << 20


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
            # It would not come again: whoever reads on shall be told, and not of an early end.
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
            piece = self._piece(_PIECE)
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
        f"{name} is not what the job began with: {how}. Give it the same input again, or start "
        "afresh with --overwrite instead of --resume"
    )
