"""`embed`: rows of a table of tokens and of one of positions, summed."""

from __future__ import annotations

import torch
from torch import Tensor

from ._checks import FLOATS, INTEGERS, Impl, takes_triton


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
        tokens: `[N]` int32 or int64, all of them rows of the table: on the CPU torch checks that,
            in Triton nobody does.
        table: `[V, d]` float16, bfloat16 or float32.
        scale: of the tokens' rows alone.
        positions: `[P]` int32 or int64, rows of `position_table`, likewise. `N` is a multiple of
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
        ValueError: for shapes, dtypes or strides that do not fit; the text says what would.
    """
    _check(tokens, table, positions, position_table, starts, row)
    if torch.is_grad_enabled():
        with torch.no_grad():
            return _embed(tokens, table, scale, positions, position_table, starts, row, impl)
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
    if takes_triton(impl, table.device):
        from ._embedding_triton import embed_in_triton

        return embed_in_triton(tokens, table, scale, positions, position_table, starts, row)
    x = table.index_select(0, tokens)
    if scale != 1:
        x.mul_(scale)
    if positions is not None and position_table is not None:
        positions = positions if starts is None else positions + starts
        places = position_table.index_select(0, positions)
        if len(positions) == len(tokens):
            x.add_(places)
        else:
            groups = (len(positions), len(tokens) // len(positions))
            x.unflatten(0, groups).add_(places[:, None])
    return x if row is None else x.add_(row)


def _check(
    tokens: Tensor,
    table: Tensor,
    positions: Tensor | None,
    position_table: Tensor | None,
    starts: Tensor | None,
    row: Tensor | None,
) -> None:
    _check_ids("tokens", tokens)
    if table.dim() != 2 or table.dtype not in FLOATS:
        raise ValueError(
            f"table is {table.dtype} {list(table.shape)}; pass float16, bfloat16 or float32 [V, d]"
        )
    dtype, width = table.dtype, table.shape[1]
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
    if starts is not None:
        if positions is None:
            raise ValueError("starts are given without positions; pass both or neither")
        _check_ids("starts", starts)
        if len(starts) != len(positions):
            raise ValueError(
                f"there are {len(starts)} starts of {len(positions)} positions; pass one for each"
            )
    if row is not None and (row.shape != (width,) or row.dtype != dtype):
        raise ValueError(f"row is {row.dtype} {list(row.shape)}; pass {dtype} [{width}]")


def _check_ids(name: str, ids: Tensor) -> None:
    if ids.dim() != 1 or ids.dtype not in INTEGERS:
        raise ValueError(f"{name} are {ids.dtype} {list(ids.shape)}; pass int32 or int64 [N]")
