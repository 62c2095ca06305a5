"""`norm_linear`: norm, linear layer, activation and residual addition fused, for a few rows."""

from __future__ import annotations

import torch
from torch import Tensor

from tritonseq.kernels.activation import activate
from tritonseq.kernels.checks import (
    Impl,
    check_flags,
    check_tensors,
    grad_off,
    is_for_triton,
    is_gpu,
    number,
)
from tritonseq.kernels.norm import add_norm

from .call import NormLinearCall, can_hold

# Rows up to which the GPU is kept waiting by weights and launches, not by products: beyond them
# its matrix units, which `norm_linear` leaves idle, are faster.
FEW_ROWS = 8


def norm_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    epsilon: float = 1e-5,
    rms: bool = False,
    activation: str | None = None,
    residual: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """`activation(norm(x) W + b)`, added to a residual stream if there is one.

    For the few rows of a small batch, whose products take as long as reading the weights: in
    Triton one launch does all of it. Every program takes the norm of its rows anew, which costs
    less than a launch for it, and multiplies without matrix units, so that a row's result does
    not depend on its neighbours. Any number of rows works; `is_norm_linear_faster`
    says where it is worth it.

    Args:
        x: `[N, in]` float16, bfloat16 or float32.
        weight: `[in, out]` with any strides; fast where the inputs are adjacent, that is, where
            it is the transpose of a contiguous `[out, in]`.
        bias: `[out]`, in the weight's dtype.
        norm_weight: `[in]`, in the weight's dtype, the scale of a norm that is applied to `x`
            first. Without it there is no norm, and `x` has the dtype of the weight.
        norm_bias: `[in]`, the shift of the norm.
        epsilon: what the norm adds to the variance.
        rms: divide by the root mean square (Zhang and Sennrich, 2019), subtracting no mean,
            instead of LayerNorm (Ba et al., 2016).
        activation: applied to the product, one of the kinds of `activate`.
        residual: `[N, out]`, in any of these dtypes, **updated in place**: the product is added to
            it. Its elements share no memory, with each other or another argument.
        impl: "torch", "triton" or, by default, what suits the device and the weight.

    Rows may be strided; in Triton each of them must be contiguous. Statistics and sums are taken in
    float32, and the norm is rounded to the weight's dtype; in Triton the product is rounded only
    once, at the very end. No gradient flows.

    Returns:
        The residual, or a new `[N, out]` in the weight's dtype. From Triton its rows start at
        multiples of `ROW_MULTIPLE` elements.

    Raises:
        ValueError: for shapes, dtypes, devices or memory that do not fit; the text says what would.
        TypeError: for what is no tensor, number or word.
    """
    tensors = (x, weight, bias, norm_weight, norm_bias, residual)
    check_tensors(NormLinearCall._fields, tensors, required=2)
    check_flags(rms=rms)
    call = NormLinearCall(*tensors, number("epsilon", epsilon, least=0.0), rms, activation)
    call.check()
    with grad_off():
        return _multiply(call, impl)


def is_norm_linear_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether `norm_linear` on `x [N, in]` is faster than a norm, a product and an addition."""
    return is_gpu(x.device) and x.shape[0] <= FEW_ROWS and can_hold(weight)


def _multiply(call: NormLinearCall, impl: str) -> Tensor:
    if is_for_triton(impl, call.x.device) and (impl == "triton" or can_hold(call.weight)):
        from .kernel import multiply_in_triton

        return multiply_in_triton(call)
    return _multiply_in_torch(call)


def _multiply_in_torch(call: NormLinearCall) -> Tensor:
    x = call.x
    if call.norm_weight is not None:
        x = add_norm(
            x, call.norm_weight, call.norm_bias, epsilon=call.epsilon, rms=call.rms, impl="torch"
        )
    y = torch.mm(x, call.weight) if call.bias is None else torch.addmm(call.bias, x, call.weight)
    if call.activation is not None:
        activate(y, call.activation, impl="torch")
    return y if call.residual is None else call.residual.add_(y)
