"""What may stand where an argument should: by its name, whether every kernel has to refuse it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

if TYPE_CHECKING:
    from collections.abc import Callable


class Stand(NamedTuple):
    """Makes a substitute out of a tensor; `refused` wherever a tensor stood that is not empty."""

    make: Callable[[Tensor], Any]
    refused: bool = True


def _sparse_rows(x: Tensor) -> Tensor:
    return x.reshape(1, -1).to_sparse_csr()


def _quantized(x: Tensor) -> Tensor:
    return torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8)


def _expanded(x: Tensor) -> Tensor:
    """The first element, everywhere."""
    return x.flatten()[:1].expand(x.numel()).view(x.shape) if x.numel() else x


def _overlapping(x: Tensor) -> Tensor:
    """Elements that meet their neighbours."""
    steps = [1] * x.dim()
    room = torch.zeros(sum(x.shape) + 1, dtype=x.dtype)
    return room.as_strided(x.shape, steps)


def _negated(x: Tensor) -> Tensor:
    return torch._neg_view(x) if x.is_floating_point() else x


class _Own(Tensor):
    """What holds data as any tensor does."""


TENSORS: dict[str, Stand] = {
    "a number": Stand(lambda x: 3),
    "a fraction": Stand(lambda x: 1.5),
    "a word": Stand(lambda x: "tensor"),
    "a list": Stand(lambda x: x.tolist()),
    "an array": Stand(lambda x: np.zeros(tuple(x.shape), dtype=np.float32)),
    "a dtype": Stand(lambda x: torch.float32),
    "an object": Stand(lambda x: object()),
    "None": Stand(lambda x: None, refused=False),
    "sparse": Stand(lambda x: x.to_sparse() if x.dim() else x),
    "sparse rows": Stand(_sparse_rows),
    "nested": Stand(lambda x: torch.nested.nested_tensor([x, x])),
    "ragged": Stand(lambda x: torch.nested.nested_tensor([x, x], layout=torch.jagged)),
    "quantized": Stand(_quantized),
    "packed": Stand(lambda x: x.float().to_mkldnn()),
    "meta": Stand(lambda x: x.to("meta")),
    "complex": Stand(lambda x: x.to(torch.complex64)),
    "float64": Stand(lambda x: x.double()),
    "int8": Stand(lambda x: x.to(torch.int8)),
    "boolean": Stand(lambda x: x.bool(), refused=False),
    "half": Stand(lambda x: x.half(), refused=False),
    "integers": Stand(lambda x: x.long(), refused=False),
    "one number": Stand(lambda x: torch.zeros((), dtype=x.dtype)),
    "flat": Stand(lambda x: x.flatten(), refused=False),
    "deeper": Stand(lambda x: x[None]),
    "shallower": Stand(lambda x: x.sum(0, dtype=x.dtype) if x.dim() else x, refused=False),
    "longer": Stand(lambda x: torch.cat([x, x]) if x.dim() else x, refused=False),
    "empty": Stand(lambda x: x[..., :0] if x.dim() else x, refused=False),
    "nothing": Stand(lambda x: x[:0] if x.dim() else x, refused=False),
    "turned": Stand(lambda x: x.transpose(0, -1) if x.dim() else x, refused=False),
    "in steps": Stand(
        lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2] if x.dim() else x, refused=False
    ),
    "expanded": Stand(_expanded, refused=False),
    "overlapping": Stand(_overlapping, refused=False),
    "negated": Stand(_negated, refused=False),
    "fake": Stand(lambda x: FakeTensorMode().from_tensor(x)),
    "a parameter": Stand(lambda x: torch.nn.Parameter(x, requires_grad=False), refused=False),
    "of its own class": Stand(lambda x: x.as_subclass(_Own), refused=False),
}

# Those with which nothing that is written to may pass.
SHARED = ("expanded", "overlapping")

OTHERS: tuple[Any, ...] = (
    None, "x", "", [1], 1.5, -1, 0, True, False, object(), math.nan, math.inf, -math.inf,
    10**400, -(10**400), 2**63, np.float32(2.0), np.int64(2), torch.tensor(1), 1j,
)  # fmt: skip
