"""Triton kernels that measure the device rather than us."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# 16 bytes per thread and load, 8 loads in flight before the first is used.
BLOCK, UNROLL, WARPS = 2048, 8, 4


@triton.jit
def _sum(x_ptr, out_ptr, BLOCK: tl.constexpr, UNROLL: tl.constexpr):
    # One program adds up UNROLL * BLOCK consecutive elements.
    i_program = tl.program_id(0).to(tl.int64)
    o_x = i_program * BLOCK * UNROLL + tl.arange(0, BLOCK)
    b_sum = tl.zeros([BLOCK], dtype=tl.float32)
    for i in tl.static_range(UNROLL):
        b_sum += tl.load(x_ptr + o_x + i * BLOCK)
    tl.store(out_ptr + i_program, tl.sum(b_sum, 0))


@triton.jit
def _nothing(x_ptr):
    pass


@triton.jit
def _nothing_in_a_chain(x_ptr):
    # What every kernel of a chain of programmatic dependent launches does.
    tl.extra.cuda.gdc_wait()
    tl.extra.cuda.gdc_launch_dependents()


def partial_sums(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Sums of equal stretches of `x` (float32); reads every element once."""
    programs, rest = divmod(x.numel(), BLOCK * UNROLL)
    if rest:
        raise ValueError(f"{x.numel()} elements are no multiple of {BLOCK * UNROLL}")
    out = x.new_empty(programs) if out is None else out
    _sum[(programs,)](x, out, BLOCK=BLOCK, UNROLL=UNROLL, num_warps=WARPS)
    return out


def empty_launch(x: Tensor, *, chained: bool) -> Callable[[], Any]:
    """A launch that does nothing; `chained`: it may start before the one in front has ended."""
    if chained:
        return lambda: _nothing_in_a_chain[(1,)](x, num_warps=1, launch_pdl=True)
    return lambda: _nothing[(1,)](x, num_warps=1)


def captured(launch: Callable[[], object], times: int) -> torch.cuda.CUDAGraph:
    """A graph that launches so many times in a row."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # Compiled before the capture, during which nothing may be.
        launch()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            launch()
    return graph
