"""`embed` in Triton: one program per block of a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from tritonseq.kernels.checks import check_rows
from tritonseq.kernels.launch import (
    Launch,
    ceil_div,
    check_device,
    in_order,
    row_block,
    row_warps,
    run_on,
    strides,
)

if TYPE_CHECKING:
    from torch import Tensor


@triton.jit(do_not_specialize=["tokens_per_position", "table_size", "position_table_size"])
def _embed(
    tokens, table, positions, position_table, starts, row, output,
    tokens_per_position, table_size, position_table_size,
    table_stride_v, table_stride_d, position_table_stride_m, output_stride_n,
    scale,
    D: tl.constexpr, BD: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """One program computes `BD` channels of one token. A pointer that is None leaves its part out.

    Whatever torch would round is rounded. An id beyond its table takes the nearest row.
    """
    i_n = tl.program_id(0).to(tl.int64)
    o_d = tl.program_id(1) * BD + tl.arange(0, BD)
    m_d = o_d < D
    i_v = tl.minimum(tl.maximum(tl.load(tokens + i_n).to(tl.int64), 0), table_size - 1)
    p_x = table + i_v * table_stride_v + o_d * table_stride_d
    b_x = tl.load(p_x, mask=m_d, other=0.0)  # [BD]
    if SCALED:
        b_x = (b_x.to(tl.float32) * scale).to(table.dtype.element_ty)
    if positions is not None:
        i_m = tl.load(positions + i_n // tokens_per_position).to(tl.int64)
        if starts is not None:
            i_m += tl.load(starts + i_n // tokens_per_position).to(tl.int64)
        i_m = tl.minimum(tl.maximum(i_m, 0), position_table_size - 1)
        p_place = position_table + i_m * position_table_stride_m + o_d
        b_place = tl.load(p_place, mask=m_d, other=0.0).to(tl.float32)
        b_x = (b_x.to(tl.float32) + b_place).to(table.dtype.element_ty)
    if row is not None:
        b_row = tl.load(row + o_d, mask=m_d, other=0.0).to(tl.float32)
        b_x = (b_x.to(tl.float32) + b_row).to(table.dtype.element_ty)
    tl.store(output + i_n * output_stride_n + o_d, b_x, mask=m_d)


def embed_in_triton(
    tokens: Tensor,
    table: Tensor,
    scale: float,
    positions: Tensor | None,
    position_table: Tensor | None,
    starts: Tensor | None,
    row: Tensor | None,
) -> Tensor:
    """Launch the kernel; ValueError for strided channels, but for those of the table."""
    check_device(_embed, table)
    check_rows(position_table=position_table, row=row)
    tokens, positions, starts = tokens.contiguous(), in_order(positions), in_order(starts)
    output = torch.empty(len(tokens), table.shape[1], dtype=table.dtype, device=table.device)
    run_on(
        table.device,
        embedding_launches(tokens, table, scale, positions, position_table, starts, row, output),
    )
    return output


def embedding_launches(
    tokens: Tensor,
    table: Tensor,
    scale: float,
    positions: Tensor | None,
    position_table: Tensor | None,
    starts: Tensor | None,
    row: Tensor | None,
    output: Tensor,
) -> list[Launch]:
    """The kernel, unless there is no token; `output [N, d]` is filled."""
    if output.numel() == 0:
        return []
    rows, width = output.shape
    block = row_block(width)
    launch = Launch(
        _embed,
        (rows, ceil_div(width, block)),
        {
            "tokens": tokens,
            "table": table,
            "positions": positions,
            "position_table": position_table,
            "starts": starts,
            "row": row,
            "output": output,
            "tokens_per_position": 0 if positions is None else rows // len(positions),
            "table_size": table.shape[0],
            "position_table_size": 0 if position_table is None else position_table.shape[0],
            **strides("table", table, "vd"),
            **strides("position_table", position_table, "m"),
            **strides("output", output, "n"),
            "scale": float(scale),
            "D": width,
            "BD": block,
            "SCALED": scale != 1,
        },
        num_warps=row_warps(block),
    )
    return [launch]
