"""Every kernel compiles, without spilling, for GPUs that this machine need not have."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tritonseq.bench.registry import LAUNCHES

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compile_report.py"
KERNELS = SCRIPT.parents[1] / "kernels"
TARGETS = ["sm_75", "sm_80", "sm_90", "sm_100", "gfx942"]
# Those that differ most; the others take half a minute each.
MOST = ["sm_90", "gfx942"]
USUAL = [t if t in MOST else pytest.param(t, marks=pytest.mark.long) for t in TARGETS]


def report(target: str, folder: Path, *options: str) -> list[dict[str, str]]:
    # In this process kernels may be interpreted; there they are compiled.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    table = folder / "table.csv"
    command = [sys.executable, str(SCRIPT), "--targets", target, "--csv", str(table), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return list(csv.DictReader(table.open()))


@pytest.mark.parametrize("target", USUAL)
def test_usual(target, tmp_path):
    rows = report(target, tmp_path)
    assert {row["kernel"] for row in rows} >= {"attend", "reduce", "ban"}
    assert all(int(row["registers"]) > 0 for row in rows)
    dtypes = {row["case"].split()[0] for row in rows if row["kernel"] == "attend"}
    assert dtypes == ({"float16"} if target == "sm_75" else {"float16", "bfloat16", "float32"})


def test_no_module_of_kernels_is_left_out():
    assert set(LAUNCHES) == {path.parent.name for path in KERNELS.glob("*/kernel.py")}


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_all(target, tmp_path):
    report(target, tmp_path, "--all")


def test_a_failure_is_reported(tmp_path):
    # The report must be able to fail: here a target has no room for any tile.
    sabotage = (
        "import itertools, sys; sys.argv[1:] = ['--targets', 'sm_90']\n"
        f"sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        "import compile_report as c\n"
        "c.TARGETS['sm_90'] = (c.TARGETS['sm_90'][0], 100)\n"
        "from tritonseq.bench.launches import attention\n"
        "first = lambda target, every: itertools.islice(attention.cases(target, every), 1)\n"
        "c.all_launches = first\n"
        "sys.exit(c.main())\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", sabotage]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "BAD" in done.stdout
