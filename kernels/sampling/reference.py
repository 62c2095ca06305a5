"""`sample_tokens` by definition, on Python's integers and doubles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tritonseq.kernels.checks import Impl

WORD = 2**32


def sample_tokens(
    logits: Tensor,
    seeds: Tensor,
    steps: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    impl: Impl = "auto",
) -> Tensor:
    """`tritonseq.kernels.sample_tokens`, one row after the other."""
    tokens = []
    for row, seed, step in zip(logits.tolist(), seeds.tolist(), steps.tolist(), strict=True):
        weights = kept(row, temperature, top_k, top_p, min_p)
        times = {token: arrival_time(seed, step, token) for token in weights}
        tokens.append(min(weights, key=lambda token: times[token] / weights[token]))
    return torch.tensor(tokens, dtype=torch.int64, device=logits.device)


def kept(
    row: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> dict[int, float]:
    """The tokens that the cuts keep, with their probabilities as shares of the best one's."""
    best = max(row)
    ranked = sorted((token for token, x in enumerate(row) if x > -math.inf), key=lambda t: -row[t])
    weights = {
        token: 1.0 if row[token] == best else math.exp((row[token] - best) / temperature)
        for token in ranked
    }
    if top_k > 0:
        last = row[ranked[min(top_k, len(ranked)) - 1]]
        weights = {token: weight for token, weight in weights.items() if row[token] >= last}
    if top_p < 1.0:
        mass, last = 0.0, best
        for token, weight in weights.items():
            last, mass = row[token], mass + weight
            if mass >= top_p * math.fsum(weights.values()):
                break
        weights = {token: weight for token, weight in weights.items() if row[token] >= last}
    return {token: weight for token, weight in weights.items() if weight >= min_p and weight > 0}


def arrival_time(seed: int, step: int, token: int) -> float:
    """When `token` arrives: exponentially distributed, with a mean of 1."""
    counter = (token // 4, step % WORD, (step >> 32) % WORD, 0)
    word = philox(counter, (seed % WORD, (seed >> 32) % WORD))[token % 4]
    return -math.log1p(-(word + 0.5) / WORD)


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four random words: Philox 4x32-10."""
    for _ in range(10):
        first, second = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = (
            second // WORD ^ counter[1] ^ key[0],
            second % WORD,
            first // WORD ^ counter[3] ^ key[1],
            first % WORD,
        )
        key = ((key[0] + 0x9E3779B9) % WORD, (key[1] + 0xBB67AE85) % WORD)
    return counter
