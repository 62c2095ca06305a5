"""Configurations of `add_norm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tritonseq.kernels.norm.kernel import MAX_WIDTH, norm_launches

from . import floats, meta, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritonseq.kernels.launch import Launch

# Row widths of the models, and with `every` the narrowest and the widest, whole blocks or not.
WIDTHS = [768, 1024]
EVERY = [1, 24, 512, 2048, 4096, 5000, MAX_WIDTH]


def cases(target: str, every: bool) -> Iterator[tuple[str, Launch]]:
    # Float16 beside the wider residual that it needs.
    yield from norm_cases(1024, torch.float16, torch.float32)
    for dtype in floats(target):
        if every or dtype != torch.float32:
            for width in WIDTHS + (EVERY if every else []):
                yield from norm_cases(width, dtype, dtype)


def norm_cases(width: int, dtype: torch.dtype, stream: torch.dtype) -> Iterator[tuple[str, Launch]]:
    """Both norms of a sum; each of them alone for one width."""
    x, residual = meta(64, width, dtype=stream), meta(64, width, dtype=stream)
    weight, output = meta(width, dtype=dtype), meta(64, width, dtype=dtype)
    for rms in (False, True):
        bias = None if rms else weight
        for taken in (residual, None) if width == 768 else (residual,):
            name = f"{short(dtype)} {'rms' if rms else 'layer'} d{width}"
            name += "" if taken is None else f"+{short(stream)}"
            for launch in norm_launches(x, weight, bias, taken, output, 1e-5, rms):
                yield name, launch
