"""`activate`: an activation function with the bias before it and the gate behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from tritonseq.kernels.checks import (
    Impl,
    check_floats,
    check_shape,
    check_tensors,
    check_written,
    grad_off,
    is_for_triton,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}
_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": torch.ops.aten.gelu_.default,
    "gelu_tanh": lambda x: torch.ops.aten.gelu_.default(x, approximate="tanh"),
    "relu": torch.relu_,
    "silu": lambda x: F.silu(x, inplace=True),
}
KINDS = tuple(_IN_PLACE)


def activate(
    x: Tensor,
    kind: str,
    bias: Tensor | None = None,
    *,
    gate: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """`x = act(x + bias)` in place, or with a gate `act(x + bias) * gate` in new memory.

    `x` and the gate usually are the halves of one product's rows. What takes up their result reads
    it faster where its rows follow each other.

    Args:
        x: `[N, d]` float16, bfloat16 or float32, **changed in place** unless there is a gate; then
            its elements share no memory, with each other or the bias.
        kind: "gelu", "gelu_tanh" (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016: the
            exact one and its approximation by tanh), "relu" or "silu".
        bias: `[d]` in the dtype of `x`.
        gate: `[N, d]` in the dtype of `x`, such as the other half of a gated unit (Shazeer, "GLU
            Variants Improve Transformer", 2020).
        impl: "torch", "triton" or, by default, what suits the device.

    Rows may be strided; in Triton each of them must be contiguous, and is computed in float32 and
    rounded once. No gradient flows.

    Returns:
        `x`, or with a gate a contiguous `[N, d]` of its dtype.

    Raises:
        ValueError: for an unknown kind, and for shapes, dtypes, devices or memory that do not fit;
            the text says what would.
        TypeError: for what is no tensor, or a kind that is no word.
    """
    _check(x, kind, bias, gate)
    with grad_off():
        return _activate(x, kind, bias, gate, impl)


def _activate(x: Tensor, kind: str, bias: Tensor | None, gate: Tensor | None, impl: str) -> Tensor:
    if is_for_triton(impl, x.device):
        from .kernel import activate_in_triton

        return activate_in_triton(x, kind, bias, gate)
    if gate is None:
        return _IN_PLACE[kind](x if bias is None else x.add_(bias))
    return _FUNCTIONS[kind](x if bias is None else x + bias).mul_(gate)


def _check(x: Tensor, kind: str, bias: Tensor | None, gate: Tensor | None) -> None:
    check_tensors(("x", "bias", "gate"), (x, bias, gate))
    if not isinstance(kind, str):
        raise TypeError(f"kind is {kind!r}; pass one of the words {', '.join(_IN_PLACE)}")
    if kind not in _IN_PLACE:
        raise ValueError(f"kind is {kind!r}; choose one of {', '.join(_IN_PLACE)}")
    check_floats("x", x, "N, d")
    dtype, shape = x.dtype, x.shape
    check_shape("bias", bias, dtype, shape[1:])
    check_shape("gate", gate, dtype, shape)
    if gate is None:
        check_written({"x": x}, {} if bias is None else {"bias": bias})
