"""What the README tells of the pipeline: a table of its causes, and a picture of its stages."""

from __future__ import annotations

import csv
import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Row = dict[str, str]

PLAIN = "plain loop"

# Seconds of the picture: enough for the stages to find their rhythm.
SHOWN = 4.0
# The share of its width that a piece of work takes at least, or else it could not be seen.
VISIBLE = 0.002
MODEL, TEXT = "#2a6f97", "#e07a1f"


def read_pipeline(path: Path) -> list[Row]:
    """The last row of every setup, checkpoint, batch size and way; the newest setup comes last."""
    if not path.exists():
        return []
    with path.open() as file:
        rows = list(csv.DictReader(file))
    setups = list(dict.fromkeys(map(_setup, reversed(rows))))
    latest = {(_setup(row), row["checkpoint"], row["batch"], row["way"]): row for row in rows}
    return sorted(latest.values(), key=lambda row: -setups.index(_setup(row)))


def pipeline_table(rows: Sequence[Row]) -> Iterator[str]:
    """The samples/s of the plain loop, and how many times as fast the others are.

    A table for each setup, a machine with its threads and versions; the newest comes first.
    """
    setups: dict[str, list[Row]] = {}
    for row in reversed(rows):
        setups.setdefault(_setup(row), []).insert(0, row)
    # What has no plain loop beside it is a rate of nothing.
    judged = {s: own for s, own in setups.items() if any(row["way"] == PLAIN for row in own)}
    for number, (setup, measured) in enumerate(judged.items()):
        yield f"Likewise on {setup}:" if number else _introduction(setup)
        yield ""
        yield from _table(measured)
        yield ""
        yield _reservations(measured)
        yield ""


def _setup(row: Row) -> str:
    versions = f"torch {row['torch']}"
    if row["transformers"]:
        versions += f", transformers {row['transformers']}"
    return f"{row['machine']}; {versions}"


def _introduction(setup: str) -> str:
    return (
        f"**Pipeline** ({setup}), from texts to texts, measured by `python "
        "benchmarks/bench_pipeline.py`, all outputs equal; rows in "
        "`benchmarks/results/pipeline_cpu.csv`. The plain loop tokenizes, generates and "
        "detokenizes batch after batch. BART-base and opus-mt have real widths, vocabularies and "
        "depths, and random weights; the others are the embedded checkpoints. How many times as "
        "fast as that the pipeline is with one "
        'idea more in each column, at the same batch size ("auto": refill where it pays), and last '
        "as it comes, with a batch size of its own:"
    )


def _table(rows: Sequence[Row]) -> Iterator[str]:
    others = [way for way in dict.fromkeys(row["way"] for row in rows) if way != PLAIN]
    yield f"| checkpoint | batch | {PLAIN} | {' | '.join(others)} |"
    yield "|---|---|---|" + "---|" * len(others)
    subjects: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        subjects.setdefault((row["checkpoint"], row["batch"]), {})[row["way"]] = row
    for (_, batch), ways in subjects.items():
        plain = ways[PLAIN]
        cells = [f"{float(ways[way]['ratio']):.2f}" if way in ways else "" for way in others]
        rate = float(plain["samples/s"])
        shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        yield f"| {plain['title']} | {batch} | {shown} samples/s | {' | '.join(cells)} |"


def _reservations(rows: Sequence[Row]) -> str:
    """How far the figures can be trusted."""
    rounds = min(int(row["rounds"]) for row in rows)
    lines = " or ".join(f"{count:,}" for count in sorted({int(row["lines"]) for row in rows}))
    spread = max((float(r["ratio high"]) - float(r["ratio low"])) / float(r["ratio"]) for r in rows)
    text = (
        f"Medians of {rounds} rounds over {lines} lines; of one ratio, rounds differ by up to "
        f"{spread:.0%}."
    )
    if unsteady := sum(int(row["unsteady"]) for row in rows):
        measured = sum(int(row["rounds"]) for row in rows)
        text += f" In {unsteady} of {measured} measurements the machine was unsteady."
    return text


def trace_digest(path: Path) -> str:
    """Stands in the picture's file, and tells whether it is the picture of this timeline."""
    return "timeline " + hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def draw_trace(source: Path, path: Path) -> None:
    """A lane for every stage, with the share of the whole run that it was busy."""
    from matplotlib.figure import Figure

    trace = json.loads(source.read_text(encoding="utf-8"))
    about: dict[str, Any] = trace["otherData"]
    width = min(SHOWN, about["seconds"])
    figure = Figure(figsize=(8, 2.7), layout="constrained")
    axes = figure.subplots()
    for lane, (stage, busy) in enumerate(about["stages"].items()):
        color = MODEL if stage == "generate" else TEXT
        axes.axhline(lane, color="#e6e6e6", linewidth=1, zorder=0)
        axes.broken_barh(_bars(trace, stage, width), (lane - 0.32, 0.64), facecolors=color)
        share = busy / about["seconds"]
        words = f"{share:.1%}" if share >= 0.001 else "< 0.1%"
        axes.text(1.01, lane, words, transform=axes.get_yaxis_transform(), va="center", size=9)
    axes.text(1.01, -0.85, "busy", transform=axes.get_yaxis_transform(), va="center", size=8)
    axes.set_xlim(0, width)
    axes.set_ylim(len(about["stages"]) - 0.5, -0.6)
    axes.set_yticks(range(len(about["stages"])), about["stages"], size=9)
    axes.tick_params("y", length=0)
    axes.tick_params("x", labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    rate = about["lines"] / about["seconds"]
    axes.set_xlabel(
        f"seconds, the first of {about['seconds']:.1f}: {about['lines']:,} texts, {rate:,.0f} a "
        f"second\n{about['title']}, batch {about['batch']}; {about['machine']}",
        size=8,
    )
    figure.savefig(path, dpi=100, metadata={"Description": trace_digest(source)})


def _bars(trace: dict[str, Any], stage: str, width: float) -> list[tuple[float, float]]:
    """Start and length of what a stage did, in seconds, none too short to be seen."""
    events = [event for event in trace["traceEvents"] if event["name"] == stage]
    bars = [(event["ts"] / 1e6, event["dur"] / 1e6) for event in events]
    return [(start, max(length, VISIBLE * width)) for start, length in bars if start < width]
