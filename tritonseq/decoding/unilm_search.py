"""Beam search by the rules of UniLM's and s2s-ft's decoders.

Dong et al., "Unified Language Model Pre-training", 2019, and the decoders published with it. They
differ from transformers' rules: an ended hypothesis takes a beam for one step and lives on only
in what was recorded, nothing is dropped from the pool of ended ones, a penalty of length (Wu et
al., "Google's Neural Machine Translation System", 2016) counts only in the final choice, and
hypotheses that are cut off by the length compete with those that ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tritonseq.kernels.advance.eager import append_beams, is_in, place_of, write
from tritonseq.kernels.advance.state import Pool

from .beam_search import allocate_pool, clear_pool, written_out
from .outputs import BeamTrace
from .search import process
from .token_scores import Considered, at_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .hypotheses import Hypotheses
    from .outputs import GenerateOutput, Recorder
    from .processor_list import Processor
    from .stopping import Stopping

ENDED = -10000.0
"""The decoders' own minus infinity. It is added to whatever would continue an ended hypothesis and
to what would repeat an n-gram, and stands in the place of tokens that are banned; so what is
banned stays in an order, and is chosen before a search ends with nothing."""

NEVER_RAISING = frozenset(
    (
        "MinLengthLogitsProcessor",
        "MinNewTokensLengthLogitsProcessor",
        "NoRepeatNGramLogitsProcessor",
        "SuppressTokensLogitsProcessor",
        "EncoderNoRepeatNGramLogitsProcessor",
        "EncoderRepetitionPenaltyLogitsProcessor",
        "ForcedBOSTokenLogitsProcessor",
        "ForcedEOSTokenLogitsProcessor",
        "NoBadWordsLogitsProcessor",
        "PrefixConstrainedLogitsProcessor",
        "RepetitionPenaltyLogitsProcessor",
        "SuppressTokensAtBeginLogitsProcessor",
    )
)
"""Processors that make no positive score of a log-probability."""


class UniLMOptions(NamedTuple):
    """The options that decide which hypotheses survive."""

    beams: int
    length_penalty: float
    stops_early: bool
    """Stop as soon as nothing can change the result, rather than at the very end."""
    runs_out: bool
    """Go on to the very end even after every hypothesis has ended, as upstream's traces do."""
    has_strangers: bool
    """Whether functions of the caller's change scores: they may raise them, and are asked once."""
    most_new_tokens: int
    """The limit of the longest hypothesis."""
    num_return_sequences: int
    fill_token_id: int


@dataclass
class UniLMState:
    """What the search keeps; all `[B, K]`, `[B, T, K]` or of the pool."""

    hypotheses: Hypotheses
    running: Tensor
    """Sums of log-probabilities."""
    ended: Tensor
    """Which beams end with their newest token."""
    dead: Tensor
    """Which have an end behind them: where less than K continuations are allowed, an ended
    hypothesis has to be continued."""
    scores: Tensor
    """`[B, T, K]` what was running after every step."""
    pool: Pool
    considered: Considered | None = None
    """For the scores of tokens, if these are wanted."""


class UniLMBeamSearch:
    """Keeps K beams per sample, and the best of all hypotheses that ever ended."""

    def __init__(
        self,
        processors: Sequence[Processor],
        stopping: Stopping,
        recorder: Recorder,
        options: UniLMOptions,
        *,
        retires: bool,
        device: torch.device,
        keeps_token_scores: bool = False,
    ) -> None:
        self.stopping = stopping
        self.retires = retires
        self._processors = processors
        self._recorder = recorder
        self._options = options
        self._keeps_token_scores = keeps_token_scores
        # Only if no score is positive do sums of them fall, and tell what is yet to come.
        falling = all(processor.name in NEVER_RAISING for processor in processors)
        self._stops_early = options.stops_early and falling and not options.has_strangers
        penalties = [
            _penalty(n, options.length_penalty) for n in range(options.most_new_tokens + 1)
        ]
        self._penalties = torch.tensor(penalties, dtype=torch.float64, device=device)

    def allocate(self, hypotheses: Hypotheses) -> UniLMState:
        tokens, beams = hypotheses.written.tokens, hypotheses.written.newest
        shape = (tokens.shape[0], self._options.num_return_sequences)
        keeps, beam_count = self._keeps_token_scores, self._options.beams
        return UniLMState(
            hypotheses,
            running=torch.empty_like(beams, dtype=torch.float32),
            ended=torch.empty_like(beams, dtype=torch.bool),
            dead=torch.empty_like(beams, dtype=torch.bool),
            scores=torch.empty_like(tokens, dtype=torch.float32),
            pool=allocate_pool(shape, tokens.device, torch.float64),
            considered=Considered.allocate(hypotheses, beam_count) if keeps else None,
        )

    def reset(self, state: UniLMState) -> None:
        for buffer in (state.running, state.ended, state.dead, state.scores):
            buffer.zero_()
        clear_pool(state.pool, worst=-math.inf)
        if state.considered is not None:
            state.considered.clear()

    def select(self, logits: Tensor, state: UniLMState) -> None:
        hypotheses = state.hypotheses
        hypotheses.forget_texts()
        self._recorder.logits(logits)
        log_probs = process(logits.float().log_softmax(dim=-1), hypotheses, self._processors)
        log_probs = log_probs.view(-1, self._options.beams, logits.shape[-1])
        self._recorder.scores(log_probs)
        self._recorder.end_step()
        running, tokens, parents = self._choose(log_probs, state)
        if state.considered is not None:
            own = at_pairs(log_probs, tokens, parents)
            state.considered.note(hypotheses.written, own, tokens, parents)
        hits = self.stopping.hits(tokens, parents, hypotheses, self._recorder.so_far)
        done = self._collect(running, tokens, parents, hits, state)
        append_beams(hypotheses.written, tokens, parents, done, retire=self.retires)
        self.stopping.follow(hypotheses)

    def _choose(self, log_probs: Tensor, state: UniLMState) -> tuple[Tensor, Tensor, Tensor]:
        """The K best continuations: scores, tokens and parents, `[B, K]` each."""
        beams = self._options.beams
        scores, candidates = log_probs.topk(beams, dim=2)
        history = state.ended.to(torch.float32) * ENDED + state.running
        best = (scores + history[:, :, None]).flatten(1).topk(beams, dim=1)
        parents = best.indices.div(beams, rounding_mode="floor")
        tokens = candidates.flatten(1).gather(1, best.indices)
        # At first all beams are still the same one.
        first = (state.hypotheses.generated == 0)[:, None]
        return (
            torch.where(first, scores[:, 0], best.values),
            torch.where(first, candidates[:, 0], tokens),
            parents.masked_fill(first, 0),
        )

    def _collect(
        self,
        running: Tensor,
        tokens: Tensor,
        parents: Tensor,
        hits: Tensor | None,
        state: UniLMState,
    ) -> Tensor:
        """Put what ends with this step into the pool; returns `[B]`, where search is over."""
        written = state.hypotheses.written
        active, step = written.step >= 0, written.generated
        if hits is None:
            hits = is_in(tokens, self.stopping.ends)
        # At the last step that is every hypothesis.
        ended = hits | (step + 1 >= written.limit)[:, None]
        dead = (state.dead | state.ended).gather(1, parents)
        enters = ended & ~dead & ~written.done[:, None] & active[:, None]
        values = running.double() / self._penalties[step][:, None]
        new = Pool(
            values.masked_fill(~enters, -math.inf),
            enters,
            step[:, None].expand_as(tokens),
            parents,
            tokens,
        )
        for field, best in zip(state.pool, _best(state.pool, new), strict=True):
            field.copy_(best)
        done = ended.all(dim=1)
        if self._options.runs_out:
            done = step + 1 >= written.limit
        if self._stops_early:
            done = done | ~self._can_improve(running, ended | dead, state)
        for field, value in ((state.running, running), (state.ended, ended), (state.dead, dead)):
            field.copy_(torch.where(active[:, None], value, field))
        write(state.scores, place_of(written, tokens.shape[1]), running, active)
        return done

    def _can_improve(self, running: Tensor, is_over: Tensor, state: UniLMState) -> Tensor:
        """`[B]`: whether a hypothesis that has not ended could still enter the pool.

        Its score will only fall, and the penalty be at most that of the last step. On a tie the
        one that ended first stays.
        """
        live = running.masked_fill(is_over, -math.inf).amax(dim=1)
        bound = live.double() / self._penalties[state.hypotheses.written.limit - 1]
        # NaN goes on to the end, where it is told of.
        return ~(bound <= state.pool.scores.amin(dim=1))

    def output(self, state: UniLMState, prompt: Tensor) -> GenerateOutput:
        written = state.hypotheses.written
        steps = int(written.generated.max())
        frames = (state.scores, written.tokens, written.parents)
        return self._recorder.output(
            **written_out(
                state.pool,
                state.hypotheses,
                prompt,
                self._options.fill_token_id,
                state.considered,
            ),
            beam_trace=BeamTrace(*(frame[:, :steps].clone() for frame in frames)),
        )


def _penalty(step: int, exponent: float) -> float:
    """What the score of a hypothesis that ends with this step is divided by."""
    return ((5 + step + 1) / 6) ** exponent if exponent > 0 else 1.0


def _best(pool: Pool, new: Pool) -> Pool:
    """The best of both; among equals those that came first, and lower beams."""
    joined = Pool(*(torch.cat(pair, dim=1) for pair in zip(pool, new, strict=True)))
    order = joined.scores.sort(dim=1, descending=True, stable=True).indices
    order = order[:, : pool.scores.shape[1]]
    return Pool(*(field.gather(1, order) for field in joined))
