"""`beam_advance` and `greedy_advance`: the bookkeeping after a step, halfway through.

Beside them stands what transformers does: whole sequences of every beam, of every candidate, and
of every finished hypothesis, gathered at every step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tritonseq.bench.case import Arguments, Case, size, tensors
from tritonseq.kernels.advance.state import FAR_BELOW, Group, Pool, Written

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritonseq.bench.draw import Draw
    from tritonseq.bench.shapes import Shape

END = 2


def cases(shape: Shape) -> Iterator[Case]:
    search = AdvanceArguments(shape)
    if shape.beams == 1:
        yield Case(
            "greedy_advance", shape, "", search.draw_greedy, plain_greedy,
            written=("written", "ended"), moved=search.moved_greedy, held=search.held_greedy,
            same=False, repeatable=False,
        )  # fmt: skip
        return
    yield Case(
        "beam_advance", shape, "", search.draw, plain_advance, written=("written", "group"),
        moved=search.moved, held=search.held, same=False, judged=16, repeatable=False,
    )  # fmt: skip


class AdvanceArguments:
    """Arguments, and the sequences that a search without slots would hold."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def _written(self, draw: Draw, samples: int) -> Written:
        shape, at = self.shape, self.shape.position
        room = (samples, shape.target, shape.beams)
        return Written(
            tokens=draw.integers(shape.vocabulary, *room),
            lineage=draw.lineage(*room),
            parents=draw.integers(shape.beams, *room),
            newest=draw.integers(shape.vocabulary, samples, shape.beams),
            generated=draw.full(at, samples),
            step=draw.full(at - 1, samples),
            limit=draw.full(shape.target, samples),
            done=draw.full(0, samples, dtype=torch.bool),
        )

    def draw(self, draw: Draw, samples: int) -> Arguments:
        """Every pool is full, and candidates are about as good; an eighth of them ends."""
        shape, at = self.shape, self.shape.position
        beams, length = (samples, shape.beams), at + 1
        pool = draw.floats(*beams, dtype=torch.float32, scale=1 / length).sub_(1)
        scores = draw.floats(samples, 2 * shape.beams, dtype=torch.float32).sub_(length)
        tokens = draw.integers(shape.vocabulary, *scores.shape)
        return {
            "written": self._written(draw, samples),
            "group": Group(
                running=draw.floats(*beams, dtype=torch.float32),
                improvable=draw.full(1, samples, dtype=torch.bool),
                pool=Pool(
                    scores=pool.sort(dim=1, descending=True).values,
                    done=draw.full(1, *beams, dtype=torch.bool),
                    end=draw.integers(at, *beams),
                    slot=draw.integers(shape.beams, *beams),
                    token=draw.full(END, *beams),
                ),
            ),
            "scores": scores.sort(dim=1, descending=True).values,
            "tokens": tokens.masked_fill(draw.integers(8, *scores.shape) == 0, END),
            "parents": draw.integers(shape.beams, *scores.shape),
            "powers": torch.arange(shape.target + 1, device=draw.device).float(),
            "ends": draw.full(END, 1),
        }

    def moved(self, arguments: Arguments) -> int:
        """The lineage so far and the pool, both ways; candidates, the newest tokens, counters."""
        written, group, at = arguments["written"], arguments["group"], self.shape.position
        own = [written.lineage[:, :at], written.generated, written.step, *tensors(group)]
        read = [arguments[name] for name in ("scores", "tokens", "parents", "ends")]
        new = 3 * size(written.newest) + size(written.done)
        return 2 * sum(map(size, own)) + sum(map(size, read)) + size(written.limit) + new

    def held(self, arguments: Arguments) -> Arguments:
        written = arguments["written"]
        sequences = written.tokens.gather(2, written.lineage).transpose(1, 2).contiguous()
        pool = arguments["group"].pool
        names = ("scores", "tokens", "parents", "powers", "ends")
        return {
            "sequences": sequences,
            "finished": sequences.flip(1),
            "finished_scores": pool.scores,
            "done": pool.done,
            "at": self.shape.position,
            **{name: arguments[name] for name in names},
        }

    def draw_greedy(self, draw: Draw, samples: int) -> Arguments:
        beams = (samples, self.shape.beams)
        return {
            "written": self._written(draw, samples),
            "ended": draw.full(0, *beams, dtype=torch.bool),
            "logits": draw.floats(*beams, self.shape.vocabulary),
            "ends": draw.full(END, 1),
        }

    def moved_greedy(self, arguments: Arguments) -> int:
        """The logits; the rest is a few bytes per row."""
        written = arguments["written"]
        counters = [written.generated, written.step, written.done, arguments["ended"]]
        read = size(arguments["logits"]) + size(written.limit)
        return read + 2 * sum(map(size, counters)) + 2 * size(written.newest)

    def held_greedy(self, arguments: Arguments) -> Arguments:
        own = arguments["written"].tokens[:, : self.shape.position].transpose(1, 2)
        rest = {name: arguments[name] for name in ("ended", "logits", "ends")}
        return {"sequences": own.contiguous(), **rest}


def plain_advance(
    sequences: Tensor,
    finished: Tensor,
    finished_scores: Tensor,
    done: Tensor,
    at: int,
    scores: Tensor,
    tokens: Tensor,
    parents: Tensor,
    powers: Tensor,
    ends: Tensor,
) -> tuple[Tensor, ...]:
    """The next beams with their sequences and scores, and the finished ones with theirs."""
    beams = sequences.shape[1]
    candidates = _rows(sequences, parents)
    candidates[:, :, at] = tokens
    hits = torch.isin(tokens, ends)
    running, live = (scores + hits * FAR_BELOW).topk(beams)
    final = scores / powers[at + 1]
    hits = hits & (torch.arange(scores.shape[1], device=scores.device) < beams)
    final = torch.cat([finished_scores, final + ~hits * FAR_BELOW], 1)
    best, places = final.topk(beams)
    kept = _rows(torch.cat([finished, candidates], 1), places)
    done = torch.cat([done, hits], 1).gather(1, places)
    worst = torch.where(done, best.min(1, keepdim=True).values, FAR_BELOW)
    improvable = (running[:, :1] / powers[at + 1] > worst).any(1)
    return _rows(candidates, live), running, parents.gather(1, live), kept, best, done, improvable


def plain_greedy(
    sequences: Tensor, ended: Tensor, logits: Tensor, ends: Tensor
) -> tuple[Tensor, ...]:
    """The sequences with the best token behind each, what has ended, and whether all have."""
    tokens = logits.float().argmax(-1).masked_fill(ended, 0)
    ended = ended | torch.isin(tokens, ends)
    return torch.cat([sequences, tokens[..., None]], 2), ended, ended.all(1)


def _rows(sequences: Tensor, which: Tensor) -> Tensor:
    """`[B, N, T]` of `[B, M, T]` by `which [B, N]`."""
    return sequences.gather(1, which[..., None].expand(-1, -1, sequences.shape[2]))
