"""Batch size: how many samples are generated at once, as many as pay and as memory allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tritonseq.engine.pool import MEBIBYTE, DoesNotFit, free_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritonseq.engine.request import Request

    from .run_options import RunOptions

# Rows of beams per step beyond which more of them are hardly faster, and the samples that go with
# them at most. On a CPU products are bound by arithmetic by then. The figures for GPUs are those
# of published runs (64 to 128 samples of 4 beams), not measured here.
ROWS = {"cpu": 256, "cuda": 1024}
SAMPLES = {"cpu": 64, "cuda": 256}

# The share of the free memory that buffers are planned for: the prefill needs some as well.
SHARE = 0.5

# Lengths of sources are planned for in steps of so many tokens.
STEP = 16


class Sizing:
    """The number of samples at once, for sources of a length."""

    def __init__(self, request: Request, options: RunOptions, warn: Callable[[str], None]) -> None:
        self._request = request
        self._fixed = options.batch_size
        self._warn = warn
        self._device = request.decoder.device
        self._known: dict[int, int] = {}
        self._tokens = options.batch_tokens
        self._is_short = False

    def count(self, longest: int) -> int:
        """How many samples whose sources have up to `longest` tokens."""
        rounded = -(-longest // STEP) * STEP
        if rounded not in self._known:
            self._known[rounded] = self._planned(longest)
        count = self._known[rounded]
        if self._tokens is not None:
            count = min(count, self._tokens // longest)
        return max(1, count)

    def shrink(self, count: int, longest: int, error: Exception) -> None:
        """Memory for `count` samples of up to `longest` tokens could not be had: take half as many
        such from now on, and as many shorter ones as have no more tokens."""
        if not self._is_short:
            self._is_short = True
            self._warn(
                f"{count} samples at once do not fit into memory ({_first_line(error)}): going on "
                "with fewer"
            )
        self._tokens = count // 2 * longest
        self._request.engines.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def describe(self, longest: int) -> str:
        """The plan for sources of up to `longest` tokens, in words."""
        weights = self._request.decoder.nbytes
        count = self.count(longest)
        plan = self._request.plan(count, longest, refilled=True)
        free = free_memory(self._device)
        room = "" if free is None else f", of {free / MEBIBYTE:,.0f} MiB that are free"
        workspace = plan.state + plan.logits
        return (
            f"{count} samples at once for sources of up to {longest} tokens: weights "
            f"{weights / MEBIBYTE:,.1f} MiB, source cache {plan.source_cache / MEBIBYTE:,.1f} MiB, "
            f"target cache {plan.target_cache / MEBIBYTE:,.1f} MiB, workspace "
            f"{workspace / MEBIBYTE:,.1f} MiB{room}"
        )

    def _planned(self, longest: int) -> int:
        if self._fixed is not None:
            return self._fixed
        count = paying(self._request)
        free = free_memory(self._device)
        if free is None:
            return count
        need = self._request.plan(count, longest, refilled=True).total
        return count if need <= SHARE * free else max(1, int(count * SHARE * free / need))


def paying(request: Request) -> int:
    """The samples beyond which more at once are hardly faster, were there memory without end."""
    kind = "cpu" if request.decoder.device.type == "cpu" else "cuda"
    rows = max(request.config.num_beams, request.config.num_return_sequences)
    return max(1, min(SAMPLES[kind], ROWS[kind] // rows))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory, whichever allocator says so."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError, DoesNotFit)):
        return True
    # The allocator of the CPU has no error of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
