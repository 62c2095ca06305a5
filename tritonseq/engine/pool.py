"""Engine pool: the engines of a model, made when there is memory for them, kept while they fit."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from tritonseq.decoding.hypotheses import Hypotheses
from tritonseq.kernels import is_gpu
from tritonseq.memory.kv_cache import nbytes

from .engine import Engine

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from tritonseq.decoding.search import Search

    from .spec import EngineSpec

logger = logging.getLogger(__name__)

# Engines that a model keeps, at most, and the share of a GPU's free memory that they may hold. A
# few are enough for batches of like shapes; the rest is for weights of other models and prefills.
KEPT = 8
SHARE = 0.5

MEBIBYTE = 2**20
# Where the control group of a container says what it may take.
GROUP = Path("/sys/fs/cgroup")

TOKEN_BYTES = 24
"""Of a token that is written: its id, its parent and its lineage."""
ASKED_FROM = 2**28
"""Bytes below which the free memory is not looked up."""
MOST_UNSEEN = 2**36
"""Bytes that are taken for free where the system does not say."""

# Of OpenMP 5.0: keep what may be kept, but no threads.
_SOFT = 1


class DoesNotFit(ValueError):
    """A request needs more memory than there is."""


class MemoryPlan(NamedTuple):
    """Bytes of every group of buffers."""

    source_cache: int
    """Keys and values of what is read, once per sample."""
    target_cache: int
    """Those of what is generated, for every beam."""
    state: int
    """Tokens, lineage, scores: what a search keeps."""
    logits: int
    """Of one step, as the network gives them and as the search works on them."""

    @classmethod
    def of(cls, spec: EngineSpec, search: Search) -> MemoryPlan:
        """Of an engine for `spec`; none is made."""
        decoder, sizes, device = spec.decoder, spec.sizes, torch.device("meta")
        state = search.allocate(Hypotheses.allocate(**spec.buffers, device=device))
        # In the network's dtype, in float32, and what a softmax makes of it.
        item = decoder.dtype.itemsize + 2 * torch.float32.itemsize
        logits = sizes.samples * sizes.beams * decoder.vocab_size * item
        cache = decoder.new_cache(sizes, device)
        source, target = cache.source_nbytes, cache.nbytes - cache.source_nbytes
        if spec.is_refilled:
            source += decoder.new_cache(spec.staging, device).nbytes
        return cls(source, target, nbytes(state), logits)

    @property
    def total(self) -> int:
        return sum(self)

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name.replace('_', ' ')} {_mebibytes(size)}" for name, size in self._asdict().items()
        )
        return f"{_mebibytes(self.total)} ({parts})"

    def check(self, free: int | None) -> None:
        """Raise DoesNotFit, a ValueError, if there are fewer than `total` bytes `free`."""
        if free is not None and self.total > free:
            raise DoesNotFit(
                f"this request needs {self}, and {_mebibytes(free)} are free: pass fewer samples "
                "or slots at once, fewer beams, shorter sources or a smaller max_new_tokens"
            )


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

    def plan(self, spec: EngineSpec) -> MemoryPlan:
        """The memory that an engine for `spec` takes."""
        return MemoryPlan.of(spec, spec.build_search())

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
        plan, device = MemoryPlan.of(spec, search), spec.device
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


def refuse_absurd(spec: EngineSpec) -> None:
    """Raise DoesNotFit if not even the tokens of all rows do, before anything is made.

    A plan is exact; but it is made of a search, which has tables for every length already.
    """
    rows, new_tokens = spec.sizes.samples * spec.sizes.beams, spec.buffers["new_tokens"]
    needed = TOKEN_BYTES * rows * new_tokens
    if needed < ASKED_FROM:
        return
    free = free_memory(spec.device)
    if free is None:
        free = MOST_UNSEEN
    if needed > free:
        raise DoesNotFit(
            f"{new_tokens} new tokens for each of {rows} rows (samples times beams) need at least "
            f"{_mebibytes(needed)}, and {_mebibytes(free)} are free: pass fewer samples or beams, "
            "or a smaller max_new_tokens"
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch holds and does not use can be used as well.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    known = [limit for limit in (_available(), _room_in_group()) if limit is not None]
    return min(known, default=None)


def _available() -> int | None:
    """What the kernel says that new work may take, in bytes."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(sizes[0][1]) * 1024 if sizes else None


def _room_in_group() -> int | None:
    """What the control group that a container runs in leaves, in bytes."""
    try:
        limit = (GROUP / "memory.max").read_text().strip()
        used = int((GROUP / "memory.current").read_text())
        lines = (GROUP / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    # Cached files make room when it is needed.
    cached = dict(line.split() for line in lines).get("inactive_file", 0)
    return int(limit) - used + int(cached)


def _mebibytes(size: int) -> str:
    return f"{size / MEBIBYTE:.1f} MiB"


def let_go_of_threads() -> None:
    """End the OpenMP threads of the calling thread; the next operator makes new ones.

    Every thread that computes has threads of its own. Where all together are more than there are
    cores, GNU's OpenMP stops spinning between two operators, and sleeps: small products then take
    twice as long, even if only one of the threads computes. Does nothing without such a library.
    """
    pause = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None)
    if pause is not None:
        pause(_SOFT)


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
