"""The README's chart: how many times as fast every workload is as the other engine."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from reports.data import RESULTS, measured, read_cpu, read_gpu, speed_up, title_of

if TYPE_CHECKING:
    from pathlib import Path


def bars() -> list[tuple[str, float]]:
    """What the chart shows: workloads, and how many times as fast they are."""
    figures, _, _ = read_cpu(RESULTS / "cpu.csv")
    found = [
        (f"CPU: {title_of(name)}", speed_up(figures[name], name)) for name in measured(figures)
    ]
    for row in read_gpu(RESULTS).values():
        if "ratio" in row:
            found.append((f"{row['device']}: {row['title']}", row["ratio"]))
    return found


def digest() -> str:
    """Stands in the chart's file, and tells whether it is the chart of these figures."""
    return "figures " + hashlib.sha256(json.dumps(bars()).encode()).hexdigest()[:16]


def draw(path: Path) -> None:
    """One bar per workload, on a logarithmic axis."""
    from matplotlib.figure import Figure

    rows = bars()[::-1]
    figure = Figure(figsize=(8, 0.8 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.barh([name for name, _ in rows], [ratio for _, ratio in rows], color="#2a6f97")
    for place, (_, ratio) in enumerate(rows):
        axes.text(ratio, place, f" {ratio:.1f}", va="center", size=8)
    axes.set_xscale("log")
    axes.set_xlim(1.0, 1.3 * max(ratio for _, ratio in rows))
    axes.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"], size=8)
    axes.minorticks_off()
    axes.tick_params("y", labelsize=7)
    axes.set_xlabel("times as fast as transformers (UniLM: as upstream's method)", size=8)
    figure.savefig(path, dpi=90, metadata={"Description": digest()})
