"""A completion: what was generated for one sample, in plain lists, or why nothing was."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritonseq.options.config import GenerationConfig

    from .outputs import GenerateOutput


T = TypeVar("T")


class Completion(NamedTuple):
    """The outputs of one sample, the best first; without any it is not generated yet."""

    sequences: Sequence[Sequence[int]] = ()
    """The ids to decode: without padding, and without the prompt that they continue."""
    scores: list[float] | None = None
    """Of each sequence, where beams gave them."""
    tokens: int = 0
    """How many were chosen for all sequences: the end token counts, padding does not."""
    trace: tuple[list[Any], ...] | None = None
    """The frames of its `BeamTrace`, `[T, K]` each, where return_dict_in_generate asks for it."""
    texts: list[str] | None = None
    """The sequences, decoded."""
    token_ids: list[list[int]] | None = None
    """Of each sequence, what was chosen, the end token included; where their scores are wanted."""
    token_scores: list[list[float]] | None = None
    """The log-probability of each of these."""
    fault: str | None = None
    """Why there is no output."""


def together(parts: Sequence[Completion]) -> Completion:
    """The outputs of a sample that was generated in parts: the k-th is the k-th of each.

    Sequences stay apart, those of the first part first; texts are for the caller to join. Scores
    and tokens are summed. If a part has a fault, so has the whole.
    """
    if len(parts) == 1:
        return parts[0]
    for number, part in enumerate(parts, start=1):
        if part.fault is not None:
            return Completion(fault=f"sentence {number}: {part.fault}")
    scores = [part.scores for part in parts if part.scores is not None]
    return Completion(
        [sequence for part in parts for sequence in part.sequences],
        [math.fsum(each) for each in zip(*scores, strict=True)] if scores else None,
        sum(part.tokens for part in parts),
        token_ids=_side_by_side([part.token_ids for part in parts]),
        token_scores=_side_by_side([part.token_scores for part in parts]),
    )


def _side_by_side(parts: Sequence[list[list[T]] | None]) -> list[list[T]] | None:
    """The k-th list of all parts in one, where they have any."""
    told = [part for part in parts if part is not None]
    return [list(itertools.chain(*each)) for each in zip(*told, strict=True)] if told else None


def completions(
    output: GenerateOutput, config: GenerationConfig, *, samples: int, start: int, given: int
) -> list[Completion]:
    """Take the output of a batch apart.

    `start`: the column where what is to be decoded begins; `given`: how many tokens of that were
    not chosen, but are what every target starts with.
    """
    rows = output.sequences[:, start:].tolist()
    counts = [max(0, chosen(row, config) - given) for row in rows]
    rows = [row[: count + given] for row, count in zip(rows, counts, strict=True)]
    scores = None if output.sequences_scores is None else output.sequences_scores.tolist()
    token_ids, token_scores = _scored_tokens(output, counts)
    trace = output.beam_trace if config.return_dict_in_generate else None
    copies = len(rows) // samples
    found = []
    for sample in range(samples):
        own = slice(sample * copies, (sample + 1) * copies)
        found.append(
            Completion(
                rows[own],
                None if scores is None else scores[own],
                sum(counts[own]),
                None if trace is None else tuple(frame[sample].tolist() for frame in trace),
                token_ids=None if token_ids is None else token_ids[own],
                token_scores=None if token_scores is None else token_scores[own],
            )
        )
    return found


def _scored_tokens(
    output: GenerateOutput, counts: Sequence[int]
) -> tuple[list[list[int]], list[list[float]]] | tuple[None, None]:
    """The first `counts` tokens of each row that were chosen, and their scores, if it has such."""
    if output.token_scores is None:
        return None, None
    new = output.sequences[:, output.sequences.shape[1] - output.token_scores.shape[1] :]
    ids, scores = (
        [row[:count] for row, count in zip(rows.tolist(), counts, strict=True)]
        for rows in (new, output.token_scores)
    )
    return ids, scores


def chosen(row: Sequence[int], config: GenerationConfig) -> int:
    """Tokens of a row without what fills it up; the end token counts."""
    fill = -1 if config.fill_token_id is None else config.fill_token_id
    count = len(row)
    while count and row[count - 1] == fill:
        count -= 1
    return count + (count < len(row) and fill >= 0 and fill in config.eos_token_ids)
