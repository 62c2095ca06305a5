"""Bans and forced tokens in the terms of `beam_topk`, which needs no pass over the scores for them.

A processor that can be said in these terms carries them beside its function; the two mean the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tritonseq.kernels import ngram_bans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .hypotheses import Hypotheses
    from .logits_processors import TokenSet

    Terms = Callable[[Hypotheses, Tensor], dict[str, Any]]


def ngram_terms(n: int, *, count_pads: bool, ignored: TokenSet | None) -> Terms:
    """Tokens that would repeat an n-gram, as lists: `banned [B, K, N]`."""

    def terms(hypotheses: Hypotheses, logits: Tensor) -> dict[str, Any]:
        written = hypotheses.written
        prefix: dict[str, Any] = {}
        if hypotheses.prompt_length:
            starts = hypotheses.edges if count_pads else hypotheses.prompt_starts
            prefix = {"prefix": hypotheses.prompt, "prefix_starts": starts}
        banned = ngram_bans(
            written.tokens,
            n,
            logits.shape[-1],
            lengths=written.generated,
            lineage=written.lineage,
            ignored=None if ignored is None else ignored.table(logits),
            **prefix,
        )
        return {"banned": banned.unflatten(0, (-1, hypotheses.beams))}

    return terms


def end_terms(ends: TokenSet) -> Terms:
    """No end before the minimum: `ends [E]` and lengths `[B]`."""

    def terms(hypotheses: Hypotheses, logits: Tensor) -> dict[str, Any]:
        return {
            "ends": ends.columns(logits),
            "length": hypotheses.generated,
            "min_length": hypotheses.minimum,
        }

    return terms


def force_terms(token: int, when: Callable[[Hypotheses], Tensor]) -> Terms:
    """One token and no other, in some samples: `forced [B]`."""

    def terms(hypotheses: Hypotheses, logits: Tensor) -> dict[str, Any]:
        return {"forced": torch.where(when(hypotheses), token, -1)}

    return terms


def combined(terms_of_each: Iterable[Terms | None]) -> Terms | None:
    """What a list of processors asks for, the later over the earlier; None if that is not all."""
    each = list(terms_of_each)
    if any(terms is None for terms in each):
        return None

    def terms(hypotheses: Hypotheses, logits: Tensor) -> dict[str, Any]:
        wanted: dict[str, Any] = {}
        for one in each:
            assert one is not None
            found = one(hypotheses, logits)
            if "forced" in found and "forced" in wanted:
                forced = found["forced"]
                found["forced"] = torch.where(forced >= 0, forced, wanted["forced"])
            wanted |= found
        return wanted

    return terms
