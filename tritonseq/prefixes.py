"""What may follow a prefix: the word of a function of the caller's, or of a trie.

De Cao et al., "Autoregressive Entity Retrieval", 2021.
"""

from __future__ import annotations

import math
import reprlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .constraints import Apply, TokenSet
    from .hypotheses import Hypotheses
    from .trie import Trie

# Indices that `follow_trie` makes at once, of 8 bytes each.
_COLUMNS_AT_ONCE = 1 << 22


def constrain_prefix(
    allowed: Callable[[int, Tensor], Sequence[int]], *, independent: bool
) -> Apply:
    """Ban all but the tokens that a function of the caller allows, row by row.

    `independent` rows never exchange places: each is a sample of its own, also to the caller.
    """

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        beams = 1 if independent else hypotheses.beams
        mask = torch.full_like(scores, -math.inf)
        for row, ids in enumerate(hypotheses.ids):
            answer = allowed(row // beams, ids)
            try:
                columns = _token_columns(answer, scores.shape[-1])
            except ValueError as error:
                raise ValueError(
                    f"prefix_allowed_tokens_fn {error} for sample {row // beams} after "
                    f"{ids.tolist()}: return at least one token id, an end token if nothing may "
                    "follow"
                ) from None
            mask[row, columns.to(mask.device)] = 0.0
        scores += mask
        # Where every beam of a sample lost its allowed tokens to other bans, the constraint wins.
        dead = scores.amax(dim=-1).isneginf().view(-1, beams).all(dim=-1)
        return torch.where(dead.repeat_interleave(beams)[:, None], mask, scores)

    return apply


def follow_trie(trie: Trie, ends: TokenSet, *, independent: bool, skipped: int = 0) -> Apply:
    """Ban all but what a trie allows: `constrain_prefix` for all rows at once.

    The first `skipped` tokens are no part of the sequences; something else decides about them.
    Only allowed tokens are looked at; the other columns are written once and never read.
    """
    walk = Walk(trie, skipped)

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        depth = hypotheses.generated - skipped
        if depth < 0:
            return scores
        beams, width = hypotheses.beams, trie.width(depth)
        nodes = walk.nodes(hypotheses)
        by_beam = scores.unflatten(0, (-1, beams))
        # A few samples at a time: wide nodes times wide beams would take gigabytes.
        count = max(1, _COLUMNS_AT_ONCE // (beams * width))
        for part, at in zip(by_beam.split(count), nodes.split(count), strict=True):
            columns = trie.on(scores.device).columns(at, width, ends.columns(scores))
            columns = columns.expand(-1, beams, -1)
            kept = part.gather(2, columns)
            dead = kept.amax(dim=2, keepdim=True).isneginf()
            if not independent:
                dead = dead.all(dim=1, keepdim=True)
            part.fill_(-math.inf).scatter_(2, columns, kept.masked_fill(dead, 0.0))
        return scores

    return apply


class Walk:
    """Where the beams of one request stand in a trie: a node for every token in its slot.

    The first `skipped` tokens are passed over.
    """

    def __init__(self, trie: Trie, skipped: int = 0) -> None:
        self._trie = trie
        self._skipped = skipped
        self._roots: Tensor | None = None
        self._nodes: Tensor | None = None

    def nodes(self, hypotheses: Hypotheses) -> Tensor:
        """`[B, k]` nodes of the beams, or `[B, 1]` before the first of them, when all are alike.

        To be asked at every step, for every group of beams.
        """
        written, lineage = hypotheses.tokens, hypotheses.lineage
        tables = self._trie.on(written.device)
        if self._roots is None:
            self._roots = self._trie.starts(written.shape[0]).to(written.device)
        newest = hypotheses.generated - 1
        if newest < self._skipped:
            return self._roots
        if self._nodes is None:
            self._nodes = torch.empty_like(written)
        slots = lineage[:, newest]
        if newest > self._skipped:
            parents = self._nodes[:, newest - 1].gather(1, lineage[:, newest - 1])
        else:
            parents = self._roots.expand_as(slots)
        nodes = tables.advance(parents, written[:, newest].gather(1, slots))
        self._nodes[:, newest].scatter_(1, slots, nodes)
        return nodes


def _token_columns(answer: Any, vocab_size: int) -> Tensor:
    """Token ids as indices, or ValueError in words that fit behind the name of their source."""
    no_list = f"returned {reprlib.repr(answer)}, which is no list of token ids,"
    if answer is None or isinstance(answer, str) or not hasattr(answer, "__len__"):
        raise ValueError(no_list)
    if len(answer) == 0:
        raise ValueError("allows no token")
    try:
        columns = torch.as_tensor(answer if isinstance(answer, Tensor) else list(answer))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(no_list) from None
    kind = columns.dtype
    if columns.dim() != 1 or kind.is_floating_point or kind.is_complex or kind == torch.bool:
        raise ValueError(no_list)
    low, high = (int(end) for end in columns.aminmax())
    if low < 0 or high >= vocab_size:
        outside = low if low < 0 else high
        raise ValueError(
            f"allows token id {outside}, outside the vocabulary of {vocab_size} tokens,"
        )
    return columns.long()
