"""A function without arguments, captured once in a CUDA graph and replayed from then on."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

# Captures allocate from a pool of their own, and the allocator is one for all threads.
_CAPTURING = threading.Lock()

# Runs before the capture: the first compiles kernels and makes the constants that they share, the
# second finds all of it there.
WARM_UPS = 2


class Replay:
    """Calls a function, always the same, or replays what it launched when it was captured.

    The function must do nothing but launch work on fixed buffers. To warm it up it is called when
    its samples rest: then it changes nothing. It is not kept: whoever owns both it and this would
    own itself.
    """

    def __init__(self, device: torch.device, *, enabled: bool = True) -> None:
        self._device = device
        self._enabled = enabled and device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output: Any = None

    @property
    def is_captured(self) -> bool:
        return self._graph is not None

    def __call__(self, function: Callable[[], Any]) -> Any:
        if self._graph is None:
            return function()
        self._graph.replay()
        return self._output

    def capture(self, function: Callable[[], Any]) -> None:
        """Capture the function, while nothing of consequence stands in its buffers.

        A function that cannot be captured goes on being called, after a line in the log.
        """
        if not self._enabled or self._graph is not None:
            return
        with torch.cuda.device(self._device), torch.no_grad(), _CAPTURING:
            # What warm-ups draw at random must not show in what follows.
            random = torch.cuda.get_rng_state(self._device)
            try:
                graph, self._output = _captured(function)
                self._graph = graph
            except RuntimeError as error:
                self._enabled = False
                logger.warning("a step runs without a graph: %s", error)
            finally:
                torch.cuda.set_rng_state(random, self._device)


def _captured(function: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on allocating meanwhile.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        output = function()
    return graph, output
