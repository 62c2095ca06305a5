"""Engine pool: the engines of one model, made when needed, and kept as long as they fit."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, NamedTuple

import torch

from tritonseq.kernels import is_gpu

from .engine import Engine
from .memory_plan import free_memory
from .torch_state import let_go_of_threads

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from tritonseq.decoding.search import Search

    from .spec import EngineSpec

logger = logging.getLogger(__name__)

# Engines that a model keeps, at most, and the share of a GPU's free memory that they may hold. A
# few are enough for batches of like shapes; the rest is for weights of other models and prefills.
KEPT = 8
SHARE = 0.5


class _Loan(NamedTuple):
    key: Hashable
    engine: Engine
    size: int
    """In bytes."""


class EnginePool:
    """Engines for requests, each used by one at a time; any thread may ask.

    On the CPU an engine is a few buffers, whose memory is used again anyway, so each request gets
    its own. On a GPU it also is a captured graph, and worth keeping.
    """

    def __init__(self, graphs: bool = True) -> None:
        self._graphs = graphs
        self._lock = threading.Lock()
        self._idle: list[_Loan] = []
        self._refused: set[Hashable] = set()
        _ALL.add(self)

    @property
    def graphs(self) -> bool:
        """Whether steps are captured in CUDA graphs. Changing this lets go of all that were."""
        return self._graphs

    @graphs.setter
    def graphs(self, wanted: bool) -> None:
        self._graphs = wanted
        self.clear()

    @contextlib.contextmanager
    def acquire(self, spec: EngineSpec) -> Iterator[Engine]:
        """An engine for `spec`, one that was kept or a new one; it is kept afterwards if it pays.

        Raises DoesNotFit if there is no memory for another.
        """
        # What products round to is part of a graph.
        key = (spec.key, _precision())
        # Buffers that serve other calls must not be inference tensors.
        with torch.inference_mode(False):
            search = spec.build_search()
            loan = self._take(key) or self._make(key, spec, search)
            loan.engine.bind(spec, search)
        # After an error its buffers may hold anything, and it is dropped. One that is
        # left half-way is as good as any: samples are admitted to it anew.
        with contextlib.suppress(GeneratorExit):
            yield loan.engine
        loan.engine.release()
        if loan.engine.is_captured:
            self._keep(loan, spec.device)

    def __reduce__(self) -> tuple[type[EnginePool], tuple[bool]]:
        """Copies of a model, and those in other processes, make their own engines."""
        return EnginePool, (self._graphs,)

    def clear(self) -> None:
        """Let go of all that are idle."""
        with self._lock:
            self._idle.clear()

    def unlock(self) -> None:
        """Forget the lock's holder: in a child, after a fork, the other threads are no more."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many engines are kept and idle."""
        return len(self._idle)

    def _take(self, key: Hashable) -> _Loan | None:
        with self._lock:
            for place, idle in enumerate(self._idle):
                if idle.key == key:
                    return self._idle.pop(place)
        return None

    def _make(self, key: Hashable, spec: EngineSpec, search: Search) -> _Loan:
        plan, device = spec.memory_plan(search), spec.device
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
        engine = Engine(spec, search, graphs=graphs)
        if graphs:
            engine.capture()
            if not engine.is_captured:
                self._refused.add(key)
        return _Loan(key, engine, plan.total)

    def _keep(self, idle: _Loan, device: torch.device) -> None:
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


def _precision() -> Hashable:
    """What products of float32 matrices on a GPU may be rounded to.

    Two interfaces of torch speak of it. To ask the older one is an error once the newer one was
    used to set it; the newer one, where torch has it, knows what either was told.
    """
    of_products = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    if of_products is None:
        return torch.get_float32_matmul_precision()
    return of_products, getattr(torch.backends, "fp32_precision", None)


_ALL: weakref.WeakSet[EnginePool] = weakref.WeakSet()


def _unlock_all() -> None:
    for engines in list(_ALL):
        engines.unlock()


# A fork copies one thread. Its OpenMP would wait for ever for the others of its team in the child;
# without a team there is none to wait for, and parent and child each make a new one.
os.register_at_fork(before=let_go_of_threads, after_in_child=_unlock_all)
