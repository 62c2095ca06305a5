"""`add_norm`: LayerNorm or RMSNorm of a residual stream, after a branch is added to it."""

from __future__ import annotations

import torch
from torch import Tensor

from tritonseq.kernels.checks import (
    FLOATS,
    Impl,
    check_flags,
    check_floats,
    check_shape,
    check_tensors,
    check_written,
    grad_off,
    is_for_triton,
    number,
)


def add_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    epsilon: float,
    rms: bool = False,
    impl: Impl = "auto",
) -> Tensor:
    """LayerNorm or RMSNorm of every row of `residual + x`, and the sum into `residual`.

    Ba et al., "Layer Normalization", 2016; Zhang and Sennrich, "Root Mean Square Layer
    Normalization", 2019.

    Args:
        x: `[N, d]` float16, bfloat16 or float32; in Triton with `d` up to 8192.
        weight: `[d]`, the scale, in any of these dtypes.
        bias: `[d]`, the shift, in the dtype of the scale; none for an RMSNorm.
        residual: `[N, d]` in the dtype of `x` or in float32, **changed in place** to
            `residual + x`, rounded to its dtype. The norm is that of the rounded sum; without a
            residual it is that of `x`. It shares no memory with another argument.
        epsilon: added to the variance, or to the mean square.
        rms: divide by the root mean square instead of the deviation from the mean.
        impl: "torch", "triton" or, by default, what suits the device.

    Rows may be strided; in Triton each of them must be contiguous. Statistics are taken in
    float32. An RMSNorm rounds to the dtype of its scale before it applies it, as T5 was trained.
    No gradient flows.

    Returns:
        `[N, d]`, contiguous, in the dtype of `weight`.

    Raises:
        ValueError: for shapes, dtypes, devices or memory that do not fit; the text says what would.
        TypeError: for what is no tensor, or no number.
    """
    _check(x, weight, bias, residual, rms)
    epsilon = number("epsilon", epsilon, least=0.0)
    with grad_off():
        return _add_norm(x, weight, bias, residual, epsilon, rms, impl)


def _add_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    epsilon: float,
    rms: bool,
    impl: str,
) -> Tensor:
    if is_for_triton(impl, x.device):
        from .kernel import add_norm_in_triton

        return add_norm_in_triton(x, weight, bias, residual, epsilon, rms)
    if residual is not None:
        x = residual.add_(x)
    return _rms_norm(x, weight, epsilon) if rms else _layer_norm(x, weight, bias, epsilon)


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
    if x.dtype == weight.dtype:
        return torch.layer_norm(x, weight.shape, weight, bias, epsilon)
    # The residual stream may be wider than the weights.
    wide = torch.promote_types(x.dtype, weight.dtype)
    bias = None if bias is None else bias.to(wide)
    normed = torch.layer_norm(x.to(wide), weight.shape, weight.to(wide), bias, epsilon)
    return normed.to(weight.dtype)


def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    mean_square = norm.square_().div_(x.shape[-1])
    scaled = x * mean_square.add_(epsilon).rsqrt_()
    return scaled.to(weight.dtype).mul_(weight)


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, rms: bool
) -> None:
    check_tensors(("x", "weight", "bias", "residual"), (x, weight, bias, residual), required=2)
    check_flags(rms=rms)
    check_floats("x", x, "N, d")
    dtype, shape = x.dtype, x.shape
    width = shape[1:]
    if weight.shape != width or weight.dtype not in FLOATS:
        raise ValueError(
            f"weight is {weight.dtype} {list(weight.shape)}; "
            f"pass float16, bfloat16 or float32 {list(width)}"
        )
    if bias is not None and rms:
        raise ValueError("bias is given with rms=True; an RMSNorm has none: pass None")
    check_shape("bias", bias, weight.dtype, width)
    if residual is not None:
        if residual.shape != shape:
            raise ValueError(f"residual is {list(residual.shape)}; pass {list(shape)}, as of x")
        if residual.dtype not in (dtype, torch.float32):
            raise ValueError(f"residual is {residual.dtype}; pass {dtype} or torch.float32")
        check_written({"residual": residual}, {"x": x, "weight": weight, "bias": bias})
