"""Beam search by the rules of UniLM's and s2s-ft's decoders.

Dong et al., "Unified Language Model Pre-training", 2019, and the decoders published with it. They
differ from transformers' rules: an ended hypothesis takes a beam for one step and lives on only
in what was recorded, nothing is dropped from the pool of ended ones, a penalty of length (Wu et
al., "Google's Neural Machine Translation System", 2016) counts only in the final choice, and
hypotheses that are cut off by the length compete with those that ended.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .beams import Pool, written_out
from .outputs import BeamTrace
from .search import process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .hypotheses import Hypotheses
    from .outputs import GenerateOutput, Recorder
    from .processors import Processor
    from .stopping import Stopping

ENDED = -10000.0
"""Added to whatever would continue an ended hypothesis: the decoders' own minus infinity."""

ADDED = frozenset(("NoRepeatNGramLogitsProcessor",))
"""Processors to whose bans the decoders add that number; what they ban stays in its order."""

SET = frozenset(
    (
        "MinLengthLogitsProcessor",
        "MinNewTokensLengthLogitsProcessor",
        "SuppressTokensLogitsProcessor",
    )
)
"""Processors in the place of whose bans the decoders put that number."""

NEVER_RAISING = frozenset(
    (
        *ADDED,
        *SET,
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


class UniLMRules(NamedTuple):
    """The options that decide which hypotheses survive."""

    beams: int
    length_penalty: float
    stops_early: bool
    """Stop as soon as nothing can change the result, rather than at the very end."""
    has_strangers: bool
    """Do functions of the caller's change scores? They may raise them, and are asked once."""
    new_tokens: int
    num_return_sequences: int
    fill_token_id: int


class UniLMBeamSearch:
    """Keeps K beams per sample, and the best of all hypotheses that ever ended."""

    def __init__(
        self,
        processors: Sequence[Processor],
        stopping: Stopping,
        recorder: Recorder,
        rules: UniLMRules,
        *,
        samples: int,
        device: torch.device,
    ) -> None:
        self._processors = processors
        self._stopping = stopping
        self._recorder = recorder
        self._rules = rules
        # Only if no score is positive do sums of them fall, and tell what is yet to come.
        falling = all(processor.name in NEVER_RAISING for processor in processors)
        self._stops_early = rules.stops_early and falling and not rules.has_strangers
        shape = (samples, rules.beams)
        self._running = torch.zeros(shape, device=device, dtype=torch.float32)
        # Which beams end with their newest token, and which have an end behind them: where less
        # than K continuations are allowed, an ended hypothesis has to be continued.
        self._ended = torch.zeros(shape, device=device, dtype=torch.bool)
        self._dead = torch.zeros(shape, device=device, dtype=torch.bool)
        self._done = torch.zeros(samples, device=device, dtype=torch.bool)
        steps = (samples, rules.new_tokens, rules.beams)
        self._scores = torch.zeros(steps, device=device, dtype=torch.float32)
        self._back_pointers = torch.zeros(steps, device=device, dtype=torch.int64)
        self._pool = _nothing(samples, rules.num_return_sequences, device)
        self.finished = False

    def select(self, logits: Tensor, hypotheses: Hypotheses) -> Tensor:
        self._recorder.logits(logits)
        log_probs = process(logits.log_softmax(dim=-1), hypotheses, self._processors)
        log_probs = log_probs.view(-1, self._rules.beams, logits.shape[-1])
        self._recorder.scores(log_probs)
        self._recorder.end_step()
        scores, tokens, parents = self._choose(log_probs, hypotheses.generated)
        if not self._rules.has_strangers and self._lacks_candidates(scores):
            log_probs = self._softened(logits, hypotheses).view_as(log_probs)
            scores, tokens, parents = self._choose(log_probs, hypotheses.generated)
        self._running = scores
        self._collect(tokens, parents, hypotheses)
        self._scores[:, hypotheses.generated] = self._running
        self._back_pointers[:, hypotheses.generated] = parents
        hypotheses.append(tokens, parents)
        return tokens

    def _choose(self, log_probs: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The K best continuations: scores, tokens and parents, `[B, K]` each."""
        beams = self._rules.beams
        if step == 0:
            # All beams are still the same one.
            scores, tokens = log_probs[:, 0].topk(beams, dim=1)
            return scores, tokens, torch.zeros_like(tokens)
        scores, candidates = log_probs.topk(beams, dim=2)
        history = self._ended * ENDED + self._running
        best = (scores + history[:, :, None]).flatten(1).topk(beams, dim=1)
        parents = best.indices.div(beams, rounding_mode="floor")
        return best.values, candidates.flatten(1).gather(1, best.indices), parents

    def _lacks_candidates(self, scores: Tensor) -> bool:
        """Are less than K continuations allowed, so that the order of what is banned counts?"""
        return bool(((scores < ENDED / 2) & ~self._done[:, None]).any())

    def _softened(self, logits: Tensor, hypotheses: Hypotheses) -> Tensor:
        """The log-probabilities `[R, V]` after the processors, with the decoders' own bans.

        They are finite, so that what is banned is chosen before a search ends with nothing.
        """
        scores = logits.log_softmax(dim=-1)
        for processor in self._processors:
            before = scores.clone()
            scores = processor.apply(hypotheses, scores)
            if processor.name in ADDED:
                scores = torch.where(scores == -math.inf, before + ENDED, scores)
            elif processor.name in SET:
                # What others have banned, a trie say, stays so.
                banned = (scores == -math.inf) & (before > -math.inf)
                scores = scores.masked_fill(banned, ENDED)
        return scores

    def _collect(self, tokens: Tensor, parents: Tensor, hypotheses: Hypotheses) -> None:
        """Put what ends with this step into the pool, and see in which samples search is over."""
        step = hypotheses.generated
        self._dead = (self._dead | self._ended).gather(1, parents)
        # At the last step that is every hypothesis.
        self._ended = self._stopping.hits(tokens, parents, hypotheses, self._recorder.so_far)
        enters = self._ended & ~self._dead & ~self._done[:, None]
        values = self._running.double() / self._penalty(step)
        new = Pool(
            values.masked_fill(~enters, -math.inf),
            enters,
            torch.full_like(tokens, step),
            parents,
            tokens,
        )
        self._pool = _best(self._pool, new, self._rules.num_return_sequences)
        self._done = self._done | self._ended.all(dim=1)
        if self._stops_early:
            self._done = self._done | ~self._can_improve()
        self.finished = bool(self._done.all())

    def _can_improve(self) -> Tensor:
        """`[B]`: could a hypothesis that has not ended still enter the pool?

        Its score will only fall, and the penalty be at most that of the last step. On a tie the
        one that ended first stays.
        """
        live = self._running.masked_fill(self._ended | self._dead, -math.inf).amax(dim=1)
        bound = live.double() / self._penalty(self._rules.new_tokens - 1)
        return bound > self._pool.scores.amin(dim=1)

    def _penalty(self, step: int) -> float:
        """What the score of a hypothesis that ends with this step is divided by."""
        exponent = self._rules.length_penalty
        return ((5 + step + 1) / 6) ** exponent if exponent > 0 else 1.0

    def output(self, hypotheses: Hypotheses) -> GenerateOutput:
        pointers, fill = self._back_pointers, self._rules.fill_token_id
        frames = (self._scores, hypotheses.tokens, pointers)
        return self._recorder.output(
            **written_out(self._pool, hypotheses, pointers, fill),
            beam_trace=BeamTrace(*(frame[:, : hypotheses.generated] for frame in frames)),
        )


def _nothing(samples: int, count: int, device: torch.device) -> Pool:
    """A pool that everything may enter."""
    scores = torch.full((samples, count), -math.inf, device=device, dtype=torch.float64)
    index = torch.zeros(samples, count, device=device, dtype=torch.int64)
    return Pool(scores, torch.zeros_like(index, dtype=torch.bool), index - 1, index, index)


def _best(pool: Pool, new: Pool, count: int) -> Pool:
    """The best `count` of both; among equals those that came first, and lower beams."""
    joined = Pool(*(torch.cat(pair, dim=1) for pair in zip(pool, new, strict=True)))
    order = joined.scores.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return Pool(*(field.gather(1, order) for field in joined))
