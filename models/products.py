"""Products of a few rows with a weight, in the layouts that stream fastest."""

from __future__ import annotations

import torch
from torch import Tensor

from tritonseq.kernels import activate, is_gpu, private_torch
from tritonseq.kernels.linear import padded_rows


def matmul(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W + b` with `x: [N, in]`, `weight: [in, out]` of any strides, `bias: [out]`."""
    if x.shape[0] == 1 and x.device.type == "cpu" and weight.stride(0) == 1:
        # One row in half precision: the matrix-vector product streams a quarter faster than the
        # general one.
        column = torch.mv(weight.t(), x[0]) if bias is None else torch.addmv(bias, weight.t(), x[0])
        return column[None]
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
    return private_torch.packed_product(x, weight, bias, function, algorithm)
