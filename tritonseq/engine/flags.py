"""Which samples have ended, as the host hears of it without making the device wait."""

from __future__ import annotations

import torch
from torch import Tensor

from tritonseq.kernels import is_gpu


class Flags:
    """Copies of a `[B]` bool buffer, each read some steps after it was made.

    With a lag the device runs on while the host still waits for an older copy; the steps beyond
    the end of a search change nothing. Where memory is shared there is nothing to wait for.
    """

    def __init__(self, flags: Tensor, *, lag: int) -> None:
        on_gpu = is_gpu(flags.device) and flags.device.type != "cpu"
        self._flags = flags
        self._lag = lag if is_gpu(flags.device) else 0
        # Pinned memory takes copies while the host goes on.
        self._copies = [
            torch.empty(flags.shape, dtype=flags.dtype, device="cpu", pin_memory=on_gpu)
            for _ in range(self._lag + 1)
        ]
        self._events = [torch.cuda.Event() for _ in self._copies] if on_gpu else []
        self._sent = 0

    def send(self) -> None:
        """Copy the flags as they will be after what has been launched so far."""
        place = self._sent % len(self._copies)
        self._copies[place].copy_(self._flags, non_blocking=True)
        if self._events:
            self._events[place].record(torch.cuda.current_stream(self._flags.device))
        self._sent += 1

    def read(self) -> tuple[int, list[bool]]:
        """The newest copy that is old enough, and how many were sent before it.

        Before there is one, nothing has ended.
        """
        number = self._sent - 1 - self._lag
        if number < 0:
            return number, [False] * self._flags.shape[0]
        place = number % len(self._copies)
        if self._events:
            self._events[place].synchronize()
        return number, self._copies[place].tolist()

    @property
    def sent(self) -> int:
        """How many copies have been sent."""
        return self._sent

    def restart(self) -> None:
        """Forget what was sent: other samples are in the slots."""
        self._sent = 0
