"""What all parts of a run share; it travels to their processes as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One run of the suite."""

    out: Path
    """Receives the results."""
    work: Path
    """Checkpoints, logs and records while the run lasts."""
    device: str
    dtype: str
    """Of the timed weights, as torch names it."""
    rehearse: bool
    """Toy sizes on the CPU: every line runs, no figure means anything."""

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), default=str))

    @classmethod
    def load(cls, path: Path) -> Setting:
        fields: dict[str, Any] = json.loads(path.read_text())
        return cls(**fields | {name: Path(fields[name]) for name in ("out", "work")})
