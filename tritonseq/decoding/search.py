"""Greedy search and sampling: every row chooses its own next token.

All searches share one shape. `allocate` makes a state, buffers with one entry per sample; `reset`
begins it, `select` turns logits into tokens and writes them to it, both for all of its samples or a
view of some; `output` returns what was found. A search itself keeps nothing between steps.

Scores that are no numbers are told of at the end, by what tokens were chosen by: a scan of all
weights beforehand costs a part of the time that loading them takes, for every model that is well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from tritonseq.kernels import greedy_advance, is_gpu
from tritonseq.kernels.advance import row_advance
from tritonseq.kernels.advance.eager import place_of, write

from .token_scores import probability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .hypotheses import Hypotheses
    from .outputs import GenerateOutput, Recorder
    from .processor_list import Processor
    from .stopping import Stopping


# Weights that are no numbers, of which an error names so many.
SHOWN = 3


class Search(Protocol):
    """One decision per step."""

    stopping: Stopping
    retires: bool
    """Whether samples rest as soon as their search has ended."""

    def allocate(self, hypotheses: Hypotheses) -> Any:
        """A state for the samples of the hypotheses; its buffers hold anything until `reset`."""
        ...

    def reset(self, state: Any) -> None:
        """Begin: these samples have written nothing yet."""
        ...

    def select(self, logits: Tensor, state: Any) -> None:
        """Choose from `logits [R, V]` (may be overwritten) and write that to the state."""
        ...

    def output(self, state: Any, prompt: Tensor) -> GenerateOutput:
        """What was found, behind the prompts `[B, P]` as they were given; waits for the device.

        Raises NotFinite if scores were no numbers.
        """
        ...


def process(scores: Tensor, hypotheses: Hypotheses, processors: Sequence[Processor]) -> Tensor:
    """Apply the processors in order to `scores [R, V]`."""
    for processor in processors:
        scores = processor.apply(hypotheses, scores)
    return scores


@dataclass
class GreedyState:
    """What greedy search keeps."""

    hypotheses: Hypotheses
    ended: Tensor
    """`[B, K]` bool: which rows have ended."""
    lengths: Tensor
    """`[B, K]` tokens up to the end of each row; counted only if its padding is no token."""
    peak: Tensor
    """`[B, K]` float32, the greatest score that a token was chosen by; NaN once one was."""
    token_scores: Tensor | None = None
    """`[B, T, K]` float32 log-probabilities of what was chosen, zero behind the end of a row; if
    they are wanted."""


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
        fill_token_id: int | None = None,
        retires: bool,
        infinite: bool = False,
        keeps_token_scores: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        """`pad_token_id`: what a row goes on with that has ended; `fill_token_id`: what stands
        there in the output, if that is another, which may be no token. `infinite`: processors may
        make a score infinite."""
        self.stopping = stopping
        self.retires = retires
        self._processors = processors
        self._recorder = recorder
        self._sample = sample
        self._generator = generator
        self._pad_token_id = pad_token_id
        self._infinite = infinite
        self._keeps_token_scores = keeps_token_scores
        self._fill = None if fill_token_id == pad_token_id else fill_token_id

    def allocate(self, hypotheses: Hypotheses) -> GreedyState:
        newest, own = hypotheses.written.newest, None
        ended, peak = (torch.empty_like(newest, dtype=t) for t in (torch.bool, torch.float32))
        if self._keeps_token_scores:
            own = torch.empty_like(hypotheses.written.tokens, dtype=torch.float32)
        return GreedyState(hypotheses, ended, torch.empty_like(newest), peak, own)

    def reset(self, state: GreedyState) -> None:
        state.ended.zero_()
        state.lengths.zero_()
        state.peak.fill_(-torch.inf)
        if state.token_scores is not None:
            state.token_scores.zero_()

    def select(self, logits: Tensor, state: GreedyState) -> None:
        hypotheses = state.hypotheses
        hypotheses.forget_texts()
        self._recorder.logits(logits)
        if self._processors or self._sample or self._recorder.is_on:
            logits = logits.float()
        scores = process(logits, hypotheses, self._processors)
        self._recorder.scores(scores[:, None])
        self._recorder.end_step()
        by_beam = scores.unflatten(0, (-1, hypotheses.beams))
        # Without an end nothing is padded.
        assert self._pad_token_id is not None or not self.stopping.fills
        ends, pad = self.stopping.ends, self._pad_token_id or 0
        if self._fill is not None:
            state.lengths.add_(~state.ended)
        # Processors may leave nothing but -inf to a row that has ended, or what is no number.
        live = None
        if self._processors:
            live = ~state.ended & (hypotheses.written.step >= 0)[:, None]
        if not self._sample and self.stopping.is_plain and not self._keeps_token_scores:
            greedy_advance(
                hypotheses.written,
                state.ended,
                by_beam,
                ends=ends,
                pad_token_id=pad,
                retire=self.retires,
            )
            _note(by_beam, hypotheses.written.newest, live, state.peak)
            return
        tokens = (
            draw(scores.softmax(dim=-1), 1, self._generator)
            if self._sample
            else scores.argmax(dim=-1)
        )
        tokens = tokens.view(state.ended.shape)
        _note(by_beam, tokens, live, state.peak)
        if state.token_scores is not None:
            own, at = probability(by_beam, tokens), place_of(hypotheses.written, tokens.shape[1])
            goes_on = ~state.ended & (hypotheses.written.step >= 0)[:, None]
            write(state.token_scores, at, own, goes_on)
        if self.stopping.fills:
            tokens = tokens.masked_fill(state.ended, pad)
        hits = self.stopping.hits(tokens, None, hypotheses, self._recorder.so_far)
        row_advance(
            hypotheses.written, state.ended, tokens, ends=ends, hits=hits, retire=self.retires
        )
        self.stopping.follow(hypotheses, are_exchanged=False)

    def check(self, state: GreedyState) -> None:
        """Raise NotFinite if scores were no numbers so far; waits for the device."""
        refuse(state.peak, infinite=not self._infinite)

    def output(self, state: GreedyState, prompt: Tensor) -> GenerateOutput:
        self.check(state)
        hypotheses = state.hypotheses
        prompt = prompt.repeat_interleave(hypotheses.beams, dim=0)
        steps = int(hypotheses.generated.max())
        rows = hypotheses.written.tokens[:, :steps].transpose(1, 2).flatten(0, 1)
        if self._fill is not None:
            behind = torch.arange(steps, device=rows.device) >= state.lengths.flatten()[:, None]
            rows = rows.masked_fill(behind, self._fill)
        own = state.token_scores
        if own is not None:
            own = own[:, :steps].transpose(1, 2).flatten(0, 1).clone()
        return self._recorder.output(torch.cat((prompt, rows), dim=1), token_scores=own)


def _note(scores: Tensor, tokens: Tensor, live: Tensor | None, peak: Tensor) -> None:
    """Keep in `peak [B, K]` the greatest score of `scores [B, K, V]` that a token was chosen by.

    Without waiting: `refuse` tells of it when the output is read. Without `live [B, K]`, rows that
    rest are noted as well: what the network makes of them are numbers where the others are.
    """
    chosen = scores.gather(2, tokens[:, :, None])[:, :, 0].float()
    if live is not None:
        chosen = chosen.masked_fill_(~live, -torch.inf)
    # Of NaN and a number the maximum is NaN.
    torch.maximum(peak, chosen, out=peak)


def draw(probabilities: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """`[R, count]` tokens of `probabilities [R, V]`, none twice; by torch's global generator,
    unless there is another.

    On a GPU by the race of exponential clocks that `torch.multinomial` runs, with the same random
    numbers; that function checks what it is given, and would wait for the device.
    """
    if not is_gpu(probabilities.device):
        try:
            return torch.multinomial(probabilities, num_samples=count, generator=generator)
        except RuntimeError as error:
            # It has looked at them all.
            refuse(probabilities)
            raise ValueError(f"the options leave fewer than {count} tokens to draw") from error
    clocks = torch.empty_like(probabilities).exponential_(generator=generator)
    race = torch.div(probabilities, clocks, out=clocks)
    return race.argmax(dim=-1, keepdim=True) if count == 1 else race.topk(count, dim=-1).indices


class NotFinite(ValueError):
    """The scores of a step are NaN, or infinite where no processor made them so."""


def refuse(scores: Tensor, *, infinite: bool = False) -> None:
    """Raise NotFinite if NaN is among the `scores`, or with `infinite`, infinity.

    Waits for the device.
    """
    strange = scores.isnan() | (scores == torch.inf) if infinite else scores.isnan()
    if bool(strange.any()):
        raise NotFinite("the scores of the model are no numbers (NaN or infinite)")


def explain(decoder: Any, dtype: torch.dtype) -> NotFinite:
    """What to tell of a `Network`: which weights are broken, or what outgrows the dtype."""
    broken = decoder.broken_weights()
    start = "the scores of the model are no numbers (NaN or infinite): "
    name = str(dtype).removeprefix("torch.")
    if broken:
        more = len(broken) - SHOWN
        names = ", ".join(broken[:SHOWN]) + (f" and {more} more" if more > 0 else "")
        outgrown = "" if dtype == torch.float32 else f', or pass dtype="float32" if {name} is why'
        return NotFinite(f"{start}its weights hold such in {names}: fetch them again{outgrown}")
    if dtype == torch.float32:
        return NotFinite(
            f"{start}its weights are finite, and what is computed of them is not; "
            "is the checkpoint damaged, or do the options leave no token at all?"
        )
    return NotFinite(
        f'{start}they outgrow {name} on their way: load the model with dtype="float32"'
        + (', or "bfloat16"' if dtype == torch.float16 else "")
    )
