"""Torch's settings: those of the user, which requests work beside, and threads of OpenMP."""

from __future__ import annotations

import contextlib
import ctypes
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


T = TypeVar("T")


@contextlib.contextmanager
def own(device: torch.device) -> Iterator[None]:
    """Meanwhile tensors without a named device are the host's, and operators keep their dtypes.

    A default device or an autocast of the user's is for the user's own code: a model computes on
    the `device` and in the dtype of its weights. Not to be held across a `yield`, behind which
    that code runs.
    """
    with contextlib.ExitStack() as settings:
        # Such a mode slows down every operator, so it is entered only where needed.
        if torch.get_default_device().type != "cpu":
            settings.enter_context(torch.device("cpu"))
        if torch.is_autocast_enabled(device.type):
            settings.enter_context(torch.autocast(device.type, enabled=False))
        yield


def each_on_its_own(items: Iterator[T], device: torch.device) -> Iterator[T]:
    """The items, each made under `own`; between them the user's settings hold."""
    with contextlib.ExitStack() as closing:
        if hasattr(items, "close"):
            closing.callback(items.close)
        while True:
            with own(device):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item


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
