"""Random arguments for kernels: never zeros, and the same for the same seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


class Draw:
    """Tensors on one device; floats are of one dtype unless another is named."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int) -> None:
        self.device = device
        self.dtype = dtype
        self._generator = torch.Generator(device).manual_seed(seed)

    def floats(self, *shape: int, dtype: torch.dtype | None = None, scale: float = 1.0) -> Tensor:
        """From the normal distribution, times `scale`."""
        dtype = dtype or self.dtype
        return torch.randn(shape, generator=self._generator, dtype=dtype, device=self.device).mul_(
            scale
        )

    def integers(self, end: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        """Uniform in `0..end-1`."""
        return torch.randint(end, shape, generator=self._generator, dtype=dtype, device=self.device)

    def full(self, value: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.full(shape, value, dtype=dtype, device=self.device)

    def lineage(self, samples: int, length: int, beams: int) -> Tensor:
        """`[samples, length, beams]`: each step's parents are any of the beams, equally likely.

        So lineages merge within a few steps, as those of a beam search do.
        """
        own = torch.arange(beams, device=self.device)
        slots = own.repeat(samples, length, 1)
        for step in range(1, length):
            parents = self.integers(beams, samples, 1, beams).expand(-1, step, -1)
            slots[:, :step] = slots[:, :step].gather(2, parents)
        return slots
