"""The benchmark rehearses every workload, and prints no figure whose output is wrong."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RATES = {"gpt2": "tokens/s", "bart": "samples/s", "t5": "samples/s"}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module; every block of time counts as steady."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("bench_generate")
    monkeypatch.setattr(script.timing.Calibration, "steady", lambda _: True)
    return script


def rehearse(bench: Any, *arguments: str) -> None:
    bench.main(["--tiny", "--repeats", "1", *arguments])


@pytest.mark.parametrize(
    "name", ["beams", "beams-ngram", "greedy", "greedy-bf16", "bart", "bart-bf16", "t5", "t5-bf16"]
)
def test_every_workload_is_checked_and_becomes_rows(bench: Any, name: str, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rehearse(bench, name, "--csv", str(table))
    rows = list(csv.DictReader(table.open()))
    assert {row["workload"] for row in rows} == {f"tiny {name}"}
    values = {row["figure"]: row["value"] for row in rows}
    assert values["check"].startswith("error" if name.endswith("bf16") else "ids equal")
    rate = RATES[bench.WORKLOADS[name].model]
    for figure in ("tritonseq s", "transformers s", "ratio", rate, f"transformers {rate}"):
        assert float(values[figure]) > 0


def test_the_table_grows_by_appending(bench: Any, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    for _ in range(2):
        rehearse(bench, "greedy", "--csv", str(table))
    lines = table.read_text().splitlines()
    assert sum(line.startswith("date,") for line in lines) == 1
    assert sum("ids equal" in line for line in lines) == 2


@pytest.mark.parametrize("name", ["greedy", "bart"])
def test_one_wrong_id_stops_it(
    bench: Any, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generate = bench.engines.Tritonseq.generate

    def wrong(engine: Any) -> torch.Tensor:
        ids: torch.Tensor = generate(engine).clone()
        ids[-1, -1] += 1
        return ids

    monkeypatch.setattr(bench.engines.Tritonseq, "generate", wrong)
    with pytest.raises(SystemExit, match="ids differ"):
        rehearse(bench, name)
    assert "workload" not in capsys.readouterr().out


def test_ids_that_go_wrong_while_timed_stop_it(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = bench.engines.Tritonseq.generate
    calls: list[int] = []

    def late(engine: Any) -> torch.Tensor:
        calls.append(1)
        ids: torch.Tensor = generate(engine)
        return ids + (len(calls) > 1)

    monkeypatch.setattr(bench.engines.Tritonseq, "generate", late)
    with pytest.raises(SystemExit, match="ids differ"):
        rehearse(bench, "greedy")


def test_half_precision_that_is_worse_stops_it(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = bench.engines.Tritonseq.forced_logits
    monkeypatch.setattr(
        bench.engines.Tritonseq, "forced_logits", lambda engine: logits(engine) + 0.5
    )
    with pytest.raises(SystemExit, match="times that of transformers"):
        rehearse(bench, "t5-bf16")


@pytest.mark.parametrize("width", [12 + 4, 12 + 6, 0])
def test_less_or_more_than_the_work_is_refused(bench: Any, width: int) -> None:
    workload = bench.WORKLOADS["greedy"].shrunk()
    with pytest.raises(SystemExit, match="new tokens instead of 5"):
        bench.engines.continuation(torch.zeros(2, width), workload)


def test_ctranslate2_stays_away_from_gpus_and_says_so(
    bench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    names = bench.engines.able(bench.WORKLOADS["t5"], torch.device("cuda"), int8=True)
    assert names == ["tritonseq", "transformers"]
    assert "on the CPU only" in capsys.readouterr().out


def test_ctranslate2_does_the_same_work(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ctranslate2", reason="the bench extra brings it")
    rehearse(bench, "t5", "bart", "--int8")
    printed = capsys.readouterr().out
    # Its beam rules are its own; on models this small they happen to choose alike.
    assert printed.count("check: ids equal; ctranslate2 100%; ctranslate2 int8 ") == 2
    assert printed.count("ctranslate2 int8 samples/s: ") == 2


def test_memory_is_held_against_weights_caches_and_logits(bench: Any) -> None:
    weights = 1000
    # Per sample and layer: 12 source positions, the start token, 4 beams for each of 4 steps.
    caches = 2 * 2 * 2 * 64 * (12 + 1 + 4 * 4) * 4
    logits = 2 * 4 * 97 * 4
    bart = bench.WORKLOADS["bart"].shrunk()
    assert bench.footprint.needed(bart, weights, True) == weights + caches + logits
    row = bench.footprint.bench_memory("bart", tiny=True)
    assert row["idle MB"] > 0 and row["transformers idle MB"] > 0
    assert {"load/weights", "generate/needed", "transformers generate/needed"} <= row.keys()


def test_an_unknown_workload_is_named(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["gpt5"])
    assert "unknown: gpt5; choose from beams" in capsys.readouterr().err
