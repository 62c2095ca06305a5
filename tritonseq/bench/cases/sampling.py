"""`sample_tokens`: with the cuts that people use, for every row of a batch.

Beside it stands what transformers does: a sort for every cut, a softmax, and a draw, which
gives other tokens of the same distribution.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from tritonseq.bench.case import Arguments, Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from tritonseq.bench.draw import Draw
    from tritonseq.bench.shapes import Shape


CUTS: Arguments = {"temperature": 0.8, "top_k": 50, "top_p": 0.9}


def cases(shape: Shape) -> Iterator[Case]:
    drawn_with = Sampling(shape).drawn_with
    yield Case("sample_tokens", shape, "cut", drawn_with(CUTS), plain_sample, same=False)
    if shape.beams == 1:
        # Its reference draws a time for every token that is not cut off: for one row, that is.
        yield Case("sample_tokens", shape, "", drawn_with({}), plain_sample, same=False)


class Sampling:
    """Arguments: every beam's logits, taken as a row of its own."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def drawn_with(self, cuts: Arguments) -> Callable[[Draw, int], Arguments]:
        def draw(draw: Draw, samples: int) -> Arguments:
            rows = samples * self.shape.beams
            return {
                "logits": draw.floats(rows, self.shape.vocabulary),
                "seeds": draw.integers(2**31, rows),
                "steps": draw.full(self.shape.position, rows),
                **cuts,
            }

        return draw


def plain_sample(
    logits: Tensor,
    seeds: Tensor,
    steps: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Tensor:
    scores = logits.float() / temperature
    if top_k:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -math.inf)
    if top_p < 1:
        ordered, places = scores.sort()
        cut = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
        scores = scores.masked_fill(cut.scatter(1, places, cut), -math.inf)
    # As `multinomial` draws, but without its check, for which the host would wait.
    shares = scores.softmax(-1)
    return shares.div_(torch.empty_like(shares).exponential_()).argmax(-1)
