"""The tests of the kernels on the device itself, divided among several processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from .checkout import ROOT
from .shard import VARIABLE
from .task import OUT_OF_TIME

if TYPE_CHECKING:
    from .task import Task

FOLDER = ROOT / "tests" / "kernels"
GRAPHS = f"{ROOT / 'tests' / 'engine' / 'test_engine.py'}::TestGraphs"
"""Captured steps: that they equal calls, never wait, and leave nothing behind."""
# Most of the time goes into compiling, which a core does for each.
MOST = 12
# It compiles for GPUs that are not there, which tells nothing of this one.
LEFT_OUT = "test_compile.py"
REHEARSED = ["test_launch.py", "test_ngrams.py", "-k", "not triton and (launch or row or pads)"]
"""A few quick ones."""
NOTHING_CHOSEN = 5
"""pytest's exit status where a process was left without a test."""
RESULT = re.compile(r"^(\S*?\.py::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
REASON = re.compile(r"^(?:FAILED|ERROR) (\S*?\.py::.+?) - (.*)$")
# Written down when the time is nearly over, rather than lost with the process.
MARGIN = 3.0


def run(task: Task) -> None:
    count = 2 if task.setting.rehearse else max(1, min(MOST, (os.cpu_count() or 1) - 2))
    with ThreadPoolExecutor(count) as pool:
        for number, report in enumerate(pool.map(lambda n: test(n, count, task), range(count))):
            name = f"shard {number + 1} of {count}"
            task.keep(name, report)
            if report["ended"] == OUT_OF_TIME:
                task.skip(name, f"{OUT_OF_TIME} after {report['passed']} tests passed")
            if report["failed"]:
                names = ", ".join(report["failed"])
                task.fail(name, f"{len(report['failed'])} failed: {names[:600]}")
            elif report["ended"] == "done" and report["exit status"] not in (0, NOTHING_CHOSEN):
                task.fail(name, f"exit status {report['exit status']}: {report['last words']}")


def test(number: int, count: int, task: Task) -> dict[str, Any]:
    """Run one share; counts, and the failures by name."""
    log = task.setting.work / f"tests-{number}.log"
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"]
    command += ["-p", "suite.shard", "-m", "not long"]
    command += ["-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}"]
    if task.setting.rehearse:
        command += [str(FOLDER / name) if name.endswith(".py") else name for name in REHEARSED]
    else:
        command += [GRAPHS, str(FOLDER), f"--ignore={FOLDER / LEFT_OUT}"]
    start = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=task.setting.work,
            env=os.environ | {"COLUMNS": "400", VARIABLE: f"{number}/{count}"},
        )
        try:
            status, ended = process.wait(timeout=max(0.0, task.left - MARGIN)), "done"
        except subprocess.TimeoutExpired:
            process.kill()
            status, ended = process.wait(), OUT_OF_TIME
    text = log.read_text(errors="replace")
    return read(text) | {
        "ended": ended,
        "exit status": status,
        "seconds": round(time.monotonic() - start, 1),
        "last words": text.strip("=\n ").rpartition("\n")[2].strip("= "),
    }


def read(text: str) -> dict[str, Any]:
    """Counts and failures of pytest's own output, complete or cut off."""
    lines = text.splitlines()
    results = {m[1]: m[2] for line in lines if (m := RESULT.match(line))}
    reasons = {m[1]: m[2] for line in lines if (m := REASON.match(line))}
    ended = list(results.values())
    return {
        "passed": ended.count("PASSED"),
        "skipped": ended.count("SKIPPED"),
        "failed": {
            name.rpartition("/")[2]: reasons.get(name, "")
            for name, result in results.items()
            if result in ("FAILED", "ERROR")
        },
    }
