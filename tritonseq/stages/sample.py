"""A sample on its way through the stages, each of which adds what it found; and their order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tritonseq.decoding.completion import Completion
from tritonseq.text.encoding import TextOfLanguages

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(slots=True)
class Sample:
    """A source on its way to its outputs. It belongs to one stage at a time."""

    number: int
    """Its place in the input, from 0."""
    digest: int
    """CRC-32 of the input up to the end of its line."""
    text: str | list[str] | None
    """The source, or its tokens if it is tokenized already; None if it cannot be read."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What a JSON line carries through to the output; `Members` are written as they were."""
    rows: list[list[int]] | None = None
    """The ids of the source: one row, or one of each of its sentences."""
    gaps: Sequence[str] = ()
    """What stands between its sentences."""
    completion: Completion = field(default_factory=Completion)
    """Its outputs, as far as they are made."""
    is_company: bool = False
    """It was done by an earlier run, and its ids still decide about others of its batch."""
    src_lang: str | None = None
    """The languages that it names itself, from which and to which it is translated."""
    tgt_lang: str | None = None

    @property
    def told(self) -> Any:
        """Its text, with the languages that it names."""
        if self.src_lang is None and self.tgt_lang is None:
            return self.text
        return TextOfLanguages(self.text or "", self.src_lang, self.tgt_lang)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do but to write it."""
        return self.completion.fault is not None or self.completion.texts is not None

    def finish(self, texts: list[str], **more: Any) -> None:
        """These are its outputs, which were not generated here; `more` of a `Completion`."""
        self.completion = Completion(texts=texts, **more)

    def reject(self, reason: str) -> None:
        """Give it up, for a reason that its user can do something about."""
        self.rows, self.completion = None, Completion(fault=reason)


class InOrder:
    """Holds samples back until all before them have come."""

    def __init__(self, first: int = 0) -> None:
        self._next = first
        self._held: dict[int, Sample] = {}

    def add(self, samples: Iterable[Sample]) -> list[Sample]:
        """Take some, and give those whose turn it is now."""
        self._held.update((sample.number, sample) for sample in samples)
        ready = []
        while self._next in self._held:
            ready.append(self._held.pop(self._next))
            self._next += 1
        return ready

    @property
    def held(self) -> list[Sample]:
        """Those that wait for an earlier one."""
        return list(self._held.values())
