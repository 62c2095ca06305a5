"""Host memory for what is streamed again and again: weights and caches, on huge pages.

A decode step on the CPU reads every weight once and is bound by memory. With pages of 4 KiB a
good part of that is address translation; on pages of 2 MiB the same products stream a tenth
faster. Linux gives such pages to whoever asks with madvise.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

HUGE_PAGE = 2 * 2**20


def zeros(shape: Sequence[int], *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A contiguous tensor of zeros, on huge pages if it is large and in host memory.

    Pages are only taken up as they are written, so large zeros cost nothing until then.
    """
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(tuple(shape), device=device, dtype=dtype)
    # The mapping lives as long as the tensor, which holds on to it.
    pages = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = torch.frombuffer(pages, dtype=torch.uint8)
    start = -memory.data_ptr() % HUGE_PAGE
    # The rest of the last page stays in small ones, so that nothing is taken up in vain.
    # A kernel without huge pages refuses the advice, and small ones will do.
    with contextlib.suppress(OSError):
        pages.madvise(mmap.MADV_HUGEPAGE, start, size - size % HUGE_PAGE)
    return memory[start : start + size].view(dtype).view(tuple(shape))
