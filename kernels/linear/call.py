"""The arguments of `norm_linear` as one record that checks itself, and the memory of its rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tritonseq.kernels.activation import KINDS
from tritonseq.kernels.checks import FLOATS, check_shape, check_written

# Bytes of one output's weights at most: they wait in the registers of one program.
WEIGHT_BYTES = 32768

# Elements to which rows of logits are padded, so that each of them starts on a whole vector.
ROW_MULTIPLE = 64


class NormLinearCall(NamedTuple):
    """The arguments of one call of `norm_linear`: the tensors, then the others."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    residual: Tensor | None
    epsilon: float
    rms: bool
    activation: str | None

    def check(self) -> None:
        """Raise ValueError unless the arguments, dense tensors all, fit together."""
        x, weight = self.x, self.weight
        if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[0] or not x.shape[1]:
            raise ValueError(
                f"x is {list(x.shape)} and weight {list(weight.shape)}; pass [N, in] and [in, out]"
            )
        for name, tensor in (("x", x), ("weight", weight)):
            if tensor.dtype not in FLOATS:
                raise ValueError(f"{name} is {tensor.dtype}; pass float16, bfloat16 or float32")
        if self.norm_weight is None:
            if self.norm_bias is not None:
                raise ValueError("norm_bias is given without norm_weight; pass it too")
            if x.dtype != weight.dtype:
                raise ValueError(f"x is {x.dtype}; without a norm convert it to {weight.dtype}")
        elif self.rms and self.norm_bias is not None:
            raise ValueError("norm_bias is given; a norm by the root mean square has none")
        inputs, outputs = weight.shape
        check_shape("bias", self.bias, weight.dtype, (outputs,))
        check_shape("norm_weight", self.norm_weight, weight.dtype, (inputs,))
        check_shape("norm_bias", self.norm_bias, weight.dtype, (inputs,))
        if self.activation is not None and not isinstance(self.activation, str):
            raise TypeError(f"activation is {self.activation!r}; pass a word, or None")
        if self.activation is not None and self.activation not in KINDS:
            raise ValueError(
                f"activation is {self.activation!r}; choose one of {', '.join(KINDS)}, or None"
            )
        if self.residual is not None:
            self._check_residual(self.residual)

    def _check_residual(self, residual: Tensor) -> None:
        shape = (self.x.shape[0], self.weight.shape[1])
        if residual.shape != shape or residual.dtype not in FLOATS:
            raise ValueError(
                f"residual is {residual.dtype} {list(residual.shape)}; pass float16, bfloat16 or "
                f"float32 {list(shape)}"
            )
        read = dict(zip(self._fields, self[:5], strict=False))
        check_written({"residual": residual}, read)


def padded_rows(rows: int, width: int, like: Tensor) -> Tensor:
    """An empty `[rows, width]` on the device and in the dtype of `like`, for logits.

    Its rows start at multiples of `ROW_MULTIPLE` elements: a vocabulary of any size is read and
    written in whole vectors.
    """
    stride = -(-width // ROW_MULTIPLE) * ROW_MULTIPLE
    return torch.empty((rows, stride), dtype=like.dtype, device=like.device)[:, :width]


def can_hold(weight: Tensor) -> bool:
    """Whether one program of the Triton kernel can hold the weights of an output."""
    return weight.shape[0] * weight.element_size() <= WEIGHT_BYTES
