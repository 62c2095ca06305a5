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
    """Judges candidates: tokens that are about to extend hypotheses.

    As in transformers, a criterion of the caller's takes the place of the built-in one whose
    class has its name: EosTokenCriteria or MaxTimeCriteria.
    """

    def __init__(
        self,
        *,
        eos_token_ids: Sequence[int],
        new_tokens: int,
        max_time: float | None,
        criteria: Sequence[Criterion],
        device: torch.device,
    ) -> None:
        given = {type(criterion).__name__ for criterion in criteria}
        if "MaxLengthCriteria" in given:
            raise ValueError("MaxLengthCriteria is not supported: pass max_new_tokens instead")
        self._eos = torch.tensor(eos_token_ids, device=device) if eos_token_ids else None
        self._judge_ends = "EosTokenCriteria" not in given
        self._new_tokens = new_tokens
        timed = max_time is not None and "MaxTimeCriteria" not in given
        self._deadline = time.monotonic() + max_time if timed and max_time is not None else None
        self._late = False
        self._late_at = -1
        self._criteria = criteria

    @property
    def has_eos(self) -> bool:
        return self._eos is not None or not self._judge_ends

    def hits(
        self,
        tokens: Tensor,
        parents: Tensor | None,
        hypotheses: Hypotheses,
        recorded: tuple[Tensor, ...] | None = None,
    ) -> Tensor:
        """`[B, C]` bool: which candidates would complete their hypothesis.

        `tokens`: `[B, C]`, each to follow beam `parents[b, c]` (None: candidates are the beams).
        `recorded`: the scores of all steps, for the caller's criteria.
        """
        step = hypotheses.generated
        if step + 1 >= self._new_tokens or self._overdue(step):
            hits = torch.ones_like(tokens, dtype=torch.bool)
        elif self._judge_ends:
            hits = self.ends(tokens)
        else:
            hits = torch.zeros_like(tokens, dtype=torch.bool)
        if self._criteria:
            ids = _extended(tokens, parents, hypotheses)
            for criterion in self._criteria:
                hits |= _verdict(criterion, ids, recorded).view_as(hits)
        return hits

    def ends(self, tokens: Tensor) -> Tensor:
        """Which of `tokens` are end tokens."""
        if self._eos is None:
            return torch.zeros_like(tokens, dtype=torch.bool)
        return torch.isin(tokens, self._eos)

    def _overdue(self, step: int) -> bool:
        """Has time run out? Asked once per step, so that all groups of beams hear the same."""
        if self._deadline is not None and step != self._late_at:
            self._late, self._late_at = time.monotonic() > self._deadline, step
        return self._late


def _verdict(criterion: Criterion, ids: Tensor, recorded: tuple[Tensor, ...] | None) -> Tensor:
    """`[B * C]` bool: what a criterion of the caller's says of `ids [B * C, L]`."""
    answer = criterion(ids, recorded)
    verdict = torch.as_tensor(answer, device=ids.device) if answer is not None else None
    fits = verdict is not None and verdict.dtype == torch.bool and verdict.dim() <= 1
    if verdict is None or not fits or verdict.numel() not in (1, ids.shape[0]):
        name = getattr(criterion, "__name__", type(criterion).__name__)
        found = answer if verdict is None else f"{verdict.dtype} {list(verdict.shape)}"
        raise ValueError(
            f"stopping criterion {name} returned {found}: it must return a bool, "
            f"or a bool tensor of shape [{ids.shape[0]}]"
        )
    return verdict.expand(ids.shape[0])


def _extended(tokens: Tensor, parents: Tensor | None, hypotheses: Hypotheses) -> Tensor:
    """`[B * C, length + 1]` the candidates written out."""
    ids = hypotheses.ids
    if parents is not None:
        first_rows = torch.arange(tokens.shape[0], device=ids.device) * hypotheses.beams
        ids = ids[(first_rows[:, None] + parents).flatten()]
    return torch.cat((ids, tokens.reshape(-1, 1)), dim=1)
