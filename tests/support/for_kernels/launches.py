"""Counting what a step would launch on a GPU, on a machine without one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tritonseq.kernels import is_gpu
from tritonseq.kernels import launch as _launch

if TYPE_CHECKING:
    from collections.abc import Iterator

# What only makes memory, or looks at it in another way.
ALLOCATIONS = ("empty", "new_empty", "empty_like", "empty_strided", "_unsafe_view", "detach")


class Launches(TorchDispatchMode):
    """The names of all launches while it is entered: torch's operators and Triton's kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        is_view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if not is_view and name not in ALLOCATIONS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def as_on_gpu() -> Iterator[None]:
    """Every operation takes the Triton path, in the interpreter where there is no GPU."""
    # Modules hold the predicate under names of their own: its code is exchanged, not a name.
    own, is_gpu.__code__ = is_gpu.__code__, (lambda device: device.type != "meta").__code__
    try:
        yield
    finally:
        is_gpu.__code__ = own


@contextlib.contextmanager
def counted(*, dry: bool = False) -> Iterator[list[str]]:
    """As on a GPU; the list receives the name of every launch.

    A `dry` run leaves Triton's kernels out, and memory as it happens to be.
    """
    launches, run = Launches(), _launch.Launch.run

    def record(launch: _launch.Launch) -> None:
        launches.names.append(launch.kernel.__name__.lstrip("_"))
        if dry:
            return
        # What the interpreter does to run a kernel is no launch.
        with _disable_current_modes():
            run(launch)

    with as_on_gpu(), mock.patch.object(_launch.Launch, "run", record), torch.no_grad(), launches:
        yield launches.names
