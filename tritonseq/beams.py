"""Beam search by transformers' rules, plain and in diverse groups, without moving a cache.

Every quantity is kept per sample. A beam is a slot; what it has written is found through back
pointers, so a finished hypothesis is three numbers (where it ended, after which beam, with which
token) until the search is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .processors import hamming_penalty
from .search import process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .hypotheses import Hypotheses
    from .outputs import GenerateOutput, Recorder
    from .processors import Processor
    from .stopping import Stopping

# Stands for minus infinity in the scores of beams that must not be chosen. transformers adds it
# where an infinity would give NaN, and ids agree only if ours rounds in the same places.
FAR_BELOW = -1.0e9


class Rules(NamedTuple):
    """The options that decide which hypotheses survive."""

    beams: int
    groups: int
    diversity_penalty: float
    candidates_per_beam: int
    sample: bool
    early_stopping: bool | str
    length_penalty: float
    new_tokens: int
    num_return_sequences: int
    fill_token_id: int


class Pool(NamedTuple):
    """The best finished hypotheses of each sample, best first; all `[B, K]`."""

    scores: Tensor
    done: Tensor
    end: Tensor
    """The position of the last token; -1 for a place that nothing has taken."""
    slot: Tensor
    """The beam that the last token was appended to."""
    token: Tensor

    @classmethod
    def empty(cls, samples: int, beams: int, device: torch.device) -> Pool:
        scores = torch.full((samples, beams), FAR_BELOW, device=device, dtype=torch.float32)
        index = torch.zeros(samples, beams, device=device, dtype=torch.int64)
        return cls(scores, torch.zeros_like(index, dtype=torch.bool), index - 1, index, index)

    def merge(self, other: Pool, keep: int) -> Pool:
        """The best `keep` of both, by score."""
        joined = Pool(*(torch.cat(pair, dim=1) for pair in zip(self, other, strict=True)))
        best = joined.scores.topk(keep, dim=1).indices
        return Pool(*(field.gather(1, best) for field in joined))


class Group:
    """Beams that compete with each other: all of a sample's, or one diverse group of them."""

    def __init__(self, rules: Rules, stopping: Stopping, samples: int, device: torch.device):
        self._rules = rules
        self._stopping = stopping
        self._beams = rules.beams // rules.groups
        # Beams start out equal, so all but the first must lose the first step.
        shape = (samples, self._beams)
        self._running = torch.full(shape, FAR_BELOW, device=device, dtype=torch.float32)
        self._running[:, 0] = 0.0
        self._improvable = torch.ones(samples, 1, device=device, dtype=torch.bool)
        self.pool = Pool.empty(samples, self._beams, device)
        self.open = self._improvable
        """`[B, 1]` bool: in which samples can something still enter the pool?"""
        self.finished = False

    def advance(
        self,
        log_probs: Tensor,
        first_beam: int,
        hypotheses: Hypotheses,
        recorded: tuple[Tensor, ...] | None,
    ) -> tuple[Tensor, Tensor]:
        """One step on `log_probs [B, k, V]`, overwritten; returns tokens and parents `[B, k]`.

        `recorded` is what the caller's stopping criteria get to see of all scores so far.
        """
        t = hypotheses.generated
        vocab_size = log_probs.shape[-1]
        scores, index = self._candidates(log_probs.add_(self._running[:, :, None]).flatten(1))
        parents = index.div(vocab_size, rounding_mode="floor") + first_beam
        tokens = index % vocab_size
        hits = self._stopping.hits(tokens, parents, hypotheses, recorded)

        # At the length limit all end at once. Then it matters to later groups only which beams
        # are chosen here, and adding FAR_BELOW to all of them would blur their order.
        at_limit = t + 1 >= self._rules.new_tokens
        barred = self._stopping.ends(tokens) if at_limit else hits
        live_scores = scores + barred.to(torch.float32) * FAR_BELOW
        live = live_scores.topk(self._beams, dim=1).indices
        self._running = live_scores.gather(1, live)

        self._collect(scores, hits, parents, tokens, t)
        self._improvable = self._improvable & self._can_improve(t + 1)
        self.open = self._improvable
        if self._rules.early_stopping is True:
            self.open = self.open & ~self.pool.done.all(dim=1, keepdim=True)
        self.finished = self.finished or self._is_finished(hits)
        return tokens.gather(1, live), parents.gather(1, live)

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and indices of the continuations to consider, out of `[B, k * V]`."""
        count = self._rules.candidates_per_beam * self._beams
        if not self._rules.sample:
            best = scores.topk(count, dim=1)
            return best.values, best.indices
        drawn = torch.multinomial(scores.softmax(dim=-1), num_samples=count)
        return scores.gather(1, drawn), drawn

    def _collect(
        self, scores: Tensor, hits: Tensor, parents: Tensor, tokens: Tensor, t: int
    ) -> None:
        """Put the candidates that have finished into the pool, if they earn a place."""
        # Only the first beams may finish; the others are there to keep enough beams alive.
        done = hits.clone()
        done[:, self._beams :] = False
        final = scores / ((t + 1) ** self._rules.length_penalty)
        if self._rules.early_stopping is True:
            final = final + self.pool.done.all(dim=1, keepdim=True).to(torch.float32) * FAR_BELOW
        final = final + (~self._improvable).to(torch.float32) * FAR_BELOW
        final = final + (~done).to(torch.float32) * FAR_BELOW
        new = Pool(final, done, torch.full_like(tokens, t), parents, tokens)
        self.pool = self.pool.merge(new, self._beams)

    def _can_improve(self, length: int) -> Tensor:
        """`[B, 1]`: could the best live beam still beat the worst finished hypothesis?"""
        rules = self._rules
        if rules.early_stopping == "never" and rules.length_penalty > 0.0:
            length = rules.new_tokens
        best = self._running[:, :1] / (length**rules.length_penalty)
        worst = self.pool.scores.min(dim=1, keepdim=True).values
        worst = torch.where(self.pool.done, worst, FAR_BELOW)
        return (best > worst).any(dim=1, keepdim=True)

    def _is_finished(self, hits: Tensor) -> bool:
        full = self._rules.early_stopping is True and bool(self.pool.done.all())
        return full or not bool(self._improvable.any()) or bool(hits.all())


class BeamSearch:
    """Keeps the best hypotheses of each sample (and of each diverse group of its beams).

    Groups follow Vijayakumar et al., "Diverse Beam Search", 2016: they choose one after the
    other, and a token costs a penalty for every earlier group that has just chosen it.
    """

    def __init__(
        self,
        processors: Sequence[Processor],
        stopping: Stopping,
        recorder: Recorder,
        rules: Rules,
        *,
        samples: int,
        device: torch.device,
    ) -> None:
        self._processors = processors
        self._recorder = recorder
        self._rules = rules
        self._groups = [Group(rules, stopping, samples, device) for _ in range(rules.groups)]
        shape = (samples, rules.new_tokens, rules.beams)
        self._back_pointers = torch.zeros(shape, device=device, dtype=torch.int64)
        self.finished = False

    def select(self, logits: Tensor, hypotheses: Hypotheses) -> Tensor:
        self._recorder.logits(logits)
        log_probs = logits.log_softmax(dim=-1).view(-1, self._rules.beams, logits.shape[-1])
        size = self._rules.beams // self._rules.groups
        # A group that has finished in a sample goes on writing there, to no consequence.
        live = torch.cat([group.open.expand(-1, size) for group in self._groups], dim=1)
        tokens: list[Tensor] = []
        parents: list[Tensor] = []
        for first, group in zip(range(0, self._rules.beams, size), self._groups, strict=True):
            rows = log_probs[:, first : first + size].flatten(0, 1)
            if tokens:
                chosen = torch.cat(tokens, dim=1)
                rows = hamming_penalty(rows, chosen, self._rules.diversity_penalty, live[:, :first])
            rows = process(rows, hypotheses.of_beams(first, size), self._processors)
            scores = rows.view(-1, size, rows.shape[-1])
            self._recorder.scores(scores)
            new, continued = group.advance(scores, first, hypotheses, self._recorder.so_far)
            tokens.append(new)
            parents.append(continued)
        self._recorder.end_step()
        return self._write(torch.cat(tokens, dim=1), torch.cat(parents, dim=1), hypotheses)

    def _write(self, tokens: Tensor, parents: Tensor, hypotheses: Hypotheses) -> Tensor:
        self._back_pointers[:, hypotheses.generated] = parents
        hypotheses.append(tokens, parents)
        self.finished = all(group.finished for group in self._groups)
        return tokens

    def output(self, hypotheses: Hypotheses) -> GenerateOutput:
        pool = self._groups[0].pool
        for group in self._groups[1:]:
            pool = pool.merge(group.pool, pool.scores.shape[1] + group.pool.scores.shape[1])
        pool = Pool(*(field[:, : self._rules.num_return_sequences] for field in pool))
        return self._recorder.output(
            **written_out(pool, hypotheses, self._back_pointers, self._rules.fill_token_id)
        )


def written_out(
    pool: Pool, hypotheses: Hypotheses, back_pointers: Tensor, fill_token_id: int
) -> dict[str, Tensor]:
    """The hypotheses of a pool `[B, N]` as fields of a GenerateOutput, samples in order.

    `back_pointers [B, T, K]`: the beam that each slot's token was appended to. Sequences are
    filled up with `fill_token_id`.
    """
    tokens, beams = _trace(pool, hypotheses, back_pointers, fill_token_id)
    prompt = hypotheses.prompt.repeat_interleave(tokens.shape[1], dim=0)
    return {
        "sequences": torch.cat((prompt, tokens.flatten(0, 1)), dim=1),
        "sequences_scores": pool.scores.flatten().float(),
        "beam_indices": beams.flatten(0, 1),
    }


def _trace(
    pool: Pool, hypotheses: Hypotheses, back_pointers: Tensor, fill_token_id: int
) -> tuple[Tensor, Tensor]:
    """Follow the back pointers of the pool; tokens and beam indices, `[B, N, L]` each."""
    length = int(pool.end.max()) + 1
    shape = (*pool.end.shape, length)
    tokens = pool.token.new_full(shape, fill_token_id)
    beams = pool.slot.new_full(shape, -1)
    first_rows = torch.arange(shape[0], device=pool.slot.device)[:, None] * hypotheses.beams
    slot, token = pool.slot, pool.token
    for t in range(length - 1, -1, -1):
        inside = pool.end >= t
        tokens[:, :, t] = torch.where(inside, token, tokens[:, :, t])
        beams[:, :, t] = torch.where(inside, first_rows + slot, beams[:, :, t])
        if t > 0:
            token = torch.where(inside, hypotheses.tokens[:, t - 1].gather(1, slot), token)
            slot = torch.where(inside, back_pointers[:, t - 1].gather(1, slot), slot)
    return tokens, beams
