"""Products of a few rows with a weight, in the layouts that stream fastest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tritonseq.kernels import activate, is_gpu, private_torch
from tritonseq.kernels.linear.call import padded_rows

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
    """As `matmul`; on a GPU the rows `[N, V]` of the result start on whole vectors."""
    if not is_gpu(x.device):
        return matmul(x, weight, bias)
    logits = padded_rows(x.shape[0], weight.shape[1], x)
    if bias is None:
        return torch.mm(x, weight, out=logits)
    return torch.addmm(bias, x, weight, out=logits)


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


# What `activate` computes, by the names that configurations use.
KINDS = {
    "gelu": "gelu",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

# What oneDNN calls them, where they end a product.
EPILOGUES = {
    "relu": ("relu", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "silu": ("swish", ""),
}


def packed_matmul(
    x: Tensor, weight: Tensor, bias: Tensor | None, epilogue: str | None = None
) -> Tensor:
    """`x W^T + b` with a packed `weight`, and one of the kinds of `activate` applied to it."""
    function, algorithm = ("none", "") if epilogue is None else EPILOGUES[epilogue]
    rows = padded_to_steps(x)
    return private_torch.packed_product(rows, weight, bias, function, algorithm)[: x.shape[0]]
