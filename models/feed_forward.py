"""The feed-forward part of a block: two linear maps, and the activations by their names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Linear, empty_parameter

if TYPE_CHECKING:
    from collections.abc import Callable


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
        raise ValueError(
            f"config.json: activation function {name!r} is not supported; known: {known}"
        )
    function = ACTIVATIONS[name]
    return function() if isinstance(function, type) else function


class FeedForward(nn.Module):
    """`[N, d]` to `[N, d]` through `inner` channels; the weights may be packed for the CPU."""

    def __init__(self, width: int, inner: int, activation_function: str) -> None:
        super().__init__()
        self.fc1 = Linear(width, inner, packed=True)
        self.fc2 = Linear(inner, width, packed=True)
        self.act = activation(activation_function)
        self.activation_name = activation_function

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2.wide(self.fc1.activated(x, self.activation_name, self.act))
