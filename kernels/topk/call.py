"""The arguments of `beam_topk` as one record that checks itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tritonseq.kernels.checks import (
    INTEGERS,
    check_floats,
    check_integers,
    check_last_dim,
    check_shape,
)


class TopKCall(NamedTuple):
    """The arguments of one call of `beam_topk`: the tensors, then the others."""

    logits: Tensor
    running: Tensor | None
    banned: Tensor | None
    ends: Tensor | None
    length: Tensor | None
    min_length: Tensor | None
    forced: Tensor | None
    candidates: int
    """How many are wanted: the argument `count`."""
    log_softmax: bool

    def check(self) -> None:
        """Raise ValueError unless the arguments, dense tensors all, fit together."""
        logits = self.logits
        check_floats("logits", logits, "B, K, V")
        check_last_dim("logits", logits)
        samples, beams, vocab_size = logits.shape
        if not 1 <= self.candidates <= beams * vocab_size:
            raise ValueError(
                f"count is {self.candidates}; {beams} beams of {vocab_size} tokens have 1 to "
                f"{beams * vocab_size} continuations"
            )
        check_shape("running", self.running, torch.float32, (samples, beams))
        self._check_bans(samples, beams)
        check_integers("forced", self.forced, (samples,))

    def _check_bans(self, samples: int, beams: int) -> None:
        banned = self.banned
        if banned is not None and (
            banned.dim() != 3
            or banned.shape[:2] != (samples, beams)
            or banned.dtype not in INTEGERS
        ):
            raise ValueError(
                f"banned is {banned.dtype} {list(banned.shape)}; "
                f"pass int32 or int64 [{samples}, {beams}, N]"
            )
        given = [x is not None for x in (self.ends, self.length, self.min_length)]
        if any(given) and not all(given):
            raise ValueError(
                "ends, length and min_length belong together; pass all of them or none"
            )
        if self.ends is not None:
            check_integers("ends", self.ends, (self.ends.numel(),))
        check_integers("length", self.length, (samples,))
        check_integers("min_length", self.min_length, (samples,))
