"""Writes all checkpoints while the device is busy with something else."""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING

from . import store

if TYPE_CHECKING:
    from pathlib import Path

    from .task import Task


def run(task: Task) -> None:
    jobs = [(name, task.setting.work, task.setting.rehearse) for name in store.NAMES]
    # No GPU is touched in this process, so that a fork is safe and spares the imports.
    with multiprocessing.get_context("fork").Pool(len(jobs)) as pool:
        for name, seconds in pool.imap_unordered(write, jobs):
            task.keep(f"{name} s", round(seconds, 1))


def write(job: tuple[str, Path, bool]) -> tuple[str, float]:
    name, work, tiny = job
    start = time.monotonic()
    store.checkpoint(name, work, tiny=tiny)
    return name, time.monotonic() - start
