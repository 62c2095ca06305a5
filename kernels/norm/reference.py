"""`add_norm` by definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from tritonseq.kernels.checks import Impl


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
    """`tritonseq.kernels.add_norm`, in float64 but for the residual."""
    if residual is not None:
        x = residual.copy_(residual.float() + x.float())
    wide = x.double()
    if not rms:
        wide = wide - wide.mean(dim=1, keepdim=True)
    normed = wide / (wide.square().mean(dim=1, keepdim=True) + epsilon).sqrt()
    scaled = normed * weight.double()
    return (scaled if bias is None else scaled + bias.double()).to(weight.dtype)
