"""Huge pages are a wish: what they hold is plain zeros, with or without them."""

from __future__ import annotations

import mmap
from typing import Any

import pytest
import torch

from tritonseq.memory import HUGE_PAGE, zeros

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(), (0, 4), (3, 5), (1031, 1027), (HUGE_PAGE // 4,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zeros_are_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = zeros(shape, device=CPU, dtype=dtype)
    assert tensor.shape == shape and tensor.dtype == dtype and tensor.is_contiguous()
    assert not tensor.any()
    tensor.fill_(1)
    assert tensor.sum(dtype=torch.float64) == tensor.numel()


def test_large_tensors_start_on_a_huge_page() -> None:
    assert zeros((1024, 1024), device=CPU, dtype=torch.float32).data_ptr() % HUGE_PAGE == 0


def test_a_kernel_that_refuses_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(mmap.mmap):
        def madvise(self, *_: Any) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr("tritonseq.memory.mmap.mmap", Refusing)
    assert not zeros((1024, 1024), device=CPU, dtype=torch.float32).any()


def test_the_memory_lives_as_long_as_its_tensor() -> None:
    row = zeros((1024, 1024), device=CPU, dtype=torch.float32)[5]
    row += 2
    other = zeros((1024, 1024), device=CPU, dtype=torch.float32).add_(7)
    assert (row == 2).all() and (other == 7).all()
