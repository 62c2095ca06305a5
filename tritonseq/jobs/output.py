"""The output of a job: where it lies, and whether the job may begin or go on there."""

from __future__ import annotations

import gzip
import io
import os
import shlex
import stat
import sys
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tritonseq.progress import note

from .disk import (
    JobPaths,
    descriptor_of,
    lock,
    lock_afresh,
    refuse_foreign,
    refuse_locked,
    refuse_mounted,
)
from .formats import format_of, is_gzip
from .journal import State, load, store
from .lines import Formatter
from .writer import JournaledFile, Pipe, Writer, is_named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .input import InputFile

_STDOUT = 1
_BLOCK = 1 << 20
_ENDINGS = 30
"""Bytes of a name that the files beside an output may add to its own."""


def _warn(message: str) -> None:
    note(f"tritonseq: warning: {message}")


@dataclass(frozen=True)
class OutputFile:
    """A file for the outputs, or stdout for "-"; it is compressed if its name ends in .gz."""

    path: str
    format: str | None = None
    """"lines" of text, or "json" lines; None goes by the name."""
    copies: int = 1
    """The outputs of every sample: lines one below the other, or a list in the object."""
    with_scores: bool = False
    """Whether the score and a tab stand before each line, or it in the field "score" ("scores")."""
    with_token_scores: bool = False
    """Whether JSON lines hold "token_ids" and "token_scores", a list for every output."""
    output_field: str = "output"
    id_field: str | None = None
    """The field that names a line of the input among the rejected ones."""
    whole: bool = False
    """Whether lines of text hold the source and how it goes on."""
    pair_field: str | None = None
    """JSON lines hold each output alone, with its source under this name."""
    resume: bool = False
    """Whether to go on with an interrupted job, if there is one."""
    overwrite: bool = False
    """Whether to replace an output that is there, once the new one is complete."""
    stream: BinaryIO | None = None
    """Write to this for "-" instead of stdout."""
    traces: Path | None = None
    """The file of the whole searches, if there is one: it is checked with the others."""

    @property
    def formatter(self) -> Formatter:
        """How samples are written. Raises ValueError for an unknown format."""
        format = format_of(self.path, self.format)
        return Formatter(
            format, self.copies, self.with_scores, self.output_field, self.id_field, self.whole,
            self.pair_field, self.with_token_scores,
        )  # fmt: skip

    @property
    def settings(self) -> dict[str, Any]:
        """What decides about the bytes of the output, as JSON values."""
        formatter = asdict(self.formatter)
        return {"output_format": formatter.pop("format"), **formatter, "gzip": is_gzip(self.path)}

    @property
    def name(self) -> str:
        return "stdout" if self.path == "-" else self.path

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that a job has; none for a pipe."""
        if self.is_pipe:
            return ()
        paths = self._paths
        return (paths.output, *paths.own)

    @property
    def is_complete(self) -> bool:
        """Whether the output is there, and no job that would go on with it."""
        if self.is_pipe:
            return False
        paths = self._paths
        others = (paths.journal, paths.partial)
        return paths.output.is_file() and not any(path.exists() for path in others)

    @property
    def has_rejected(self) -> bool:
        """Whether there is a file of rejected lines."""
        return not self.is_pipe and self._paths.rejected.exists()

    @property
    def lines_each(self) -> int:
        """The lines of the file for each line of the input."""
        formatter = self.formatter
        alone = formatter.format == "lines" or formatter.pair_field is not None
        return self.copies if alone else 1

    def count_lines(self) -> int:
        """The lines of an output that is a file. Raises ValueError if it is damaged."""
        file, name = self._paths.output, self.name
        try:
            with gzip.open(file) if is_gzip(self.path) else file.open("rb") as lines:
                return sum(block.count(b"\n") for block in iter(lambda: lines.read(_BLOCK), b""))
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(
                f"{name} cannot be read ({error}): pass --overwrite instead of --resume to make it "
                "anew"
            ) from None

    def check(self, source: InputFile | None = None) -> None:
        """Raise ValueError, with a remedy, if the output cannot be written or must not be.

        Nothing is changed yet. The source must be another file.
        """
        formatter = self.formatter
        if len({*formatter.taken}) < len(formatter.taken):
            raise ValueError(
                f"--output-field is {self.output_field!r}, which the scores take: choose another"
            )
        if self.with_token_scores and formatter.format == "lines":
            raise ValueError(
                f"--token-scores needs fields, and {self.name} holds lines of text: pass "
                "--output-format json"
            )
        if self.is_pipe:
            if self.resume:
                raise ValueError(
                    f"{self.name} is no file that could be gone on with: drop --resume"
                )
            self._refuse_closed()
            self._refuse_endless(source)
            if self.traces is not None:
                refuse_mounted([self.traces])
            return
        paths = self._paths
        self._check_folder(paths.output)
        self._check_source(source, paths)
        self._check_kinds(paths)
        refuse_locked(paths.partial, self.path)
        self._interrupted(paths)

    def open(
        self,
        fingerprint: Mapping[str, Any],
        *,
        unit: int = 1,
        whole_units: bool = False,
        warn: Callable[[str], None] = _warn,
    ) -> Writer:
        """Begin, or go on with what `Writer.state` says.

        `fingerprint` holds JSON values for everything that the output depends on: a job that goes
        on must have the same. It goes on behind a multiple of `unit` lines; `whole_units` says
        that a part of so many is not worth keeping. `warn` is told of rejected lines where no file
        for them can be. Raises ValueError as `check` does, for
        another fingerprint and for a damaged journal; JobFailed if the disk is full or fails.
        """
        self.check()
        if self.is_pipe:
            return Writer(
                self.formatter, self._pipe(warn), State(fingerprint), packed=is_gzip(self.path)
            )
        paths = self._paths
        locked = lock(paths.partial, self.path)
        try:
            state = self._interrupted(paths)
            if state is None:
                # From here on, what was there before is given up: this job can be gone on with.
                state = State(fingerprint)
                store(paths.journal, state)
            state.compare(fingerprint, paths.journal)
            if state.output_bytes == 0:
                locked = lock_afresh(paths.partial, self.path, locked)
            sink = JournaledFile(paths, self.formatter, state, locked, may_replace=self.overwrite)
        except BaseException:
            os.close(locked)
            raise
        return Writer(
            self.formatter,
            sink,
            state,
            packed=is_gzip(self.path),
            unit=unit,
            whole_units=whole_units,
        )

    @property
    def is_pipe(self) -> bool:
        """Whether it is stdout or what is open otherwise, a device or a named pipe."""
        if self._descriptor is not None:
            return True
        try:
            kind = os.stat(self.path).st_mode
        except OSError:
            return False
        return not stat.S_ISREG(kind) and not stat.S_ISDIR(kind)

    @property
    def _descriptor(self) -> int | None:
        """Of what is open already, by whatever name."""
        return _STDOUT if self.path == "-" else descriptor_of(self.path)

    @property
    def _paths(self) -> JobPaths:
        """Beside the file itself, if `path` is a link."""
        return JobPaths(Path(os.path.realpath(self.path)), self.traces)

    def _pipe(self, warn: Callable[[str], None]) -> Pipe:
        if self._descriptor != _STDOUT:
            try:
                return Pipe(io.FileIO(self._opened(), "wb"), self.name, warn, is_ours=True)
            except OSError as error:
                raise ValueError(f"{self.path} cannot be written: {error.strerror}") from None
        if self.stream is None:
            self._refuse_closed()
            sys.stdout.flush()
        return Pipe(self.stream or sys.stdout.buffer, self.name, warn, is_ours=False)

    def _opened(self) -> str | int:
        """What to open: of a file that is open already, its descriptor, which knows its place."""
        return self.path if self._descriptor is None else os.dup(self._descriptor)

    def _refuse_closed(self) -> None:
        if self.stream is not None or self._descriptor is None:
            return
        if self._descriptor == _STDOUT and sys.stdout is None:
            raise ValueError(f"stdout is closed: name a file instead of {self.path}")
        try:
            os.fstat(self._descriptor)
        except OSError:
            raise ValueError(f"{self.path} is not open: name a file") from None

    def _refuse_endless(self, source: InputFile | None) -> None:
        """Raise ValueError if what is written would be read again."""
        known = source.stat() if source is not None else None
        if known is None or self.stream is not None or not stat.S_ISREG(known.st_mode):
            return
        if self._descriptor is not None and os.path.samestat(os.fstat(self._descriptor), known):
            raise ValueError(f"{self.name} is the input, which would never end: name another file")

    def _check_folder(self, output: Path) -> None:
        folder = output.parent
        if not self.path or self.path.endswith(os.sep) or os.path.isdir(output):
            raise ValueError(f"OUTPUT is {self.path!r}, a folder: name a file in it")
        if not os.path.isdir(folder):
            raise ValueError(
                f"{self.path} is in a folder that is not there: mkdir -p {shlex.quote(str(folder))}"
            )
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise ValueError(f"{folder} cannot be written to: name an OUTPUT in another folder")
        if len(os.fsencode(output.name)) + _ENDINGS > os.pathconf(folder, "PC_NAME_MAX"):
            raise ValueError(f"the name of {self.path} is too long: leave {_ENDINGS} bytes of it")

    def _check_kinds(self, paths: JobPaths) -> None:
        if paths.output.is_symlink():
            raise ValueError(f"{self.path} is a link that leads to itself: name another OUTPUT")
        refuse_mounted((*paths.renamed, *paths.own))
        for path in paths.renamed:
            _refuse_guarded(path)
        for path in paths.own:
            refuse_foreign(path)

    def _check_source(self, source: InputFile | None, paths: JobPaths) -> None:
        known = source.stat() if source is not None else None
        if known is None:
            return
        for path in (paths.output, *paths.own):
            if path.exists() and os.path.samestat(path.stat(), known):
                raise ValueError(f"{path} is the input, and would be lost: name another OUTPUT")

    def _interrupted(self, paths: JobPaths) -> State | None:
        """The state of the job to go on with, None to begin; ValueError if neither may be."""
        if self.resume and paths.journal.exists():
            state = load(paths.journal)
            if paths.output.exists() and not (self.overwrite or is_named(paths, state)):
                raise ValueError(
                    f"{self.path} exists, and {paths.journal} is of a job that is to make it: "
                    "move it away, or pass --overwrite too to replace it in the end"
                )
            return state
        if not self.overwrite:
            self._refuse_existing(paths)
        return None

    def _refuse_existing(self, paths: JobPaths) -> None:
        if paths.journal.exists():
            raise ValueError(
                f"{paths.journal} is of a job that was interrupted: pass --resume to go on with "
                "it, or --overwrite to start afresh"
            )
        # An empty one is left by a job that was killed as it began.
        if paths.partial.exists() and paths.partial.stat().st_size > 0:
            raise ValueError(
                f"{paths.partial} exists without its journal, so that no job can go on with it: "
                "pass --overwrite (and not --resume) to start afresh"
            )
        for path in (paths.output, paths.rejected):
            if path.exists():
                so = " and there is no journal, so its job is complete" if self.resume else ""
                raise ValueError(
                    f"{path} exists{so}: pass --overwrite to make it anew, or name another OUTPUT"
                )


def _refuse_guarded(path: Path) -> None:
    """Raise ValueError if the file is of another user, and its folder lets only that one replace
    it, as /tmp does."""
    try:
        folder, file = os.stat(path.parent), os.lstat(path)
    except FileNotFoundError:
        return
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, folder.st_uid, file.st_uid):
        raise ValueError(
            f"{path} is of another user, and {path.parent} lets only that one replace it: name an "
            "OUTPUT in another folder"
        )
