"""`activate` in Triton: one program per block of a row."""

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
    row_block,
    row_warps,
    run_on,
    strides,
)

if TYPE_CHECKING:
    from torch import Tensor


@triton.jit
def _act(b_x, KIND: tl.constexpr):
    """The function of float32 values; what is not a number stays so."""
    if KIND == "gelu":
        b_x = 0.5 * b_x * (1.0 + tl.erf(b_x * 0.7071067811865476))
    elif KIND == "gelu_tanh":
        # x (1 + tanh u) / 2 is x / (1 + exp(-2 u)), with u = sqrt(2 / pi) (x + 0.044715 x^3).
        b_u = b_x * (1.0 + 0.044715 * b_x * b_x)
        b_x = b_x / (1.0 + tl.exp(-1.5957691216057308 * b_u))
    elif KIND == "silu":
        b_x = b_x / (1.0 + tl.exp(-b_x))
    else:
        tl.static_assert(KIND == "relu")
        b_x = tl.where(b_x < 0.0, 0.0, b_x)
    return b_x


@triton.jit
def _activate(
    x, bias, gate, output,
    x_stride_n, gate_stride_n, output_stride_n,
    KIND: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One program computes `BD` channels of one row. A pointer that is None leaves its part out."""
    i_n = tl.program_id(0).to(tl.int64)
    o_d = tl.program_id(1) * BD + tl.arange(0, BD)
    m_d = o_d < D
    b_x = tl.load(x + i_n * x_stride_n + o_d, mask=m_d, other=0.0).to(tl.float32)  # [BD]
    if bias is not None:
        b_x += tl.load(bias + o_d, mask=m_d, other=0.0).to(tl.float32)
    b_x = _act(b_x, KIND)
    if gate is not None:
        b_x *= tl.load(gate + i_n * gate_stride_n + o_d, mask=m_d, other=0.0).to(tl.float32)
    p_output = output + i_n * output_stride_n + o_d
    tl.store(p_output, b_x.to(output.dtype.element_ty), mask=m_d)


def activate_in_triton(x: Tensor, kind: str, bias: Tensor | None, gate: Tensor | None) -> Tensor:
    """Launch the kernel; ValueError for strided channels."""
    check_device(_activate, x)
    check_rows(x=x, bias=bias, gate=gate)
    output = x if gate is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    run_on(x.device, activation_launches(x, kind, bias, gate, output))
    return output


def activation_launches(
    x: Tensor, kind: str, bias: Tensor | None, gate: Tensor | None, output: Tensor
) -> list[Launch]:
    """The kernel, unless there is nothing to do; `output [N, d]` is filled, and may be `x`."""
    if x.numel() == 0:
        return []
    rows, width = x.shape
    block = row_block(width)
    launch = Launch(
        _activate,
        (rows, ceil_div(width, block)),
        {
            "x": x,
            "bias": bias,
            "gate": gate,
            "output": output,
            **strides("x", x, "n"),
            **strides("gate", gate, "n"),
            **strides("output", output, "n"),
            "KIND": kind,
            "D": width,
            "BD": block,
        },
        num_warps=row_warps(block),
    )
    return [launch]
