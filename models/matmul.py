"""Matmul of a few rows with a weight, and the layouts of weights that stream fastest.

Four layouts: dense, as it was written; dense and transposed, which is a stride and nothing more;
packed, the blocked layout of oneDNN, which no indexing can read; and the same of int8. Everything
that asks for the values, the bytes or the checksum of a parameter asks here.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tritonseq.kernels import activate, is_gpu, private_torch
from tritonseq.kernels.linear.call import padded_rows
from tritonseq.memory.huge_pages import zeros

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# Rows up to which products are of any number of them.
FEW_ROWS = 16

# The layout depends on the number of rows that oneDNN is told, if only a little: four beams of
# four samples.
PACKED_FOR_ROWS = 16

# Elements of a float32 weight from which packing pays. Smaller ones stay in the processor's
# caches, where MKL is faster and, for a few rows, content with one thread.
PACKED_FROM = 2**18

# Elements of which a checksum is taken at once: with what comes of them they stay in the caches.
CHUNK = 2**17


# The largest int8 of symmetric quantization, whose zero is 0.
INT8_MAX = 127

# Bits of a scale of int8 weights: with the 7 bits of an int8 the product is exact in float32.
SCALE_BITS = 17


class Packed(nn.Parameter):
    """A weight in oneDNN's blocked layout, for a product `x W^T` with `W: [out, in]`.

    It may be the transpose of the parameter that it stands for. Copies and pickles go by its
    dense values, since torch can make neither of this layout.
    """

    is_transposed: bool

    @classmethod
    def of(cls, weight: Tensor, *, is_transposed: bool) -> Packed:
        """Pack `weight [out, in]`, or `[in, out]` with `is_transposed`.

        Measured on two AVX-512 cores with AMX, over the layers of BART-large: bfloat16 gains 1.4
        to 1.7 times for any number of rows, float32 1.25 times at 16 rows and 1.5 times at 4, but
        loses an eighth at a single row; 1024 rows take the same.
        """
        oriented = weight.t() if is_transposed else weight
        packed = cls(private_torch.packed(oriented, PACKED_FOR_ROWS), requires_grad=False)
        packed.is_transposed = is_transposed
        return packed

    @property
    def outputs_and_inputs(self) -> tuple[int, int]:
        """The shape of `W`."""
        outputs, inputs = self.shape
        return outputs, inputs

    def product(self, x: Tensor, bias: Tensor | None, epilogue: tuple[str, str]) -> Tensor:
        """`act(x W^T + b)` with what oneDNN calls `act`."""
        return private_torch.packed_product(x, self, bias, *epilogue)

    def dense(self) -> Tensor:
        """A copy of the values, in the shape of the parameter."""
        values = self.detach().to_dense()
        return values.t() if self.is_transposed else values

    def again(self, weight: Tensor) -> nn.Parameter:
        """Another dense weight of this shape in this layout, if that pays where this runs."""
        if pays_to_pack(weight):
            return Packed.of(weight, is_transposed=self.is_transposed)
        return nn.Parameter(weight.detach(), requires_grad=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            memo[id(self)] = self.again(self.dense())
        copied: Tensor = memo[id(self)]
        return copied

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        return _laid_out, (to_bytes(self.dense().contiguous()), type(self), self.is_transposed)


class Int8(Packed):
    """A weight of int8, symmetric with a scale for every output, in oneDNN's layout.

    A scale is the largest magnitude divided by 127, rounded up to 17 bits. So the dense values,
    int8 times scale, are exact in float32, and quantizing them gives the same int8 and scales
    again: whatever goes by dense values comes back to the bit.
    """

    scales: Tensor
    """`[out]`, float32."""
    zero_points: Tensor

    @classmethod
    def of(cls, weight: Tensor, *, is_transposed: bool) -> Int8:
        """Quantize and pack `weight [out, in]`, or `[in, out]` with `is_transposed`.

        A row of `W` that holds NaN or infinity gets scales, and so results, of NaN or infinity.
        Raises ValueError where products are not exact.
        """
        check_int8()
        oriented = (weight.t() if is_transposed else weight).detach().float()
        mantissa, exponent = torch.frexp(int8_scales(oriented))
        scales = torch.ldexp((mantissa * 2**SCALE_BITS).ceil_().mul_(2**-SCALE_BITS), exponent)
        quantized = (oriented / scales).round_().to(torch.int8, memory_format=_CONTIGUOUS)
        packed = cls(private_torch.int8_packed(quantized), requires_grad=False)
        packed.is_transposed = is_transposed
        packed.scales = scales[:, 0].contiguous()
        packed.zero_points = torch.zeros_like(packed.scales, dtype=torch.int64)
        return packed

    @property
    def outputs_and_inputs(self) -> tuple[int, int]:
        inputs, outputs = self.shape
        return outputs, inputs

    def product(self, x: Tensor, bias: Tensor | None, epilogue: tuple[str, str]) -> Tensor:
        """`x W^T + b` in float32 of rows that are quantized one by one; without an epilogue.

        Rows have 8 bits, or 7 on processors whose sums would saturate. int32 sums are exact: a row
        of the result does not depend on the rows beside it. One that holds NaN or infinity becomes
        NaN.
        """
        assert epilogue == NO_EPILOGUE
        row_max = private_torch.int8_row_max()
        scales = int8_scales(x, row_max)
        shifted = (x / scales).round_().add_(row_max + 1)
        quantized = shifted.to(torch.uint8, memory_format=_CONTIGUOUS)
        product = private_torch.int8_product(
            quantized, row_max + 1, self, self.scales, self.zero_points
        )
        product.mul_(scales.masked_fill_(scales == torch.inf, torch.nan))
        return product if bias is None else product.add_(bias)

    def dense(self) -> Tensor:
        """The values that the int8 stand for, in float32 and the shape of the parameter."""
        values = self.detach().to_dense().float().mul_(self.scales)
        return values if self.is_transposed else values.t()

    def again(self, weight: Tensor) -> nn.Parameter:
        """Another dense weight as int8, unless it is on a GPU or was made half precision."""
        if weight.device.type == "cpu" and weight.dtype == torch.float32:
            return Int8.of(weight, is_transposed=self.is_transposed)
        return nn.Parameter(weight.detach(), requires_grad=False)


NO_EPILOGUE = ("none", "")

_CONTIGUOUS = torch.contiguous_format


def int8_scales(x: Tensor, largest: int = INT8_MAX) -> Tensor:
    """By what rows `x [N, d]` are divided to be of magnitudes up to `largest`.

    `[N, 1]`, never zero.
    """
    peaks = x.abs().amax(dim=1, keepdim=True)
    return peaks.div_(largest).clamp_min_(torch.finfo(torch.float32).tiny)


def _laid_out(weight: bytes, layout: type[Packed], is_transposed: bool) -> nn.Parameter:
    dense_weight = from_bytes(weight)
    if layout is Int8 or pays_to_pack(dense_weight):
        return layout.of(dense_weight, is_transposed=is_transposed)
    return nn.Parameter(dense_weight, requires_grad=False)


def to_bytes(values: Any) -> bytes:
    """Tensors as bytes for a pickle.

    Where torch hands tensors themselves to another process, they have to outlive the pickling,
    which those that are only made for it do not.
    """
    file = io.BytesIO()
    torch.save(values, file)
    return file.getvalue()


def from_bytes(values: bytes) -> Any:
    """What `to_bytes` was given, where it was."""
    return torch.load(io.BytesIO(values), weights_only=True)


def pays_to_pack(weight: Tensor) -> bool:
    """Whether this build of torch multiplies by a blocked layout of such a weight, and it pays."""
    if weight.device.type != "cpu" or is_packed(weight) or not private_torch.can_pack(weight.dtype):
        return False
    return weight.dtype != torch.float32 or weight.numel() >= PACKED_FROM


def check_int8() -> None:
    """Raise ValueError unless products with int8 weights are exact on this machine's CPU."""
    if not private_torch.int8_row_max():
        raise ValueError(
            "dtype 'int8' needs a torch with oneDNN and a processor on which that adds int8 "
            "products up exactly (x86 with AVX2 or more), and here one is missing: say "
            "dtype='bfloat16' or 'float32'"
        )


def is_packed(weight: Tensor) -> bool:
    """Whether it is for `packed_matmul` only."""
    return isinstance(weight, Packed)


def is_int8(weight: Tensor) -> bool:
    """Whether it is quantized."""
    return isinstance(weight, Int8)


def dense(weight: Tensor) -> Tensor:
    """The values of a parameter, `weight` itself unless they have to be made.

    In its own dtype, but float32 of int8.
    """
    return weight.dense() if isinstance(weight, Packed) else weight.detach()


def shape_of(weight: Tensor) -> torch.Size:
    """The shape of the parameter, which a packed weight may hold the other way round."""
    if not isinstance(weight, Packed):
        return weight.shape
    outputs, inputs = weight.outputs_and_inputs
    return torch.Size((inputs, outputs) if weight.is_transposed else (outputs, inputs))


def nbytes(weight: Tensor) -> int:
    """The bytes that a step reads of it."""
    return weight.nbytes + (weight.scales.nbytes if isinstance(weight, Int8) else 0)


def address(weight: Tensor) -> int:
    """Where it begins in memory; 0 for what has no address."""
    return 0 if is_packed(weight) else weight.data_ptr()


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


def checksum(weight: Tensor) -> int:
    """64 bits of every value of a parameter, equal for equal values.

    Layout, device and dtype make no difference: values count as the float32 that they are. The
    sum of all their bits, each times an odd number of its row and one of its column, modulo
    2 ** 64. So it can be taken in the order of the memory, whichever that is, and no single value
    changes without it. Packed weights are made dense, one at a time.
    """
    values = dense(weight)
    matrix = values.reshape(-1, values.shape[-1]) if values.dim() > 1 else values.reshape(1, -1)
    rows, columns = _odd_numbers(matrix, 0), _odd_numbers(matrix, 1)
    if matrix.stride(1) != 1 and matrix.stride(0) == 1:
        matrix, rows, columns = matrix.t(), columns, rows
    total = 0
    step = max(1, CHUNK // max(1, matrix.shape[1]))
    for some, factors in zip(matrix.split(step), rows.split(step), strict=True):
        bits = some.contiguous().float().view(torch.int32)
        total += int(((bits * columns).sum(1) * factors).sum())
    return total % 2**64


def fingerprint(groups: Iterable[tuple[Sequence[str], Tensor]]) -> str:
    """One checksum of parameters with all of their names, in whatever order they come."""
    lines: dict[str, str] = {}
    for names, weight in groups:
        line = f"{list(shape_of(weight))} {checksum(weight):016x}"
        lines.update((name, f"{name} {line}") for name in names)
    text = "\n".join(lines[name] for name in sorted(lines))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _odd_numbers(matrix: Tensor, dim: int) -> Tensor:
    """One for each place along `dim`, spread over 64 bits (Steele et al., SplitMix, 2014)."""
    x = torch.arange(1, matrix.shape[dim] + 1, device=matrix.device) + 2**40 * dim
    x = x * -0x61C8864680B583EB
    x = (x ^ (x >> 30)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27)) * -0x6B2FB644ECCEEE15
    return (x ^ (x >> 31)) | 1


def in_steps(rows: int) -> int:
    """The rows of a product of oneDNN for so many: few different numbers, an eighth more at most.

    For every shape of a product oneDNN compiles code, some tenths of a megabyte, and keeps it for
    a thousand shapes. Prompts of ever new lengths would be as many shapes: time and memory that
    grow with the input. Beyond a few rows, multiples of `FEW_ROWS` are tiles of matrix units.
    """
    if rows <= FEW_ROWS:
        return rows
    step = max(FEW_ROWS, 1 << ((rows - 1).bit_length() - 4))
    return -(-rows // step) * step


def padded_to_steps(x: Tensor) -> Tensor:
    """`x [N, d]` with zeros below, `[in_steps(N), d]`."""
    more = in_steps(x.shape[0]) - x.shape[0]
    return F.pad(x, (0, 0, 0, more)) if more else x


def matmul(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W + b` with `x: [N, in]`, `weight: [in, out]` of any strides, `bias: [out]`."""
    if x.shape[0] == 1 and x.device.type == "cpu" and weight.stride(0) == 1:
        # One row in half precision: the matrix-vector product streams a quarter faster than the
        # general one.
        column = torch.mv(weight.t(), x[0]) if bias is None else torch.addmv(bias, weight.t(), x[0])
        return column[None]
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and in_steps(x.shape[0]) != x.shape[0]:
        return matmul(padded_to_steps(x), weight, bias)[: x.shape[0]]
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def logits_of(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W^T + b` with `weight: [V, d]`; on a GPU rows of logits start on whole vectors."""
    if isinstance(weight, Packed):
        return packed_matmul(x, weight, bias)
    if not is_gpu(x.device):
        return matmul(x, weight.t(), bias)
    logits = padded_rows(x.shape[0], weight.shape[0], x)
    if bias is None:
        return torch.mm(x, weight.t(), out=logits)
    return torch.addmm(bias, x, weight.t(), out=logits)


def activated_matmul(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """`act(x W + b)`, with one of the kinds of `activate`."""
    if bias is not None and is_gpu(x.device) and _has_epilogue(kind, x.dtype):
        return private_torch.product_with_activation(x, weight, bias, gelu=kind != "relu")
    return activate(matmul(x, weight, bias), kind)


def _has_epilogue(kind: str, dtype: torch.dtype) -> bool:
    """Whether cuBLAS ends a product in this function, as exactly as it is wanted.

    Its GELU is that by tanh, and nothing says how closely: in float32 it is not taken.
    """
    known = kind == "relu" or (kind == "gelu_tanh" and dtype != torch.float32)
    return known and private_torch.has_product_with_activation()


def packed_matmul(
    x: Tensor, weight: Packed, bias: Tensor | None, epilogue: tuple[str, str] = NO_EPILOGUE
) -> Tensor:
    """`act(x W^T + b)` with a packed `weight` and what oneDNN calls `act`, a name and a variant."""
    return weight.product(padded_to_steps(x), bias, epilogue)[: x.shape[0]]
