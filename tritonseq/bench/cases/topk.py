"""`beam_topk`: the best continuations of all beams, and the best token of a greedy search.

Beside it stands the log-softmax of all logits in float32, bans by a scattered mask, and
`torch.topk` over all beams of a sample.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tritonseq.bench.case import Arguments, Case, distance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tritonseq.bench.draw import Draw
    from tritonseq.bench.shapes import Shape


def cases(shape: Shape) -> Iterator[Case]:
    topk = TopKArguments(shape)
    if shape.beams == 1:
        yield Case("beam_topk", shape, "greedy", topk.draw_greedy, plain_topk, judge=judge)
        return
    yield Case("beam_topk", shape, "", topk.draw, plain_topk, judge=judge)
    yield Case("beam_topk", shape, "banned", topk.draw_banned, plain_topk, judge=judge)


class TopKArguments:
    """Arguments for the 2 K best of K beams."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def _logits(self, draw: Draw, samples: int) -> Tensor:
        """Rows as the head writes them, each starting at a multiple of 64 elements."""
        padded = -(-self.shape.vocabulary // 64) * 64
        logits = draw.floats(samples, self.shape.beams, padded)
        return logits[..., : self.shape.vocabulary]

    def draw(self, draw: Draw, samples: int) -> Arguments:
        return {
            "logits": self._logits(draw, samples),
            "count": 2 * self.shape.beams,
            "running": draw.floats(samples, self.shape.beams, dtype=torch.float32),
        }

    def draw_banned(self, draw: Draw, samples: int) -> Arguments:
        """With a list of bans for every beam, of which an n-gram of three leaves most empty."""
        banned = draw.integers(self.shape.vocabulary, samples, self.shape.beams, self.shape.target)
        empty = draw.integers(8, *banned.shape) > 0
        return {**self.draw(draw, samples), "banned": banned.masked_fill(empty, -1)}

    def draw_greedy(self, draw: Draw, samples: int) -> Arguments:
        return {"logits": self._logits(draw, samples), "count": 1, "log_softmax": False}


def plain_topk(
    logits: Tensor,
    count: int,
    running: Tensor | None = None,
    banned: Tensor | None = None,
    log_softmax: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    scores, vocabulary = logits.float(), logits.shape[-1]
    if log_softmax:
        scores = scores.log_softmax(-1)
    if banned is not None:
        # An extra column takes what is banned nowhere.
        mask = torch.zeros(
            *logits.shape[:2], vocabulary + 1, dtype=torch.bool, device=scores.device
        )
        mask.scatter_(2, torch.where(banned < 0, vocabulary, banned), True)
        scores = scores.masked_fill(mask[..., :-1], -math.inf)
    if running is not None:
        scores = scores + running[..., None]
    best, places = scores.flatten(1).topk(count, dim=1)
    return best, places % vocabulary, places // vocabulary


def judge(result: Sequence[Tensor], truth: Sequence[Tensor], plain: Sequence[Tensor]) -> str:
    """The same scores; and where they do not tie, the same tokens and parents."""
    if fault := distance(result[0], truth[0], plain[0]):
        return f"scores: {fault}"
    scores = truth[0]
    gaps = (scores[:, 1:] - scores[:, :-1]).abs() > 1e-4
    edge = torch.ones_like(gaps[:, :1])
    # The last one may tie with what was left out.
    clear = torch.cat([edge, gaps], 1) & torch.cat([gaps, torch.zeros_like(edge)], 1)
    for name, ours, true in zip(("tokens", "parents"), result[1:], truth[1:], strict=True):
        if fault := distance(ours.where(clear, 0), true.where(clear, 0), None):
            return f"{name}: {fault}"
    return ""
