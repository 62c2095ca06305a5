"""The benchmark of source caches compares what gives the same answers."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("bench_source_cache")


def test_figures_are_medians_of_runs(bench: Any) -> None:
    args = bench.parse(["--new-tokens", "5"])
    runs = [
        bench.CacheRun(10**6, peak * 10**6, 2.0, writing, [[2]])
        for peak, writing in ((30, 4.0), (10, 8.0), (20, 6.0))
    ]
    row = bench.figures(args, "states", runs)
    assert (row["loaded MB"], row["peak MB"], row["reading s"]) == (1, 20, 2.0)
    assert (row["step ms"], row["all s"], row["spread"]) == (1500.0, 8.0, 1.67)
    assert row["workload"] == "source cache of bart, float32, 32 x 4, 1024 to 5: states"


@pytest.mark.long
def test_a_rehearsal_becomes_rows(bench: Any, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    sizes = ["--samples", "3", "--beams", "2", "--source", "20", "--new-tokens", "3"]
    bench.main(["--tiny", "--rounds", "1", *sizes, "--csv", str(table)])
    rows = {
        (row["workload"].split(": ")[1], row["figure"]): row["value"]
        for row in csv.DictReader(table.open())
    }
    assert rows["states over projected", "equal answers"] == "3 of 3"
    for kind in ("projected", "states"):
        assert all(float(rows[kind, name]) > 0 for name in ("reading s", "step ms", "all s"))
