"""What each idea is worth: the same work without it, per decode step.

A step is timed as the difference between a whole run and one of a single token.

- per beam: every beam is a sample of its own, with its own copy of prompt or source; as many rows
  go through the layers, but nothing is shared.
- reorder: the time of moving all caches of the average step to the places of other beams, as an
  engine without a lineage has to; `with source`: as one that keeps the source per beam as well.
- eager: the same launches, not replayed from a graph.
- n-gram blocking 3 and ragged are no ideas left out but other work: a processor more, and inputs of
  half to full length, of which only the true part is read.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from generate import engines

from suite.stopwatch import series

from .ours import Runner, case_of, job_of, switch_graphs
from .workload import release

if TYPE_CHECKING:
    from collections.abc import Callable

    from suite.task import Task

    from .cases import SuiteCase

MEASURED = ("gpt2-beams", "bart")
REPEATS = 2


def run(task: Task) -> None:
    for name in MEASURED:
        case = case_of(task, name)
        for variant, measure in VARIANTS.items():
            task.attempt(
                f"{name}: {variant}",
                measure,
                case,
                task,
                needs=0.0 if task.setting.rehearse else 4.0,
            )
            release()


def runner_of(case: SuiteCase, task: Task, make: Any = engines.Tritonseq) -> Runner:
    return Runner(make(job_of(case, task)), case)


def step_ms(runner: Runner, case: SuiteCase, task: Task) -> dict[str, Any]:
    """Milliseconds per decode step of ours."""
    times = []
    for tokens in (1, case.workload.new_tokens):

        def work(tokens: int = tokens) -> None:
            runner.run(new_tokens=tokens)

        work()
        times.append(statistics.median(series(work, task.device, REPEATS)))
    steps = case.workload.new_tokens - 1
    return {"ms/step": round((times[1] - times[0]) / steps * 1e3, 5)}


def as_it_is(case: SuiteCase, task: Task) -> dict[str, Any]:
    return step_ms(runner_of(case, task), case, task)


def per_beam(case: SuiteCase, task: Task) -> dict[str, Any]:
    """As many samples as there were beams, so that each row reads a source of its own."""
    workload = case.workload
    rows = replace(workload, batch=workload.batch * workload.beams, options={})
    case = replace(case, workload=rows)
    return step_ms(runner_of(case, task), case, task)


def eager(case: SuiteCase, task: Task) -> dict[str, Any]:
    runner = runner_of(case, task)
    if task.device.type != "cuda":
        return {"note": "not measured: no GPU, so no graphs"}
    if not switch_graphs(runner.engine.model, False):
        return {"note": "not measured: this model has no graphs to switch off"}
    return step_ms(runner, case, task)


def ngrams(case: SuiteCase, task: Task) -> dict[str, Any]:
    options = case.workload.options | {"no_repeat_ngram_size": 3}
    case = replace(case, workload=replace(case.workload, options=options))
    return step_ms(runner_of(case, task), case, task)


class Ragged(engines.Tritonseq):
    """Half of the tokens of an input are padding at the most, by sample."""

    def _run(self, **options: Any) -> Any:
        inputs = self.job.inputs
        samples, length = inputs.shape
        pads = torch.arange(samples, device=inputs.device) * (length // 2) // samples
        places = torch.arange(length, device=inputs.device)
        if self.job.workload.has_source:
            # Sources are padded on the right, prompts on the left.
            places = places.flip(0)
        mask = places >= pads[:, None]
        return self.model.generate(inputs, attention_mask=mask.long(), **options)


def ragged(case: SuiteCase, task: Task) -> dict[str, Any]:
    return step_ms(runner_of(case, task, Ragged), case, task)


def reorder(case: SuiteCase, task: Task, *, source: bool = False) -> dict[str, Any]:
    """Move every layer's keys and values once, at the average length of the generated part."""
    workload, (layers, width, _) = case.workload, case.shape
    rows = workload.batch * workload.beams
    length = workload.new_tokens // 2 + (workload.source if source else 0)
    shape = (rows, width // 64, length, 64)
    # One layer's at a time, layer after layer as in a step, is more than any cache holds.
    caches = [torch.rand(shape, device=task.device).to(task.dtype) for _ in range(2)]
    parents = torch.randint(workload.beams, (rows,), device=task.device)
    parents += torch.arange(rows, device=task.device) // workload.beams * workload.beams

    def move() -> None:
        for _ in range(layers):
            for cache in caches:
                cache.index_select(0, parents)

    move()
    seconds = statistics.median(series(move, task.device, REPEATS))
    moved = 2 * layers * sum(cache.nbytes for cache in caches)
    return {"added ms/step": round(seconds * 1e3, 5), "bytes": moved}


def reorder_with_source(case: SuiteCase, task: Task) -> dict[str, Any]:
    return reorder(case, task, source=True)


VARIANTS: dict[str, Callable[[SuiteCase, Task], dict[str, Any]]] = {
    "as it is": as_it_is,
    "per beam": per_beam,
    "reorder": reorder,
    "reorder with source": reorder_with_source,
    "eager": eager,
    "n-gram blocking 3": ngrams,
    "ragged": ragged,
}
