"""Prefix constraints: what may follow, by a function of the caller's or by a trie.

De Cao et al., "Autoregressive Entity Retrieval", 2021.
"""

from __future__ import annotations

import math
import reprlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tritonseq.kernels import is_gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .hypotheses import Hypotheses
    from .logits_processors import Apply, TokenSet
    from .trie import Trie

# Indices that `follow_trie` makes at once, of 8 bytes each.
_COLUMNS_AT_ONCE = 1 << 22


def constrain_prefix(
    allowed: Callable[[int, Tensor], Sequence[int]], *, independent: bool
) -> Apply:
    """Ban all but the tokens that a function of the caller allows, row by row.

    `independent` rows of a sample never exchange places: what becomes of one is none of the
    others' concern.
    """

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        beams = hypotheses.beams
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
        together = 1 if independent else beams
        dead = scores.amax(dim=-1).isneginf().view(-1, together).all(dim=-1)
        return torch.where(dead.repeat_interleave(together)[:, None], mask, scores)

    return apply


def follow_trie(trie: Trie, ends: TokenSet, *, independent: bool, skipped: int = 0) -> Apply:
    """Ban all but what a trie allows: `constrain_prefix` for all rows at once.

    The first `skipped` tokens are no part of the sequences; something else decides about them.
    Only allowed tokens are looked at; the other columns are written once and never read.
    """

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        depths = hypotheses.generated - skipped
        beams, width = hypotheses.beams, _width(trie, depths)
        nodes = _walk(trie, hypotheses, skipped)
        by_beam = scores.unflatten(0, (-1, beams))
        # A few samples at a time: wide nodes times wide beams would take gigabytes.
        count = max(1, _COLUMNS_AT_ONCE // (beams * width))
        for part, at, depth in zip(
            by_beam.split(count), nodes.split(count), depths.split(count), strict=True
        ):
            columns = trie.on(scores.device).columns(at, width, ends.columns(scores))
            kept = part.gather(2, columns)
            dead = kept.amax(dim=2, keepdim=True).isneginf()
            if not independent:
                dead = dead.all(dim=1, keepdim=True)
            free = torch.full_like(part, -math.inf).scatter_(2, columns, kept.masked_fill(dead, 0))
            if skipped:
                free = torch.where((depth >= 0)[:, None, None], free, part)
            part.copy_(free)
        return scores

    return apply


def _width(trie: Trie, depths: Tensor) -> int:
    """The most tokens that may follow a prefix of any of these depths.

    On a GPU that would be to wait for the depths, and the shape must not depend on them.
    """
    if is_gpu(depths.device):
        return trie.widest
    return max(trie.width(max(depth, 0)) for depth in set(depths.tolist()))


def _walk(trie: Trie, hypotheses: Hypotheses, skipped: int) -> Tensor:
    """`[B, k]` the nodes where beams stand, which are kept for every token in its slot.

    The first `skipped` tokens are passed over. To be asked at every step, for every group of
    beams.
    """
    assert hypotheses.trie is not None
    roots, kept = hypotheses.trie
    written = hypotheses.written
    newest = (hypotheses.generated - 1).clamp(min=0)[:, None, None]
    slots = written.lineage.gather(1, newest.expand(-1, 1, hypotheses.beams))
    before = (newest - 1).clamp(min=0)
    origin = written.lineage.gather(1, before.expand_as(slots))
    at_root = hypotheses.generated[:, None] <= skipped + 1
    parents = torch.where(at_root, roots, _slot(kept, before).gather(1, origin[:, 0]))
    tokens = _slot(written.tokens, newest).gather(1, slots[:, 0])
    nodes = trie.on(tokens.device).advance(parents, tokens)
    at = newest.expand(-1, 1, kept.shape[2])
    kept.scatter_(1, at, _slot(kept, newest).scatter(1, slots[:, 0], nodes)[:, None])
    return torch.where(hypotheses.generated[:, None] <= skipped, roots, nodes)


def _slot(buffer: Tensor, position: Tensor) -> Tensor:
    """`[B, K]` of `buffer [B, T, K]` at `position [B, 1, 1]`."""
    return buffer.gather(1, position.expand(-1, 1, buffer.shape[2]))[:, 0]


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
    is_index = not (kind.is_floating_point or kind.is_complex or kind == torch.bool)
    if columns.dim() != 1 or not is_index or columns.is_meta or columns.layout != torch.strided:
        raise ValueError(no_list)
    low, high = (int(end) for end in columns.aminmax())
    if low < 0 or high >= vocab_size:
        outside = low if low < 0 else high
        raise ValueError(
            f"allows token id {outside}, outside the vocabulary of {vocab_size} tokens,"
        )
    return columns.long()
