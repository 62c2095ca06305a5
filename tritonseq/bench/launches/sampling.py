"""Configurations of `sample_tokens`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tritonseq.kernels.sampling.call import Cuts
from tritonseq.kernels.sampling.kernel import sampling_launches

from . import floats, meta, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritonseq.kernels.launch import Launch

# Name, and what is cut.
ALL_CUTS = ("all", Cuts(0.7, 50, 0.9, 0.05))
USUAL = [("none", Cuts(1.0, 0, 1.0, 0.0)), ALL_CUTS]
EVERY = [
    *USUAL,
    ("top_k", Cuts(1.0, 50, 1.0, 0.0)),
    ("top_p", Cuts(1.0, 0, 0.9, 0.0)),
    ("min_p", Cuts(1.0, 0, 1.0, 0.05)),
    ("top_k+top_p", Cuts(1.0, 50, 0.9, 0.0)),
]


def cases(target: str, every: bool) -> Iterator[tuple[str, Launch]]:
    for dtype in floats(target):
        yield from sampling_cases(dtype, EVERY if every else USUAL)
    yield from sampling_cases(floats(target)[0], [ALL_CUTS], vocab_size=1000)


def sampling_cases(
    dtype: torch.dtype, cuts: list[tuple[str, Cuts]], vocab_size: int = 50257
) -> Iterator[tuple[str, Launch]]:
    """Logits whose rows are padded to a multiple of 64 columns."""
    rows, width = 32, -(-vocab_size // 64) * 64
    logits = meta(rows, width, dtype=dtype)[:, :vocab_size]
    integers = meta(rows, dtype=torch.int64)
    for name, values in cuts:
        for launch in sampling_launches(logits, integers, integers, integers, values):
            yield f"{short(dtype)} V{vocab_size} {name}", launch
