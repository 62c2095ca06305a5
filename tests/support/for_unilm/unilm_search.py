"""How UniLM decodes, by definition: greedy and beam search over plain lists, all steps to the end.

Scores are Python floats. A decision that is closer than float32 can tell is recorded as its gap.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    Ask = Callable[[Sequence[tuple[int, Sequence[int]]]], Tensor]
    """Logits `[R, V]` of the rows (sample, target so far)."""

BAN = -10000.0


class Rules(NamedTuple):
    """What upstream's command line sets."""

    beams: int
    steps: int
    eos: int
    length_penalty: float = 0.0
    min_len: int = 0
    ngram_size: int = 0
    """0: n-grams may come again."""
    ignore: frozenset[int] = frozenset()
    not_predict: frozenset[int] = frozenset()

    @property
    def options(self) -> dict[str, Any]:
        """The options of `generate` that mean the same."""
        return {
            "num_beams": self.beams,
            "max_new_tokens": self.steps,
            "length_penalty": self.length_penalty,
            "min_new_tokens": self.min_len,
            "no_repeat_ngram_size": self.ngram_size,
            "no_repeat_ngram_ignore_ids": sorted(self.ignore) or None,
            "suppress_tokens": sorted(self.not_predict) or None,
        }


class Candidate(NamedTuple):
    score: float
    parent: int
    token: int


@dataclass
class Trace:
    """The frames of one sample: per frame, the `K` chosen candidates in order of their scores."""

    frames: list[list[Candidate]] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    """Per frame, the smallest difference that its choice or order hangs on."""

    def sequence(self, frame: int, beam: int) -> list[int]:
        """The tokens up to and with one candidate."""
        tokens = []
        while frame >= 0:
            _, parent, token = self.frames[frame][beam]
            tokens.append(token)
            frame, beam = frame - 1, parent
        return tokens[::-1]

    def last_frame(self, eos: int) -> int:
        """The first frame in which every beam has ended, or the last; later ones mean nothing."""
        ended = [all(c.token == eos for c in frame) for frame in self.frames]
        return ended.index(True) if True in ended else len(ended) - 1


class Choice(NamedTuple):
    """The answer for one sample."""

    tokens: list[int]
    score: float
    last_frame: int
    gap: float
    """The closest decision that the answer hangs on."""


def greedy(
    ask: Ask, samples: int, steps: int, not_predict: frozenset[int] = frozenset()
) -> tuple[list[list[int]], Tensor]:
    """All `steps` tokens of every sample, ends or not, and the smallest gap of every step."""
    targets: list[list[int]] = [[] for _ in range(samples)]
    gaps = []
    for _ in range(steps):
        logits = ask(list(enumerate(targets))).clone()
        logits[:, sorted(not_predict)] = BAN
        best = logits.topk(2)
        gaps.append(best.values[:, 0] - best.values[:, 1])
        for target, token in zip(targets, best.indices[:, 0].tolist(), strict=True):
            target.append(token)
    return targets, gaps[0].new_tensor([gap.tolist() for gap in gaps]).T


def beam_search(ask: Ask, samples: int, rules: Rules) -> list[Trace]:
    """The frames of every sample; nothing ever stops early."""
    traces = [Trace() for _ in range(samples)]
    for step in range(rules.steps):
        beams = rules.beams if step else 1
        rows = [
            (sample, trace.sequence(step - 1, beam))
            for sample, trace in enumerate(traces)
            for beam in range(beams)
        ]
        scores = ask(rows).log_softmax(-1).tolist()
        for (_, target), row in zip(rows, scores, strict=True):
            restrict(row, target, rules)
        for sample, trace in enumerate(traces):
            extend(trace, scores[sample * beams : (sample + 1) * beams], rules)
    return traces


def restrict(scores: list[float], target: Sequence[int], rules: Rules) -> None:
    """Ban in the log-probabilities `scores [V]` what may not follow `target`."""
    for token in repeats(target, rules.ngram_size, rules.ignore):
        scores[token] += BAN
    if len(target) < rules.min_len:
        scores[rules.eos] = BAN
    for token in rules.not_predict:
        scores[token] = BAN


def repeats(target: Sequence[int], size: int, ignore: frozenset[int]) -> set[int]:
    """The tokens that would end an n-gram of `size` which `target` holds already."""
    if size == 0 or len(target) < size:
        return set()
    tail = list(target[len(target) - size + 1 :])
    if ignore & set(tail):
        return set()
    starts = range(len(target) - size + 1)
    return {target[i + size - 1] for i in starts if target[i : i + size - 1] == tail} - ignore


def extend(trace: Trace, scores: list[list[float]], rules: Rules) -> None:
    """Append the frame that follows from the log-probabilities `scores [beams, V]`."""
    parents = trace.frames[-1] if trace.frames else [Candidate(0.0, 0, -1)]
    candidates = []
    for beam, (parent, row) in enumerate(zip(parents, scores, strict=True)):
        base = parent.score + (BAN if parent.token == rules.eos else 0.0)
        best = sorted(range(len(row)), key=lambda token: (-row[token], token))
        # One more than can be chosen, which tells how close the choice was.
        candidates += [Candidate(base + row[i], beam, i) for i in best[: rules.beams + 1]]
    candidates.sort(key=lambda candidate: -candidate.score)
    chosen = [c.score for c in candidates[: rules.beams + 1]]
    trace.gaps.append(min(a - b for a, b in itertools.pairwise(chosen)))
    trace.frames.append(candidates[: rules.beams])


def choose(trace: Trace, rules: Rules) -> Choice:
    """The best hypothesis."""
    return ranked(trace, rules, 1)[0]


def ranked(trace: Trace, rules: Rules, count: int) -> list[Choice]:
    """The best `count` of all that ended in time, and of all that the last frame holds."""
    last = trace.last_frame(rules.eos)
    found = [
        (penalised(candidate.score, frame + 1, rules.length_penalty), frame, beam)
        for frame, candidates in enumerate(trace.frames[: last + 1])
        for beam, candidate in enumerate(candidates)
        if candidate.token == rules.eos or frame == last
    ]
    # Of equals, the first wins: the lower frame, then the lower beam.
    found.sort(key=lambda hypothesis: -hypothesis[0])
    values = [value for value, *_ in found[: count + 1]]
    gap = min(trace.gaps[: last + 1] + [a - b for a, b in itertools.pairwise(values)])
    return [Choice(trace.sequence(*place), value, last, gap) for value, *place in found[:count]]


def penalised(score: float, length: int, penalty: float) -> float:
    """GNMT's length penalty; `length` counts the end token."""
    return score / ((5 + length) / 6) ** penalty if penalty > 0 else score
