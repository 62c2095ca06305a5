"""Fair timing on noisy machines: versions in turn, every block between two calibrations."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# A block whose calibration is off by more than this share is thrown away and repeated.
TOLERANCE = 0.15


@dataclass
class Calibration:
    """A fixed matrix product: as long as it takes what it took, the machine is the same."""

    device: torch.device
    size: int = 1024
    reference: float = 0.0
    _operand: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._operand = torch.rand(self.size, self.size, device=self.device)
        self.measure()
        self.reference = statistics.median(self.measure() for _ in range(15))

    def measure(self) -> float:
        """Seconds of the product, the best of five, so that only a lasting change shows."""
        return min(self._once() for _ in range(5))

    def _once(self) -> float:
        synchronize(self.device)
        start = time.perf_counter()
        self._operand @ self._operand
        synchronize(self.device)
        return time.perf_counter() - start

    def is_steady(self) -> bool:
        """Whether the product takes as long as at the start."""
        return abs(self.measure() / self.reference - 1.0) <= TOLERANCE


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Timing:
    """Seconds of one version, and how many blocks were thrown away on the way."""

    seconds: list[float] = field(default_factory=list)
    discarded: int = 0
    unsteady: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Largest over smallest."""
        return max(self.seconds) / min(self.seconds)

    def quantile(self, share: float) -> float:
        """What a share of the measurements stays below, between two of them in proportion."""
        ordered = sorted(self.seconds)
        place = share * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def time_in_turn(
    versions: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    repeats: int,
    attempts: int = 6,
    calibration: Calibration | None = None,
    before: Callable[[str], object] = lambda name: None,
) -> dict[str, Timing]:
    """Time each version `repeats` times, one after the other within each round.

    A block between unsteady calibrations is repeated up to `attempts` times; one that never
    was steady is kept and counted, so that a report can say so. One `calibration` serves many
    calls. `before`, untimed, precedes each block of the version it is given.
    """
    calibration = calibration or Calibration(device)
    timings = {name: Timing() for name in versions}
    for _ in range(repeats):
        for name, run in versions.items():
            _time_block(run, timings[name], calibration, attempts, partial(before, name))
    return timings


def _time_block(
    run: Callable[[], object],
    timing: Timing,
    calibration: Calibration,
    attempts: int,
    before: Callable[[], object],
) -> None:
    for attempt in range(attempts):
        before()
        steady = calibration.is_steady()
        synchronize(calibration.device)
        start = time.perf_counter()
        run()
        synchronize(calibration.device)
        seconds = time.perf_counter() - start
        steady = calibration.is_steady() and steady
        if steady or attempt == attempts - 1:
            timing.seconds.append(seconds)
            timing.unsteady += not steady
            return
        timing.discarded += 1
        time.sleep(2.0)


def machine(device: torch.device) -> str:
    """The machine in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return f"{model}, {torch.get_num_threads()} threads"


def commit() -> str:
    """The commit that is checked out, marked if files differ from it; "installed" without one."""
    try:
        # A checkout that merely contains the environment that we are installed in is another's.
        _git("ls-files", "--error-unmatch", "__init__.py")
        return _git("describe", "--always", "--dirty", "--abbrev=10")
    except (OSError, subprocess.CalledProcessError):
        return "installed"


def _git(*arguments: str) -> str:
    folder = Path(__file__).parents[1]
    command = ["git", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return done.stdout.strip()
