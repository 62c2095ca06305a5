"""Huge pages: host memory for weights and caches, which are streamed again and again.

A decode step on the CPU reads every weight once and is bound by memory. With pages of 4 KiB a
good part of that is address translation; on pages of 2 MiB the same products stream a tenth
faster. Linux gives such pages to memory that madvise has marked.

Fresh pages are dear: the kernel clears them at the first touch, and in a virtual machine the host
may have to find them first. So the pages of caches are kept for the next request.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import threading
import weakref
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

HUGE_PAGE = 2 * 2**20

# Bytes of pages that are kept for later, at most.
KEPT_BYTES = 2**29


def zeros(
    shape: Sequence[int], *, device: torch.device, dtype: torch.dtype, keep: bool = False
) -> Tensor:
    """A contiguous tensor of zeros, on huge pages if it is large and in host memory.

    Pages are only taken up as they are written, so large zeros cost nothing until then. With
    `keep`, its pages are used again by later tensors once this one is gone.
    """
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(tuple(shape), device=device, dtype=dtype)
    pages = _KEPT.take(size + HUGE_PAGE) if keep else None
    fresh = pages is None
    if pages is None:
        pages = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # The view lives as long as the tensor, which holds on to it.
    view = memoryview(pages)
    if keep:
        weakref.finalize(view, _KEPT.put, pages).atexit = False
    memory = torch.frombuffer(view, dtype=torch.uint8)
    start = -memory.data_ptr() % HUGE_PAGE
    # The rest of the last page stays in small ones, so that nothing is taken up in vain.
    # A kernel without huge pages refuses the advice, and small ones will do.
    if fresh:
        with contextlib.suppress(OSError):
            pages.madvise(mmap.MADV_HUGEPAGE, start, size - size % HUGE_PAGE)
    memory = memory[start : start + size]
    return (memory if fresh else memory.zero_()).view(dtype).view(tuple(shape))


class _Kept:
    """Pages that no tensor uses, the oldest first; any thread may take them and put them back."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pages: list[mmap.mmap] = []

    def unlock(self) -> None:
        """Begin with a lock that no thread holds."""
        self._lock = threading.RLock()

    def take(self, size: int) -> mmap.mmap | None:
        """The smallest pages of at least `size` bytes, and not of more than twice that."""
        with self._lock:
            fitting = [pages for pages in self._pages if size <= len(pages) <= 2 * size]
            if not fitting:
                return None
            best = min(fitting, key=len)
            self._pages.remove(best)
            return best

    def put(self, pages: mmap.mmap) -> None:
        """Keep `pages`, and let the oldest go that are too many."""
        with self._lock:
            self._pages.append(pages)
            while sum(map(len, self._pages)) > KEPT_BYTES:
                self._pages.pop(0)


_KEPT = _Kept()

# After a fork, a thread that held the lock does not exist in the child.
os.register_at_fork(after_in_child=_KEPT.unlock)
