"""`sample_tokens` in plain torch: every shape is known beforehand, no value is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .call import Cuts

_WORD = 0xFFFFFFFF
# The factors of Philox 4x32 and what it adds to its two keys after every round.
_FACTORS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def sample_in_torch(logits: Tensor, seeds: Tensor, steps: Tensor, cuts: Cuts) -> Tensor:
    """`sample_tokens` for checked arguments."""
    if logits.shape[0] == 0:
        return torch.empty(0, dtype=torch.int64, device=logits.device)
    scores = logits.float()
    best = scores.amax(dim=1, keepdim=True)
    weights = _weights(scores, best, cuts.temperature)
    threshold = _threshold(scores, best, weights, cuts)
    if threshold is not None:
        weights.masked_fill_(scores < threshold, -1.0)
    if cuts.min_p > 0.0:
        weights.masked_fill_(weights < cuts.min_p, -1.0)
    return weights.div_(arrival_times(seeds, steps, logits.shape[1])).argmax(dim=1)


def _weights(scores: Tensor, best: Tensor, temperature: float) -> Tensor:
    """Probabilities as shares of the best one's."""
    # An infinite best score makes NaN of itself.
    return (scores - best).div_(temperature).exp_().nan_to_num_(nan=1.0)


def _threshold(scores: Tensor, best: Tensor, weights: Tensor, cuts: Cuts) -> Tensor | None:
    """The least score `[R, 1]` that top-k and top-p keep."""
    ranked, threshold, mass = None, None, weights
    if 0 < cuts.top_k < scores.shape[1]:
        ranked = scores.topk(cuts.top_k, dim=1).values
        threshold = ranked[:, -1:]
        mass = weights.where(scores >= threshold, 0.0)
    if cuts.top_p < 1.0:
        if ranked is None:
            ranked = scores.sort(dim=1, descending=True).values
        reached = _weights(ranked, best, cuts.temperature).cumsum(dim=1)
        missing = reached < mass.sum(dim=1, keepdim=True) * cuts.top_p
        last = missing.sum(dim=1, keepdim=True).clamp_(max=ranked.shape[1] - 1)
        threshold = ranked.gather(1, last)
    return threshold


def arrival_times(seeds: Tensor, steps: Tensor, count: int) -> Tensor:
    """Exponentially distributed times `[R, count]`, float32, of tokens `0..count-1`."""
    uniform = random_words(seeds, steps, count).float().add_(0.5).mul_(2.0**-32)
    # A logarithm of 1 - x knows little of a small x, and small times decide the race.
    series = uniform * (1 / 4)
    for coefficient in (1 / 3, 1 / 2, 1.0):
        series.add_(coefficient).mul_(uniform)
    log = (1.0 - uniform).clamp_(min=2.0**-25).log_().neg_()
    return torch.where(uniform < 1 / 64, series, log)


def random_words(seeds: Tensor, steps: Tensor, count: int) -> Tensor:
    """The 32-bit words `[R, count]`, as int64, of tokens `0..count-1`: Philox 4x32-10."""
    seeds, steps = seeds.long()[:, None], steps.long()[:, None]
    keys = (seeds & _WORD, seeds >> 32 & _WORD)
    words = torch.empty(4, len(seeds), -(-count // 4), dtype=torch.int64, device=seeds.device)
    words[0] = torch.arange(words.shape[2], device=seeds.device)
    words[1], words[2], words[3] = steps, steps >> 32 & _WORD, 0
    zero, one, two, three = words
    for number in range(_ROUNDS):
        key, other = (k + number * s & _WORD for k, s in zip(keys, _KEY_STEPS, strict=True))
        # Products wrap around at 64 bits. Their lower halves, the next words 1 and 3, are taken
        # out two rounds later, when a factor has to be clean.
        zero.mul_(_FACTORS[0])
        two.mul_(_FACTORS[1])
        one.bitwise_xor_(key).bitwise_xor_(two >> 32).bitwise_and_(_WORD)
        three.bitwise_xor_(other).bitwise_xor_(zero >> 32).bitwise_and_(_WORD)
        zero, one, two, three = one, two, three, zero
    in_order = torch.stack((zero, one, two, three), dim=2).bitwise_and_(_WORD)
    return in_order.flatten(1)[:, :count]
