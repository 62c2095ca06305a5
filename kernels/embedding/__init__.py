"""`embed`: token and position embeddings, summed."""

from __future__ import annotations

import torch
from torch import Tensor

from tritonseq.kernels.checks import (
    INTEGERS,
    Impl,
    check_floats,
    check_shape,
    check_tensors,
    grad_off,
    is_for_triton,
    number,
)

_TENSORS = ("tokens", "table", "positions", "position_table", "starts", "row")


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
    """`table[tokens] * scale + position_table[positions + starts] + row`.

    Args:
        tokens: `[N]` int32 or int64, all of them rows of the table: on the CPU that is checked,
            elsewhere they are clamped to `0..V-1`.
        table: `[V, d]` float16, bfloat16 or float32.
        scale: of the tokens' rows alone.
        positions: `[P]` int32 or int64, rows of `position_table` when counted from the starts,
            checked or clamped likewise. `N` is a multiple of
            `P`, and each position is that of `N / P` adjacent tokens, such as the beams of a
            sample.
        position_table: `[M, d]` in the dtype of the table.
        starts: `[P]` int32 or int64, where the positions count from; 0 by default.
        row: `[d]` in the dtype of the table, the same for all tokens, such as their type.
        impl: "torch", "triton" or, by default, what suits the device.

    Rows may be strided; in Triton those of `position_table` must be contiguous. Every product and
    sum is rounded to the dtype of the table. No gradient flows.

    Returns:
        `[N, d]`, contiguous, in the dtype of the table.

    Raises:
        ValueError: for shapes, dtypes, devices, strides or ids that do not fit; the text says what
            would.
        TypeError: for what is no tensor, or no number.
    """
    _check(tokens, table, positions, position_table, starts, row)
    scale = number("scale", scale)
    with grad_off():
        return _embed(tokens, table, scale, positions, position_table, starts, row, impl)


def _embed(
    tokens: Tensor,
    table: Tensor,
    scale: float,
    positions: Tensor | None,
    position_table: Tensor | None,
    starts: Tensor | None,
    row: Tensor | None,
    impl: str,
) -> Tensor:
    if is_for_triton(impl, table.device):
        from .kernel import embed_in_triton

        return embed_in_triton(tokens, table, scale, positions, position_table, starts, row)
    x = _rows("tokens", tokens, table)
    if scale != 1:
        x.mul_(scale)
    if positions is not None and position_table is not None:
        positions = positions if starts is None else positions + starts
        places = _rows("positions", positions, position_table)
        if len(positions) == len(tokens):
            x.add_(places)
        else:
            groups = (len(positions), len(tokens) // len(positions))
            x.unflatten(0, groups).add_(places[:, None])
    return x if row is None else x.add_(row)


def _rows(name: str, ids: Tensor, table: Tensor) -> Tensor:
    """The rows of a table; an id that has none is refused, or clamped where that needs waiting."""
    if table.device.type != "cpu":
        # A fault there would end all work on the device.
        return table.index_select(0, ids.clamp(0, table.shape[0] - 1))
    if torch.compiler.is_compiling():
        return table.index_select(0, ids)
    try:
        return table.index_select(0, ids)
    except IndexError:
        least, most = ids.min().item(), ids.max().item()
        raise ValueError(
            f"{name} are {least} to {most}; the table has the rows 0 to {table.shape[0] - 1}"
        ) from None


def _check(
    tokens: Tensor,
    table: Tensor,
    positions: Tensor | None,
    position_table: Tensor | None,
    starts: Tensor | None,
    row: Tensor | None,
) -> None:
    check_tensors(_TENSORS, (tokens, table, positions, position_table, starts, row), required=2)
    _check_ids("tokens", tokens)
    check_floats("table", table, "V, d")
    dtype, width = table.dtype, table.shape[1]
    _check_not_empty("table", table)
    if (positions is None) != (position_table is None):
        raise ValueError("one of positions and position_table is missing; pass both or neither")
    if positions is not None and position_table is not None:
        _check_ids("positions", positions)
        if len(positions) == 0 or len(tokens) % len(positions):
            raise ValueError(
                f"there are {len(positions)} positions of {len(tokens)} tokens; pass one for each, "
                "or for each group of adjacent ones"
            )
        if position_table.shape[1:] != (width,) or position_table.dtype != dtype:
            raise ValueError(
                f"position_table is {position_table.dtype} {list(position_table.shape)}; "
                f"pass {dtype} [M, {width}]"
            )
        _check_not_empty("position_table", position_table)
    if starts is not None:
        if positions is None:
            raise ValueError("starts are given without positions; pass both or neither")
        _check_ids("starts", starts)
        if len(starts) != len(positions):
            raise ValueError(
                f"there are {len(starts)} starts of {len(positions)} positions; pass one for each"
            )
    check_shape("row", row, dtype, (width,))


def _check_not_empty(name: str, table: Tensor) -> None:
    if table.shape[0] == 0:
        raise ValueError(f"{name} is {list(table.shape)}; pass one row or more")


def _check_ids(name: str, ids: Tensor) -> None:
    if ids.dim() != 1 or ids.dtype not in INTEGERS:
        raise ValueError(f"{name} are {ids.dtype} {list(ids.shape)}; pass int32 or int64 [N]")
