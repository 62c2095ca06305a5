"""The rows of `benchmarks/results/` that the README tells of."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from generate.workloads import WORKLOADS

RESULTS = Path(__file__).parents[1] / "results"
MODELS = {"gpt2": "GPT-2 124M", "bart": "BART-large", "t5": "T5-base", "unilm": "UniLM-base"}
ORDER = ("bart", "t5", "beams", "greedy", "unilm", "bart-bf16", "t5-bf16", "greedy-bf16")

Figures = dict[str, dict[str, str]]
"""The CPU's, by workload and name."""


def read_cpu(path: Path) -> tuple[Figures, str, list[str]]:
    """Figures, the machine in words, and the versions that measured them."""
    figures: Figures = {}
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        figures.setdefault(row["workload"], {})[row["figure"]] = row["value"]
    versions = sorted({f"torch {row['torch']}, transformers {row['transformers']}" for row in rows})
    return figures, rows[-1]["machine"], versions


def read_gpu(folder: Path) -> dict[str, dict[str, Any]]:
    """The latest row of every workload, with where and when it was measured."""
    found: dict[str, dict[str, Any]] = {}
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    runs = [run for run in runs if not run["rehearsal"]]
    for run in sorted(runs, key=lambda run: machine_of(run)["date"]):
        for row in run["workloads"]:
            stamp = {"commit": run["commit"], "dtype": run["dtype"], **machine_of(run)}
            found[row["workload"]] = row | stamp
    return found


def machine_of(run: dict[str, Any]) -> dict[str, Any]:
    machine: dict[str, Any] = run["parts"]["machine"]["results"]["machine"]
    return machine


def title_of(name: str) -> str:
    """A workload of the CPU in words."""
    work = WORKLOADS[name]
    dtype = str(work.dtype).removeprefix("torch.")
    search = "greedy" if work.beams == 1 else f"{work.beams} beams"
    read = "source" if work.has_source else "prompt"
    size = f"batch {work.batch}, {read} {work.source}, {search}, {work.new_tokens} tokens"
    return f"{MODELS[work.model]}, {dtype}, {size}"


def judge_of(name: str) -> str:
    return "reprojection" if WORKLOADS[name].model == "unilm" else "transformers"


def speed_up(values: dict[str, str], name: str) -> float:
    """How many times as fast as the other engine."""
    return float(values[f"{judge_of(name)} s"]) / float(values["tritonseq s"])


def measured(figures: Figures) -> list[str]:
    return [name for name in ORDER if "tritonseq s" in figures.get(name, {})]
