"""What a part is given: its setting, its time, and a record that is on disk at every moment."""

from __future__ import annotations

import json
import os
import time
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from .setting import Setting

OUT_OF_TIME = "out of time"


def save_json(path: Path, content: Any) -> None:
    """Replace the file in one go, so that a reader never meets half of it."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(content, indent=1, default=str))
    os.replace(fresh, path)


class Task:
    """One part at work. What it keeps survives whatever happens to it afterwards."""

    def __init__(self, name: str, setting: Setting, path: Path, seconds: float) -> None:
        self.name = name
        self.setting = setting
        self._path = path
        self._start = time.monotonic()
        self._seconds = seconds
        self.results: dict[str, Any] = {}
        self.failures: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.save("running")

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device(self.setting.device)

    @property
    def dtype(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, self.setting.dtype)
        return dtype

    @property
    def left(self) -> float:
        """Seconds until this part is stopped."""
        return self._start + self._seconds - time.monotonic()

    def save(self, status: str) -> None:
        content = {
            "status": status,
            "seconds": round(time.monotonic() - self._start, 2),
            "results": self.results,
            "failures": self.failures,
            "not run": self.skipped,
        }
        save_json(self._path, content)

    def keep(self, name: str, value: Any) -> None:
        """Add a result, or replace it by a later one."""
        self.results[name] = value
        self.save("running")

    def skip(self, name: str, reason: str) -> None:
        self.skipped[name] = reason
        self.save("running")

    def fail(self, name: str, reason: str) -> None:
        print(f"{name}: {reason}", flush=True)
        self.failures[name] = reason
        self.save("running")

    def attempt(
        self, name: str, work: Callable[..., Any], *arguments: Any, needs: float = 0.0
    ) -> Any:
        """Do one thing and keep what it returns; its failure does not end the part.

        With less than `needs` seconds left it is not begun. Returns None where nothing was made.
        """
        if self.left < needs:
            return self.skip(name, f"{OUT_OF_TIME}: {self.left:.0f} s left of the part")
        try:
            value = work(*arguments)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            return self.fail(name, f"{type(error).__name__}: {error}")
        self.keep(name, value)
        return value

    def close(self) -> bool:
        """Say how it ended; True if nothing failed."""
        ended = "failed" if self.failures else "incomplete" if self.is_late else "done"
        self.save(ended)
        return not self.failures

    @property
    def is_late(self) -> bool:
        """Whether something has been left out for lack of time."""
        return any(reason.startswith(OUT_OF_TIME) for reason in self.skipped.values())
