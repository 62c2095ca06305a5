"""What the machine is, and its ceilings: copy, read, matrix product, and the gap of a launch."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shutil
import statistics
import subprocess
from typing import TYPE_CHECKING, Any

import torch

from tritonseq.bench import timing

from . import probes
from .stopwatch import seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .task import Task

PACKAGES = ("torch", "triton", "transformers")
QUERY = (
    "name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "clocks.mem",
    "power.limit", "temperature.gpu",
)  # fmt: skip
LAUNCHES = 200


def run(task: Task) -> None:
    task.attempt("machine", describe, task)
    task.attempt("copy GB/s", copy_rate, task)
    task.attempt("read GB/s", read_rate, task)
    task.attempt("matmul TFLOP/s", matmul_rate, task)
    for name, chained in (("launch us", False), ("chained launch us", True)):
        if task.device.type != "cuda":
            task.skip(name, "no GPU: nothing is captured in a graph")
        elif chained and (torch.version.hip or torch.cuda.get_device_capability() < (9, 0)):
            task.skip(name, "programmatic dependent launch needs an NVIDIA GPU of 9.0 or later")
        else:
            task.attempt(name, launch_gap, task, chained)


def describe(task: Task) -> dict[str, Any]:
    """Names, versions and clocks."""
    found: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "device": timing.machine(task.device),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    if task.device.type == "cuda":
        properties = torch.cuda.get_device_properties(task.device)
        found["multiprocessors"] = properties.multi_processor_count
        found["memory GB"] = round(properties.total_memory / 1e9, 1)
        found["nvidia-smi"] = clocks()
    return found


def clocks() -> dict[str, str] | str:
    """What nvidia-smi answers; it is only asked, nothing is set."""
    if shutil.which("nvidia-smi") is None:
        return "not there"
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        return done.stdout.strip() or done.stderr.strip()
    values = done.stdout.splitlines()[0].split(", ")
    return dict(zip(QUERY, values, strict=False))


def best(work: Callable[[], object], task: Task) -> float:
    """Median seconds of one call, of ten calls in a row at a time."""
    device, inner = task.device, 1 if task.setting.rehearse else 10

    def often() -> None:
        for _ in range(inner):
            work()

    often()
    return statistics.median(seconds_of(often, device) for _ in range(5)) / inner


def four_digits(rate: float) -> float:
    """Rounded, and never to 0: a small product on a busy processor is far from a TFLOP/s."""
    return float(f"{rate:.4g}")


def copy_rate(task: Task) -> float:
    """Bytes read plus bytes written."""
    source = random_floats(task)
    target = torch.empty_like(source)
    rate = 2 * source.nbytes / best(lambda: target.copy_(source), task)
    assert torch.equal(source, target)
    return four_digits(rate / 1e9)


def read_rate(task: Task) -> float:
    """Bytes that a sum in Triton reads."""
    x = random_floats(task)
    out = torch.full_like(probes.partial_sums(x), torch.nan)
    seconds = best(lambda: probes.partial_sums(x, out), task)
    torch.testing.assert_close(out.sum(dtype=torch.float64), x.sum(dtype=torch.float64))
    return four_digits(x.nbytes / seconds / 1e9)


def random_floats(task: Task) -> torch.Tensor:
    """4 GB, many times any cache."""
    elements = 2**18 if task.setting.rehearse else 2**30
    return torch.rand(elements, device=task.device)


def matmul_rate(task: Task) -> float:
    size = 128 if task.setting.rehearse else 8192
    a, b = (torch.randn(size, size, device=task.device).to(torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    return four_digits(2 * size**3 / best(lambda: torch.mm(a, b, out=out), task) / 1e12)


def launch_gap(task: Task, chained: bool) -> float:
    """Microseconds per kernel in a graph of kernels that do nothing."""
    graph = probes.captured(
        probes.empty_launch(torch.zeros(1, device=task.device), chained=chained), LAUNCHES
    )
    return round(best(graph.replay, task) / LAUNCHES * 1e6, 3)
