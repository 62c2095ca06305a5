"""What two or more models share: weights and their layout, linear maps, norms, activations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tritonseq.memory import zeros

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence


class Source(NamedTuple):
    """Where a parameter comes from: one tensor of the checkpoint, or several side by side."""

    names: tuple[str, ...]
    """More than one are joined along the last dimension, after any transposition."""
    transpose: bool = False
    """Does the checkpoint store `[out, in]` what the parameter holds as `[in, out]`?"""


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
    """A parameter without memory, to be filled by the loader through `place_parameter`."""
    return nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)


def place_parameter(model: nn.Module, name: str, value: Tensor, *, pack: bool = True) -> Tensor:
    """Put `value` itself, not a copy, in the place of the parameter `name` of `model`.

    Returns the parameter. With `pack`, modules that know a faster layout for it may convert it;
    a weight that several modules share must stay as it is.
    """
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if not isinstance(value, nn.Parameter):
        value = nn.Parameter(value.detach(), requires_grad=False)
    setattr(module, leaf, value)
    if pack and leaf == "weight" and isinstance(module, Linear | Head):
        module.pack()
    parameter: Tensor = getattr(module, leaf)
    return parameter


def match(
    wanted: dict[str, Source],
    names: Collection[str],
    *,
    ignorable: Callable[[str], bool],
) -> dict[str, Source]:
    """`wanted` itself, if a checkpoint with these `names` has all of it and nothing else.

    Raises ValueError that names what is missing or left over; what is `ignorable` may be there.
    """
    used = {name for source in wanted.values() for name in source.names}
    missing = sorted(used.difference(names))
    left = sorted(name for name in names if name not in used and not ignorable(name))
    if missing or left:
        raise ValueError(
            "the checkpoint does not fit its config.json"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; left over: {', '.join(left)}" if left else "")
        )
    return wanted


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
            return _packed_matmul(x, self.weight, self.bias)
        return matmul(x, self.weight, self.bias)

    def wide(self, x: Tensor) -> Tensor:
        """As `forward`, for results that may be beyond the range of float16.

        With weights in float16 every row of `x` is first divided by a power of two near its
        largest entry; the result is float32. With other weights there is nothing to guard.
        """
        if self.weight.dtype != torch.float16:
            return self(x)
        peak = x.abs().amax(dim=-1, keepdim=True).float().clamp_min_(torch.finfo(torch.half).tiny)
        scale = peak.log2_().ceil_().exp2_()
        product = matmul((x / scale).half(), self.weight).float().mul_(scale)
        return product if self.bias is None else product.add_(self.bias)

    def pack(self) -> None:
        """Put the weight into oneDNN's layout, if it is to be packed and that is faster."""
        if self.packed and _packs(self.weight):
            self.weight = _packed(self.weight.t())


class Head(nn.Module):
    """The logits `x W^T + b`, with `W: [V, d]`, which often is the embedding itself."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = empty_parameter(vocab_size, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.weight.is_mkldnn:
            return _packed_matmul(x, self.weight, bias)
        return matmul(x, self.weight.t(), bias)

    def pack(self) -> None:
        """Put a weight that is no embedding into oneDNN's layout, if that is faster."""
        if _packs(self.weight):
            self.weight = _packed(self.weight)


class Embedding(nn.Module):
    """Rows of a table, by token."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = empty_parameter(vocab_size, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.weight.index_select(0, tokens)


# The layout depends on the number of rows that oneDNN is told, if only a little: four beams of
# four samples.
PACKED_FOR_ROWS = 16

# Elements of a float32 weight from which packing pays. Smaller ones stay in the processor's
# caches, where MKL is faster and, for a few rows, content with one thread.
PACKED_FROM = 2**18


def _packed(weight: Tensor) -> nn.Parameter:
    """`weight: [out, in]` in oneDNN's blocked layout.

    Measured on two AVX-512 cores with AMX, over the layers of BART-large: bfloat16 gains 1.4 to
    1.7 times for any number of rows, float32 1.25 times at 16 rows and 1.5 times at 4, but loses
    an eighth at a single row; 1024 rows take the same.
    """
    blocked = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_FOR_ROWS)
    return nn.Parameter(blocked, requires_grad=False)


def _packed_matmul(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def _packs(weight: Tensor) -> bool:
    """Can this build of torch multiply by a blocked layout of such a weight, and does it pay?"""
    names = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32 and weight.numel() >= PACKED_FROM


class LayerNorm(nn.Module):
    """Layer normalisation over the last dimension, with a scale and a shift."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = empty_parameter(width)
        self.bias = empty_parameter(width)
        self.shape = (width,)
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype:
            return F.layer_norm(x, self.shape, self.weight, self.bias, self.epsilon)
        # The residual stream may be wider than the weights.
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.shape, weight, bias, self.epsilon).to(self.weight.dtype)


class RMSNorm(nn.Module):
    """Division by the root mean square, with a scale (Zhang and Sennrich, 2019).

    The mean is taken in float32; the result has the dtype of the scale.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = empty_parameter(width)
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        variance = norm.square_().div_(x.shape[-1])
        scaled = x * variance.add_(self.epsilon).rsqrt_()
        return scaled.to(self.weight.dtype).mul_(self.weight)


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
