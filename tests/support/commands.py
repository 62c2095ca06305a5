"""`tritonseq generate` as its users run it: in a process of its own, which may be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from processes import PATIENCE, children, is_alive, wait_until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

FAULTY = Path(__file__).parent / "faulty"

SLOW = "slow:0.005"
"""The fault of a job that takes its time however fast the machine is."""


@dataclass(frozen=True)
class Job:
    """A command line; `output` is where it writes."""

    model: Path
    source: Path
    output: Path
    flags: tuple[str, ...] = ()

    def arguments(self, *more: str) -> list[str]:
        places = (str(self.model), str(self.source), str(self.output))
        return ["generate", *places, "--device", "cpu", "--quiet", *self.flags, *more]

    def start(self, *more: str, **options: Any) -> Process:
        """Run it; `options` are those of `start`."""
        arguments = self.arguments(*more)
        if any(flag == "--devices" for flag in arguments):
            at = arguments.index("--device")
            del arguments[at : at + 2]
        return start(arguments, **options)

    @property
    def journal(self) -> Path:
        return self.output.with_name(self.output.name + ".journal")

    @property
    def partial(self) -> Path:
        return self.output.with_name(self.output.name + ".partial")

    @property
    def rejected(self) -> Path:
        return self.output.with_name(self.output.name + ".rejected.jsonl")

    @property
    def lines(self) -> int:
        """What is durable: lines of the input, those ahead of their turn counted."""
        state = self._state()
        return int(state["lines"]) + len(state["ahead"])

    @property
    def lines_in_order(self) -> int:
        """Those that are durable and have no gap before them."""
        return int(self._state()["lines"])

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self.journal.read_bytes())
        except (OSError, ValueError):
            return {"lines": 0, "ahead": ()}
        return state

    def results(self) -> tuple[bytes, bytes | None]:
        """The output and the rejected lines; nothing else is left over."""
        names = {path.name for path in self.output.parent.iterdir() if path != self.source}
        assert names <= {self.output.name, self.rejected.name}, names
        rejected = self.rejected.read_bytes() if self.rejected.exists() else None
        return self.output.read_bytes(), rejected


class Process(subprocess.Popen[bytes]):
    """One that the tests have started, and its children."""

    def wait_for(self, happened: Callable[[], bool]) -> bool:
        """Until it happened, or the process has ended: False."""
        wait_until(lambda: self.poll() is not None or happened())
        return self.poll() is None

    def kill_9(self, *, group: bool = False) -> None:
        """And see that no child survives it."""
        family = children(self.pid)
        if group and self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        else:
            self.kill()
        self.finish()
        wait_until(lambda: not any(map(is_alive, family)))

    def finish(self, patience: float = PATIENCE) -> tuple[int, str]:
        """The exit code, and what stands on stderr."""
        try:
            _, told = self.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return self.returncode, (told or b"").decode()


def start(arguments: Sequence[str], *, fault: str | None = None, **options: Any) -> Process:
    """The command in a process group of its own; `fault` is for `faulty`, as "what:of"."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if fault is not None:
        path = (str(FAULTY), environment.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        environment["FAULT"], environment["FAULT_OF"] = fault.split(":")
    usual = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return Process(
        [sys.executable, "-m", "tritonseq", *arguments],
        env=environment,
        start_new_session=True,
        **{**usual, **options},
    )


def kill_at_random(job: Job, rng: random.Random, most: int) -> int:
    """Kill it and go on, up to `most` times, at moments of all its life; how often that was."""
    for kills in range(most):
        process = job.start("--resume", fault=SLOW)
        before = job.lines
        if rng.random() < 0.25:
            # As it starts, or whatever comes by then.
            time.sleep(rng.uniform(0.05, 2.5))
        elif process.wait_for(lambda before=before: job.lines > before):  # type: ignore[misc]
            time.sleep(rng.uniform(0.0, 0.7))
        process.kill_9(group=rng.random() < 0.3)
        if process.returncode != -signal.SIGKILL or (
            job.output.exists() and not job.journal.exists()
        ):
            assert process.returncode in (0, 3, -signal.SIGKILL)
            return kills + (process.returncode == -signal.SIGKILL)
    return most
