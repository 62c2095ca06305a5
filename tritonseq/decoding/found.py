"""What a batch has found, sample by sample, as plain lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .outputs import BeamTrace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritonseq.options.config import GenerationConfig

    from .outputs import GenerateOutput


class Found(NamedTuple):
    """The sequences of one sample, the best first."""

    sequences: list[list[int]]
    """What is to be decoded: without padding, and without the prompt that it continues."""
    tokens: list[int]
    """How many were chosen for each; the end token counts."""
    scores: list[float] | None
    """Of each sequence, where beams gave them."""
    trace: BeamTrace | None
    """The search that found them, `[T, K]` each, where the search is UniLM's."""


def found(
    output: GenerateOutput, config: GenerationConfig, *, samples: int, start: int, given: int
) -> list[Found]:
    """Take the output of a batch apart.

    `start`: the column where what is to be decoded begins; `given`: how many tokens of that were
    not chosen, but are what every target starts with.
    """
    rows = output.sequences[:, start:].tolist()
    counts = [max(0, chosen(row, config) - given) for row in rows]
    rows = [row[: count + given] for row, count in zip(rows, counts, strict=True)]
    scores = None if output.sequences_scores is None else output.sequences_scores.tolist()
    copies = len(rows) // samples
    answers = []
    for sample in range(samples):
        own = slice(sample * copies, (sample + 1) * copies)
        trace = _of_sample(output.beam_trace, sample)
        own_scores = None if scores is None else scores[own]
        answers.append(Found(rows[own], counts[own], own_scores, trace))
    return answers


def chosen(row: Sequence[int], config: GenerationConfig) -> int:
    """Tokens of a row without what fills it up; the end token counts."""
    fill = -1 if config.fill_token_id is None else config.fill_token_id
    count = len(row)
    while count and row[count - 1] == fill:
        count -= 1
    return count + (count < len(row) and fill >= 0 and fill in config.eos_token_ids)


def _of_sample(trace: BeamTrace | None, sample: int) -> BeamTrace | None:
    if trace is None:
        return None
    return BeamTrace(*(frame[sample] for frame in trace))
