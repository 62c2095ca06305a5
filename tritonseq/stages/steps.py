"""What the stages between reading and writing do with their samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .batching import Row
from .text_worker import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tritonseq.text.encoding import Text

    from .batching import Answer
    from .sample import Sample
    from .threads import Inlet, Work

    Encode = Callable[[Sequence[Text]], "list[list[int] | Fault]"]
    Decode = Callable[[Sequence[Sequence[int]]], "list[str | Fault]"]
    Respond = Callable[[Sequence[Row], Callable[[], bool]], Iterator[list[Answer]]]

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
        for answers in respond(rows, admits) if rows else ():
            yield [_with_answer(waiting.pop(answer.number), answer) for answer in answers]

    return work


def detokenizing(decode: Decode) -> Work:
    """From sequences to texts."""

    def work(inlet: Inlet) -> Iterator[list[Sample]]:
        while True:
            samples = inlet.take(CHUNK)
            waiting = [sample for sample in samples if sample.sequences is not None]
            texts = iter(decode([row for sample in waiting for row in sample.sequences or []]))
            for sample in waiting:
                _give(sample, [next(texts) for _ in sample.sequences or []])
            yield samples

    return work


def _with_answer(sample: Sample, answer: Answer) -> Sample:
    if answer.fault is not None:
        sample.reject(answer.fault)
    else:
        sample.ids = None
        sample.sequences, sample.scores = answer.sequences, answer.scores
        sample.tokens, sample.trace = answer.tokens, answer.trace
    return sample


def _give(sample: Sample, texts: list[str | Fault]) -> None:
    faults = [text for text in texts if isinstance(text, Fault)]
    if faults:
        sample.reject(faults[0].reason)
    else:
        sample.texts, sample.sequences = [str(text) for text in texts], None
