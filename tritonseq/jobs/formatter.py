"""From a finished sample to its lines in the output, or in the file of rejected ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .lines import RawJson, encode_object
from .members import Members

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritonseq.stages.sample import Sample

    from .lines import Format


@dataclass(frozen=True)
class Layout:
    """How outputs are written; the fields are those of `Target`."""

    format: Format
    copies: int = 1
    with_scores: bool = False
    output_field: str = "output"
    id_field: str | None = None
    whole: bool = False
    pair_field: str | None = None

    @property
    def score_field(self) -> str:
        return "score" if self.copies == 1 else "scores"

    @property
    def taken(self) -> tuple[str, ...]:
        """The fields that an object of the input must not have."""
        if self.format == "lines" or self.pair_field is not None:
            return ()
        return (self.output_field, self.score_field) if self.with_scores else (self.output_field,)

    def output(self, sample: Sample) -> bytes:
        """One object, or a line of text for each output; empty ones for a rejected sample."""
        done = sample.completion
        texts = done.texts if done.texts is not None else [""] * self.copies
        if self.pair_field is not None:
            source = {self.pair_field: shown(sample)}
            return b"".join(encode_object(source, {self.output_field: text}) for text in texts)
        if self.format == "json":
            return encode_object(sample.fields, self._added(sample, texts))
        prompt = shown(sample) if self.whole and done.fault is None else ""
        lines = [_line(prompt + text) for text in texts]
        if self.with_scores:
            scores = [""] * len(lines)
            if done.scores is not None:
                scores = [str(_rounded(score)) for score in done.scores]
            lines = [f"{score}\t{line}" for score, line in zip(scores, lines, strict=True)]
        # Half a surrogate pair is no text that UTF-8 could hold.
        return "".join(f"{line}\n" for line in lines).encode(errors="replace")

    def rejection(self, sample: Sample) -> bytes:
        """The object that says which line was rejected, and why."""
        rejection: dict[str, Any] = {"line": sample.number + 1}
        if self.id_field is not None:
            rejection |= _identity(sample.fields, self.id_field)
        rejection["reason"] = sample.completion.fault
        if sample.text is not None:
            rejection["source"] = sample.text
        return encode_object(rejection)

    def _added(self, sample: Sample, texts: list[str]) -> dict[str, Any]:
        """What an object has beside the fields that are carried through."""
        result: dict[str, Any] = {self.output_field: texts[0] if self.copies == 1 else texts}
        if self.with_scores:
            scores: list[float | None] = [None] * self.copies
            if (found := sample.completion.scores) is not None:
                scores = [_rounded(s) if math.isfinite(s) else None for s in found]
            result[self.score_field] = scores[0] if self.copies == 1 else scores
        return result


def _identity(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The field that names a line, if it has one, as it stands there."""
    if not isinstance(fields, Members):
        return {"id": fields[name]} if name in fields else {}
    try:
        value = fields.raw(name)
    except ValueError:  # It comes twice: then it names nothing.
        return {}
    return {} if value is None else {"id": RawJson(value)}


def shown(sample: Sample) -> str:
    """The source as one string."""
    if isinstance(sample.text, str):
        return sample.text
    return " ".join(sample.text or ())


def _line(text: str) -> str:
    """A text without what would end its line."""
    return text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")


def _rounded(score: float) -> float:
    """Four decimals, and no minus before a zero: float32 has a few more, but not in every batch."""
    return round(score, 4) + 0.0
