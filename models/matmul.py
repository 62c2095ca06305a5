"""Products of a few rows with a weight, in the layouts that stream fastest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tritonseq.kernels import activate, is_gpu, private_torch
from tritonseq.kernels.linear.call import padded_rows

from .layout import is_packed

# Rows up to which products are of any number of them.
FEW_ROWS = 16


def in_steps(rows: int) -> int:
    """The rows of a product of oneDNN for so many: few different numbers, an eighth more at most.

    For every shape of a product oneDNN compiles code, some tenths of a megabyte, and keeps it for
    a thousand shapes. Prompts of ever new lengths would be as many shapes: time and memory that
    grow with the input. Beyond a few rows, multiples of `FEW_ROWS` are tiles of matrix units.
    """
    if rows <= FEW_ROWS:
        return rows
    step = max(FEW_ROWS, 1 << ((rows - 1).bit_length() - 4))
    return -(-rows // step) * step


def padded_to_steps(x: Tensor) -> Tensor:
    """`x [N, d]` with zeros below, `[in_steps(N), d]`."""
    more = in_steps(x.shape[0]) - x.shape[0]
    return F.pad(x, (0, 0, 0, more)) if more else x


def matmul(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W + b` with `x: [N, in]`, `weight: [in, out]` of any strides, `bias: [out]`."""
    if x.shape[0] == 1 and x.device.type == "cpu" and weight.stride(0) == 1:
        # One row in half precision: the matrix-vector product streams a quarter faster than the
        # general one.
        column = torch.mv(weight.t(), x[0]) if bias is None else torch.addmv(bias, weight.t(), x[0])
        return column[None]
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and in_steps(x.shape[0]) != x.shape[0]:
        return matmul(padded_to_steps(x), weight, bias)[: x.shape[0]]
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def logits_of(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W^T + b` with `weight: [V, d]`; on a GPU rows of logits start on whole vectors."""
    if is_packed(weight):
        return packed_matmul(x, weight, bias)
    if not is_gpu(x.device):
        return matmul(x, weight.t(), bias)
    logits = padded_rows(x.shape[0], weight.shape[0], x)
    if bias is None:
        return torch.mm(x, weight.t(), out=logits)
    return torch.addmm(bias, x, weight.t(), out=logits)


def activated_matmul(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """`act(x W + b)`, with one of the kinds of `activate`."""
    if bias is not None and is_gpu(x.device) and _has_epilogue(kind, x.dtype):
        return private_torch.product_with_activation(x, weight, bias, gelu=kind != "relu")
    return activate(matmul(x, weight, bias), kind)


def _has_epilogue(kind: str, dtype: torch.dtype) -> bool:
    """Does cuBLAS end a product in this function, as exactly as it is wanted?

    Its GELU is that by tanh, and nothing says how closely: in float32 it is not taken.
    """
    known = kind == "relu" or (kind == "gelu_tanh" and dtype != torch.float32)
    return known and private_torch.has_product_with_activation()


def packed_matmul(
    x: Tensor, weight: Tensor, bias: Tensor | None, epilogue: tuple[str, str] = ("none", "")
) -> Tensor:
    """`act(x W^T + b)` with a packed `weight` and what oneDNN calls `act`, a name and a variant."""
    rows = padded_to_steps(x)
    return private_torch.packed_product(rows, weight, bias, *epilogue)[: x.shape[0]]
