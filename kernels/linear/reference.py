"""`norm_linear` by definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonseq.kernels.activation.reference import activate

if TYPE_CHECKING:
    from torch import Tensor

    from tritonseq.kernels.checks import Impl


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
    """One thing after the other in float64, rounded once at the end.

    Arguments, result and effect are those of `tritonseq.kernels.norm_linear`; `impl` changes
    nothing here, and arguments are taken to fit together.
    """
    y = x.double()
    if norm_weight is not None:
        if not rms:
            y = y - y.mean(1, keepdim=True)
        y = y / (y.square().mean(1, keepdim=True) + epsilon).sqrt() * norm_weight
        y = y if norm_bias is None else y + norm_bias
    y = y @ weight.double()
    y = y if bias is None else y + bias
    if activation is not None:
        activate(y, activation)
    if residual is None:
        return y.to(weight.dtype)
    return residual.copy_(residual + y)
