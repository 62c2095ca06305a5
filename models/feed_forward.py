"""The feed-forward part of a block: two linear maps, and the activations by their names."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Activation, Linear, empty_parameter

if TYPE_CHECKING:
    from collections.abc import Callable

    from .layers import Norm, ResidualStream


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_clipped(x: Tensor) -> Tensor:
    return F.gelu(x).clip(-10, 10)


def _laplace(x: Tensor) -> Tensor:
    # The mean and deviation that Mega (Ma et al., 2022) fits to the squared ReLU.
    return 0.5 * (1.0 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0))))


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


class PReLU(Activation):
    """ReLU whose slope below zero is learnt: one number for all channels."""

    def __init__(self) -> None:
        super().__init__(self._prelu)
        self.weight = empty_parameter(1)

    def _prelu(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight.to(x.dtype))


class XIELU(Activation):
    """xIELU (Huang and Schlag, 2024): a parabola above zero, an integrated ELU below it."""

    def __init__(self) -> None:
        super().__init__(self._xielu)
        self.alpha_p = empty_parameter(1)
        self.alpha_n = empty_parameter(1)
        self.beta = empty_parameter()
        self.eps = empty_parameter()

    def _xielu(self, x: Tensor) -> Tensor:
        above = F.softplus(self.alpha_p) * x * x
        below = (torch.expm1(torch.minimum(x, self.eps)) - x) * (
            self.beta + F.softplus(self.alpha_n)
        )
        return torch.where(x > 0, above, below) + self.beta * x


_gelu = partial(Activation, F.gelu, "gelu", ("gelu", "none"))
# Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016: its approximation by tanh.
_gelu_new = partial(Activation, _gelu_tanh, "gelu_tanh", ("gelu", "tanh"))
_silu = partial(Activation, F.silu, "silu", ("swish", ""))

# By the names that configurations use.
ACTIVATIONS: dict[str, Callable[[], Activation]] = {
    "gelu": _gelu,
    "gelu_10": partial(Activation, _gelu_clipped),
    "gelu_accurate": _gelu_new,
    "gelu_fast": _gelu_new,
    "gelu_new": _gelu_new,
    "gelu_python": _gelu,
    "gelu_python_tanh": _gelu_new,
    "gelu_pytorch_tanh": _gelu_new,
    "hardswish": partial(Activation, F.hardswish),
    "laplace": partial(Activation, _laplace),
    "leaky_relu": partial(Activation, F.leaky_relu),
    "linear": partial(Activation, lambda x: x),
    "mish": partial(Activation, F.mish),
    "prelu": PReLU,
    "quick_gelu": partial(Activation, _quick_gelu),
    "relu": partial(Activation, F.relu, "relu", ("relu", "")),
    "relu2": partial(Activation, lambda x: F.relu(x).square()),
    "relu6": partial(Activation, F.relu6),
    "sigmoid": partial(Activation, torch.sigmoid),
    "silu": _silu,
    "sqrtsoftplus": partial(Activation, lambda x: F.softplus(x).sqrt()),
    "swish": _silu,
    "tanh": partial(Activation, torch.tanh),
    "xielu": XIELU,
}


def activation(name: str) -> Activation:
    """The function that a configuration names, a fresh module since it may have weights.

    Raises ValueError, with the known names, for any other.
    """
    if name not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        raise ValueError(
            f"config.json: activation function {name!r} is not supported; known: {known}"
        )
    return ACTIVATIONS[name]()


class FeedForward(nn.Module):
    """A part of `inner` channels between two linear maps, whose weights may be packed."""

    def __init__(self, width: int, inner: int, activation_function: str) -> None:
        super().__init__()
        self.fc1 = Linear(width, inner, packed=True, fp32_output=True)
        self.fc2 = Linear(inner, width, packed=True, fp32_output=True)
        self.act = activation(activation_function)

    def forward(self, stream: ResidualStream, norm: Norm) -> None:
        """Read the stream by the norm of this part, and add to it."""
        stream.add(stream.read(self.fc1, norm, self.act), self.fc2, norm)
