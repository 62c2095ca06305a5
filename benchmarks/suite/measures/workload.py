"""One of the five workloads: ours, twice over, and what it is compared with."""

from __future__ import annotations

import gc
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from generate import engines

from suite.stopwatch import seconds_of, series, summary

from .baselines import StaticCache, Transformers
from .ours import Runner, case_of, job_of, memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from suite.task import Task

    from .cases import SuiteCase

WARM_UPS, REPEATS = 2, 5
# A compilation of transformers is not begun with less than this many seconds left.
COMPILATION = 25.0


def run(task: Task) -> None:
    case = case_of(task, task.name)
    task.keep("title", case.title)
    task.attempt("ours", measure_ours, case, task)
    release()
    if case.workload.model == "unilm":
        task.attempt("theirs", baseline, engines.Reprojection, "theirs", case, task)
        return
    task.attempt("theirs", baseline, Transformers, "theirs", case, task)
    release()
    if case.workload.beams == 1:
        # With beams transformers makes new caches at every step, static or not.
        task.attempt(
            "theirs static",
            baseline,
            StaticCache,
            "theirs static",
            case,
            task,
            needs=0.0 if task.setting.rehearse else COMPILATION,
        )


def measure_ours(case: SuiteCase, task: Task) -> dict[str, Any]:
    """Two series of the same version: what lies between them is noise."""
    device = task.device
    runner = Runner(engines.Tritonseq(job_of(case, task)), case)
    # Compilation and capture are in the first of them.
    figures: dict[str, Any] = {
        "warm-ups s": [round(seconds, 4) for seconds in series(runner, device, WARM_UPS)]
    }
    task.keep("ours", figures)
    first, second = (series(runner, device, REPEATS) for _ in range(2))

    def one() -> None:
        runner.run(new_tokens=1)

    one()
    prefill = statistics.median(series(one, device, 3))
    middle = statistics.median(first + second)
    steps = case.workload.new_tokens - 1
    noise = abs(statistics.median(first) / statistics.median(second) - 1)
    return figures | {
        **summary(first + second),
        "noise": round(noise, 4),
        "prefill s": round(prefill, 6),
        "ms/step": round((middle - prefill) / steps * 1e3, 5),
        "batch": case.workload.batch,
        **rates(case, middle, case.workload.batch),
        "memory GB": memory(device),
    }


def rates(case: SuiteCase, seconds: float, batch: int) -> dict[str, float]:
    tokens = batch * case.workload.new_tokens
    return {
        "samples/s": float(f"{batch / seconds:.4g}"),
        "tokens/s": float(f"{tokens / seconds:.4g}"),
    }


def baseline(make: Callable[[engines.Job], Any], name: str, case: SuiteCase, task: Task) -> Any:
    """The other engine at the largest batch that fits, the workload's own at most."""
    batch = case.workload.batch
    refused: list[int] = []
    while True:
        smaller = replace(case, workload=replace(case.workload, batch=batch))
        try:
            figures = time_baseline(make, name, smaller, task)
            return figures | {"out of memory at batch": refused}
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
        # Outside of the handler, which holds the frames that hold the memory.
        refused.append(batch)
        batch //= 2
        release()


def time_baseline(make: Any, name: str, case: SuiteCase, task: Task) -> dict[str, Any]:
    """One warm-up, then up to two timed runs; each is kept as soon as it is there."""
    runner = Runner(make(job_of(case, task)), case)
    engine, device, batch = runner.engine, task.device, case.workload.batch
    kind = getattr(engine, "words", "transformers")
    figures: dict[str, Any] = {"engine": kind, "batch": batch}
    runner.run(new_tokens=2)
    warm_up = seconds_of(runner, device)
    seconds: list[float] = []
    while True:
        known = seconds or [warm_up]
        figures |= {
            "warm-up s": round(warm_up, 4),
            "timed runs": len(seconds),
            **summary(known),
            **rates(case, statistics.median(known), batch),
            "memory GB": memory(device),
        }
        task.keep(name, figures)
        if len(seconds) == 2 or task.left < 1.2 * known[-1] + 1:
            return figures
        seconds.append(seconds_of(runner, device))


def release() -> None:
    """Give the memory of an engine back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
