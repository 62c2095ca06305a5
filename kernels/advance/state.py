"""The state of a search, changed in place: `Written`, `Group`, `Pool`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


FAR_BELOW = -1.0e9
"""Stands for minus infinity in the scores of beams that must not be chosen. transformers adds it
where an infinity would give NaN, and ids agree only if ours rounds in the same places."""


class Written(NamedTuple):
    """What `B` samples of `K` beams have written; every operation changes it in place.

    Its tensors share no memory, as little as those of a `Group`. Counters are taken as they are,
    but where something is written is clamped to `0..T-1`.

    A token stays in the slot where it was written, `tokens[b, t, k]`. Beams change places in the
    lineage alone: beam `k` reads its history at position `t` from slot `lineage[b, t, k]`.
    """

    tokens: Tensor
    """`[B, T, K]` int64."""
    lineage: Tensor
    """`[B, T, K]` int64; where nothing is written yet, `lineage[b, t, k]` is `k`."""
    parents: Tensor
    """`[B, T, K]` int64: the slot of the position before that each token was appended to."""
    newest: Tensor
    """`[B, K]` int64: the token of every beam that the network reads next."""
    generated: Tensor
    """`[B]` int64: how many tokens each beam has written."""
    step: Tensor
    """`[B]` int64: the position of the newest token in the caches; negative for a sample that
    rests, to which nothing is done."""
    limit: Tensor
    """`[B]` int64: how many tokens it may write, at most `T`."""
    done: Tensor
    """`[B]` bool: whether its search has ended."""


class Pool(NamedTuple):
    """The best finished hypotheses of each sample, best first; all `[B, K]`."""

    scores: Tensor
    """float32."""
    done: Tensor
    """bool: whether a hypothesis is there."""
    end: Tensor
    """int64: the position of its last token; -1 for a place that nothing has taken."""
    slot: Tensor
    """int64: the slot that the last token was appended to."""
    token: Tensor
    """int64."""


class Group(NamedTuple):
    """Beams that compete: all `K` of a sample, or one group of them; changed in place."""

    running: Tensor
    """`[B, K]` float32: the sum of log-probabilities of each beam."""
    improvable: Tensor
    """`[B]` bool: whether the pool could still get better."""
    pool: Pool
