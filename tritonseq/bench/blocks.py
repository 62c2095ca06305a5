"""Timing on a CPU: calls in blocks that are long enough for a clock, taken in turn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from . import timing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .timing import Calibration, Timing

# Seconds of a block: some hundred times what starting and reading a clock may be off by.
BLOCK = 0.05


def time_in_turn(
    versions: Mapping[str, Callable[[int], object]],
    sets: int,
    *,
    repeats: int,
    calibration: Calibration,
    before: Callable[[str], object] = lambda name: None,
    attempts: int,
    block: float = BLOCK,
) -> dict[str, Timing]:
    """Seconds per call of every version, which is called with the number of an input set.

    The calls go through the sets in turn, and every version has blocks of at least `block` seconds,
    each preceded, untimed, by `before(name)`.
    """
    counts = {name: _calls(run, sets, block) for name, run in versions.items()}

    def blocked(name: str) -> Callable[[], None]:
        def run() -> None:
            for call in range(counts[name]):
                versions[name](call % sets)

        return run

    runs = {name: blocked(name) for name in versions}
    timings = timing.time_in_turn(
        runs,
        calibration.device,
        repeats=repeats,
        attempts=attempts,
        calibration=calibration,
        before=before,
    )
    for name, measured in timings.items():
        measured.seconds = [seconds / counts[name] for seconds in measured.seconds]
    return timings


def _calls(run: Callable[[int], object], sets: int, block: float) -> int:
    """How many fill a block; none is counted before each set was touched once."""
    if not block:
        return 1
    for index in range(sets):
        start = time.perf_counter()
        run(index)
    return max(1, round(block / (time.perf_counter() - start)))
