"""What `generate` returns with `return_dict_in_generate=True`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(eq=False)
class GenerateOutput:
    """Sequences and what was asked for beside them; fields have transformers' names.

    Fields read as attributes or by key. A field that was not asked for is None and, as in
    transformers, not among the keys.
    """

    sequences: Tensor
    """`[B * num_return_sequences, L]` int64, the prompt included, padded at the end."""
    scores: tuple[Tensor, ...] | None = None
    """Per step `[R, V]` float32 after all processors: logits, or log-probabilities for beams."""
    logits: tuple[Tensor, ...] | None = None
    """Per step `[R, V]` float32 as the model gave them."""
    sequences_scores: Tensor | None = None
    """Beams: `[B * num_return_sequences]` log-probability over length to the penalty's power."""
    beam_indices: Tensor | None = None
    """Beams: the row of `scores` that each token was chosen from, -1 behind the end."""

    def keys(self) -> tuple[str, ...]:
        """Names of the fields that hold something."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def __getitem__(self, key: str) -> Any:
        if key not in self.keys():
            raise KeyError(f"{key!r}; this output has {', '.join(self.keys())}")
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        return key in self.keys()


class Recorder:
    """Keeps what every step produced, when the caller asked for it."""

    def __init__(self, *, scores: bool, logits: bool) -> None:
        self._scores: list[Tensor] | None = [] if scores else None
        self._logits: list[Tensor] | None = [] if logits else None

    def logits(self, logits: Tensor) -> None:
        """Copies: the processors may work in place."""
        if self._logits is not None:
            self._logits.append(logits.clone())

    def keep(self, scores: Tensor) -> Tensor:
        """A copy if scores are recorded: the search may go on to work in place."""
        return scores if self._scores is None else scores.clone()

    def scores(self, scores: Sequence[Tensor]) -> None:
        """The scores `[B, k, V]` of all groups of beams, as `keep` returned them."""
        if self._scores is not None:
            self._scores.append(torch.cat(list(scores), dim=1).flatten(0, 1))

    def output(self, sequences: Tensor, **more: Tensor | None) -> GenerateOutput:
        """The result object around `sequences`."""
        return GenerateOutput(
            sequences=sequences,
            scores=None if self._scores is None else tuple(self._scores),
            logits=None if self._logits is None else tuple(self._logits),
            **more,
        )
