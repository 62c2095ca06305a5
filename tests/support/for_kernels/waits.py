"""What a step on a GPU must not do: wait for a value, or ask for memory that depends on one."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = frozenset(
    (
        "_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero",
        "repeat_interleave.Tensor", "_unique2", "unique_dim", "unique_consecutive",
    )
)  # fmt: skip


class NeverWaits(TorchDispatchMode):
    """While it is entered, every operator that would make the host wait raises AssertionError."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        by_mask = name.startswith(("index.", "index_put", "_index_put")) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if by_mask or name in WAITS or name.removesuffix(".default") in WAITS:
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))
