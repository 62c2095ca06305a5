"""Memory bandwidth of this machine, measured in the same run as the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from . import blocks, graphs

if TYPE_CHECKING:
    from collections.abc import Callable

    from .timing import Calibration

_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")

# The cache of a server's processor is shared: of hundreds of megabytes few are one program's.
_SHARED = 2**27


@dataclass(frozen=True)
class Bandwidth:
    """Bytes per second of a copy, read and written ones together, and of reading alone."""

    copy: float
    read: float

    @property
    def best(self) -> float:
        """What shares are shares of."""
        return max(self.copy, self.read)


def bandwidth(
    device: torch.device, size: int, *, repeats: int, calibration: Calibration | None
) -> Bandwidth:
    """Of buffers of `size` bytes, which must be far more than the cache holds."""
    operand = torch.rand(max(1, size // 4), device=device)
    result = torch.empty_like(operand)

    def copy(_: int) -> object:
        return result.copy_(operand)

    def read(_: int) -> object:
        return operand.sum()

    versions: dict[str, Callable[[int], object]] = {"copy": copy, "read": read}
    if calibration is None:
        times = graphs.time_in_turn(versions, 1, repeats=repeats)
    else:
        times = blocks.time_in_turn(
            versions, 1, repeats=repeats, calibration=calibration, attempts=1
        )
    count = operand.numel() * operand.element_size()
    return Bandwidth(2 * count / times["copy"].median, count / times["read"].median)


def cache_bytes(device: torch.device) -> int:
    """The last cache before memory; 32 MiB where the machine does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    text = _CACHE.read_text().strip() if _CACHE.is_file() else "32M"
    size = int(text.rstrip("KM")) * (2**20 if text.endswith("M") else 2**10)
    return min(size, _SHARED)
