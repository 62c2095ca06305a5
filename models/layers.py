"""What two or more models share: weights and their layout, linear maps, norms, activations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tritonseq.memory import zeros

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Source(NamedTuple):
    """Where a parameter comes from: a tensor of the checkpoint, transposed or as it is."""

    name: str
    transpose: bool = False


def empty_weight(
    shape: Sequence[int], input_dim: int | None, *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """A weight of `shape`, to be filled, in the memory layout that streams fastest.

    `input_dim` says which dimension is the input side of a matrix product; None for vectors and
    lookup tables. A decode step reads every weight once for a handful of rows, so the layout is
    chosen for that case: float32 on the CPU wants the outputs adjacent (its matrix-vector
    product runs a third faster so), half precision and GPUs want the inputs adjacent.
    """
    if input_dim is None or len(shape) != 2:
        return zeros(shape, device=device, dtype=dtype)
    outputs_adjacent = device.type == "cpu" and dtype == torch.float32
    last = 1 - input_dim if outputs_adjacent else input_dim
    if last == 1:
        return zeros(shape, device=device, dtype=dtype)
    return zeros((shape[1], shape[0]), device=device, dtype=dtype).t()


def matmul(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W + b` with `x: [N, in]`, `weight: [in, out]` of any strides, `bias: [out]`."""
    if x.shape[0] == 1 and x.device.type == "cpu" and weight.stride(0) == 1:
        # One row in half precision: the matrix-vector product streams a quarter faster than the
        # general one.
        column = torch.mv(weight.t(), x[0]) if bias is None else torch.addmv(bias, weight.t(), x[0])
        return column[None]
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def empty_parameter(*shape: int) -> nn.Parameter:
    """A parameter without memory, to be filled by the loader through `set_parameter`."""
    return nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)


def set_parameter(model: nn.Module, name: str, value: Tensor) -> None:
    """Put `value` itself, not a copy, in the place of the parameter `name` of `model`."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.Parameter(value.detach(), requires_grad=False))


class Linear(nn.Module):
    """`x W + b` with `W: [in, out]`, whatever its strides, and `x: [N, in]`."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = empty_parameter(inputs, outputs)
        self.bias = empty_parameter(outputs) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return matmul(x, self.weight, self.bias)


class LayerNorm(nn.Module):
    """Layer normalisation over the last dimension, with a scale and a shift."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = empty_parameter(width)
        self.bias = empty_parameter(width)
        self.shape = (width,)
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.epsilon)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation (Hendrycks and Gimpel, 2016)."""
    return F.gelu(x, approximate="tanh")


def _gelu_clipped(x: Tensor) -> Tensor:
    return F.gelu(x).clip(-10, 10)


def _laplace(x: Tensor) -> Tensor:
    # The mean and deviation that Mega (Ma et al., 2022) fits to the squared ReLU.
    return 0.5 * (1.0 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0))))


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


class PReLU(nn.Module):
    """ReLU whose slope below zero is learnt: one number for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = empty_parameter(1)

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight)


class XIELU(nn.Module):
    """xIELU (Huang and Schlag, 2024): a parabola above zero, an integrated ELU below it."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha_p = empty_parameter(1)
        self.alpha_n = empty_parameter(1)
        self.beta = empty_parameter()
        self.eps = empty_parameter()

    def forward(self, x: Tensor) -> Tensor:
        above = F.softplus(self.alpha_p) * x * x
        below = (torch.expm1(torch.minimum(x, self.eps)) - x) * (
            self.beta + F.softplus(self.alpha_n)
        )
        return torch.where(x > 0, above, below) + self.beta * x


# By the names that configurations use. The classes have weights of their own.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor] | type[nn.Module]] = {
    "gelu": F.gelu,
    "gelu_10": _gelu_clipped,
    "gelu_accurate": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_python": F.gelu,
    "gelu_python_tanh": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "hardswish": F.hardswish,
    "laplace": _laplace,
    "leaky_relu": F.leaky_relu,
    "linear": lambda x: x,
    "mish": F.mish,
    "prelu": PReLU,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sqrtsoftplus": lambda x: F.softplus(x).sqrt(),
    "swish": F.silu,
    "tanh": torch.tanh,
    "xielu": XIELU,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function that a configuration names, a fresh module where it has weights.

    Raises ValueError, with the known names, for any other.
    """
    if name not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        raise ValueError(f"activation function {name!r} is not supported; known: {known}")
    function = ACTIVATIONS[name]
    return function() if isinstance(function, type) else function
