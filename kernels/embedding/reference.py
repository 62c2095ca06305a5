"""`embed` by definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tritonseq.kernels.checks import Impl


def embed(
    tokens: Tensor,
    table: Tensor,
    *,
    scale: float = 1.0,
    positions: Tensor | None = None,
    position_table: Tensor | None = None,
    starts: Tensor | None = None,
    row: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """`tritonseq.kernels.embed`, one token after the other."""
    result = torch.zeros(len(tokens), table.shape[1], dtype=table.dtype, device=table.device)
    for i, token in enumerate(tokens.clamp(0, table.shape[0] - 1).tolist()):
        x = table[token] if scale == 1 else table[token] * scale
        if positions is not None and position_table is not None:
            place = i * len(positions) // len(tokens)
            start = 0 if starts is None else int(starts[place])
            at = start + int(positions[place])
            x = x + position_table[min(max(at, 0), position_table.shape[0] - 1)]
        result[i] = x if row is None else x + row
    return result
