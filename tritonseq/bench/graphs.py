"""Timing on a GPU: calls captured in CUDA graphs, which are replayed in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .timing import Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Calls in a graph: what a replay itself costs, some microseconds, must not show.
CALLS = 20


def time_in_turn(
    versions: Mapping[str, Callable[[int], object]],
    sets: int,
    *,
    repeats: int,
    before: Callable[[str], object] = lambda name: None,
) -> dict[str, Timing]:
    """Seconds per call of every version, which is called with the number of an input set.

    The calls of a graph go through the sets in turn, so that none finds its inputs in the cache
    that `sets` was chosen for. Versions are replayed one after the other within each round,
    each replay preceded, untimed, by `before(name)`.
    """
    calls = sets * -(-CALLS // sets)
    graphs = {name: _captured(run, calls, sets) for name, run in versions.items()}
    timings = {name: Timing() for name in versions}
    for graph in graphs.values():
        graph.replay()
    for _ in range(repeats):
        for name, graph in graphs.items():
            before(name)
            timings[name].seconds.append(_seconds(graph) / calls)
    return timings


def _captured(run: Callable[[int], object], calls: int, sets: int) -> torch.cuda.CUDAGraph:
    # Outside of the capture first: there kernels are compiled and libraries make their handles.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for index in range(min(sets, 3)):
            run(index)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in range(calls):
            run(call % sets)
    return graph


def _seconds(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000
