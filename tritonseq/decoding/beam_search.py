"""Beam search by transformers' rules, plain and in diverse groups, without moving a cache.

Every quantity is kept per sample. A beam is a slot; what it has written is found through back
pointers, so a finished hypothesis is three numbers (where it ended, after which beam, with which
token) until the search is over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tritonseq.kernels import beam_advance, beam_topk
from tritonseq.kernels.advance.eager import AdvanceRules, append_beams, choose_beams
from tritonseq.kernels.advance.state import FAR_BELOW, Group, Pool

from .logits_processors import combined
from .processor_list import hamming_penalty
from .search import draw, process, refuse
from .token_scores import Considered, at_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .hypotheses import Hypotheses
    from .logits_processors import Terms
    from .outputs import GenerateOutput, Recorder
    from .processor_list import Processor
    from .stopping import Stopping


class BeamOptions(NamedTuple):
    """The options that decide which hypotheses survive."""

    beams: int
    groups: int
    diversity_penalty: float
    candidates_per_beam: int
    sample: bool
    early_stopping: bool | str
    length_penalty: float
    most_new_tokens: int
    """The limit of the longest hypothesis."""
    num_return_sequences: int
    fill_token_id: int


@dataclass
class BeamState:
    """What beam search keeps."""

    hypotheses: Hypotheses
    groups: list[Group]
    considered: Considered | None = None
    """For the scores of tokens, if these are wanted."""


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
        options: BeamOptions,
        *,
        retires: bool,
        device: torch.device,
        keeps_token_scores: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        self.stopping = stopping
        self.retires = retires
        self._processors = processors
        self._recorder = recorder
        self._options = options
        self._keeps_token_scores = keeps_token_scores
        self._generator = generator
        # What can be said in its terms, one operation does: `beam_topk`.
        plain = options.groups == 1 and not options.sample and not recorder.is_on
        self._terms = combined(p.terms for p in processors) if plain else None
        penalty, longest = options.length_penalty, options.most_new_tokens
        # In double precision, rounded once, as a Python number is that divides a tensor.
        # One more than the longest: samples that rest at their limit are judged, to no consequence.
        powers = [_power(n, penalty) for n in range(longest + 2)]
        never = options.early_stopping == "never" and penalty > 0.0
        self._judge: dict[str, Any] = {
            "powers": torch.tensor(powers, dtype=torch.float64).to(torch.float32).to(device),
            "ends": stopping.ends,
            "stops_when_full": options.early_stopping is True,
            "bounds_by_limit": never,
            "retire": retires,
        }

    def allocate(self, hypotheses: Hypotheses) -> BeamState:
        options, considered = self._options, None
        shape = (hypotheses.prompt.shape[0], options.beams // options.groups)
        device = hypotheses.prompt.device
        groups = [_allocate_group(shape, device) for _ in range(options.groups)]
        if self._keeps_token_scores:
            count = options.candidates_per_beam * options.beams
            considered = Considered.allocate(hypotheses, count)
        return BeamState(hypotheses, groups, considered)

    def reset(self, state: BeamState) -> None:
        for running, improvable, pool in state.groups:
            # Beams start out equal, so all but the first must lose the first step.
            running.fill_(FAR_BELOW)
            running[:, 0].zero_()
            improvable.fill_(True)
            clear_pool(pool, worst=FAR_BELOW)
        if state.considered is not None:
            state.considered.clear()

    def select(self, logits: Tensor, state: BeamState) -> None:
        hypotheses, options = state.hypotheses, self._options
        hypotheses.forget_texts()
        if self._terms is not None:
            self._select_fused(logits, self._terms, state)
            self.stopping.follow(hypotheses)
            return
        self._recorder.logits(logits)
        log_probs = logits.float().log_softmax(dim=-1).view(-1, options.beams, logits.shape[-1])
        if options.groups == 1:
            *candidates, hits = self._candidates(log_probs, 0, state.groups[0], state)
            self._recorder.end_step()
            group = state.groups[0]
            beam_advance(hypotheses.written, group, *candidates, hits=hits, **self._judge)
        else:
            self._select_in_groups(log_probs, state)
        self.stopping.follow(hypotheses)

    def _select_fused(self, logits: Tensor, terms: Terms, state: BeamState) -> None:
        hypotheses, (group,), options = state.hypotheses, state.groups, self._options
        told, by_beam = terms(hypotheses, logits), logits.unflatten(0, (-1, options.beams))
        candidates = beam_topk(
            by_beam, options.candidates_per_beam * options.beams, running=group.running, **told
        )
        if state.considered is not None:
            own = _own_scores(by_beam, *candidates, told.get("forced"))
            state.considered.note(hypotheses.written, own, *candidates[1:])
        hits = self.stopping.hits(*candidates[1:], hypotheses)
        beam_advance(hypotheses.written, group, *candidates, hits=hits, **self._judge)

    def _select_in_groups(self, log_probs: Tensor, state: BeamState) -> None:
        hypotheses, options, judge = state.hypotheses, self._options, AdvanceRules(**self._judge)
        size = options.beams // options.groups
        # A group that has finished in a sample goes on writing there, to no consequence.
        live = torch.cat([self._is_open(group) for group in state.groups], dim=1)
        tokens: list[Tensor] = []
        parents: list[Tensor] = []
        ended: list[Tensor] = []
        for first, group in zip(range(0, options.beams, size), state.groups, strict=True):
            scores = log_probs[:, first : first + size]
            if tokens:
                chosen, rows = torch.cat(tokens, dim=1), scores.flatten(0, 1)
                rows = hamming_penalty(rows, chosen, options.diversity_penalty, live[:, :first])
                scores = rows.view_as(scores)
            *candidates, hits = self._candidates(scores, first, group, state)
            found = choose_beams(hypotheses.written, group, *candidates, hits=hits, rules=judge)
            for column, part in zip((tokens, parents, ended), found, strict=True):
                column.append(part)
        self._recorder.end_step()
        append_beams(
            hypotheses.written,
            torch.cat(tokens, dim=1),
            torch.cat(parents, dim=1),
            torch.stack(ended).all(dim=0),
            retire=self.retires,
        )

    def _candidates(
        self, log_probs: Tensor, first: int, group: Group, state: BeamState
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The continuations to consider, out of `log_probs [B, k, V]`, which are overwritten.

        Scores, tokens and parents `[B, C]`, and which of them complete a hypothesis.
        """
        hypotheses, considered = state.hypotheses, state.considered
        size, vocab_size = log_probs.shape[1:]
        view = hypotheses.of_beams(first, size)
        processed = process(log_probs.flatten(0, 1), view, self._processors)
        scores = processed.view(-1, size, vocab_size)
        self._recorder.scores(scores)
        running, each = group.running[:, :, None], self._options.candidates_per_beam
        totals = scores.add_(running) if considered is None else scores + running
        found, index = self._best(totals.flatten(1), each * size)
        parents = index.div(vocab_size, rounding_mode="floor") + first
        tokens = index % vocab_size
        if considered is not None:
            own = scores.flatten(1).gather(1, index)
            considered.note(hypotheses.written, own, tokens, parents, first=each * first)
        hits = self.stopping.hits(tokens, parents, hypotheses, self._recorder.so_far)
        return found, tokens, parents, hits

    def _best(self, totals: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Scores and places of `count` continuations, out of `[B, k * V]`."""
        if not self._options.sample:
            best = totals.topk(count, dim=1)
            return best.values, best.indices
        drawn = draw(totals.softmax(dim=-1), count, self._generator)
        # Best first, as the rules of beam search want their candidates (transformers since 5.24).
        found, order = totals.gather(1, drawn).sort(dim=1, descending=True)
        return found, drawn.gather(1, order)

    def _is_open(self, group: Group) -> Tensor:
        """`[B, k]` bool: whether something can still enter the pool of the sample."""
        is_open = group.improvable
        if self._options.early_stopping is True:
            is_open = is_open & ~group.pool.done.all(dim=1)
        return is_open[:, None].expand_as(group.running)

    def output(self, state: BeamState, prompt: Tensor) -> GenerateOutput:
        pool = state.groups[0].pool
        for group in state.groups[1:]:
            pool = _merge(pool, group.pool)
        pool = Pool(*(field[:, : self._options.num_return_sequences] for field in pool))
        return self._recorder.output(
            **written_out(
                pool, state.hypotheses, prompt, self._options.fill_token_id, state.considered
            )
        )


def _own_scores(
    logits: Tensor, found: Tensor, tokens: Tensor, parents: Tensor, forced: Tensor | None
) -> Tensor:
    """`[B, C]`: what each candidate of `beam_topk` added to the score of its beam.

    Not the difference of two sums, in which the digits of long hypotheses would be lost.
    """
    own = at_pairs(logits.log_softmax(dim=-1, dtype=torch.float32), tokens, parents)
    if forced is not None:
        own = own.masked_fill((forced >= 0)[:, None], 0.0)
    return own.masked_fill(found == -math.inf, -math.inf)  # banned


def _power(length: int, penalty: float) -> float:
    """What the score of a hypothesis of so many tokens is divided by."""
    try:
        return max(length, 1) ** penalty
    except OverflowError:
        return math.inf


def _allocate_group(shape: tuple[int, int], device: torch.device) -> Group:
    running = torch.empty(shape, device=device, dtype=torch.float32)
    improvable = torch.empty(shape[:1], device=device, dtype=torch.bool)
    return Group(running, improvable, allocate_pool(shape, device, torch.float32))


def allocate_pool(shape: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Pool:
    """A pool of `[B, N]` hypotheses with scores of `dtype`."""
    dtypes = (dtype, torch.bool, torch.int64, torch.int64, torch.int64)
    return Pool(*(torch.empty(shape, device=device, dtype=each) for each in dtypes))


def clear_pool(pool: Pool, *, worst: float) -> None:
    """Let everything enter it that scores better than `worst`."""
    for field, value in zip(pool, (worst, False, -1, 0, 0), strict=True):
        field.fill_(value)


def _merge(pool: Pool, other: Pool) -> Pool:
    """The hypotheses of both, best first."""
    joined = Pool(*(torch.cat(pair, dim=1) for pair in zip(pool, other, strict=True)))
    order = joined.scores.topk(joined.scores.shape[1], dim=1).indices
    return Pool(*(field.gather(1, order) for field in joined))


def written_out(
    pool: Pool,
    hypotheses: Hypotheses,
    prompt: Tensor,
    fill_token_id: int,
    considered: Considered | None = None,
) -> dict[str, Any]:
    """The hypotheses of a pool `[B, N]` as fields of a GenerateOutput, samples in order.

    Sequences are filled up with `fill_token_id`. `considered`: where the scores of their tokens
    stand. Raises NotFinite if a score is NaN.
    """
    refuse(pool.scores)  # one NaN in a row makes all of its log-probabilities NaN, for good
    tokens, trail, behind = _trace(pool, hypotheses)
    first_rows = torch.arange(len(tokens), device=tokens.device)[:, None, None] * hypotheses.beams
    beams = (first_rows + trail).masked_fill(behind, -1)
    own = None
    if considered is not None:
        own = considered.of(tokens, trail).masked_fill(behind, 0.0).flatten(0, 1)
    tokens = tokens.masked_fill(behind, fill_token_id)
    prompt = prompt.repeat_interleave(tokens.shape[1], dim=0)
    return {
        "sequences": torch.cat((prompt, tokens.flatten(0, 1)), dim=1),
        # A copy, which the next request of a kept engine does not write to.
        "sequences_scores": pool.scores.flatten().to(torch.float32, copy=True),
        "beam_indices": beams.flatten(0, 1),
        "token_scores": own,
    }


def _trace(pool: Pool, hypotheses: Hypotheses) -> tuple[Tensor, Tensor, Tensor]:
    """Follow the back pointers of the pool; all `[B, N, L]`: tokens, the slots that they were
    appended to, and which places are behind the end."""
    written, end = hypotheses.written, pool.end[..., None]
    length = int(pool.end.max()) + 1
    place = torch.arange(length, device=end.device)
    # The last token was appended to `pool.slot`; from there the parents lead to the start. At
    # place t stands the slot of the token before it.
    goes_on = end > place
    slots = [pool.slot]
    for t in range(length - 2, -1, -1):
        before = written.parents[:, t].gather(1, slots[-1])
        slots.append(torch.where(goes_on[:, :, t], before, pool.slot))
    trail = torch.stack(slots[::-1], dim=2)
    own = written.tokens[:, : length - 1].gather(2, trail[:, :, 1:].transpose(1, 2))
    tokens = torch.cat((own.transpose(1, 2), pool.token[..., None]), dim=2)
    tokens = torch.where(place == end, pool.token[..., None], tokens)
    return tokens, trail, place > end
