"""Configurations of `beam_advance` and `greedy_advance`."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch

from tritonseq.kernels.advance.eager import AdvanceRules
from tritonseq.kernels.advance.kernel import advance_launches, greedy_launches
from tritonseq.kernels.advance.state import Group, Pool, Written

from . import floats, meta, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from tritonseq.kernels.launch import Launch

SAMPLES, POSITIONS = 8, 200


def cases(target: str, every: bool) -> Iterator[tuple[str, Launch]]:
    yield from advance_cases(4, 8, stops=True, by_limit=False)
    yield from advance_cases(16, 64, stops=False, by_limit=True, has_ends=False)
    yield from advance_cases(5, 10, stops=False, by_limit=True)
    yield from greedy_cases(torch.float16, 50257)
    if not every:
        return
    for (beams, count), stops, by_limit in product(
        [(1, 2), (5, 10), (16, 32), (32, 128), (3, 100)], (False, True), (False, True)
    ):
        yield from advance_cases(beams, count, stops=stops, by_limit=by_limit)
    for dtype, vocab_size in product(floats(target), (30, 30522, 50257)):
        yield from greedy_cases(dtype, vocab_size)


def advance_cases(
    beams: int, count: int, *, stops: bool, by_limit: bool, has_ends: bool = True
) -> Iterator[tuple[str, Launch]]:
    """A step of `beams` beams from `count` candidates."""
    scores, integers = (meta(SAMPLES, beams, dtype=x) for x in (torch.float32, torch.int64))
    pool = Pool(scores, integers.bool(), integers, integers, integers)
    group = Group(scores, meta(SAMPLES, dtype=torch.bool), pool)
    tokens = meta(SAMPLES, count, dtype=torch.int64)
    candidates = (tokens.float(), tokens, tokens)
    powers = meta(POSITIONS + 1, dtype=torch.float32)
    rules = AdvanceRules(powers, ends() if has_ends else None, stops, by_limit, True)
    for launch in advance_launches(written(beams), group, *candidates, rules):
        yield f"beams K{beams} C{count}{' full' * stops}{' limit' * by_limit}", launch


def greedy_cases(dtype: torch.dtype, vocab_size: int) -> Iterator[tuple[str, Launch]]:
    """Logits whose rows are padded to a multiple of 64 columns."""
    logits = meta(SAMPLES, 1, -(-vocab_size // 64) * 64, dtype=dtype)[:, :, :vocab_size]
    ended = meta(SAMPLES, 1, dtype=torch.bool)
    for launch in greedy_launches(written(1), ended, logits, ends(), 0, True):
        yield f"{short(dtype)} greedy V{vocab_size}", launch


def written(beams: int) -> Written:
    slots = meta(SAMPLES, POSITIONS, beams, dtype=torch.int64)
    counter = meta(SAMPLES, dtype=torch.int64)
    newest, done = meta(SAMPLES, beams, dtype=torch.int64), meta(SAMPLES, dtype=torch.bool)
    return Written(slots, slots, slots, newest, counter, counter, counter, done)


def ends() -> Tensor:
    return meta(1, dtype=torch.int64)
