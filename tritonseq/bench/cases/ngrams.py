"""`ban_ngrams`, `ngram_mask`, `ngram_bans`: 3-grams of prompt and hypothesis, by lineage.

Beside them stands a comparison of all windows with the last two tokens; each row's own tokens
are at hand there, as a search that reorders them has them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tritonseq.bench.case import Arguments, Case, distance, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tritonseq.bench.draw import Draw
    from tritonseq.bench.shapes import Shape

N = 3


def cases(shape: Shape) -> Iterator[Case]:
    ngrams = NgramArguments(shape)
    yield Case(
        "ban_ngrams", shape, "", ngrams.draw_scores, plain_ban, moved=ngrams.moved_scores,
        held=ngrams.held,
    )  # fmt: skip
    yield Case("ngram_mask", shape, "", ngrams.draw_mask, plain_mask, held=ngrams.held)
    yield Case(
        "ngram_bans", shape, "", ngrams.draw_mask, plain_bans, held=ngrams.held,
        judge=ngrams.judge_bans,
    )  # fmt: skip


class NgramArguments:
    """Arguments of the three, of which the tokens are the same."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        # So few different tokens that a batch of hypotheses repeats some 3-grams.
        self.words = 4 if shape.tiny else 40

    def _tokens(self, draw: Draw, samples: int) -> Arguments:
        shape = self.shape
        arguments: Arguments = {
            "tokens": draw.integers(self.words, samples, shape.target, shape.beams),
            "n": N,
            "lengths": draw.full(shape.position, samples),
            "lineage": draw.lineage(samples, shape.target, shape.beams),
        }
        if not shape.encoder:
            arguments["prefix"] = draw.integers(self.words, samples, shape.source)
        return arguments

    def draw_scores(self, draw: Draw, samples: int) -> Arguments:
        scores = draw.floats(samples * self.shape.beams, self.shape.vocabulary)
        return {"scores": scores, **self._tokens(draw, samples)}

    def draw_mask(self, draw: Draw, samples: int) -> Arguments:
        return {**self._tokens(draw, samples), "vocab_size": self.shape.vocabulary}

    def moved_scores(self, arguments: Arguments) -> int:
        """Tokens and lineage up to the length; of the scores those that are banned."""
        read = [arguments[name][:, : self.shape.position] for name in ("tokens", "lineage")]
        read += [arguments["prefix"]] if "prefix" in arguments else []
        scores = torch.zeros_like(arguments["scores"])
        held = self.held(arguments)
        banned = plain_mask(held["own"], held["n"], scores.shape[1])
        return sum(map(size, read)) + int(banned.sum()) * scores.element_size()

    def held(self, arguments: Arguments) -> Arguments:
        """Every row's own tokens `[B * K, L]`, without the rest of the buffer."""
        rest: Arguments = {
            name: arguments[name] for name in ("scores", "vocab_size") if name in arguments
        }
        at = self.shape.position
        own = arguments["tokens"][:, :at].gather(2, arguments["lineage"][:, :at])
        own = own.transpose(1, 2).flatten(0, 1)
        if "prefix" in arguments:
            own = torch.cat([arguments["prefix"].repeat_interleave(self.shape.beams, 0), own], 1)
        return {"own": own, "n": arguments["n"], **rest}

    def judge_bans(
        self, result: Sequence[Tensor], truth: Sequence[Tensor], plain: Sequence[Tensor]
    ) -> str:
        """The same tokens in every row's list, wherever they stand in it."""
        masks = []
        for bans in (result[0].long(), truth[0].long()):
            columns = torch.where(bans < 0, self.shape.vocabulary, bans)
            mask = columns.new_zeros(len(bans), self.shape.vocabulary + 1)
            masks.append(mask.scatter_(1, columns, 1)[:, :-1])
        return distance(masks[0], masks[1], None)


def plain_mask(own: Tensor, n: int, vocab_size: int) -> Tensor:
    """The tokens after every earlier occurrence of the last `n - 1`."""
    mask = torch.zeros(len(own), vocab_size, dtype=torch.uint8, device=own.device)
    windows = own.unfold(1, n, 1)
    met = (windows[..., :-1] == own[:, None, own.shape[1] - n + 1 :]).all(-1)
    return mask.scatter_reduce_(1, windows[..., -1], met.to(torch.uint8), "amax").bool()


def plain_ban(own: Tensor, n: int, scores: Tensor) -> Tensor:
    return scores.masked_fill_(plain_mask(own, n, scores.shape[1]), -math.inf)


def plain_bans(own: Tensor, n: int, vocab_size: int) -> Tensor:
    """The same as a list `[R, L - n + 1]`, -1 where a window is another; all are in the range."""
    windows = own.unfold(1, n, 1)
    met = (windows[..., :-1] == own[:, None, own.shape[1] - n + 1 :]).all(-1)
    return torch.where(met, windows[..., -1], -1)
