"""Traces: the search of every sample, in a file of its own that keeps step with the output.

That file is for the tools of UniLM that re-score searches: pickled objects one behind the other,
first {"version", "num_samples"}, then {"scores", "wids", "ptrs"} for each sample.
"""

from __future__ import annotations

import itertools
import os
import pickle
import struct
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

from .disk import (
    AFRESH,
    Appender,
    new,
    open_own,
    open_to_read,
    partial,
    refuse_foreign,
    refuse_mounted,
    remove,
    sync_folder,
    writing,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tritonseq.stages.sample import Sample

_FRAME = struct.Struct("<QI")
"""Before each record while the file grows: its bytes, and their CRC-32."""


def _framed(data: bytes) -> bytes:
    """A record as it stands in the file that grows."""
    return _FRAME.pack(len(data), zlib.crc32(data)) + data


class Traces:
    """Made when it is known which samples are done; `path` is there when the job is complete."""

    def __init__(self, path: Path, done: int) -> None:
        """Go on behind the first `done` samples.

        Raises ValueError if there are fewer, or if its files cannot lie where they shall.
        """
        self._path = path
        self._partial = partial(path)
        self._count = done
        refuse_mounted([path])
        for own in (self._partial, new(path)):
            refuse_foreign(own)
        size = digest = found = 0
        for data in itertools.islice(self._records(), done):
            framed = _framed(data)
            size, digest, found = size + len(framed), zlib.crc32(framed, digest), found + 1
        if found < done:
            raise ValueError(
                f"{self._partial} holds {found} searches, fewer than the {done} that the journal "
                f"knows: {AFRESH}"
            )
        self._file = Appender(self._partial, size, digest)

    def add(self, samples: Iterable[Sample]) -> None:
        """Take the next samples, in order."""
        for sample in samples:
            self._file.append(_framed(_packed(sample.completion.trace)))
            self._count += 1

    def sync(self) -> None:
        """Make durable what was taken."""
        self._file.sync()

    def finish(self) -> None:
        """Make the file itself; what it is made of stays until `clean`."""
        self.sync()
        fresh = new(self._path)
        with writing(self._path):
            remove(fresh)
            with open(open_own(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                pickle.dump({"version": 0.0, "num_samples": self._count}, file)
                for data in itertools.islice(self._records(), self._count):
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self._path)
            sync_folder(self._path.parent)

    def clean(self) -> None:
        """The job is complete: only the file itself is needed."""
        remove(self._partial)

    def close(self) -> None:
        """Let go; what is durable stays."""
        self._file.close()

    def _records(self) -> Iterator[bytes]:
        """Those in the file that grows. Raises ValueError if it was changed."""
        try:
            with open(open_to_read(self._partial), "rb") as file:
                while frame := file.read(_FRAME.size):
                    yield self._checked(file, frame)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ValueError(
                f"{self._partial} cannot be read ({error.strerror}): {AFRESH}"
            ) from None

    def _checked(self, file: BinaryIO, frame: bytes) -> bytes:
        """The record behind its frame."""
        if len(frame) == _FRAME.size:
            length, digest = _FRAME.unpack(frame)
            # A length that was changed may be any number.
            data = file.read(min(length, os.fstat(file.fileno()).st_size))
            if len(data) == length and zlib.crc32(data) == digest:
                return data
        raise ValueError(f"{self._partial} was changed: {AFRESH}")


def _packed(trace: tuple[list[Any], ...] | None) -> bytes:
    """A search as the file holds it, `[T, K]` each; nothing in it of a sample without one."""
    frames = zip(("scores", "wids", "ptrs"), trace or ([], [], []), strict=True)
    return pickle.dumps(dict(frames))
