"""What each stage does with its samples; windows of them, so that what is batched is alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tritonseq.text.encoding import Fault

from .batching import Row
from .queue import Ended
from .sample import InOrder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tritonseq.decoding.completion import Completion
    from tritonseq.text.encoding import Text

    from .batching import Numbered
    from .sample import Sample
    from .threads import Inlet, Work

    Encode = Callable[[Sequence[Text]], "list[list[int] | Fault]"]
    Decode = Callable[[Sequence[Sequence[int]]], "list[str | Fault]"]
    Respond = Callable[[Sequence[Row], Callable[[], bool]], Iterator[list[Numbered]]]


# Seconds that a window waits for more samples if the model has nothing else to do, however they
# trickle in.
LINGER = 0.05

# How many times the window before it a window may be, at first: few that are less than a batch
# then bring the first results, and cost little.
GROWTH = 4


class Windows:
    """Gathers `size` samples at a time; fewer at the end, and when the model would have to wait.

    Where `unit` is more than 1, windows hold whole units of consecutive samples: those whose
    numbers give the same when divided by it.
    """

    def __init__(
        self,
        size: int,
        unit: int,
        is_awaited: Callable[[], bool],
        first: int = 0,
        smallest: int | None = None,
        is_cut_short: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            is_awaited: does the next stage wait for a window?
            first: the first number.
            smallest: the first window has so many, and each of the next ones `GROWTH` times as many
                as the one before, up to `size`: the first results do not wait for a whole window.
            is_cut_short: has the input failed, so that it does not end where no more comes?
        """
        self._largest = size
        self._size = min(size, smallest or size)
        self._unit = unit
        self._is_awaited = is_awaited
        self._is_cut_short = is_cut_short
        self._order = InOrder(first) if unit > 1 else None
        self._held: list[Sample] = []

    def gather(self, inlet: Inlet) -> Iterator[list[list[Sample]]]:
        """Take from the inlet, and yield windows, one at a time."""
        due = 0.0
        while True:
            if not self._held:
                due = 0.0
            try:
                came = inlet.take(self._size, LINGER if self._held else None)
            except Ended:
                if rest := self._held[: self._count_rest()]:
                    yield [rest]
                raise
            self._held += came if self._order is None else self._order.add(came)
            due = due or time.monotonic() + LINGER
            is_late = not came or time.monotonic() >= due
            while (count := self._complete(is_late=is_late)) > 0:
                window, self._held = self._held[:count], self._held[count:]
                due, is_late = 0.0, False
                self._size = min(self._largest, GROWTH * self._size)
                yield [window]

    def _count_rest(self) -> int:
        """How many of the last samples may be answered: a unit that lacks some would be another."""
        if self._unit == 1 or not self._is_cut_short():
            return len(self._held)
        return max(
            (n for n, sample in enumerate(self._held, 1) if self._ends_unit(sample)), default=0
        )

    def _complete(self, *, is_late: bool) -> int:
        """How many samples make a window now; 0 if it is to be waited for more."""
        if self._unit == 1:
            enough = len(self._held) >= self._size or (is_late and self._is_awaited())
            return min(len(self._held), self._size) if enough else 0
        ends = [n for n, sample in enumerate(self._held, 1) if self._ends_unit(sample)]
        full = [n for n in ends if n >= self._size]
        if full:
            return full[0]
        return ends[-1] if ends and is_late and self._is_awaited() else 0

    def _ends_unit(self, sample: Sample) -> bool:
        return (sample.number + 1) % self._unit == 0


# Texts that are tokenized, and rows that are decoded, by one call: enough for a call to cost
# little, few enough for the next stage to have them soon.
CHUNK = 128


def tokenizing(encode: Encode, look: Callable[[Sequence[Text]], None]) -> Work:
    """From texts to ids; `look` is shown the first texts."""

    def work(inlet: Inlet) -> Iterator[list[Sample]]:
        is_first = True
        while True:
            samples = inlet.take(CHUNK)
            waiting = [sample for sample in samples if not sample.is_done or sample.is_company]
            texts: list[Any] = [sample.text for sample in waiting]
            if is_first and texts:
                look(texts)
                is_first = False
            for sample, ids in zip(waiting, encode(texts), strict=True):
                if not isinstance(ids, Fault):
                    sample.ids = ids
                elif not sample.is_done:
                    sample.reject(ids.reason)
            yield samples

    return work


def generating(respond: Respond, admits: Callable[[], bool]) -> Work:
    """From windows of ids to sequences; samples come out as they are done."""

    def work(inlet: Inlet) -> Iterator[list[Sample]]:
        while True:
            for window in inlet.take(1):
                yield from answered(window)

    def answered(window: list[Sample]) -> Iterator[list[Sample]]:
        rows = [
            Row(sample.number, sample.ids, sample.is_done)
            for sample in window
            if sample.ids is not None
        ]
        waiting = {sample.number: sample for sample in window if not sample.is_done}
        yield [sample for sample in window if sample.is_done]
        for completions in respond(rows, admits) if rows else ():
            yield [_completed(waiting.pop(number), each) for number, each in completions]

    return work


def detokenizing(decode: Decode) -> Work:
    """From sequences to texts."""

    def work(inlet: Inlet) -> Iterator[list[Sample]]:
        while True:
            samples = inlet.take(CHUNK)
            waiting = [sample for sample in samples if not sample.is_done]
            texts = iter(decode([ids for each in waiting for ids in each.completion.sequences]))
            for sample in waiting:
                _give(sample, [next(texts) for _ in sample.completion.sequences])
            yield samples

    return work


def _completed(sample: Sample, completion: Completion) -> Sample:
    sample.ids, sample.completion = None, completion
    return sample


def _give(sample: Sample, texts: list[str | Fault]) -> None:
    faults = [text for text in texts if isinstance(text, Fault)]
    if faults:
        sample.reject(faults[0].reason)
    else:
        done = [str(text) for text in texts]
        sample.completion = sample.completion._replace(sequences=(), texts=done)
