"""Checkpoints that several parts read: each is written once, by the first that needs it."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING

from generate import checkpoints, s2s_folder

if TYPE_CHECKING:
    from pathlib import Path

    from .task import Task

UNILM_LARGE = checkpoints.ModelShape(24, 1024, 28996)
NAMES = ("gpt2", "bart", "t5", "unilm-large", "unilm")


def checkpoint(name: str, work: Path, *, tiny: bool) -> Path:
    """The folder of a checkpoint in float32; waits while another process writes it."""
    folder, done = work / f"checkpoint-{name}", work / f"checkpoint-{name}.done"
    with (work / f"checkpoint-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            if name == "unilm-large":
                s2s_folder.write_folder(folder, checkpoints.TINY["unilm"] if tiny else UNILM_LARGE)
            else:
                checkpoints.write_checkpoint(name, folder, tiny=tiny)
            done.touch()
    return folder


def checkpoint_of(task: Task, name: str) -> Path:
    return checkpoint(name, task.setting.work, tiny=task.setting.rehearse)
