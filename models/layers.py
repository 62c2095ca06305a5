"""What two or more models share: linear maps, tables, norms."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from tritonseq.kernels import activate, add_norm, embed

from .layout import Packed, dense, is_packed, pays_to_pack
from .matmul import KINDS, activated_matmul, logits_of, matmul, packed_matmul

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


class Product(nn.Module):
    """A module that multiplies by `weight`, in whatever layout; to the outside it is dense.

    So what torch does to the weights of any module works here as well: `state_dict`,
    `load_state_dict`, `to`, `half`, `share_memory` and the like.
    """

    weight: nn.Parameter
    inputs_first: ClassVar[bool]
    """Is the weight `[in, out]`, rather than `[out, in]`?"""

    def pack(self) -> None:
        """Put the weight into oneDNN's layout, if that is faster."""
        if pays_to_pack(self.weight):
            self.weight = Packed.of(self.weight, is_transposed=self.inputs_first)

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """That of any module, with dense values."""
        state = super().state_dict(*args, **options)
        if is_packed(self.weight):
            state[f"{options.get('prefix', '')}weight"] = dense(self.weight)
        return state

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        with self._unpacked():
            super()._load_from_state_dict(*args, **options)

    def _apply(self, *args: Any, **options: Any) -> Any:
        with self._unpacked():
            return super()._apply(*args, **options)

    @contextlib.contextmanager
    def _unpacked(self) -> Iterator[None]:
        """Let a packed weight be dense meanwhile. Any other stays, since it may be shared."""
        if not is_packed(self.weight):
            yield
            return
        self.weight = nn.Parameter(dense(self.weight), requires_grad=False)
        try:
            yield
        finally:
            self.pack()


class Linear(Product):
    """`x W + b` with `W: [in, out]`, whatever its strides, and `x: [N, in]`.

    With `packed=True` the loader may put the weight into the blocked layout of oneDNN, `W` being
    its transpose then (see `Packed`).
    """

    inputs_first = True

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = True, packed: bool = False
    ) -> None:
        super().__init__()
        self.weight = empty_parameter(inputs, outputs)
        self.bias = empty_parameter(outputs) if bias else None
        self.packed = packed

    def forward(self, x: Tensor) -> Tensor:
        if is_packed(self.weight):
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
        product = packed_matmul if is_packed(self.weight) else activated_matmul
        return product(x, self.weight, self.bias, KINDS[name])

    def pack(self) -> None:
        """Put the weight into oneDNN's layout, if it is to be packed and that is faster."""
        if self.packed:
            super().pack()


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


class Head(Product):
    """The logits `x W^T + b`, with `W: [V, d]`, which often is the embedding itself.

    Only one that is not may be packed, since nothing can be looked up in a packed table.
    """

    inputs_first = False

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = empty_parameter(vocab_size, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        if is_packed(self.weight):
            return packed_matmul(x, self.weight, bias)
        return logits_of(x, self.weight.t(), bias)


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
    return int(not module.inputs_first) if isinstance(module, Product) else None
