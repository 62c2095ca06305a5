"""The residual stream of blocks whose norms come first, in as few launches as a GPU allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonseq.kernels import norm_linear
from tritonseq.kernels.linear import is_norm_linear_faster

from .matmul import activated_matmul, logits_of, matmul

if TYPE_CHECKING:
    from torch import Tensor

    from .layers import LayerNorm, Linear


class ResidualStream:
    """Rows `[N, d]` that norms are taken of and products are added to, in place.

    For a few rows on a GPU, a norm and the product behind it are one launch, and so are a product
    and its addition. Elsewhere the addition waits for the next norm, and is one operation with it.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self._branch: Tensor | None = None
        """What is yet to be added."""

    def normed(self, norm: LayerNorm) -> Tensor:
        """The norm of all that has been added."""
        branch, self._branch = self._branch, None
        return norm(self.x, branch)

    def read(
        self,
        norm: LayerNorm,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        activation: str | None = None,
    ) -> Tensor:
        """`act(norm(x) W + b)`, with `weight: [d, out]` and `activation` a kind of `activate`'s."""
        if is_norm_linear_faster(self.x, weight):
            return norm_linear(
                self.settled(),
                weight,
                bias,
                norm_weight=norm.weight,
                norm_bias=norm.bias,
                epsilon=norm.epsilon,
                activation=activation,
            )
        x = self.normed(norm)
        if activation is None:
            return matmul(x, weight, bias)
        return activated_matmul(x, weight, bias, activation)

    def logits(self, norm: LayerNorm, weight: Tensor) -> Tensor:
        """`norm(x) W`, `[N, V]`, with `weight: [d, V]`."""
        if is_norm_linear_faster(self.x, weight):
            return self.read(norm, weight)
        return logits_of(self.normed(norm), weight)

    def add(self, rows: Tensor, linear: Linear) -> None:
        """Add `linear(rows)`, with `rows: [N, in]`."""
        x = self.settled()
        if is_norm_linear_faster(rows, linear.weight):
            norm_linear(rows, linear.weight, linear.bias, residual=x)
        else:
            self._branch = linear(rows)

    def settled(self) -> Tensor:
        """The stream itself, with nothing left to add."""
        if self._branch is not None:
            self.x.add_(self._branch)
            self._branch = None
        return self.x
