"""`add_norm` in Triton: one program per row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from tritonseq.kernels.checks import check_rows
from tritonseq.kernels.launch import (
    Launch,
    check_device,
    next_power_of_two,
    row_warps,
    run_on,
    strides,
)

if TYPE_CHECKING:
    from torch import Tensor

# The widest row: 16 elements for every thread of the largest program.
MAX_WIDTH = 8192


@triton.jit
def _add_norm(
    x, residual, weight, bias, output,
    x_stride_n, residual_stride_n, output_stride_n,
    epsilon,
    D: tl.constexpr, BD: tl.constexpr, RMS: tl.constexpr,
):  # fmt: skip
    """One program adds one row to the residual stream, and writes the norm of the sum.

    A pointer that is None leaves its part out. The row stays in registers.
    """
    i_n = tl.program_id(0).to(tl.int64)
    o_d = tl.arange(0, BD)
    m_d = o_d < D
    b_x = tl.load(x + i_n * x_stride_n + o_d, mask=m_d, other=0.0).to(tl.float32)  # [BD]
    if residual is not None:
        p_residual = residual + i_n * residual_stride_n + o_d
        b_x += tl.load(p_residual, mask=m_d, other=0.0).to(tl.float32)
        # The norm is that of what is stored.
        b_sum = b_x.to(residual.dtype.element_ty)
        tl.store(p_residual, b_sum, mask=m_d)
        b_x = b_sum.to(tl.float32)
    if not RMS:
        b_x = tl.where(m_d, b_x - tl.sum(b_x, 0) / D, 0.0)
    b_x *= tl.rsqrt(tl.sum(b_x * b_x, 0) / D + epsilon)
    b_weight = tl.load(weight + o_d, mask=m_d, other=0.0).to(tl.float32)
    if RMS:
        b_x = b_x.to(weight.dtype.element_ty).to(tl.float32) * b_weight
    else:
        b_x *= b_weight
    if bias is not None:
        b_x += tl.load(bias + o_d, mask=m_d, other=0.0).to(tl.float32)
    p_output = output + i_n * output_stride_n + o_d
    tl.store(p_output, b_x.to(output.dtype.element_ty), mask=m_d)


def add_norm_in_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    epsilon: float,
    rms: bool,
) -> Tensor:
    """Launch the kernel; ValueError beyond its width, and for strided channels."""
    check_device(_add_norm, x)
    check_rows(x=x, weight=weight, bias=bias, residual=residual)
    if x.shape[1] > MAX_WIDTH:
        raise ValueError(f'x is {x.shape[1]} wide, beyond {MAX_WIDTH}; pass impl="torch"')
    output = torch.empty(x.shape, dtype=weight.dtype, device=x.device)
    run_on(x.device, norm_launches(x, weight, bias, residual, output, epsilon, rms))
    return output


def norm_launches(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    output: Tensor,
    epsilon: float,
    rms: bool,
) -> list[Launch]:
    """The kernel, unless there is no row; `output [N, d]` is filled."""
    if output.numel() == 0:
        return []
    rows, width = x.shape
    block = next_power_of_two(width)
    launch = Launch(
        _add_norm,
        (rows,),
        {
            "x": x,
            "residual": residual,
            "weight": weight,
            "bias": bias,
            "output": output,
            **strides("x", x, "n"),
            **strides("residual", residual, "n"),
            **strides("output", output, "n"),
            "epsilon": epsilon,
            "D": width,
            "BD": block,
            "RMS": rms,
        },
        num_warps=row_warps(block),
    )
    return [launch]
