"""Logits warpers, the processors of sampling: temperature, and cutting the tail.

Each factory returns a closure `(hypotheses, scores [R, V] float32) -> scores`, in place. They
remove what transformers removes, ties and rounding included; `keep` tokens always stay.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tritonseq.kernels import is_gpu

if TYPE_CHECKING:
    from .hypotheses import Hypotheses
    from .logits_processors import Apply


def temperature(value: float) -> Apply:
    """Flatten the distribution above 1, sharpen it below."""

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        return scores.div_(value)

    return apply


def top_k(k: int, keep: int) -> Apply:
    """Keep the `k` best tokens, and what ties with the last of them."""
    k = max(k, keep)

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        return scores.masked_fill_(scores < _kth_best(scores, k), -math.inf)

    return apply


def top_p(p: float, keep: int) -> Apply:
    """Keep the smallest set of tokens whose probabilities reach `p`.

    Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020.
    """

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        ascending, columns = _sort_live(scores, scores)
        count = columns.shape[1]
        # The sums run over all of the vocabulary, as transformers' do, to round like them.
        everything = torch.full_like(scores, -math.inf)
        everything[:, -count:] = ascending
        mass = everything.softmax(dim=-1).cumsum(dim=-1)[:, -count:]
        unlikely = mass <= (1 - p)
        unlikely[:, -keep:] = False
        return _remove(scores, columns, unlikely)

    return apply


def min_p(p: float, keep: int) -> Apply:
    """Keep tokens at least `p` times as probable as the best one.

    Nguyen et al., "Turning Up the Heat: Min-p Sampling", 2024.
    """

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        probabilities = scores.softmax(dim=-1)
        unlikely = probabilities < p * probabilities.amax(dim=-1, keepdim=True)
        best = probabilities.topk(min(keep, scores.shape[-1]), dim=-1).indices
        return scores.masked_fill_(unlikely.scatter_(1, best, False), -math.inf)

    return apply


def typical(mass: float, keep: int) -> Apply:
    """Keep the tokens whose surprise is nearest to the expected one, until they have `mass`.

    Meister et al., "Locally Typical Sampling", 2023.
    """

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        log_probs = scores.log_softmax(dim=-1)
        entropy = -(log_probs * log_probs.exp()).nansum(dim=-1, keepdim=True)
        distance = (-log_probs - entropy).abs()
        nearest, columns = _sort_live(distance, scores)
        count = columns.shape[1]
        everything = torch.full_like(scores, -math.inf)
        everything[:, :count] = scores.gather(1, columns)
        below = everything.softmax(dim=-1).cumsum(dim=-1) < mass
        last = below.sum(dim=1, keepdim=True).clamp_(max=count - 1)
        untypical = nearest > nearest.gather(1, last)
        untypical[:, :keep] = False
        return _remove(scores, columns, untypical)

    return apply


def epsilon(cutoff: float, keep: int) -> Apply:
    """Keep tokens with a probability of at least `cutoff`.

    Hewitt et al., "Truncation Sampling as Language Model Desmoothing", 2022.
    """

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        unlikely = scores.softmax(dim=-1) < cutoff
        return scores.masked_fill_(unlikely & (scores < _kth_best(scores, keep)), -math.inf)

    return apply


def normalize(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
    """Make log-probabilities of the scores again."""
    return scores.log_softmax(dim=-1)


def _kth_best(scores: Tensor, k: int) -> Tensor:
    return scores.topk(min(k, scores.shape[-1]), dim=-1).values[:, -1:]


def _sort_live(keys: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """`keys [R, V]` in ascending order and their columns, without most of the banned ones.

    Returns `[R, C]` each; every column of `scores` above minus infinity is among them. Sorting
    is most of the cost of sampling, and top-k leaves few columns to sort. On a GPU sorting is
    cheap, and counting would stall it.
    """
    if not is_gpu(scores.device):
        count = max(1, int(torch.count_nonzero(scores != -math.inf, dim=-1).max()))
        if count <= scores.shape[-1] // 8:
            columns = scores.topk(count, dim=-1, sorted=False).indices
            few, order = keys.gather(1, columns).sort(dim=-1)
            # torch orders ties by how much it sorts; only the same call gives the same order.
            ties = (few[:, 1:] == few[:, :-1]) & few[:, 1:].isfinite()
            if not ties.any():
                return few, columns.gather(1, order)
    ordered, columns = keys.sort(dim=-1)
    return ordered, columns


def _remove(scores: Tensor, columns: Tensor, unwanted: Tensor) -> Tensor:
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, columns, unwanted)
    return scores.masked_fill_(mask, -math.inf)
