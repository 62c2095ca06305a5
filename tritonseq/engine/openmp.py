"""The threads that torch's operators run on, which belong to the thread that called them."""

from __future__ import annotations

import ctypes

# Of OpenMP 5.0: keep what may be kept, but no threads.
_SOFT = 1


def let_go_of_threads() -> None:
    """End the OpenMP threads of the calling thread; the next operator makes new ones.

    Every thread that computes has threads of its own. Where all together are more than there are
    cores, GNU's OpenMP stops spinning between two operators, and sleeps: small products then take
    twice as long, even if only one of the threads computes. Does nothing without such a library.
    """
    pause = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None)
    if pause is not None:
        pause(_SOFT)
