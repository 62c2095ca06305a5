"""The benchmark of the kernels, as a process of its own."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from typing import TYPE_CHECKING

from suite.checkout import BENCHMARKS

if TYPE_CHECKING:
    from suite.task import Task

SCRIPT = BENCHMARKS / "bench_kernels.py"
MARGIN = 2.0


def run(task: Task) -> None:
    out = task.setting.out
    table, chart = out / "kernels.csv", out / "kernels.png"
    command = [sys.executable, str(SCRIPT), "--device", task.setting.device]
    # Rows are appended, and these are to be of this run alone.
    table.unlink(missing_ok=True)
    # Compiling the plain formulations with torch.compile would take most of the time.
    command += ["--csv", str(table), "--no-compile"]
    if importlib.util.find_spec("matplotlib") is not None:
        command += ["--png", str(chart)]
    if task.setting.rehearse:
        command += ["--tiny", "--repeats", "1", "--workloads", "a"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=max(0.0, task.left - MARGIN),
        )
    except subprocess.TimeoutExpired as stopped:
        output = stopped.stdout or b""
        print(output.decode() if isinstance(output, bytes) else output)
        task.skip("rest", "out of time: the rows that it had are kept")
    else:
        print(done.stdout)
        if done.returncode:
            last = done.stdout.strip().splitlines()[-3:]
            task.fail("bench_kernels.py", f"status {done.returncode}: {' | '.join(last)}")
    if table.exists():
        with table.open() as file:
            task.keep("rows", list(csv.DictReader(file)))
