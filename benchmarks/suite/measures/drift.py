"""How far half precision is from float32, ours beside the other's own: along given tokens, as the
largest difference of log-probabilities, and by the share of sequences that stay the same.

Random logits are flat, so that sequences part at once for any two correct implementations: only
beside the other's share does ours mean anything.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from generate import checkpoints, engines
from generate.workloads import Workload

from suite.store import checkpoint_of

from .baselines import Transformers

if TYPE_CHECKING:
    from torch import Tensor

    from suite.task import Task

BEAMS = {"num_beams": 4}
WORKLOADS = {
    "gpt2": Workload("gpt2", 8, 256, 32, options=BEAMS),
    "bart": Workload("bart", 8, 256, 32, options=BEAMS),
    "t5": Workload("t5", 8, 64, 32, options=BEAMS),
    "unilm": Workload(
        "unilm", 8, 256, 32, options={"num_beams": 5, "search": "unilm", "length_penalty": 0.0}
    ),
}
# Twice the error of the other, and more than what float32 itself leaves open, is a fault.
ERROR_RATIO = 2.0


def run(task: Task) -> None:
    for name in WORKLOADS:
        found = task.attempt(name, measure, name, task, needs=5.0)
        if found and not found["ratio"] <= ERROR_RATIO:
            task.fail(f"{name} error", f"{found['ratio']} times that of {found['reference']}")


def measure(name: str, task: Task) -> dict[str, Any]:
    rehearse = task.setting.rehearse
    workload = WORKLOADS[name].shrunk() if rehearse else WORKLOADS[name]
    vocabulary = checkpoints.shape_of(name, rehearse).vocabulary
    inputs = workload.inputs(vocabulary, task.device)
    folder = checkpoint_of(task, name)
    other = engines.Reprojection if name == "unilm" else Transformers
    jobs = {
        dtype: engines.Job(folder, replace(workload, dtype=dtype), inputs)
        for dtype in (torch.float32, task.dtype)
    }
    exact, exact_ids = logs_and_ids(other, jobs[torch.float32])
    ours, ids = logs_and_ids(engines.Tritonseq, jobs[task.dtype])
    theirs, other_ids = logs_and_ids(other, jobs[task.dtype])
    errors = {"ours": distance(ours, exact), "theirs": distance(theirs, exact)}
    return {
        "reference": "transformers" if name != "unilm" else "upstream's method",
        "max |dlogprob| ours": errors["ours"],
        "max |dlogprob| theirs": errors["theirs"],
        "ratio": round(errors["ours"] / max(errors["theirs"], 1e-12), 3),
        "same sequences ours": same(ids, exact_ids),
        "same sequences theirs": same(other_ids, exact_ids),
    }


def logs_and_ids(make: Any, job: engines.Job) -> tuple[Tensor, Tensor]:
    """Log-probabilities along given tokens and the generated ids, with the engine gone again."""
    engine = make(job)
    found = engine.forced_logits().log_softmax(-1), engine.generate()
    del engine
    gc.collect()
    return found


def distance(logs: Tensor, exact: Tensor) -> float:
    return round(float((logs - exact).abs().max()), 6)


def same(ids: Tensor, exact: Tensor) -> float:
    """The share of equal sequences."""
    return round(float((ids == exact).all(1).float().mean()), 3)
