"""Launches that the compile report compiles: one module for each operation.

Each has `cases(target, every)`, which yields `(name of the case, Launch)`: what models ask for, or
with `every` all tiles, head sizes and dtypes. Tensors have no memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from tritonseq.kernels.launch import Launch as Launch


def meta(*shape: int, dtype: torch.dtype) -> Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def floats(target: str) -> list[torch.dtype]:
    """The dtypes that a target computes in, the usual one first. Before sm_80 no bfloat16."""
    return [torch.float16] if target == "sm_75" else [torch.float16, torch.bfloat16, torch.float32]


def short(dtype: torch.dtype) -> str:
    """How a dtype stands in the name of a case."""
    return str(dtype).removeprefix("torch.")
