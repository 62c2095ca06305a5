"""`beam_topk` by definition."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tritonseq.kernels.checks import Impl


def beam_topk(
    logits: Tensor,
    count: int,
    *,
    running: Tensor | None = None,
    log_softmax: bool = True,
    banned: Tensor | None = None,
    ends: Tensor | None = None,
    length: Tensor | None = None,
    min_length: Tensor | None = None,
    forced: Tensor | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """`tritonseq.kernels.beam_topk`, one sample after the other, by a stable sort."""
    samples, beams, vocab_size = logits.shape
    chosen = []
    for b in range(samples):
        scores = logits[b].float()
        scores = scores.log_softmax(-1) if log_softmax else scores.clone()
        for k in range(beams):
            ids = [] if banned is None else banned[b, k].tolist()
            if ends is not None and length is not None and min_length is not None:
                ids += ends.tolist() if length[b] < min_length[b] else []
            scores[k, [i for i in ids if 0 <= i < vocab_size]] = -math.inf
        if forced is not None and forced[b] >= 0:
            scores.fill_(-math.inf)
            if forced[b] < vocab_size:
                scores[:, forced[b]] = 0.0
        if running is not None:
            scores = scores + running[b, :, None]
        best, index = scores.flatten().sort(descending=True, stable=True)
        chosen.append((best[:count], index[:count] % vocab_size, index[:count] // vocab_size))
    if not chosen:
        index = torch.empty(0, count, dtype=torch.int64, device=logits.device)
        return index.float(), index, index
    best, tokens, parents = (torch.stack(part) for part in zip(*chosen, strict=True))
    return best, tokens, parents
