"""The rows of `benchmarks/results/` that the README tells of."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

from generate.workloads import WORKLOADS

RESULTS = Path(__file__).parents[1] / "results"
MODELS = {
    "gpt2": "GPT-2 124M",
    "bart": "BART-large",
    "t5": "T5-base",
    "opus-mt": "opus-mt",
    "nllb": "NLLB-600M",
    "prophetnet": "ProphetNet-large",
    "unilm": "UniLM-base",
}
ORDER = (
    *("nllb", "opus-mt", "bart", "t5", "prophetnet", "beams", "unilm"),
    *("bart-greedy", "t5-greedy", "greedy"),
    *("nllb-bf16", "bart-bf16", "t5-bf16", "greedy-bf16"),
)

Figures = dict[str, dict[str, str]]
"""Those of a machine, by workload and name."""


class Machine(NamedTuple):
    """What one machine has measured."""

    name: str
    versions: list[str]
    figures: Figures


def read_cpu(path: Path) -> list[Machine]:
    """The machines, the one that measured last first; of a figure that is there twice, the last."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    machines: list[Machine] = []
    for name in dict.fromkeys(row["machine"] for row in reversed(rows)):
        own = [row for row in rows if row["machine"] == name]
        figures: Figures = {}
        for row in own:
            figures.setdefault(row["workload"], {})[row["figure"]] = row["value"]
        pairs = {f"torch {row['torch']}, transformers {row['transformers']}" for row in own}
        machines.append(Machine(name, sorted(pairs), figures))
    return machines


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


def speed_up(values: dict[str, str], name: str, engine: str = "tritonseq") -> float:
    """How many times as fast as the engine whose ids are the right ones."""
    return float(values[f"{judge_of(name)} s"]) / float(values[f"{engine} s"])


def measured(figures: Figures) -> list[str]:
    return [name for name in ORDER if "tritonseq s" in figures.get(name, {})]
