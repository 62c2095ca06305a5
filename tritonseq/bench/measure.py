"""Checking and timing of one case: its times beside those of plain torch, if it is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from . import blocks, ceilings, graphs
from .case import copied, size, tensors
from .draw import Draw
from .timing import Calibration

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from .case import Arguments, Case
    from .timing import Timing

Row = dict[str, Any]

# Input sets at most, and their bytes: drawing more costs time, and inputs of a few kilobytes are
# found in the cache in real life too.
MOST_SETS = 64
MOST_BYTES = {"cuda": 2**33, "cpu": 2**30}

# Tries to find a CPU steady: there are many blocks, and each try waits.
ATTEMPTS = 3


@dataclass
class Bench:
    """Where and how all cases are measured."""

    device: torch.device
    dtype: torch.dtype
    impl: str
    repeats: int
    compiles: bool
    """Whether the naive formulation is timed under torch.compile as well."""
    tiny: bool = False

    def __post_init__(self) -> None:
        self.cache = 2**10 if self.tiny else ceilings.cache_bytes(self.device)
        self.calibration: Calibration | None = None
        if self.device.type != "cuda":
            self.calibration = Calibration(self.device, 32 if self.tiny else 1024)
        self.bandwidth = ceilings.bandwidth(
            self.device, 4 * self.cache, repeats=self.repeats, calibration=self.calibration
        )

    def row(self, case: Case) -> Row:
        """What is measured of a case, by the names of the table; no times if it is red."""
        shape = case.shape
        row: Row = {
            "workload": shape.letter,
            "model": shape.model,
            "kernel": case.kernel,
            "part": case.part,
            "shape": f"{shape.samples}x{shape.beams} source {shape.source} at {shape.position}",
            "scale": shape.scale,
            "dtype": str(self.dtype).removeprefix("torch."),
            "path": "triton" if self.impl == "triton" or self.device.type == "cuda" else "torch",
        }
        try:
            fault = case.fault(self.device, self.dtype, self.impl)
            figures = {} if fault else self._figures(case)
        except Exception as error:  # whatever a kernel raises is the finding
            fault, figures = f"{type(error).__name__}: {' '.join(str(error).split())}", {}
        if self.calibration is None:
            # The next case's inputs are of other sizes.
            torch.cuda.empty_cache()
        return row | {"check": f"RED: {fault}" if fault else "green"} | figures

    def _figures(self, case: Case) -> Row:
        inputs = Inputs(case, self)
        versions: dict[str, Callable[[int], object]] = {
            "kernel": lambda index: case.run(inputs.sets[index], self.impl),
            "naive": lambda index: case.naive(**inputs.plain[index]),
        }
        note = ""
        if self.compiles:
            compiled, note = _compiled(case, inputs.plain[0])
            if compiled is not None:
                versions["compiled"] = lambda index: compiled(**inputs.plain[index])
        with torch.no_grad():
            times = self._time(versions, len(inputs.sets), inputs.restore)
        rate = inputs.moved / times["kernel"].median
        figures = _times(times) | {
            "MB": _rounded(inputs.moved / 1e6),
            "GB/s": _rounded(rate / 1e9),
            "share": _rounded(rate / self.bandwidth.best),
            "inputs": "cold" if inputs.cold else "warm",
            "unsteady": sum(timing.unsteady for timing in times.values()),
        }
        return figures | ({"note": note} if note else {})

    def _time(
        self,
        versions: dict[str, Callable[[int], object]],
        sets: int,
        restore: Callable[[str], object],
    ) -> dict[str, Timing]:
        if self.calibration is None:
            return graphs.time_in_turn(versions, sets, repeats=self.repeats, before=restore)
        return blocks.time_in_turn(
            versions,
            sets,
            repeats=self.repeats,
            calibration=self.calibration,
            before=restore,
            attempts=1 if self.tiny else ATTEMPTS,
            block=0.0 if self.tiny else blocks.BLOCK,
        )


class Inputs:
    """So many sets of inputs that a call finds nothing of its own in the cache, if they fit.

    `sets` are the kernel's and `plain` those of the naive formulation; `moved` is what a call moves
    at least, in bytes.
    """

    def __init__(self, case: Case, bench: Bench) -> None:
        self.case = case
        first = self._draw(bench, 3)
        self.moved = max(1, case.bytes_moved(first))
        held = sum(map(size, tensors([first, case.naive_arguments(first)])))
        most = MOST_BYTES[bench.device.type] // max(1, held)
        most = 2 if bench.tiny else min(MOST_SETS, most)
        count = max(2, min(most, -(-2 * bench.cache // self.moved)))
        self.cold = count * self.moved >= 2 * bench.cache
        self.sets = [first, *(self._draw(bench, seed) for seed in range(4, 3 + count))]
        self.plain = [case.naive_arguments(arguments) for arguments in self.sets]
        self._saved = [] if case.repeatable else list(map(self._written, map(copied, self.sets)))

    def restore(self, version: str) -> None:
        """Undo what earlier calls wrote, where that would change the work of the next."""
        if version != "kernel":
            # The naive formulations make new tensors, or write what is there already.
            return
        for arguments, saved in zip(self.sets, self._saved, strict=False):
            for x, before in zip(self._written(arguments), saved, strict=True):
                x.copy_(before)

    def _draw(self, bench: Bench, seed: int) -> Arguments:
        return self.case.draw(Draw(bench.device, bench.dtype, seed), self.case.shape.samples)

    def _written(self, arguments: Arguments) -> list[Tensor]:
        return tensors([arguments[name] for name in self.case.written])


def _compiled(case: Case, arguments: Arguments) -> tuple[Callable[..., Any] | None, str]:
    """The naive formulation under torch.compile, or why there is none."""
    torch.compiler.reset()
    compiled: Callable[..., Any] = torch.compile(case.naive, dynamic=False)
    try:
        with torch.no_grad():
            compiled(**arguments)
    except Exception as error:  # a machine without a compiler still has all else
        return None, f"torch.compile: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return compiled, ""


def _times(times: dict[str, Timing]) -> Row:
    kernel = times["kernel"]
    row = {
        "us": _rounded(kernel.median * 1e6),
        "us p20": _rounded(kernel.quantile(0.2) * 1e6),
        "us p80": _rounded(kernel.quantile(0.8) * 1e6),
    }
    for name in ("naive", "compiled"):
        if name in times:
            row[f"{name} us"] = _rounded(times[name].median * 1e6)
            row[f"{name} ratio"] = _rounded(times[name].median / kernel.median)
    return row


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
