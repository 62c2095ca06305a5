"""`tritonseq bench kernels`: check every kernel, time it, and tell."""

from __future__ import annotations

import datetime
import os
from importlib import metadata
from typing import TYPE_CHECKING

import torch

from tritonseq import kernels
from tritonseq.checkpoint.devices import resolve_device, resolve_dtype

from . import table, timing
from .measure import Bench
from .registry import all_cases
from .shapes import SHAPES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .measure import Row


def run(parsed: argparse.Namespace) -> int:
    """Measure what the parsed command line asks for; 1 if a kernel was wrong, else 0."""
    workloads = _chosen("--workloads", parsed.workloads, list(SHAPES))
    names = _chosen("--kernels", parsed.kernels, sorted(kernels.__all__))
    device = resolve_device(parsed.device)
    if on_gpu := device.type == "cuda":
        torch.cuda.set_device(device)
    dtype = _dtype(parsed.dtype, device)
    repeats = _positive("--repeats", parsed.repeats, 30 if on_gpu else 9)
    scale = _positive("--scale", parsed.scale, 1 if on_gpu else 16)
    for path in filter(None, (parsed.csv, parsed.png)):
        if not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}; make it first")
    if parsed.png:
        table.require_matplotlib()
    interpreted = parsed.tiny and not on_gpu and os.environ.get("TRITON_INTERPRET") == "1"
    impl = "triton" if interpreted else "auto"
    compiles = on_gpu if parsed.compile is None else parsed.compile
    stamp = stamped(device)
    title = ", ".join(f"{name} {value}" for name, value in stamp.items())
    print(title)
    bench = Bench(device, dtype, impl, repeats, compiles, parsed.tiny)
    copy, read = bench.bandwidth.copy / 1e9, bench.bandwidth.read / 1e9
    print(f"memory: copy {copy:.0f} GB/s, read {read:.0f} GB/s; shares are of the larger")
    print(table.HEADER)
    rows: list[Row] = []
    for case in all_cases(workloads, names, scale=scale, tiny=parsed.tiny):
        rows.append(bench.row(case))
        print(table.line(rows[-1]), flush=True)
        if parsed.csv:
            table.append_csv(parsed.csv, rows[-1], stamp)
    if parsed.png:
        table.draw_png(parsed.png, rows, title)
    red = sum(row["check"] != "green" for row in rows)
    print(f"{len(rows)} cases, {red} red")
    return 1 if red else 0


def stamped(device: torch.device) -> dict[str, str]:
    """Where, with what and when rows were measured."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": timing.machine(device),
        "torch": torch.__version__,
        "triton": _triton(),
        "commit": timing.commit(),
    }


def _triton() -> str:
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "none"


def _chosen(flag: str, given: Sequence[str] | None, known: list[str]) -> list[str]:
    if unknown := sorted(set(given or ()) - set(known)):
        raise ValueError(f"{flag}: unknown {', '.join(unknown)}; choose from {', '.join(known)}")
    return [name for name in known if given is None or name in given]


def _dtype(name: str | None, device: torch.device) -> torch.dtype:
    if name is not None:
        if name == "int8":
            raise ValueError("dtype 'int8' is not supported: kernels compute in floats")
        return resolve_dtype(name, {}, device)
    if device.type == "cpu":
        return torch.float32
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bfloat16 else torch.float16


def _positive(flag: str, given: int | None, default: int) -> int:
    if given is not None and given < 1:
        raise ValueError(f"{flag} is {given}: it must be at least 1")
    return default if given is None else given
