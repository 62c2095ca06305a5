"""The engines of one model: made when they are asked for, and kept as long as they fit."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, NamedTuple

import torch

from tritonseq.kernels import is_gpu

from .memory_plan import free_memory
from .torch_state import let_go_of_threads, precision

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from tritonseq.decoding.search import Search

    from .engine import Engine
    from .memory_plan import Plan

logger = logging.getLogger(__name__)

# Engines that a model keeps, at most, and the share of a GPU's free memory that they may hold. A
# few are enough for batches of like shapes; the rest is for weights of other models and prefills.
KEPT = 8
SHARE = 0.5


class _Idle(NamedTuple):
    key: Hashable
    engine: Engine
    size: int


class Engines:
    """Lends engines to requests, each to one at a time; any thread may ask.

    On the CPU an engine is a few buffers, whose memory is used again anyway, so each request gets
    its own. On a GPU it also is a captured graph, and worth keeping.
    """

    def __init__(self, graphs: bool = True) -> None:
        self._graphs = graphs
        self._lock = threading.Lock()
        self._idle: list[_Idle] = []
        self._refused: set[Hashable] = set()
        _ALL.add(self)

    @property
    def graphs(self) -> bool:
        """Are steps captured in CUDA graphs? Changing this lets go of all that were."""
        return self._graphs

    @graphs.setter
    def graphs(self, wanted: bool) -> None:
        self._graphs = wanted
        self.clear()

    @contextlib.contextmanager
    def lend(
        self,
        key: Hashable,
        plan: Plan,
        device: torch.device,
        build: Callable[[bool], Engine],
        search: Search,
    ) -> Iterator[Engine]:
        """An engine for `key`: one that was kept, or what `build(with_graphs)` makes.

        `search` is that of the request. Raises DoesNotFit if there is no memory for another.
        """
        # What products round to is part of a graph.
        key = (key, precision())
        # Buffers that serve other calls must not be inference tensors.
        with torch.inference_mode(False):
            engine = self._take(key) or self._make(key, plan, device, build)
            engine.adopt(search)
        # After an error nobody knows what stands in its buffers, and it is dropped. One that is
        # left half-way is as good as any: samples are admitted to it anew.
        with contextlib.suppress(GeneratorExit):
            yield engine
        engine.leave()
        if engine.is_captured:
            self._keep(_Idle(key, engine, plan.total), device)

    def __reduce__(self) -> tuple[type[Engines], tuple[bool]]:
        """Copies of a model, and those in other processes, make their own engines."""
        return Engines, (self._graphs,)

    def clear(self) -> None:
        """Let go of everything that nobody uses."""
        with self._lock:
            self._idle.clear()

    def unlock(self) -> None:
        """Forget who was at it: in a child, after a fork, the other threads are no more."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many engines are kept and idle."""
        return len(self._idle)

    def _take(self, key: Hashable) -> Engine | None:
        with self._lock:
            for place, idle in enumerate(self._idle):
                if idle.key == key:
                    return self._idle.pop(place).engine
        return None

    def _make(
        self, key: Hashable, plan: Plan, device: torch.device, build: Callable[[bool], Engine]
    ) -> Engine:
        free = free_memory(device)
        while free is not None and plan.total > free and self._drop_oldest():
            free = free_memory(device)
        plan.check(free)
        graphs = self.graphs and is_gpu(device) and key not in self._refused
        if graphs and free is not None and plan.total > SHARE * (free + self._size()):
            logger.warning(
                "no graph for a request of %s, too much of the %.1f GiB that are free",
                plan,
                free / 2**30,
            )
            graphs = False
        engine = build(graphs)
        if graphs:
            engine.capture()
            if not engine.is_captured:
                self._refused.add(key)
        return engine

    def _keep(self, idle: _Idle, device: torch.device) -> None:
        free = free_memory(device)
        with self._lock:
            self._idle.append(idle)
            room = None if free is None else SHARE * (free + self._size())
            while len(self._idle) > KEPT or (room is not None and self._size() > room):
                self._idle.pop(0)

    def _drop_oldest(self) -> bool:
        with self._lock:
            if self._idle:
                self._idle.pop(0)
                return True
        return False

    def _size(self) -> int:
        return sum(idle.size for idle in self._idle)


def bucket(length: int, device: torch.device) -> int:
    """The places that a buffer has for `length`: few different numbers, where graphs are kept.

    Multiples of 64. On the CPU exactly what is asked for: there the cost of a step follows the
    width of its buffers.
    """
    return -(-length // 64) * 64 if is_gpu(device) else length


_ALL: weakref.WeakSet[Engines] = weakref.WeakSet()


def _unlock_all() -> None:
    for engines in list(_ALL):
        engines.unlock()


# A fork copies one thread. Its OpenMP would wait for ever for the others of its team in the child;
# without a team there is none to wait for, and parent and child each make a new one.
os.register_at_fork(before=let_go_of_threads, after_in_child=_unlock_all)
