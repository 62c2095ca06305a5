"""The workloads of a run as bars, where matplotlib is there to draw them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def draw(run: Mapping[str, Any], path: Path) -> str:
    """Write the chart; returns its name, or why there is none."""
    rows = [row for row in run["workloads"] if "share of floor" in row]
    if not rows:
        return "none: no workload was measured beside the ceilings"
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "none: matplotlib is not installed"
    figure = Figure(figsize=(8, 1 + 0.7 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        floor = row["floor rate"][0]
        bars = [("tritonseq", row["ours"], "#2a6f97"), ("compared with", row.get("theirs"), "#bbb")]
        for offset, (label, rate, colour) in zip((0.2, -0.2), bars, strict=True):
            if rate is not None:
                share = 100 * rate / floor
                known = label if place == 0 else None
                axes.barh(place + offset, share, 0.38, color=colour, label=known)
                axes.text(share, place + offset, f" {rate:.4g} {row['unit']}", va="center", size=8)
    axes.set_yticks(range(len(rows)), [row["title"] for row in reversed(rows)], size=8)
    axes.set_xlabel("% of the rate that bytes and operations allow on this device")
    axes.set_xlim(0, max(100.0, axes.get_xlim()[1]) * 1.15)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    return path.name
