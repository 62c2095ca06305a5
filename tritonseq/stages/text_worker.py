"""Texts to ids and ids to texts, by the list: a faulty one never spoils its neighbours.

Works without torch, so that it can be the service of a small child process.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tritonseq.errors import TextError
from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tritonseq.text.encoding import Encoding, Text

    from .worker_main import Handler

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Fault:
    """What stands in the place of a result that cannot be had."""

    reason: str


class Texts:
    """A tokenizer, with how the sources of a job are read by it."""

    def __init__(self, tokenizer: Tokenizer, encoding: Encoding) -> None:
        """Raises ValueError if no text at all could be read: for a language that is not known,
        or a length that leaves no room."""
        self._tokenizer = tokenizer
        self._encoding = encoding
        self._check()

    def encode(self, texts: Sequence[Text]) -> list[list[int] | Fault]:
        """The ids of each text, or why the model cannot be given it."""
        return [self._fitting(row) for row in _each(self._ids, texts)]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str | Fault]:
        """The text of each row of ids."""
        return _each(self._texts, rows)

    def _ids(self, texts: Sequence[Text]) -> list[list[int]]:
        return self._encoding.ids(self._tokenizer, texts)

    def _texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return self._encoding.texts(self._tokenizer, rows)

    def _fitting(self, row: list[int] | Fault) -> list[int] | Fault:
        if isinstance(row, Fault):
            return row
        excess = self._encoding.excess(row)
        return row if excess is None else Fault(f"the text {excess}")

    def _check(self) -> None:
        room = self._encoding.room
        if room is not None and room < 1:
            raise ValueError(f"every text has at least one token, {self._encoding.remedy}")
        with contextlib.suppress(TextError):
            self._ids(["a"])


class Setup(NamedTuple):
    """What `serve` makes a tokenizer of: `Model.tokenizer_source`, and `TextJob.encoding`."""

    folder: Path
    config: Mapping[str, Any] | None
    encoding: Encoding


def serve(setup: Setup) -> Handler:
    """For `Remote`: requests are ("encode", texts) or ("decode", rows), with one reply each."""
    texts = Texts(Tokenizer.from_folder(setup.folder, setup.config), setup.encoding)
    work: dict[str, Callable[[Any], Any]] = {"encode": texts.encode, "decode": texts.decode}

    def handle(request: tuple[str, Any], stopped: Callable[[], bool]) -> Iterator[Any]:
        kind, things = request
        yield work[kind](things)

    return handle


def _each(work: Callable[[Sequence[T]], list[R]], things: Sequence[T]) -> list[R | Fault]:
    """What `work` makes of a list: at once if that goes well, else of each thing alone."""
    if not things:
        return []
    try:
        return [*work(things)]
    except BaseException as error:
        fault = _fault(error)
    if len(things) == 1:
        return [fault]
    return [result for thing in things for result in _each(work, [thing])]


def _fault(error: BaseException) -> Fault:
    """The fault that an error of a tokenizer is; raises what is none."""
    # So the libraries in Rust report their own bugs, and derive it from nothing narrower.
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    # These are about the machine, and pass.
    if isinstance(error, (MemoryError, OSError)):
        raise error
    if isinstance(error, TextError):
        return Fault(error.of("the text"))
    return Fault(f"the tokenizer fails at it: {type(error).__name__}: {error}")
