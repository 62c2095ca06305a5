"""When a hypothesis is complete: end tokens, length, time, and the caller's own criteria."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .hypotheses import Hypotheses

    Criterion = Callable[[Tensor, tuple[Tensor, ...] | None], Tensor | bool]


class Stopping:
    """Judges candidates: tokens that are about to extend hypotheses."""

    def __init__(
        self,
        *,
        eos_token_ids: Sequence[int],
        new_tokens: int,
        max_time: float | None,
        criteria: Sequence[Criterion],
        device: torch.device,
    ) -> None:
        self._eos = torch.tensor(eos_token_ids, device=device) if eos_token_ids else None
        self._new_tokens = new_tokens
        self._deadline = None if max_time is None else time.monotonic() + max_time
        self._criteria = criteria

    @property
    def has_eos(self) -> bool:
        return self._eos is not None

    def hits(self, tokens: Tensor, parents: Tensor | None, hypotheses: Hypotheses) -> Tensor:
        """`[B, C]` bool: which candidates would complete their hypothesis.

        `tokens`: `[B, C]`, each to follow beam `parents[b, c]` (None: candidates are the beams).
        """
        if hypotheses.generated + 1 >= self._new_tokens or self._overdue():
            hits = torch.ones_like(tokens, dtype=torch.bool)
        else:
            hits = self.ends(tokens)
        if self._criteria:
            ids = _extended(tokens, parents, hypotheses)
            for criterion in self._criteria:
                verdict = torch.as_tensor(criterion(ids, None), device=hits.device)
                hits |= verdict.expand(ids.shape[0]).view_as(hits)
        return hits

    def ends(self, tokens: Tensor) -> Tensor:
        """Which of `tokens` are end tokens."""
        if self._eos is None:
            return torch.zeros_like(tokens, dtype=torch.bool)
        return torch.isin(tokens, self._eos)

    def _overdue(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline


def _extended(tokens: Tensor, parents: Tensor | None, hypotheses: Hypotheses) -> Tensor:
    """`[B * C, length + 1]` the candidates written out."""
    ids = hypotheses.ids
    if parents is not None:
        first_rows = torch.arange(tokens.shape[0], device=ids.device) * hypotheses.beams
        ids = ids[(first_rows[:, None] + parents).flatten()]
    return torch.cat((ids, tokens.reshape(-1, 1)), dim=1)
