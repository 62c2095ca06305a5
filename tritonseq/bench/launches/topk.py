"""Configurations of `beam_topk`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tritonseq.kernels.topk.call import TopKCall
from tritonseq.kernels.topk.kernel import topk_launches

from . import floats, meta, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritonseq.kernels.launch import Launch


def cases(target: str, every: bool) -> Iterator[tuple[str, Launch]]:
    half = torch.float16
    # GPT-2's vocabulary, once padded for vector loads: greedy, and four beams.
    yield from topk_cases(half, 1, 50257, 50304, 1, log_softmax=False)
    yield from topk_cases(half, 4, 50257, 50304, 8)
    # T5 in float32 with all that can be asked for.
    yield from topk_cases(torch.float32, 4, 32128, 32128, 8, bans=True)
    if not every:
        return
    for dtype in floats(target):
        for bans in (False, True):
            for log_softmax in (False, True):
                options = {"log_softmax": log_softmax, "bans": bans}
                yield from topk_cases(dtype, 1, 50257, 50257, 1, **options)
                yield from topk_cases(dtype, 1, 250112, 250112, 64, **options)
                yield from topk_cases(dtype, 5, 30522, 30522, 10, **options)
                yield from topk_cases(dtype, 16, 250112, 250112, 64, **options)
                yield from topk_cases(dtype, 3, 8, 8, 6, **options)


def topk_cases(
    dtype: torch.dtype,
    beams: int,
    vocab_size: int,
    padded: int,
    count: int,
    *,
    log_softmax: bool = True,
    bans: bool = False,
) -> Iterator[tuple[str, Launch]]:
    """Both kernels, with bans, ends and a forced token or without."""
    samples = 8
    logits = meta(samples, beams, padded, dtype=dtype)[:, :, :vocab_size]
    ids = meta(samples, beams, 140, dtype=torch.int32) if bans else None
    numbers = meta(samples, dtype=torch.int64) if bans else None
    running = meta(samples, beams, dtype=torch.float32) if log_softmax else None
    options = (ids, numbers, numbers, numbers, numbers)
    call = TopKCall(logits, running, *options, count, log_softmax)
    scores, indices = (meta(samples, count, dtype=t) for t in (torch.float32, torch.int64))
    name = f"{short(dtype)} K{beams} V{vocab_size} C{count}"
    name += " log-softmax" * log_softmax + " bans" * bans
    for launch in topk_launches(call, scores, indices, indices):
        yield name, launch
