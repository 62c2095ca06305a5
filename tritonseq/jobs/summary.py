"""What a user sees of a job: a bar while it runs, and afterwards where the time went."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

from tritonseq.progress import per_second

from .places import OWN

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tritonseq.stages.runtime import StageTimes, WorkSpan


class JobSummary(NamedTuple):
    """What a job has done; counts include what was done before it was resumed."""

    lines: int
    rejected: int
    tokens: int
    earlier_lines: int
    """Of `lines`, those that were done before; so for the tokens."""
    earlier_tokens: int
    seconds: float
    """Of this run, without loading the model."""
    stages: list[StageTimes]
    interrupted: bool


def summary(done: JobSummary) -> str:
    """Counts and speeds of a job, and a table of what its stages did with the time."""
    counts = [
        f"lines: {done.lines:,}",
        f"rejected: {done.rejected:,}",
        f"tokens: {done.tokens:,}",
        f"seconds: {done.seconds:.2f}",
        f"lines/s: {per_second(done.lines - done.earlier_lines, done.seconds)}",
        f"tokens/s: {per_second(done.tokens - done.earlier_tokens, done.seconds)}",
    ]
    return "\n".join([", ".join(counts), *_table(done.stages, done.seconds)])


def _table(stages: Iterable[StageTimes], seconds: float) -> list[str]:
    """A line for every stage, under a heading; shares are of the time of all of its seats."""
    rows: list[tuple[str, ...]] = [
        ("stage", "seats", "busy", "waited for input", "waited for output")
    ]
    for stage in stages:
        whole = stage.seats * seconds
        times = (stage.busy, stage.waited_for_input, stage.waited_for_output)
        shares = [f"{100 * time / whole if whole else 0.0:.0f}%" for time in times]
        rows.append((stage.name, str(stage.seats), *shares))
    if len(rows) == 1:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *_right(row[1:], widths[1:])]) for row in rows]


def _right(cells: Iterable[str], widths: Iterable[int]) -> list[str]:
    return [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]


def write_timeline(spans: Iterable[WorkSpan], path: Path) -> None:
    """What the stages did when, as JSON that chrome://tracing and ui.perfetto.dev show."""
    events = [
        {
            "name": span.stage, "ph": "X", "pid": 0, "tid": f"{span.stage} {span.thread}",
            "ts": span.start * 1e6, "dur": (span.end - span.start) * 1e6,
            "args": {"samples": span.samples},
        }
        for span in spans
    ]  # fmt: skip
    with open(path, "w", encoding="utf-8", opener=_open_own) as file:
        file.write(json.dumps({"traceEvents": events}))


def _open_own(path: str, flags: int) -> int:
    return os.open(path, flags | OWN, 0o666)
