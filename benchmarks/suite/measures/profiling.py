"""Where the time of a decode step goes: kernels and their number, beside the time by the clock.

What a run of some tokens has more than a run of one token is that of its steps.
"""

from __future__ import annotations

import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from generate import engines
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from suite.stopwatch import seconds_of, series

from .cases import CASES
from .ours import Runner, case_of, job_of
from .workload import release

if TYPE_CHECKING:
    from collections.abc import Mapping

    from suite.task import Task

    from .cases import SuiteCase

TOP = 12
TOKENS = 33
NAME = 60
"""Letters of a kernel's name; templates have thousands."""


def run(task: Task) -> None:
    for name in CASES:
        case = case_of(task, name)
        needs = 0.0 if task.setting.rehearse else 6.0
        task.attempt(name, measure, case, task, needs=needs)
        release()


class Spent(NamedTuple):
    """Seconds of a run by the clock; microseconds and launches of it by kernel."""

    seconds: float
    micros: Mapping[str, float]
    launches: Mapping[str, int]


def measure(case: SuiteCase, task: Task) -> dict[str, Any]:
    tokens = min(TOKENS, case.workload.new_tokens)
    runner = Runner(engines.Tritonseq(job_of(case, task)), case)
    steps = tokens - 1
    short, long = (run_of(length, runner, task) for length in (1, tokens))
    micros, launches = Counter(long.micros), Counter(long.launches)
    micros.subtract(short.micros)
    launches.subtract(short.launches)
    wall = (long.seconds - short.seconds) / steps * 1e6
    busy = sum(micros.values()) / steps
    return {
        "what": "kernels" if task.device.type == "cuda" else "operators on the CPU: no GPU",
        "new tokens": tokens,
        "wall us/step": round(wall, 2),
        "kernels us/step": round(busy, 2),
        "kernels / wall": round(busy / wall, 3),
        "launches/step": round(sum(launches.values()) / steps, 1),
        "top": [
            {
                "kernel": name[:NAME],
                "us/step": round(total / steps, 2),
                "launches/step": round(launches[name] / steps, 1),
            }
            for name, total in micros.most_common(TOP)
        ],
    }


def run_of(length: int, runner: Runner, task: Task) -> Spent:
    """A run of so many tokens: timed first, and then profiled, which takes longer."""

    def work() -> None:
        runner.run(new_tokens=length)

    work()
    seconds = statistics.median(series(work, task.device, 3))
    on_gpu = task.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=activities) as recorded:
        seconds_of(work, task.device)
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    events = [event for event in recorded.events() if event.device_type == wanted]
    micros: Counter[str] = Counter()
    for event in events:
        micros[event.name] += event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
    return Spent(seconds, micros, Counter(event.name for event in events))
