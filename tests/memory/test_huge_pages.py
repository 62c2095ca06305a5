"""Huge pages are a wish: what they hold is plain zeros, with or without them."""

from __future__ import annotations

import math
import mmap
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from tritonseq.memory import huge_pages
from tritonseq.memory.huge_pages import HUGE_PAGE, zeros

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

    monkeypatch.setattr("tritonseq.memory.huge_pages.mmap.mmap", Refusing)
    assert not zeros((1024, 1024), device=CPU, dtype=torch.float32).any()


def test_the_memory_lives_as_long_as_its_tensor() -> None:
    row = zeros((1024, 1024), device=CPU, dtype=torch.float32)[5]
    row += 2
    other = zeros((1024, 1024), device=CPU, dtype=torch.float32).add_(7)
    assert (row == 2).all() and (other == 7).all()


def address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def test_pages_are_used_again_only_when_their_tensor_is_gone() -> None:
    first = zeros((3, 2**20), device=CPU, dtype=torch.float32, keep=True).fill_(math.nan)
    part, place = first[1], address(first)
    del first
    other = zeros((3, 2**20), device=CPU, dtype=torch.float32, keep=True)
    assert address(other) != place and part.isnan().all()
    del part
    again = zeros((3 * 2**20 - 5,), device=CPU, dtype=torch.float32, keep=True)
    assert address(again) == place and not again.any()
    assert address(zeros((2**20,), device=CPU, dtype=torch.float32, keep=True)) != place


def test_no_more_is_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = huge_pages._Kept()
    monkeypatch.setattr(huge_pages, "_KEPT", kept)
    monkeypatch.setattr(huge_pages, "KEPT_BYTES", 20 * HUGE_PAGE)
    tensors = [zeros((5 * HUGE_PAGE,), device=CPU, dtype=torch.uint8, keep=True) for _ in range(5)]
    del tensors
    assert 0 < sum(map(len, kept._pages)) <= huge_pages.KEPT_BYTES
    plain = zeros((5 * HUGE_PAGE,), device=CPU, dtype=torch.uint8)
    before = len(kept._pages)
    del plain
    assert len(kept._pages) == before


def test_threads_never_share_pages() -> None:
    def work(number: int) -> bool:
        for _ in range(50):
            mine = zeros((2**20,), device=CPU, dtype=torch.float32, keep=True)
            if mine.any():
                return False
            mine.fill_(number)
            if not bool((mine == number).all()):
                return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(1, 9)))
