"""The descriptors of stdin, stdout and stderr, which some callers have closed."""

from __future__ import annotations

import os


def take_descriptors() -> None:
    """Open those of the first three that are closed, on nothing.

    Else the next file that is opened becomes one of them, and what libraries and child processes
    tell their user is written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest that is free is this one.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
