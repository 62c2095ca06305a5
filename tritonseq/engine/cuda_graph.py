"""CUDA graph: a function without arguments, captured once and replayed from then on."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

from tritonseq.kernels.private_torch import clear_workspaces

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

# A capture allocates from a pool of its own and takes over the generator of random numbers, both of
# which all threads share. So one thread at a time launches work; what it launched runs beside.
LAUNCHING = threading.RLock()

# Runs before the capture: the first compiles kernels and makes the constants that they share, the
# second finds all of it there.
WARM_UPS = 2


class Replay:
    """Calls a function on a GPU, always the same, or replays what it launched when captured.

    The function must do nothing but launch work on fixed buffers. To warm it up it is called when
    its samples rest: then it changes nothing. It is not kept: an owner of both would own
    itself.
    """

    def __init__(self, device: torch.device, *, enabled: bool = True) -> None:
        self._device = device
        self._enabled = enabled
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output: Any = None

    @property
    def is_captured(self) -> bool:
        return self._graph is not None

    def __call__(self, function: Callable[[], Any]) -> Any:
        with LAUNCHING:
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
        with torch.cuda.device(self._device), torch.no_grad(), LAUNCHING:
            # What warm-ups draw at random must not show in what follows.
            random, stream = torch.cuda.get_rng_state(self._device), torch.cuda.current_stream()
            try:
                self._graph, self._output = _captured(function)
            except RuntimeError as error:
                # A capture that breaks off leaves its stream and its hold of the generator behind.
                torch.cuda.set_stream(stream)
                with suppress(RuntimeError):
                    generator = torch.cuda.default_generators[torch.cuda.current_device()]
                    generator.graphsafe_set_state(generator.clone_state())
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
    # The workspace of a stream is made with its first product. Made within the capture, it lives
    # and dies with the graph.
    clear_workspaces()
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on allocating meanwhile.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        output = function()
    clear_workspaces()
    return graph, output
