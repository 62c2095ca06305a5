"""Token scores: how probable every chosen token was, kept without the scores of all others.

What a step wrote stays in its slots, so the scores of rows that never change places are a buffer
beside their tokens. A search with beams chooses the last token of a hypothesis as it ends, and
writes it to no slot: there the scores of all continuations that were considered are kept, a few for
each beam, and those of the hypotheses are looked up when the search is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from tritonseq.kernels.advance.eager import place_of, write

if TYPE_CHECKING:
    from torch import Tensor

    from tritonseq.kernels.advance.state import Written

    from .hypotheses import Hypotheses

NOWHERE = -1
"""A parent that no beam is."""


def probability(scores: Tensor, tokens: Tensor) -> Tensor:
    """`[B, K]` float32: log-probabilities of `tokens [B, K]` by `scores [B, K, V]`, -inf being
    what cannot come."""
    logs = scores.log_softmax(dim=-1, dtype=torch.float32)
    return logs.gather(2, tokens[:, :, None])[:, :, 0]


def at_pairs(log_probs: Tensor, tokens: Tensor, parents: Tensor) -> Tensor:
    """`[B, C]`: those of `log_probs [B, K, V]` that stand for a token behind a beam."""
    return log_probs.flatten(1).gather(1, parents * log_probs.shape[2] + tokens)


class Considered(NamedTuple):
    """The continuations that beams were chosen from, all `[B, T, C]`; no two of a step are equal.

    A sample that rests notes nothing.
    """

    scores: Tensor
    """Float32: the log-probability of the token alone."""
    tokens: Tensor
    """Int64."""
    parents: Tensor
    """Int64: the beam that each continues; `NOWHERE` where nothing was considered yet."""

    @classmethod
    def allocate(cls, hypotheses: Hypotheses, count: int) -> Considered:
        """Room for `count` continuations of each sample and step; it holds anything until
        `clear`."""
        samples, steps, _ = hypotheses.written.tokens.shape
        empty = hypotheses.written.tokens.new_empty(samples, steps, count)
        return cls(empty.float(), empty, torch.empty_like(empty))

    def clear(self) -> None:
        """Nothing was considered yet."""
        self.scores.zero_()
        self.tokens.zero_()
        self.parents.fill_(NOWHERE)

    def note(
        self, written: Written, scores: Tensor, tokens: Tensor, parents: Tensor, *, first: int = 0
    ) -> None:
        """Keep those of the step to come, `[B, c]` each, from column `first` on."""
        own = slice(first, first + tokens.shape[1])
        at, active = place_of(written, tokens.shape[1]), written.step >= 0
        for buffer, new in zip(self, (scores, tokens, parents), strict=True):
            write(buffer[:, :, own], at, new, active)

    def of(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """`[B, N, L]` float32: the scores of `tokens` behind beams `parents`, both `[B, N, L]`;
        zero for what was not considered."""
        scores, those, behind = (
            field[:, : tokens.shape[2], None].transpose(1, 2) for field in self
        )
        found = (those == tokens[..., None]) & (behind == parents[..., None])
        return scores.masked_fill(~found, 0.0).sum(dim=3)
