"""Products of a few rows with a weight, in the layouts that stream fastest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tritonseq.kernels import activate, is_gpu
from tritonseq.kernels.linear import padded_rows

# The layout depends on the number of rows that oneDNN is told, if only a little: four beams of
# four samples.
PACKED_FOR_ROWS = 16

# Elements of a float32 weight from which packing pays. Smaller ones stay in the processor's
# caches, where MKL is faster and, for a few rows, content with one thread.
PACKED_FROM = 2**18


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
        return torch._addmm_activation(bias, x, weight, use_gelu=kind != "relu")
    return activate(matmul(x, weight, bias), kind)


def _has_epilogue(kind: str, dtype: torch.dtype) -> bool:
    """Does cuBLAS end a product in this function, as exactly as it is wanted?

    Its GELU is that by tanh, and nothing says how closely: in float32 it is not taken.
    """
    return kind == "relu" or (kind == "gelu_tanh" and dtype != torch.float32)


def pack(weight: Tensor) -> nn.Parameter:
    """`weight: [out, in]` in oneDNN's blocked layout.

    Measured on two AVX-512 cores with AMX, over the layers of BART-large: bfloat16 gains 1.4 to
    1.7 times for any number of rows, float32 1.25 times at 16 rows and 1.5 times at 4, but loses
    an eighth at a single row; 1024 rows take the same.
    """
    blocked = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_FOR_ROWS)
    return nn.Parameter(blocked, requires_grad=False)


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
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, function, [], algorithm)
    return product


def pays_to_pack(weight: Tensor) -> bool:
    """Can this build of torch multiply by a blocked layout of such a weight, and does it pay?"""
    names = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32 and weight.numel() >= PACKED_FROM
