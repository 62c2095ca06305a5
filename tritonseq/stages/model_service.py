"""A model in a child process: loads it, and answers rows of ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tritonseq.model import load

from .batching import Answers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .batching import Manner, Row
    from .worker_main import Handler


class Setup(NamedTuple):
    """What `serve` makes `Answers` of."""

    load: Mapping[str, Any]
    """Arguments of `tritonseq.load`."""
    options: Mapping[str, Any]
    """Arguments of `Model.text_job`."""
    manner: Manner
    threads: int | None
    """Of torch, where several processes share the CPU."""


def serve(setup: Setup) -> Handler:
    """For `Remote`: requests are lists of rows, replies lists of answers; None asks for facts."""
    if setup.threads is not None:
        # Fewer if the user says so, by OMP_NUM_THREADS.
        torch.set_num_threads(min(setup.threads, torch.get_num_threads()))
    model = load(**setup.load)
    answers = Answers(model.text_job(**setup.options), setup.manner)

    def handle(rows: list[Row] | None, stopped: Callable[[], bool]) -> Iterator[Any]:
        if rows is None:
            return iter([answers.facts(model)])
        return answers.run(rows, lambda: not stopped())

    return handle
