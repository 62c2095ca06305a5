"""The README's chart: how many times as fast as transformers every engine is at every workload."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, NamedTuple

from reports.data import RESULTS, measured, read_cpu, read_gpu, speed_up, title_of

if TYPE_CHECKING:
    from pathlib import Path

ENGINES = {
    "tritonseq": "#2a6f97",
    "tritonseq int8": "#61a5c2",
    "ctranslate2": "#bc6c25",
    "ctranslate2 int8": "#dda15e",
}
"""With the colours of their bars, from top to bottom."""


class Bars(NamedTuple):
    """Those of one workload."""

    title: str
    speeds: dict[str, float]
    """How many times as fast as the other engine, by engine."""


def bars() -> list[Bars]:
    """What the chart shows; a workload that several CPUs have measured by the newest of them."""
    found: dict[str, Bars] = {}
    for machine in read_cpu(RESULTS / "cpu.csv"):
        for name in measured(machine.figures):
            values = machine.figures[name]
            there = [engine for engine in ENGINES if f"{engine} s" in values]
            speeds = {engine: speed_up(values, name, engine) for engine in there}
            found.setdefault(name, Bars(f"CPU: {title_of(name)}", speeds))
    return [*found.values(), *_of_gpus()]


def _of_gpus() -> list[Bars]:
    rows = read_gpu(RESULTS).values()
    return [
        Bars(f"{row['device']}: {row['title']}", {"tritonseq": row["ratio"]})
        for row in rows
        if "ratio" in row
    ]


def digest() -> str:
    """Stands in the chart's file, and tells whether it is the chart of these figures."""
    return "figures " + hashlib.sha256(json.dumps(bars()).encode()).hexdigest()[:16]


def draw(path: Path) -> None:
    """A group of bars per workload, on a logarithmic axis."""
    from matplotlib.figure import Figure

    groups = bars()
    count = sum(len(group.speeds) for group in groups)
    figure = Figure(figsize=(8, 0.8 + 0.15 * len(groups) + 0.2 * count), layout="constrained")
    axes = figure.subplots()
    top, ticks, named = 0.0, [], set()
    for group in groups:
        ticks.append(top - (len(group.speeds) - 1) / 2)
        for engine, speed in group.speeds.items():
            label = None if engine in named else engine
            named.add(engine)
            axes.barh(top, speed - 1, left=1, height=0.9, color=ENGINES[engine], label=label)
            axes.text(max(speed, 1), top, f" {speed:.1f}", va="center", size=7)
            top -= 1
        top -= 0.7
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    speeds = [speed for group in groups for speed in group.speeds.values()]
    axes.set_xlim(min(0.8, 0.9 * min(speeds)), 1.3 * max(speeds))
    axes.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"], size=8)
    axes.set_yticks(ticks, [group.title for group in groups], size=7)
    axes.minorticks_off()
    axes.legend(fontsize=7, loc="lower right")
    axes.set_xlabel("times as fast as transformers (UniLM: as upstream's method)", size=8)
    figure.savefig(path, dpi=90, metadata={"Description": digest()})
