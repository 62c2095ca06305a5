"""What two or more models share: linear maps, tables, norms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tritonseq.kernels import activate, add_norm, embed

from .products import (
    KINDS,
    activated_matmul,
    logits_of,
    matmul,
    pack,
    packed_matmul,
    pays_to_pack,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# By how many powers of two `Linear.wide` goes beyond the largest entry of a row. What gets lost
# below is 2 ** -20 of that entry, far beneath the rounding of float16.
HEADROOM_BITS = 5


# Elements of a weight that no machine holds; torch counts bytes in 63 bits.
MOST_ELEMENTS = 2**50


def empty_parameter(*shape: int) -> nn.Parameter:
    """A parameter without memory, to be filled by the loader through `place_parameter`."""
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"config.json asks for a weight of shape {list(shape)}: no file holds it")
    return nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)


class Linear(nn.Module):
    """`x W + b` with `W: [in, out]`, whatever its strides, and `x: [N, in]`.

    With `packed=True` the loader may put the weight into the blocked layout of oneDNN, `W` being
    its transpose then (see `pack`).
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = True, packed: bool = False
    ) -> None:
        super().__init__()
        self.weight = empty_parameter(inputs, outputs)
        self.bias = empty_parameter(outputs) if bias else None
        self.packed = packed

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.is_mkldnn:
            return packed_matmul(x, self.weight, self.bias)
        return matmul(x, self.weight, self.bias)

    def wide(self, x: Tensor) -> Tensor:
        """As `forward`, for results that may be beyond the range of float16.

        With weights in float16 every row of `x` is first divided by a power of two beyond its
        largest entry; the result is float32. With other weights there is nothing to guard.
        """
        if self.weight.dtype != torch.float16:
            return self(x)
        peak = x.abs().amax(dim=-1, keepdim=True).float().clamp_min_(torch.finfo(torch.half).tiny)
        # Some more than the largest entry, for the sum of thousands of products.
        scale = peak.log2_().ceil_().add_(HEADROOM_BITS).exp2_()
        product = matmul((x / scale).half(), self.weight).float().mul_(scale)
        return product if self.bias is None else product.add_(self.bias)

    def activated(self, x: Tensor, name: str, function: Callable[[Tensor], Tensor]) -> Tensor:
        """`function(wide(x))`, in one operation where the product knows the function's `name`."""
        if name not in KINDS or self.weight.dtype == torch.float16:
            return activated(self.wide(x), name, function)
        product = packed_matmul if self.weight.is_mkldnn else activated_matmul
        return product(x, self.weight, self.bias, KINDS[name])

    def pack(self) -> None:
        """Put the weight into oneDNN's layout, if it is to be packed and that is faster."""
        if self.packed and pays_to_pack(self.weight):
            self.weight = pack(self.weight.t())


def activated(
    x: Tensor, name: str, function: Callable[[Tensor], Tensor], gate: Tensor | None = None
) -> Tensor:
    """`function(x) * gate`, in one operation where the kernels know the function's `name`.

    That may be done in the memory of `x`.
    """
    if name in KINDS:
        return activate(x, KINDS[name], gate=gate)
    return function(x) if gate is None else function(x) * gate


def stream(x: Tensor) -> Tensor:
    """`x` as a residual stream takes it up, which must hold what `Linear.wide` adds to it."""
    return x.float() if x.dtype == torch.float16 else x


class Head(nn.Module):
    """The logits `x W^T + b`, with `W: [V, d]`, which often is the embedding itself."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = empty_parameter(vocab_size, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.weight.is_mkldnn:
            return packed_matmul(x, self.weight, bias)
        return logits_of(x, self.weight.t(), bias)

    def pack(self) -> None:
        """Put a weight that is no embedding into oneDNN's layout, if that is faster."""
        if pays_to_pack(self.weight):
            self.weight = pack(self.weight)


class Embedding(nn.Module):
    """Rows of a table, by token."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = empty_parameter(vocab_size, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return embed(tokens, self.weight)


class LayerNorm(nn.Module):
    """Layer normalisation over the last dimension, with a scale and a shift."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = empty_parameter(width)
        self.bias = empty_parameter(width)
        self.epsilon = epsilon

    def forward(self, x: Tensor, branch: Tensor | None = None) -> Tensor:
        """The norm of `x [N, d]`, or of `x + branch`, which `x` then becomes."""
        new, stream = (x, None) if branch is None else (branch, x)
        return add_norm(new, self.weight, self.bias, residual=stream, epsilon=self.epsilon)


class RMSNorm(nn.Module):
    """Division by the root mean square, with a scale (Zhang and Sennrich, 2019)."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = empty_parameter(width)
        self.epsilon = epsilon

    def forward(self, x: Tensor, branch: Tensor | None = None) -> Tensor:
        """The norm of `x [N, d]`, or of `x + branch`, which `x` then becomes."""
        new, stream = (x, None) if branch is None else (branch, x)
        return add_norm(new, self.weight, residual=stream, epsilon=self.epsilon, rms=True)


def input_dim(model: nn.Module, name: str) -> int | None:
    """Which dimension of the parameter `name` is the input side of a matrix product; else None."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if leaf != "weight":
        return None
    return 0 if isinstance(module, Linear) else 1 if isinstance(module, Head) else None
