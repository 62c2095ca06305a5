"""Rows as lines on the terminal, in a CSV file, and as a chart."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from .measure import Row

COLUMNS = (
    "workload", "model", "kernel", "part", "shape", "scale", "dtype", "path", "check",
    "us", "us p20", "us p80", "MB", "GB/s", "share", "naive us", "naive ratio", "compiled us",
    "compiled ratio", "inputs", "unsteady", "note",
)  # fmt: skip

_LINE = "{:26}{:>6}{:>10}{:>9}{:>9}{:>9}{:>7}{:>8}{:>10}  {}"

HEADER = _LINE.format(
    "kernel, workload, part", "scale", "us", "p20", "p80", "GB/s", "share", "naive", "compiled", ""
)


def line(row: Row) -> str:
    """A row for the terminal: ratios are those of the other's time to ours."""
    name = f"{row['kernel']} {row['workload']} {row['part']}".strip()
    if row["check"] != "green":
        return f"{name:26}{row['scale']:>6}  {row['check']}"
    share = f"{row['share']:.0%}"
    ratios = (f"{row[key]:.2f}x" if key in row else "" for key in ("naive ratio", "compiled ratio"))
    remarks = ["inputs in the cache"] if row["inputs"] == "warm" else []
    remarks += [f"{row['unsteady']} blocks unsteady"] if row["unsteady"] else []
    remarks += [row["note"]] if "note" in row else []
    figures = (f"{row[key]:g}" for key in ("us", "us p20", "us p80", "GB/s"))
    return _LINE.format(name, row["scale"], *figures, share, *ratios, "; ".join(remarks)).rstrip()


def append_csv(path: Path, row: Row, stamp: dict[str, Any]) -> None:
    """Append one line: where, with what and when, then the row; what it lacks stays empty."""
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow([*stamp, *COLUMNS])
        writer.writerow([*stamp.values(), *(row.get(column, "") for column in COLUMNS)])


def require_matplotlib() -> None:
    """Raise ValueError where there is none, before anything is measured."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError(
            "--png needs matplotlib: pip install matplotlib, or leave it out"
        ) from None


def draw_png(path: Path, rows: list[Row], title: str) -> None:
    """Two bars for every row: times as fast as plain torch, and the share of bandwidth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["check"] == "green"][::-1]
    figure = Figure(figsize=(11, 1.6 + 0.22 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9)
    faster, share = figure.subplots(1, 2, sharey=True)
    place = range(len(rows))
    faster.barh(place, [row["naive ratio"] for row in rows], 0.7, color="#3b6ea5", label="eager")
    compiled = [
        (at, row["compiled ratio"]) for at, row in enumerate(rows) if "compiled ratio" in row
    ]
    if compiled:
        places, ratios = zip(*compiled, strict=True)
        faster.plot(ratios, places, "d", color="#c8553d", label="compiled")
    faster.set_xscale("log")
    faster.axvline(1.0, color="black", linewidth=0.8)
    faster.set_xlabel("times as fast as plain torch")
    faster.legend(fontsize=7)
    names = [f"{row['kernel']} {row['workload']} {row['part']}".strip() for row in rows]
    faster.set_yticks(place, names, fontsize=7)
    share.barh(place, [100 * row["share"] for row in rows], 0.7, color="#6a9a5b")
    share.set_xlabel("% of the memory's bandwidth, by the fewest bytes")
    figure.savefig(path, dpi=110)
