"""The journal of a job: what of its output is durable, so that it can go on from there."""

from __future__ import annotations

import json
import zlib
from collections import deque
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from .disk import AFRESH, read_own, write_durably
from .input import changed_input

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from tritonseq.stages.sample import Sample

T = TypeVar("T", "Done", "State")

_VERSION = 3
_OF_TEXTS = ("texts", "scores", "tokens", "token_ids", "token_scores")
"""What of a `Completion` its output is written of."""
_CHECKSUM = b', "checksum": "%08x"}\n'
"""The end of a journal: CRC-32 of all that is before it."""


@dataclass(frozen=True)
class Done:
    """A sample that is finished, and not in the output yet."""

    number: int
    digest: int
    texts: list[str] | None
    scores: list[float] | None
    tokens: int
    token_ids: list[list[int]] | None
    token_scores: list[list[float]] | None
    fault: str | None

    @classmethod
    def of(cls, sample: Sample) -> Done:
        done = sample.completion
        found = {name: getattr(done, name) for name in (*_OF_TEXTS, "fault")}
        return cls(sample.number, sample.digest, **found)

    def give(self, sample: Sample) -> None:
        """Finish the sample of the same line with what was found for it before."""
        if self.texts is None:
            sample.reject(self.fault or "")
        else:
            sample.finish(**{name: getattr(self, name) for name in _OF_TEXTS})


@dataclass(frozen=True)
class State:
    """How far a job has come."""

    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    """Everything that decides what the output holds; JSON values."""
    lines: int = 0
    """The lines of the input whose outputs are durable, the first ones."""
    digest: int = 0
    """CRC-32 of these lines."""
    output_bytes: int = 0
    output_digest: int = 0
    """CRC-32 of these bytes."""
    rejected_bytes: int = 0
    rejected_digest: int = 0
    rejected: int = 0
    tokens: int = 0
    is_complete: bool = False
    """Whether the whole output is durable: then all that may be left is to give it its name."""
    ahead: tuple[Done, ...] = ()
    """Samples that are finished before their turn."""

    def restore(
        self, samples: Iterable[Sample], name: str, *, together: bool = False
    ) -> Iterator[Sample]:
        """Samples of the input `name`, those `ahead` finished.

        `together`: others may have to be answered beside them, in the batches that they were in.
        Raises ValueError if the input has other lines than the job began with, before it hands on
        any: what is made of them would stand in the journal. So all up to the last one `ahead` are
        read first, no more than were in flight once.
        """
        ahead = {done.number: done for done in self.ahead}
        rest = iter(samples)
        held: deque[Sample] = deque()
        while ahead:
            if (sample := next(rest, None)) is None:
                raise ValueError(changed_input(name, f"there was a line {max(ahead) + 1}"))
            if (done := ahead.pop(sample.number, None)) is not None:
                if done.digest != sample.digest:
                    raise ValueError(
                        changed_input(name, f"line {sample.number + 1}, or one before, is another")
                    )
                sample.is_company = together and not sample.is_done
                done.give(sample)
            held.append(sample)
        while held:
            yield held.popleft()
        yield from rest

    def compare(self, fingerprint: Mapping[str, Any], path: Path) -> None:
        """Raise ValueError if the job of the journal `path` was another; it names all that is."""
        asked = json.loads(json.dumps(fingerprint))
        differences = [
            f"{key} was {_told(self.fingerprint, key)} and is {_told(asked, key)} now"
            for key in sorted({*self.fingerprint, *asked})
            if _told(self.fingerprint, key) != _told(asked, key)
        ]
        if differences:
            raise ValueError(
                f"{path} is of a job with other settings: {'; '.join(differences)}. Give it the "
                f"same again, or {AFRESH}"
            )


def load(path: Path) -> State:
    """The state in a journal. Raises ValueError if it cannot be read, or is not what was stored."""
    try:
        data = read_own(path)
        document = json.loads(data)
        if document["version"] != _VERSION:
            raise ValueError(f"its version is {document['version']!r}, and not {_VERSION}")
        body = data[: -len(_CHECKSUM % 0)]
        if data != body + _CHECKSUM % zlib.crc32(body):
            raise ValueError("its bytes were changed, as its checksum tells")
        ahead = tuple(_checked(Done, values) for values in document["ahead"])
        return _checked(State, {**document, "ahead": ahead})
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): {AFRESH}") from None
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no journal of this version: {_words(error)}; {AFRESH}"
        ) from None


def store(path: Path, state: State) -> None:
    """Replace a journal, durably. Raises JobFailed if the disk will not take it."""
    document = {item.name: getattr(state, item.name) for item in fields(State)}
    ahead = [{item.name: getattr(done, item.name) for item in fields(Done)} for done in state.ahead]
    document = {"version": _VERSION, **document, "ahead": ahead}
    body = json.dumps(document).encode().removesuffix(b"}")
    write_durably(path, body + _CHECKSUM % zlib.crc32(body))


def _words(error: Exception) -> str:
    return str(error) if type(error) is ValueError else repr(error)


def _told(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key], sort_keys=True) if key in settings else "absent"


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_list_of(kind: type, value: Any) -> bool:
    return value is None or (type(value) is list and all(type(item) is kind for item in value))


def _is_table_of(kind: type, value: Any) -> bool:
    rows = value or ()
    return _is_list_of(list, value) and all(_is_list_of(kind, row) for row in rows)


_FITS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("number", "digest", "lines", "output_bytes", "rejected_bytes"), _is_count),
    **dict.fromkeys(("output_digest", "rejected_digest", "rejected", "tokens"), _is_count),
    "fingerprint": lambda value: type(value) is dict,
    "ahead": lambda value: type(value) is tuple,
    "is_complete": lambda value: type(value) is bool,
    "fault": lambda value: value is None or type(value) is str,
    "texts": lambda value: _is_list_of(str, value),
    "scores": lambda value: _is_list_of(float, value),
    "token_ids": lambda value: _is_table_of(int, value),
    "token_scores": lambda value: _is_table_of(float, value),
}


def _checked(kind: type[T], values: Mapping[str, Any]) -> T:
    """An object of the values that it needs; KeyError, TypeError or ValueError without them."""
    arguments = {name: values[name] for name in kind.__dataclass_fields__}
    for name, value in arguments.items():
        if not _FITS[name](value):
            raise ValueError(f"{name} is {value!r}")
    return kind(**arguments)
