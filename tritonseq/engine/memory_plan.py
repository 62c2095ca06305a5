"""Memory plan: how much memory a request takes, before any of it is allocated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tritonseq.decoding.hypotheses import Hypotheses
from tritonseq.memory.kv_cache import Sizes, nbytes

if TYPE_CHECKING:
    from tritonseq.decoding.search import Search

MEBIBYTE = 2**20
# Where the control group of a container says what it may take.
GROUP = Path("/sys/fs/cgroup")

TOKEN_BYTES = 24
"""Of a token that is written: its id, its parent and its lineage."""
ASKED_FROM = 2**28
"""Bytes below which the free memory is not looked up."""
MOST_UNSEEN = 2**36
"""Bytes that are taken for free where the system does not say."""


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
    def of(
        cls,
        decoder: Any,
        search: Search,
        sizes: Sizes,
        hypotheses: dict[str, Any],
        staged: Sizes | None = None,
    ) -> MemoryPlan:
        """Of buffers for `sizes` and the arguments of `Hypotheses.allocate`; none are made.

        `staged`: the sizes of the caches that samples are read into before they come to slots.
        """
        device = torch.device("meta")
        state = search.allocate(
            Hypotheses.allocate(**{**hypotheses, "step": None, "device": device})
        )
        # In the network's dtype, in float32, and what a softmax makes of it.
        item = decoder.dtype.itemsize + 2 * torch.float32.itemsize
        logits = sizes.samples * sizes.beams * decoder.vocab_size * item
        cache = decoder.new_cache(sizes, device)
        source, target = cache.source_nbytes, cache.nbytes - cache.source_nbytes
        if staged is not None:
            source += decoder.new_cache(staged, device).nbytes
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


def refuse_absurd(rows: int, new_tokens: int, device: torch.device) -> None:
    """Raise DoesNotFit if not even the tokens of so many rows do, before anything is made.

    A plan is exact; but it is made of a search, which has tables for every length already.
    """
    needed = TOKEN_BYTES * rows * new_tokens
    if needed < ASKED_FROM:
        return
    free = free_memory(device)
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
