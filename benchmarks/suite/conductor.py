"""Runs the parts one after the other, each within its time, and loses nothing that they keep."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .task import OUT_OF_TIME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

POLL = 0.2
# A part that has used up its time may still write down what it has.
GRACE = 2.0
# Below this nothing useful comes out of a part.
LEAST = 1.0


class Part(NamedTuple):
    """One part; those that stand together and share a `stage` run at the same time."""

    name: str
    module: str
    """Has a function `run(task)`."""
    stage: str
    seconds: float
    """Its share of a run; what others leave over is divided by these."""


class PartProcess:
    """The process of one part: started early, told to go later."""

    def __init__(self, part: Part, work: Path, environment: Mapping[str, str]) -> None:
        self.part = part
        self.late = False
        self.record = work / f"{part.name}.json"
        self.log = work / f"{part.name}.log"
        setting = work / "setting.json"
        command = [sys.executable, "-m", "suite.child"]
        command += [part.name, part.module, str(setting), str(self.record)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Not in the checkout, whose folders would hide installed packages.
                cwd=work,
                env=dict(environment),
                start_new_session=True,
            )

    def go(self, seconds: float) -> None:
        """Give it its time. The pipe stays open: its end is the end of the child."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{seconds}\n".encode())
            self.process.stdin.flush()

    def stop(self, *, late: bool = False) -> None:
        """End it with all that it started; `late`: because its time is over."""
        self.late = late and self.process.poll() is None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def report(self) -> dict[str, Any]:
        """What it has kept so far."""
        if not self.record.exists():
            return {"status": "running", "results": {}, "failures": {}, "not run": {}}
        content: dict[str, Any] = json.loads(self.record.read_text())
        return content

    def verdict(self) -> dict[str, Any]:
        """What it has kept, once it has been stopped or has ended by itself."""
        report, status = self.report(), self.process.returncode
        if report["status"] != "running":
            return report
        if self.late:
            return report | {"status": OUT_OF_TIME}
        lines = self.log.read_text().strip().splitlines()
        reason = lines[-1] if lines else "no word"
        failures = report["failures"] | {"process": f"ended with status {status}: {reason}"}
        return report | {"status": "failed", "failures": failures}


def stages(parts: Sequence[Part]) -> list[list[Part]]:
    """Parts that run at the same time, in order."""
    found: list[list[Part]] = []
    for part in parts:
        if found and found[-1][0].stage == part.stage:
            found[-1].append(part)
        else:
            found.append([part])
    return found


def conduct(
    parts: Sequence[Part],
    *,
    seconds: float,
    work: Path,
    environment: Mapping[str, str],
    update: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Run the parts within `seconds`; returns what each reported, by name.

    `update` receives the same whenever something has been added to it.
    """
    deadline = time.monotonic() + seconds
    reports = {part.name: {"status": "waiting"} for part in parts}
    groups = stages(parts)
    ready: list[PartProcess] = []
    try:
        ready = [PartProcess(part, work, environment) for part in groups[0]]
        for number, group in enumerate(groups):
            children, ready = ready, []
            left = deadline - time.monotonic()
            if left < LEAST:
                ready = children
                break
            limit = left * share(groups[number:])
            for child in children:
                child.go(limit)
            ready = children.copy()
            if number + 1 < len(groups):
                ready += [PartProcess(part, work, environment) for part in groups[number + 1]]
            print(f"{', '.join(part.name for part in group)}: up to {limit:.0f} s", flush=True)
            watch(children, time.monotonic() + min(limit + GRACE, left), reports, update)
            ready = ready[len(children) :]
    finally:
        for child in ready:
            child.stop()
    for report in reports.values():
        if report["status"] == "waiting":
            report["status"] = f"not run: {OUT_OF_TIME}"
    update(reports)
    return reports


def share(groups: Sequence[Sequence[Part]]) -> float:
    """How much of the time that is left goes to the first stage."""
    wanted = [max(part.seconds for part in group) for group in groups]
    return wanted[0] / sum(wanted)


def watch(
    children: Sequence[PartProcess],
    deadline: float,
    reports: dict[str, Any],
    update: Callable[[dict[str, Any]], None],
) -> None:
    """Wait for the children of one stage, and stop those that do not end in time."""
    running = list(children)
    while running:
        for child in running.copy():
            late = time.monotonic() > deadline
            if child.process.poll() is not None or late:
                child.stop(late=late)
                reports[child.part.name] = child.verdict()
                running.remove(child)
                update(reports)
                tell(child.part.name, reports[child.part.name])
            elif (report := child.report()) != reports[child.part.name]:
                reports[child.part.name] = report
                update(reports)
        time.sleep(POLL)


def tell(name: str, report: Mapping[str, Any]) -> None:
    """One line on how a part ended, and one for each failure."""
    print(f"  {name}: {report['status']} after {report.get('seconds', '?')} s", flush=True)
    for what, reason in report.get("failures", {}).items():
        print(f"    {what}: {reason}", flush=True)
