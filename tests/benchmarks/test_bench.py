"""The benchmark rehearses every workload, and prints no figure whose output is wrong."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WORKLOADS = [
    *("beams", "beams-ngram", "greedy", "greedy-bf16"),
    *("bart", "bart-bf16", "bart-greedy", "t5", "t5-bf16", "t5-greedy"),
    *("opus-mt", "nllb", "nllb-bf16", "prophetnet", "unilm", "unilm-bf16"),
]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module; every block of time counts as steady."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("bench_generate")
    monkeypatch.setattr(script.timing.Calibration, "is_steady", lambda _: True)
    return script


def rehearse(bench: Any, *arguments: str) -> None:
    bench.main(["--tiny", "--repeats", "1", *arguments])


def test_no_workload_is_forgotten_here(bench: Any) -> None:
    assert list(bench.WORKLOADS) == WORKLOADS


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_is_checked_and_becomes_rows(bench: Any, name: str, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rehearse(bench, name, "--csv", str(table))
    rows = list(csv.DictReader(table.open()))
    assert {row["workload"] for row in rows} == {f"tiny {name}"}
    values = {row["figure"]: row["value"] for row in rows}
    assert values["check"].startswith("error" if name.endswith("bf16") else "ids equal")
    unilm = name.startswith("unilm")
    judge = "reprojection" if unilm else "transformers"
    ratio = "ratio to reprojection" if unilm else "ratio"
    rate = "tokens/s" if bench.WORKLOADS[name].model == "gpt2" else "samples/s"
    for figure in ("tritonseq s", f"{judge} s", ratio, rate, f"{judge} {rate}"):
        assert float(values[figure]) > 0
    others = {"transformers s", "reprojection s"} - {f"{judge} s"}
    assert not others & values.keys()


def test_the_table_grows_by_appending(bench: Any, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    for _ in range(2):
        rehearse(bench, "greedy", "--csv", str(table))
    lines = table.read_text().splitlines()
    assert sum(line.startswith("date,") for line in lines) == 1
    assert sum("ids equal" in line for line in lines) == 2


@pytest.mark.parametrize("name", ["greedy", "bart", "unilm"])
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


@pytest.mark.parametrize(
    ("name", "judge"), [("t5-bf16", "transformers"), ("unilm-bf16", "reprojection")]
)
def test_half_precision_that_is_worse_stops_it(
    bench: Any, name: str, judge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = bench.engines.Tritonseq.forced_logits
    monkeypatch.setattr(
        bench.engines.Tritonseq, "forced_logits", lambda engine: logits(engine) + 0.5
    )
    with pytest.raises(SystemExit, match=f"times that of {judge}"):
        rehearse(bench, name)


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


def test_int8_of_ours_takes_part_where_the_processor_has_it_and_is_asked_for(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacks() -> None:
        raise ValueError("no VNNI")

    work, cpu = bench.WORKLOADS["greedy"], torch.device("cpu")
    monkeypatch.setattr(bench.engines, "check_int8", lambda: None)
    assert "tritonseq int8" in bench.engines.able(work, cpu, int8=True)
    assert "tritonseq int8" not in bench.engines.able(work, cpu, int8=False)
    monkeypatch.setattr(bench.engines, "check_int8", lacks)
    assert "tritonseq int8" not in bench.engines.able(work, cpu, int8=True)
    assert "tritonseq int8 is left out: no VNNI" in capsys.readouterr().out


def test_unilm_is_compared_with_its_own_method_only(
    bench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    names = bench.engines.able(bench.WORKLOADS["unilm"], torch.device("cpu"), int8=False)
    assert names == ["tritonseq", "reprojection"]
    assert not capsys.readouterr().out


@pytest.fixture
def unilm(bench: Any, tmp_path: Path) -> Any:
    """A tiny UniLM by upstream's method, with its job."""
    workload = bench.WORKLOADS["unilm"].shrunk()
    bench.checkpoints.write_checkpoint("unilm", tmp_path, tiny=True)
    inputs = workload.inputs(
        bench.checkpoints.shape_of("unilm", True).vocabulary, torch.device("cpu")
    )
    return bench.engines.Reprojection(bench.engines.Job(tmp_path, workload, inputs))


def test_sources_of_unilm_are_framed(unilm: Any) -> None:
    inputs = unilm.job.inputs
    assert inputs.shape == (2, 12)
    assert (inputs[:, 0] == 101).all() and (inputs[:, -1] == 102).all()
    assert (inputs[:, 1:-1] > 103).all()


def test_what_unilm_gives_depends_on_the_source_and_does_not_repeat(unilm: Any) -> None:
    first, second = unilm.generate().tolist()
    assert first != second
    assert len(set(first)) > 2 and len(set(second)) > 2


def test_histories_of_upstreams_method_are_those_of_each_beam(bench: Any, unilm: Any) -> None:
    reprojection = bench.engines.reprojection

    class Rereading:
        """Keeps tokens only, and reads all of them at every step."""

        def __init__(self) -> None:
            self.tokens = unilm.job.inputs

        def start(self) -> torch.Tensor:
            return self.read(self.tokens[:, :0])

        def read(self, tokens: torch.Tensor) -> torch.Tensor:
            self.tokens = torch.cat([self.tokens, tokens], 1)
            source = self.tokens[:, : unilm.job.workload.source]
            logits: torch.Tensor = reprojection.ReprojectingDecoder(unilm.network, source).read(
                self.tokens
            )
            return logits

        def reorder(self, rows: torch.Tensor) -> None:
            self.tokens = self.tokens[rows]

    assert torch.equal(unilm.generate(), reprojection.search(Rereading(), 5, 5))


def test_ctranslate2_does_the_same_work(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ctranslate2", reason="the bench extra brings it")
    rehearse(bench, "t5", "bart", "--int8")
    printed = capsys.readouterr().out
    # Its beam rules are its own; on models this small they happen to choose alike.
    assert printed.count("ctranslate2 100%; ctranslate2 int8 ") == 2
    assert printed.count("ctranslate2 int8 samples/s: ") == 2


def test_memory_is_held_against_weights_caches_and_logits(bench: Any) -> None:
    weights = 1000
    # Per sample and layer: 12 source positions, the start token, 4 beams for each of 4 steps.
    caches = 2 * 2 * 2 * 64 * (12 + 1 + 4 * 4) * 4
    logits = 2 * 4 * 97 * 4
    bart = bench.WORKLOADS["bart"].shrunk()
    assert bench.footprint.needed(bart, weights, True) == weights + caches + logits
    # The target of UniLM starts empty.
    caches = 2 * 2 * 2 * 64 * (12 + 5 * 4) * 4
    logits = 2 * 5 * 197 * 4
    unilm = bench.WORKLOADS["unilm"].shrunk()
    assert bench.footprint.needed(unilm, weights, True) == weights + caches + logits


@pytest.mark.parametrize(("name", "judge"), [("bart", "transformers"), ("unilm", "reprojection")])
def test_memory_is_measured_of_all_engines(bench: Any, name: str, judge: str) -> None:
    row = bench.footprint.bench_memory(name, tiny=True)
    assert row["idle MB"] > 0 and row[f"{judge} idle MB"] > 0
    assert {"load/weights", "generate/needed", f"{judge} generate/needed"} <= row.keys()


def test_an_unknown_workload_is_named(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["gpt5"])
    assert "unknown: gpt5; choose from beams" in capsys.readouterr().err
