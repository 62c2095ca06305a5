"""What a bug report needs: versions and hardware."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGES = ("tritonseq", "torch", "triton", "safetensors", "huggingface_hub", "tokenizers")


def describe() -> Iterator[tuple[str, str]]:
    """Pairs of name and value."""
    yield "python", platform.python_version()
    yield "system", platform.platform()
    for package in _PACKAGES:
        yield package, _version(package)
    yield "CPU", _cpu()
    yield "CPU cores", str(os.cpu_count())
    yield "torch threads", str(torch.get_num_threads())
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        capability = f"{properties.major}.{properties.minor}"
        yield f"GPU {index}", f"{properties.name}, {memory:.0f} GiB, capability {capability}"
    if not torch.cuda.device_count():
        yield "GPU", "none"


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
