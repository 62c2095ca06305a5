"""The README's tables of results, in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from generate.workloads import WORKLOADS
from reports.data import ORDER, Machine, judge_of, measured, speed_up, title_of
from suite.measures import roofline
from suite.measures.cases import CASES, REPROJECTION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reports.data import Figures

UNKNOWN = "not yet measured"
COLUMNS = {
    "CTranslate2": "ctranslate2",
    "its int8": "ctranslate2 int8",
    "tritonseq": "tritonseq",
    "int8": "tritonseq int8",
}
"""The engines beside the one whose ids are the right ones; a column without figures is left out."""


def seconds(text: str | None) -> str:
    """Three figures of a number of seconds."""
    return "" if text is None else f"{float(f'{float(text):.3g}'):g} s"


def cpu_section(machines: list[Machine]) -> Iterator[str]:
    """A table for every machine, the newest first, and the memory that one of them needed."""
    first, *others = machines
    yield (
        f"**CPU** ({first.name}; {'; '.join(first.versions)}), measured by "
        "`python benchmarks/bench_generate.py --int8`, which checks the outputs first; rows in "
        "`benchmarks/results/cpu.csv`. In float32 all ids are equal to those of transformers. The "
        "last column compares with transformers."
    )
    yield ""
    yield from cpu_table(first.figures)
    for machine in others:
        yield f"Likewise on {machine.name}; {'; '.join(machine.versions)}:"
        yield ""
        yield from cpu_table(machine.figures)
    yield f"\\* UniLM has no other engine: {REPROJECTION} (`benchmarks/generate/reprojection.py`)."
    yield ""
    for machine in machines:
        if any(name.startswith("memory of") for name in machine.figures):
            yield from memory_section(machine.figures)
            return


def cpu_table(figures: Figures) -> Iterator[str]:
    names = measured(figures)
    columns = {
        title: engine
        for title, engine in COLUMNS.items()
        if any(f"{engine} s" in figures[name] for name in names)
    }
    yield f"| workload | transformers | {' | '.join(columns)} | times as fast |"
    yield f"|---|---|{'---|' * len(columns)}---|"
    for name in names:
        values = figures[name]
        mark = "*" if WORKLOADS[name].model == "unilm" else ""
        cells = [seconds(values[f"{judge_of(name)} s"]) + mark]
        cells += [seconds(values.get(f"{engine} s")) for engine in columns.values()]
        yield f"| {title_of(name)} | {' | '.join(cells)} | {speed_up(values, name):.1f} |"
    yield ""


def memory_section(figures: Figures) -> Iterator[str]:
    """Peaks over what has to be held, and what n-gram blocking costs."""
    held = {name: figures.get(f"memory of {name}", {}) for name in ORDER}
    held = {name: values for name, values in held.items() if "generate/needed" in values}
    yield "Peak memory, over the weights, caches and logits of one step that have to be there:"
    yield ""
    yield "| workload | transformers | CTranslate2 | tritonseq |"
    yield "|---|---|---|---|"
    for name, values in held.items():
        ratios = (
            values.get(f"{engine}generate/needed", "")
            for engine in (f"{judge_of(name)} ", "ctranslate2 ", "")
        )
        cells = " | ".join(f"{float(ratio):.2f}" if ratio else "" for ratio in ratios)
        yield f"| {title_of(name)} | {cells} |"
    loads = sorted(float(values["load/weights"]) for values in held.values())
    ngrams = float(figures["beams-ngram over beams, tritonseq"]["ratio"])
    yield ""
    yield (
        f"Loading peaks at {loads[0]:.2f} to {loads[-1]:.2f} times the weights. "
        f"`no_repeat_ngram_size=3` takes {ngrams:.3f} times the time of beam search without it."
    )
    yield ""


def gpu_section(rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield (
        "**GPU**, measured by `python benchmarks/gpu_suite.py`. The floor is what bytes and "
        f"operations allow on an H200 ({roofline.H200.read / 1e12:g} TB/s, "
        f"{roofline.H200.matmul / 1e12:g} TFLOP/s), without and with the sharing of lineages; "
        "caches per beam, as in transformers, could not pass the figure beside it, however fast "
        "their kernels."
    )
    yield ""
    yield "| workload | floor on an H200 | per-beam caches | goal | measured | compared with |"
    yield "|---|---|---|---|---|---|"
    for name, case in CASES.items():
        low, high = (roofline.rate(case, roofline.H200, live=live) for live in (False, True))
        floor = amount(low) if amount(low) == amount(high) else f"{amount(low)}-{amount(high)}"
        cap = ""
        if case.workload.beams > 1:
            cap = amount(roofline.transformers_cap(case, roofline.H200))
        cells = [f"{floor} {case.unit}", cap, amount(case.required), *seen(rows.get(name))]
        yield f"| {case.title} | {' | '.join(cells)} |"
    yield ""


def seen(row: dict[str, Any] | None) -> tuple[str, str]:
    if row is None:
        return UNKNOWN, ""
    where = f"{row['device']}, {row['dtype']}, torch {row['torch']}, {row['date']}, {row['commit']}"
    other = f"{row['engine']}: {amount(row['theirs'])}" if "theirs" in row else ""
    share = f", {row['share of floor']:.0%} of its floor" if "share of floor" in row else ""
    return f"**{amount(row['ours'])}** ({where}{share})", other


def amount(value: float) -> str:
    """Three figures at most, thousands in full."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"
