"""What stands beside attention in a block: two linear maps with an activation between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from .activations import activation
from .layers import Linear

if TYPE_CHECKING:
    from torch import Tensor


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
