"""Layers that models share: linear maps, embeddings, norms and the residual stream."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from tritonseq.kernels import activate, add_norm, embed, is_gpu, norm_linear
from tritonseq.kernels.linear import is_norm_linear_faster

from .matmul import (
    NO_EPILOGUE,
    Packed,
    activated_matmul,
    dense,
    is_int8,
    logits_of,
    matmul,
    packed_matmul,
    pays_to_pack,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# By how many powers of two rows are scaled down beyond their largest entry. What gets lost
# below is 2 ** -20 of that entry, far beneath the rounding of float16.
HEADROOM_BITS = 5

# Elements of a weight that no machine holds; torch counts bytes in 63 bits.
MOST_ELEMENTS = 2**50


def empty_parameter(*shape: int) -> nn.Parameter:
    """A parameter without memory, to be filled by the loader through `place_parameter`."""
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"config.json asks for a weight of shape {list(shape)}: no file holds it")
    return nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)


class DenseOutside(nn.Module):
    """A module that may hold packed parameters, which are dense to the outside.

    So what torch does to the weights of any module works here as well: `state_dict`,
    `load_state_dict`, `to`, `half`, `share_memory` and the like.
    """

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """That of any module, with dense values."""
        state = super().state_dict(*args, **options)
        for name, weight in self._own_packed().items():
            state[f"{options.get('prefix', '')}{name}"] = dense(weight)
        return state

    def _own_packed(self) -> dict[str, Packed]:
        own = self.named_parameters(recurse=False)
        return {name: weight for name, weight in own if isinstance(weight, Packed)}

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        with self._unpacked():
            super()._load_from_state_dict(*args, **options)

    def _apply(self, *args: Any, **options: Any) -> Any:
        with self._unpacked():
            return super()._apply(*args, **options)

    @contextlib.contextmanager
    def _unpacked(self) -> Iterator[None]:
        """Let packed weights be dense meanwhile. Any other stays, since it may be shared."""
        packed = self._own_packed()
        for name, weight in packed.items():
            setattr(self, name, nn.Parameter(dense(weight), requires_grad=False))
        try:
            yield
        finally:
            for name, weight in packed.items():
                setattr(self, name, weight.again(getattr(self, name)))


class Product(DenseOutside):
    """A module that multiplies by `weight`, in whatever layout."""

    weight: nn.Parameter
    inputs_first: ClassVar[bool]
    """Whether the weight is `[in, out]`, rather than `[out, in]`."""

    def pack(self) -> None:
        """Put the weight into oneDNN's layout, if that is faster."""
        if pays_to_pack(self.weight):
            self.weight = Packed.of(self.weight, is_transposed=self.inputs_first)


class Activation(nn.Module):
    """An activation function: as plain torch, as a kernel, and as the end of a product."""

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        kind: str | None = None,
        epilogue: tuple[str, str] = NO_EPILOGUE,
    ) -> None:
        super().__init__()
        self.function = function
        self.kind = kind
        """What the kernels call it; None for what they do not compute."""
        self.epilogue = epilogue
        """What oneDNN calls it, a name and a variant; it knows all that the kernels know."""

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """`act(x) * gate`, in one operation where the kernels know it; that may change `x`."""
        if self.kind is not None:
            return activate(x, self.kind, gate=gate)
        return self.function(x) if gate is None else self.function(x) * gate


class Linear(Product):
    """`act(x W + b)` with `W: [in, out]`, whatever its strides, and `x: [N, in]`.

    With `packed=True` the loader may put the weight into the blocked layout of oneDNN, `W` being
    its transpose then (see `Packed`); any may become int8 (see `Int8`). With `fp32_output=True`
    results may be beyond the range of float16: where the weight is float16, they are float32.
    """

    inputs_first = True

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = True,
        packed: bool = False,
        fp32_output: bool = False,
    ) -> None:
        super().__init__()
        self.weight = empty_parameter(inputs, outputs)
        self.bias = empty_parameter(outputs) if bias else None
        self.packed = packed
        self.fp32_output = fp32_output

    def forward(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        """In one operation where the product can end in the activation."""
        separate = self.widens or is_int8(self.weight)
        if separate or activation is None or activation.kind is None:
            y = self._forward_fp32(x) if self.widens else self._forward(x)
            return y if activation is None else activation(y)
        if isinstance(self.weight, Packed):
            return packed_matmul(x, self.weight, self.bias, activation.epilogue)
        return activated_matmul(x, self.weight, self.bias, activation.kind)

    def columns(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Some columns of `x W + b`; of a weight that cannot be indexed, all are computed."""
        if isinstance(self.weight, Packed):
            return packed_matmul(x, self.weight, self.bias)[:, start:stop]
        assert self.bias is not None
        return torch.addmm(self.bias[start:stop], x, self.weight[:, start:stop])

    @property
    def widens(self) -> bool:
        """Whether results are float32 though the weight is float16."""
        return self.fp32_output and self.weight.dtype == torch.float16

    def _forward(self, x: Tensor) -> Tensor:
        if isinstance(self.weight, Packed):
            return packed_matmul(x, self.weight, self.bias)
        return matmul(x, self.weight, self.bias)

    def _forward_fp32(self, x: Tensor) -> Tensor:
        """Every row of `x` is first divided by a power of two beyond its largest entry."""
        peak = x.abs().amax(dim=-1, keepdim=True).float().clamp_min_(torch.finfo(torch.half).tiny)
        # Some more than the largest entry, for the sum of thousands of products.
        scale = peak.log2_().ceil_().add_(HEADROOM_BITS).exp2_()
        product = matmul((x / scale).half(), self.weight).float().mul_(scale)
        return product if self.bias is None else product.add_(self.bias)

    def pack(self) -> None:
        """Put the weight into oneDNN's layout, if it is to be packed and that is faster."""
        if self.packed:
            super().pack()


class Head(Product):
    """The logits `x W^T + b`, with `W: [V, d]`, which often is the embedding itself.

    Only one that is not may be packed, since nothing can be looked up in a packed table.
    """

    inputs_first = False

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = empty_parameter(vocab_size, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return logits_of(x, self.weight, bias)


class Embedding(nn.Module):
    """Rows of a table, by token."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = empty_parameter(vocab_size, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return embed(tokens, self.weight)


class Norm(nn.Module):
    """The norm of every row, LayerNorm or RMSNorm."""

    rms: ClassVar[bool]

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = empty_parameter(width)
        self.bias = None if self.rms else empty_parameter(width)
        self.epsilon = epsilon

    def forward(self, x: Tensor, branch: Tensor | None = None) -> Tensor:
        """The norm of `x [N, d]`, or of `x + branch`, which `x` then becomes."""
        new, stream = (x, None) if branch is None else (branch, x)
        return add_norm(
            new, self.weight, self.bias, residual=stream, epsilon=self.epsilon, rms=self.rms
        )


class LayerNorm(Norm):
    """Layer normalisation over the last dimension, with a scale and a shift."""

    rms = False


class RMSNorm(Norm):
    """Division by the root mean square, with a scale (Zhang and Sennrich, 2019)."""

    rms = True


class ResidualStream:
    """Rows `[N, d]` that every part of a block reads, and that its output is added to.

    Pre-norm, a part reads the norm of the stream, which is changed in place. Post-norm, it reads
    the stream itself, and the norm of the sum takes its place.

    For a few rows on a GPU, a norm, the product behind it and its activation are one launch, and
    so are a product and its addition. Elsewhere the addition waits for the next norm, and is one
    operation with it.
    """

    def __init__(
        self,
        x: Tensor,
        branch: Tensor | None = None,
        *,
        post_norm: bool = False,
        in_fp32: bool = False,
    ) -> None:
        """`branch [N, d]` is yet to be added to `x`, which changes.

        `in_fp32`: in the place of float16, so that it holds whatever is added.
        """
        self.x = x.float() if in_fp32 and x.dtype == torch.float16 else x
        self.post_norm = post_norm
        self._branch = branch
        self._on_gpu = is_gpu(x.device)

    def read(self, linear: Linear, norm: Norm, activation: Activation | None = None) -> Tensor:
        """`act(norm(x) W + b)`, or `act(x W + b)` post-norm, with the norm of the part."""
        kind = None if activation is None else activation.kind
        # Post-norm, a product alone is one launch in any case.
        saves_launches = not (self.post_norm and kind is None)
        if linear.widens or not (saves_launches and self._is_fused(self.x, linear.weight)):
            result: Tensor = linear(self.x if self.post_norm else self.normed(norm), activation)
            return result
        y = self._norm_linear(linear.weight, linear.bias, None if self.post_norm else norm, kind)
        return y if activation is None or kind is not None else activation(y)

    def add(self, rows: Tensor, linear: Linear, norm: Norm) -> None:
        """Add `linear(rows)`, with `rows: [N, in]` and the norm of the part."""
        if self.post_norm:
            self.x = norm(linear(rows), self.x)
            return
        x, weight = self.settled(), linear.weight
        if rows.dtype == weight.dtype and self._is_fused(rows, weight):
            norm_linear(rows, weight, linear.bias, residual=x)
        else:
            self._branch = linear(rows)

    def logits(self, head: Tensor, norm: Norm | None, bias: Tensor | None = None) -> Tensor:
        """`norm(x) W^T + b`, `[N, V]`, with a weight `head: [V, d]`, which may be packed."""
        # A packed weight, on the CPU, must not be transposed: that is a copy.
        if norm is not None and self._on_gpu and is_norm_linear_faster(self.x, head.t()):
            return self._norm_linear(head.t(), bias, norm)
        return logits_of(self.normed(norm), head, bias)

    def normed(self, norm: Norm | None) -> Tensor:
        """The norm of all that has been added, or all of it without a norm."""
        if norm is None:
            return self.settled()
        branch, self._branch = self._branch, None
        result: Tensor = norm(self.x, branch)
        return result

    def settled(self) -> Tensor:
        """The stream itself, with nothing left to add."""
        if self._branch is not None:
            self.x.add_(self._branch)
            self._branch = None
        return self.x

    def at(self, rows: Tensor | slice) -> ResidualStream:
        """A stream of some of the rows."""
        branch = None if self._branch is None else self._branch[rows]
        return ResidualStream(self.x[rows], branch, post_norm=self.post_norm)

    def _is_fused(self, x: Tensor, weight: Tensor) -> bool:
        return self._on_gpu and is_norm_linear_faster(x, weight)

    def _norm_linear(
        self, weight: Tensor, bias: Tensor | None, norm: Norm | None, kind: str | None = None
    ) -> Tensor:
        return norm_linear(
            self.settled(),
            weight,
            bias,
            norm_weight=None if norm is None else norm.weight,
            norm_bias=None if norm is None else norm.bias,
            epsilon=0.0 if norm is None else norm.epsilon,
            rms=norm is not None and norm.rms,
            activation=kind,
        )


def input_dim(model: nn.Module, name: str) -> int | None:
    """Which dimension of the parameter `name` is the input side of a matrix product; else None."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if leaf != "weight":
        return None
    return int(not module.inputs_first) if isinstance(module, Product) else None
