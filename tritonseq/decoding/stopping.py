"""Stopping: when a hypothesis is complete, by end tokens, strings, length, time, or the caller."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .hypotheses import Hypotheses
    from .stop_strings import StopTables

    Criterion = Callable[[Tensor, tuple[Tensor, ...] | None], Tensor | bool]


class Stopping:
    """Judges candidates: tokens that are about to extend hypotheses.

    As in transformers, a criterion of the caller's takes the place of the built-in one whose
    class has its name: EosTokenCriteria, StopStringCriteria or MaxTimeCriteria. A MaxLengthCriteria
    ends hypotheses earlier, see `check_limits`.
    """

    def __init__(
        self,
        *,
        eos_token_ids: Sequence[int],
        max_time: float | None = None,
        stops: StopTables | None = None,
        fills: bool = False,
        criteria: Sequence[Criterion] = (),
        device: torch.device,
    ) -> None:
        """`stops`: of the stop strings, whose state is kept in `Hypotheses.stops`. `fills`: rows
        that have ended are filled up, even if no token ends them."""
        given = {type(criterion).__name__ for criterion in criteria}
        self.ends = torch.tensor(eos_token_ids, device=device) if eos_token_ids else None
        """`[E]` the tokens that end a hypothesis, or None."""
        self._judge_ends = "EosTokenCriteria" not in given
        timed = max_time is not None and "MaxTimeCriteria" not in given
        self._deadline = time.monotonic() + max_time if timed and max_time is not None else None
        # Written by the host between steps, read by them.
        self._late = torch.zeros((), dtype=torch.bool, device=device)
        self._stops = None if "StopStringCriteria" in given else stops
        self._fills = fills
        self._criteria = criteria

    @property
    def fills(self) -> bool:
        """Whether rows go on as padding that have ended; as in transformers, where tokens end."""
        return self._fills or self.ends is not None or not self._judge_ends

    @property
    def is_plain(self) -> bool:
        """Whether end tokens and limits decide alone."""
        others = self._deadline is not None or self._stops is not None or bool(self._criteria)
        return self._judge_ends and not others

    def restart(self, other: Stopping) -> None:
        """Take the deadline of another request."""
        self._deadline = other._deadline
        self._late.fill_(False)

    def look_at_the_clock(self) -> None:
        """Notice that time has run out; to be called between steps."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._late.fill_(True)

    def hits(
        self,
        tokens: Tensor,
        parents: Tensor | None,
        hypotheses: Hypotheses,
        recorded: tuple[Tensor, ...] | None = None,
    ) -> Tensor | None:
        """`[B, C]` bool: which candidates would complete their hypothesis; None: what `ends` says.

        Limits of length are not looked at. `tokens`: `[B, C]`, each to follow beam
        `parents[b, c]` (None: candidates are the beams). `recorded`: the scores of all steps, for
        the caller's criteria.
        """
        if self.is_plain:
            return None
        hits = self._late.expand(tokens.shape)
        if self._judge_ends and self.ends is not None:
            hits = hits | (tokens[..., None] == self.ends).any(dim=-1)
        if self._stops is not None and hypotheses.stops is not None:
            before = hypotheses.stops if parents is None else hypotheses.stops.gather(1, parents)
            hits = hits | self._stops.is_complete(before, tokens)
        if self._criteria:
            ids = _extended(tokens, parents, hypotheses)
            for criterion in self._criteria:
                hits = hits | _verdict(criterion, ids, recorded).view_as(hits)
        return hits

    def follow(self, hypotheses: Hypotheses, *, are_exchanged: bool = True) -> None:
        """Move the state of stop strings on, after a step has written its tokens.

        `are_exchanged`: whether beams continue others than themselves.
        """
        if self._stops is None or hypotheses.stops is None:
            return
        written, states = hypotheses.written, hypotheses.stops
        if are_exchanged:
            last = (
                (written.generated - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[1])
            )
            states = states.gather(1, written.parents.gather(1, last)[:, 0])
        hypotheses.stops.copy_(self._stops.after(states, written.newest))


def check_limits(criteria: Sequence[Criterion], total: int) -> None:
    """Raise ValueError for a MaxLengthCriteria beyond `total`, prompt and new tokens together.

    In transformers it takes the place of the limit that options set; buffers here have its size.
    """
    for criterion in criteria:
        limit = getattr(criterion, "max_length", None)
        if type(criterion).__name__ == "MaxLengthCriteria" and type(limit) is int and limit > total:
            raise ValueError(
                f"MaxLengthCriteria({limit}) is beyond the {total} tokens that options allow, and "
                f"only ends what is longer: pass max_length={limit}, or max_new_tokens instead"
            )


def _verdict(criterion: Criterion, ids: Tensor, recorded: tuple[Tensor, ...] | None) -> Tensor:
    """`[B * C]` bool: what a criterion of the caller's says of `ids [B * C, L]`."""
    answer = criterion(ids, recorded)
    verdict = _as_verdict(answer, ids.device)
    fits = verdict is not None and verdict.dtype == torch.bool and verdict.dim() <= 1
    if verdict is None or not fits or verdict.numel() not in (1, ids.shape[0]):
        name = getattr(criterion, "__name__", type(criterion).__name__)
        found = answer if verdict is None else f"{verdict.dtype} {list(verdict.shape)}"
        raise ValueError(
            f"stopping criterion {name} returned {found}: it must return a bool, "
            f"or a bool tensor of shape [{ids.shape[0]}]"
        )
    return verdict.expand(ids.shape[0])


def _as_verdict(answer: Any, device: torch.device) -> Tensor | None:
    """What a criterion returned, as a tensor; None where it cannot be one."""
    try:
        return None if answer is None else torch.as_tensor(answer, device=device)
    except (TypeError, ValueError, RuntimeError):
        return None


def _extended(tokens: Tensor, parents: Tensor | None, hypotheses: Hypotheses) -> Tensor:
    """`[B * C, length + 1]` the candidates written out."""
    ids = hypotheses.ids
    if parents is not None:
        first_rows = torch.arange(tokens.shape[0], device=ids.device) * hypotheses.beams
        ids = ids[(first_rows[:, None] + parents).flatten()]
    return torch.cat((ids, tokens.reshape(-1, 1)), dim=1)
