"""Configurations of `embed`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tritonseq.kernels.embedding.kernel import embedding_launches

from . import floats, meta, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritonseq.kernels.launch import Launch

# Scale, and whether there are positions and a row of their own: T5, BART, mBART, UniLM.
USES = [(1.0, False, False), (1.0, True, False), (32.0, True, False), (1.0, True, True)]


def cases(target: str, every: bool) -> Iterator[tuple[str, Launch]]:
    for dtype in floats(target) if every else [torch.float16]:
        for width in (24, 768, 1024, 5000) if every else (768,):
            for use in USES:
                yield from embedding_cases(width, dtype, *use)


def embedding_cases(
    width: int, dtype: torch.dtype, scale: float, positions: bool, row: bool
) -> Iterator[tuple[str, Launch]]:
    tokens, table = meta(64, dtype=torch.int64), meta(50265, width, dtype=dtype)
    launches = embedding_launches(
        tokens,
        table,
        scale,
        meta(16, dtype=torch.int64) if positions else None,
        meta(1026, width, dtype=dtype) if positions else None,
        meta(16, dtype=torch.int64) if positions else None,
        meta(width, dtype=dtype) if row else None,
        meta(64, width, dtype=dtype),
    )
    parts = f" x{scale:g}" * (scale != 1) + "+positions" * positions + "+row" * row
    for launch in launches:
        yield f"{short(dtype)} d{width}{parts}", launch
