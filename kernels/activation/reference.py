"""`activate` by definition."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tritonseq.kernels.checks import Impl


def activate(
    x: Tensor,
    kind: str,
    bias: Tensor | None = None,
    *,
    gate: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """`tritonseq.kernels.activate`, in float64."""
    wide = x.double() if bias is None else x.double() + bias.double()
    if kind == "gelu":
        wide = wide * 0.5 * torch.erfc(-wide / math.sqrt(2))
    elif kind == "gelu_tanh":
        inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
        wide = wide * 0.5 * (1 + torch.tanh(inner))
    elif kind == "relu":
        wide = wide.clamp(min=0)
    else:
        wide = wide / (1 + torch.exp(-wide))
    return x.copy_(wide) if gate is None else (wide * gate.double()).to(x.dtype)
