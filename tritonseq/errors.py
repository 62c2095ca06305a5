"""How a job ends that cannot go on."""

from __future__ import annotations


class JobFailed(RuntimeError):
    """Something outside the input went wrong: the disk, a worker, the memory.

    What is done is kept, and the same command with --resume goes on from there.
    """
