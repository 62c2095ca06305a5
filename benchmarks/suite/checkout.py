"""Makes a checkout importable where nothing is installed.

`kernels/` and `models/` stand beside `tritonseq/`, and an installation maps them into it. A folder
of links does the same, for every process that has it on PYTHONPATH.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
INSIDE = ("kernels", "models")


def link_package(folder: Path) -> None:
    """Fill `folder` so that `tritonseq`, its kernels and its models are importable from it."""
    package = folder / "tritonseq"
    package.mkdir(parents=True)
    for path in [*(ROOT / "tritonseq").iterdir(), *(ROOT / name for name in INSIDE)]:
        # Where links lie in the source tree, they say the same as ours.
        if path.name != "__pycache__" and not (package / path.name).is_symlink():
            (package / path.name).symlink_to(path.resolve())


def environment(links: Path, *, rehearse: bool) -> dict[str, str]:
    """The environment of processes that import the checkout, and the modules of the benchmarks."""
    before = os.environ.get("PYTHONPATH")
    paths = [str(links), str(BENCHMARKS), *([before] if before else [])]
    variables = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Models come from folders; a machine without a network must not wait for one.
        "HF_HUB_OFFLINE": "1",
    }
    if rehearse:
        variables |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | variables
