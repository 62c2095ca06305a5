"""Greedy search and sampling: every row chooses its own next token.

`Greedy` and `tritonseq.beams.BeamSearch` share one shape: `select` turns logits into tokens and
writes them to the hypotheses, `finished` says when to stop, `output` returns what was found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .hypotheses import Hypotheses
    from .outputs import GenerateOutput, Recorder
    from .processors import Processor
    from .stopping import Stopping


class Search(Protocol):
    """One decision per step."""

    finished: bool

    def select(self, logits: Tensor, hypotheses: Hypotheses) -> Tensor:
        """Choose from `logits [R, V]` (float32, may be overwritten); returns tokens `[B, K]`."""
        ...

    def output(self, hypotheses: Hypotheses) -> GenerateOutput:
        """What was found."""
        ...


def process(scores: Tensor, hypotheses: Hypotheses, processors: Sequence[Processor]) -> Tensor:
    """Apply the processors in order to `scores [R, V]`."""
    for processor in processors:
        scores = processor.apply(hypotheses, scores)
    return scores


class Greedy:
    """The best token of every row, or with `sample=True` one drawn from its distribution.

    The beams of a sample are independent rows here (`num_return_sequences`), never exchanged.
    """

    def __init__(
        self,
        processors: Sequence[Processor],
        stopping: Stopping,
        recorder: Recorder,
        *,
        sample: bool,
        pad_token_id: int | None,
    ) -> None:
        self._processors = processors
        self._stopping = stopping
        self._recorder = recorder
        self._sample = sample
        self._pad_token_id = pad_token_id
        self._done: Tensor | None = None
        self.finished = False

    def select(self, logits: Tensor, hypotheses: Hypotheses) -> Tensor:
        self._recorder.logits(logits)
        scores = process(logits, hypotheses, self._processors)
        self._recorder.scores(scores[:, None])
        self._recorder.end_step()
        tokens = _draw(scores) if self._sample else scores.argmax(dim=-1)
        tokens = tokens.view(-1, hypotheses.beams)
        if self._done is None:
            self._done = torch.zeros_like(tokens, dtype=torch.bool)
        elif self._stopping.has_eos:
            # Rows that have ended go on as padding.
            assert self._pad_token_id is not None
            tokens = tokens.masked_fill(self._done, self._pad_token_id)
        self._done |= self._stopping.hits(tokens, None, hypotheses, self._recorder.so_far)
        self.finished = bool(self._done.all())
        hypotheses.append(tokens, None)
        return tokens

    def output(self, hypotheses: Hypotheses) -> GenerateOutput:
        return self._recorder.output(hypotheses.ids)


def _draw(scores: Tensor) -> Tensor:
    """One token per row by probability, from torch's global generator as transformers does."""
    return torch.multinomial(scores.softmax(dim=-1), num_samples=1).squeeze(1)
