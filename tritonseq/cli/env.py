"""Environment of a bug report: versions and hardware."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGES = ("triton", "safetensors", "huggingface_hub", "tqdm")
_EXTRAS = ("tokenizers", "sentencepiece", "rouge-score", "sacrebleu", "numpy", "transformers")
_HOME = Path(__file__).parent
_DRIVER = Path("/proc/driver/nvidia/version")


def describe() -> Iterator[tuple[str, str]]:
    """Pairs of name and value."""
    yield "tritonseq", f"{_version('tritonseq')}, {_commit() or 'of no known commit'}"
    yield "installed in", str(_HOME)
    yield "python", f"{platform.python_version()}, {sys.executable}"
    yield "system", platform.platform()
    yield "torch", torch.__version__
    for package in (*_PACKAGES, *_EXTRAS):
        yield package, _version(package)
    yield "CPU", f"{_cpu()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"
    yield "torch threads", str(torch.get_num_threads())
    yield "memory", _memory()
    yield from _accelerators()


def _accelerators() -> Iterator[tuple[str, str]]:
    if torch.version.hip or torch.version.cuda:
        built = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        yield "torch built for", built
    if _DRIVER.is_file():
        yield "NVIDIA driver", driver_version(_DRIVER.read_text(encoding="utf-8"))
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"{properties.major}.{properties.minor}"
        yield f"GPU {index}", f"{properties.name}, capability {capability}, {_gpu_memory(index)}"
    if not torch.cuda.device_count():
        yield "GPU", "none that torch sees"


def driver_version(text: str) -> str:
    """The number of a driver, from what it says of itself."""
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    return found[0] if found else text.strip()


def _gpu_memory(index: int) -> str:
    try:
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        # A device that is full or broken is what the report is about.
        return f"memory unknown: {str(error).splitlines()[0]}"
    return _of(free, total)


def _memory() -> str:
    """Free memory is what new programs can have, caches of files included."""
    info = Path("/proc/meminfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", "\n".join(lines), re.MULTILINE))
    if not {"MemAvailable", "MemTotal"} <= sizes.keys():
        return "unknown"
    return _of(int(sizes["MemAvailable"]) * 1024, int(sizes["MemTotal"]) * 1024)


def _of(free: int, total: int) -> str:
    return f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"


def _commit() -> str | None:
    """The commit that pip installed or that is checked out; None if neither can be told."""
    direct = metadata.distribution("tritonseq").read_text("direct_url.json")
    commit = json.loads(direct).get("vcs_info", {}).get("commit_id") if direct else None
    if commit or not (_HOME.parent / ".git").exists():
        return f"commit {commit}" if commit else None
    command = ["git", "-C", str(_HOME.parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"commit {done.stdout.strip()}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    """The model's name where Linux tells it, else the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
