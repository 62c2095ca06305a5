"""Torch state: settings of the user's, which requests work beside."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


T = TypeVar("T")


@contextlib.contextmanager
def isolated(device: torch.device) -> Iterator[None]:
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


def isolated_items(items: Iterator[T], device: torch.device) -> Iterator[T]:
    """The items, each made `isolated`; between them the user's settings hold."""
    with contextlib.ExitStack() as closing:
        if hasattr(items, "close"):
            closing.callback(items.close)
        while True:
            with isolated(device):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item
