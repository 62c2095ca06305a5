"""tritonseq at work on a case: loading, running, and the switches of the ablation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from generate import engines

from suite.store import checkpoint_of

from .cases import CASES

if TYPE_CHECKING:
    from suite.task import Task

    from .cases import SuiteCase


def case_of(task: Task, name: str) -> SuiteCase:
    return CASES[name].of(task.dtype, rehearse=task.setting.rehearse)


def job_of(case: SuiteCase, task: Task) -> engines.Job:
    inputs = case.workload.inputs(case.shape.vocabulary, task.device)
    return engines.Job(checkpoint_of(task, case.checkpoint), case.workload, inputs)


class Runner:
    """An engine that reads fresh inputs every time it is run."""

    def __init__(self, engine: Any, case: SuiteCase) -> None:
        self.engine = engine
        self._case = case
        self._seed = 0

    def __call__(self) -> None:
        self.run()

    def run(self, **changes: Any) -> Any:
        """Generate once; `changes` are fields of the workload."""
        job = self.engine.job
        workload = replace(self._case.workload, **changes)
        self._seed += 1
        inputs = workload.inputs(self._case.shape.vocabulary, job.device, seed=self._seed)
        self.engine.job = replace(job, workload=workload, inputs=inputs)
        return self.engine.generate()


def switch_graphs(model: Any, on: bool) -> bool:
    """Whether steps are replayed from graphs; False where this model cannot choose."""
    engines = getattr(model, "engines", None)
    if engines is None or not hasattr(engines, "graphs"):
        return False
    engines.graphs = on
    return True


def memory(device: torch.device) -> float | None:
    """The most GB that were allocated on a GPU."""
    if device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
