"""Seconds of device work by the host's clock, with the device waited for on both sides."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from tritonseq.bench import timing

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    timing.synchronize(device)
    start = time.perf_counter()
    work()
    timing.synchronize(device)
    return time.perf_counter() - start


def series(work: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    return [seconds_of(work, device) for _ in range(repeats)]


def summary(seconds: list[float]) -> dict[str, Any]:
    """Median, spread (largest over smallest) and all of them."""
    return {
        "median s": round(statistics.median(seconds), 6),
        "spread": round(max(seconds) / min(seconds), 3),
        "all s": [round(value, 6) for value in seconds],
    }
