"""Outputs: what `generate` returns, `GenerateOutput`, and what records its parts, step by step."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


class BeamTrace(NamedTuple):
    """Every step of a beam search: what its `K` beams held, by `T` steps; all `[B, T, K]`."""

    scores: Tensor
    """Float32 sums of log-probabilities."""
    tokens: Tensor
    """The token that each beam was given."""
    parents: Tensor
    """The beam of the step before that it continues."""


@dataclass(eq=False)
class GenerateOutput:
    """Sequences and what was asked for beside them; fields have transformers' names.

    Fields read as attributes, by key, or by their place among those that hold something. A field
    that was not asked for is None and, as in transformers, not among the keys.
    """

    sequences: Tensor
    """`[B * num_return_sequences, L]` int64, the prompt included, padded at the end."""
    sequences_scores: Tensor | None = None
    """Beams: `[B * num_return_sequences]` log-probability over length to the penalty's power;
    with search="unilm" over `(5 + length) / 6` to that power, if it is positive."""
    scores: tuple[Tensor, ...] | None = None
    """Per step `[R, V]` float32 after all processors: logits, or log-probabilities for beams."""
    logits: tuple[Tensor, ...] | None = None
    """Per step `[R, V]` float32 as the model gave them."""
    beam_indices: Tensor | None = None
    """Beams: the row of `scores` that each token was chosen from, -1 behind the end."""
    beam_trace: BeamTrace | None = None
    """With search="unilm" and output_scores: the whole search. What follows a sample's first step
    whose tokens all end it means nothing."""
    token_scores: Tensor | None = None
    """Ours, with output_token_scores: `[B * num_return_sequences, T]` float32, of every generated
    token its log-probability after all processors, with beams as they added it up; zero behind the
    end. What transformers' `compute_transition_scores` makes of `scores`, with
    `normalize_logits=True` where there are no beams."""
    attentions: None = None
    """Never kept; here for code that was written for transformers."""
    hidden_states: None = None
    """Never kept."""
    cache: None = None
    """Never returned: the caches end with the request."""
    past_key_values: None = None
    """Its name before transformers 5.24."""

    def keys(self) -> tuple[str, ...]:
        """Names of the fields that hold something."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, int):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(f"{key!r}; this output has {', '.join(self.keys())}")
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that hold something, in order."""
        return tuple(getattr(self, name) for name in self.keys())


class Recorder:
    """Keeps what every step produced, when the caller asked for it.

    It copies, because processors and search may go on to work in place.
    """

    def __init__(self, *, scores: bool, logits: bool) -> None:
        self._scores: list[Tensor] | None = [] if scores else None
        self._logits: list[Tensor] | None = [] if logits else None
        self._step: list[Tensor] = []

    @property
    def is_on(self) -> bool:
        """Whether anything was asked for."""
        return self._scores is not None or self._logits is not None

    def logits(self, logits: Tensor) -> None:
        """What the model gave, `[R, V]`."""
        if self._logits is not None:
            self._logits.append(logits.to(torch.float32, copy=True))

    def scores(self, scores: Tensor) -> None:
        """What the processors made of it, `[B, k, V]`, for one group of beams after the other."""
        if self._scores is not None:
            self._step.append(scores.clone())

    def end_step(self) -> None:
        """All groups have their scores."""
        if self._scores is not None:
            self._scores.append(_rows(self._step))
            self._step = []

    @property
    def so_far(self) -> tuple[Tensor, ...] | None:
        """The scores of all steps, with those of this one that are known."""
        if self._scores is None:
            return None
        return (*self._scores, _rows(self._step)) if self._step else tuple(self._scores)

    def output(self, sequences: Tensor, **more: Any) -> GenerateOutput:
        """The result object around `sequences`."""
        return GenerateOutput(
            sequences=sequences,
            scores=None if self._scores is None else tuple(self._scores),
            logits=None if self._logits is None else tuple(self._logits),
            **more,
        )


def _rows(groups: list[Tensor]) -> Tensor:
    """`[B, k, V]` of each group to `[R, V]`."""
    joined = groups[0] if len(groups) == 1 else torch.cat(groups, dim=1)
    return joined.flatten(0, 1)
