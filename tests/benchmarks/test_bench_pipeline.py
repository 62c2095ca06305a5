"""The pipeline's benchmark measures nothing that is wrong, and the README tells what it found."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STAGES = ["+ overlap", "+ length grouping", "+ refill", "auto", "defaults"]
EMBEDDED = ["bart-numbers", "unilm-clock", "t5-dates", "gpt2-words"]
KINDS = {
    "bart-base": "BART-base", "opus-mt": "opus-mt", "bart-numbers": "BART", "unilm-clock": "UniLM",
    "t5-dates": "T5", "gpt2-words": "GPT-2",
}  # fmt: skip
NAMES = list(KINDS)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module; every block of time counts as steady."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("bench_pipeline")
    monkeypatch.setattr(script.timing.Calibration, "is_steady", lambda _: True)
    return script


@pytest.fixture
def loops(bench: Any) -> Any:
    return importlib.import_module("texts.loops")


@pytest.fixture
def report(bench: Any) -> Any:
    return importlib.import_module("reports.pipeline")


def rehearse(bench: Any, *arguments: str) -> None:
    bench.main(["--rehearse", *arguments])


@pytest.mark.parametrize(
    "names",
    [pytest.param(NAMES, marks=pytest.mark.long), ["opus-mt", "unilm-clock", "gpt2-words"]],
    ids=["all", "some"],
)
def test_every_way_becomes_a_row_that_the_report_reads(
    bench: Any, report: Any, names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    rehearse(bench, "--csv", str(table), "--checkpoints", *names)
    rows = list(csv.DictReader(table.open()))
    for name in names:
        ways = [row["way"] for row in rows if row["checkpoint"] == name]
        theirs = [] if name == "unilm-clock" else ["transformers' loop"]
        assert ways == ["plain loop", *STAGES, *theirs]
    for row in rows:
        assert (row["lines"], row["batch"], row["rounds"]) == ("20", "4", "1")
        assert float(row["samples/s"]) > 0
        assert float(row["ratio low"]) <= float(row["ratio"]) <= float(row["ratio high"])
        assert all(row[name] for name in ("date", "machine", "torch", "transformers", "commit"))
    printed = capsys.readouterr().out
    assert printed.count("all outputs equal") == len(names)

    lines = list(report.pipeline_table(report.read_pipeline(table)))
    kinds = [KINDS[name] for name in names]
    body = lines[4 : 4 + len(names)]
    assert [line.split(",")[0] for line in body] == [f"| {kind}" for kind in kinds]
    columns = {line.count("|") for line in (*lines[2:4], *body)}
    assert columns == {len(STAGES) + 5}
    assert "4 beams" in body[0] and "greedy" in body[-1]


def test_texts_are_of_all_lengths_in_no_order(loops: Any, tmp_path: Path) -> None:
    for name in NAMES:
        subject = loops.Subject.of(name, tmp_path, 64, tiny=True)
        lengths = list(map(len, subject.model.text_job().encoder.ids(subject.texts)))
        assert max(lengths) >= 1.5 * min(lengths)
        batches = [lengths[start : start + 16] for start in range(0, 64, 16)]
        assert all(len(set(batch)) > 2 for batch in batches)


def test_each_stage_adds_one_cause(loops: Any) -> None:
    overlap, grouping, refill, auto, defaults = loops.stages(16).values()
    assert list(loops.stages(16)) == STAGES
    assert (overlap.by_length, overlap.refill) == (False, False)
    assert (grouping.by_length, grouping.refill) == (True, False)
    assert (refill.by_length, refill.refill) == (True, True)
    assert (auto.by_length, auto.refill) == (True, None)
    assert {run.batch_size for run in (overlap, grouping, refill, auto)} == {16}
    assert defaults == loops.RunOptions()


@pytest.mark.parametrize("way", ["plain_loop", "through_stages"])
def test_one_wrong_text_stops_it(
    bench: Any,
    loops: Any,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = getattr(loops, way)

    def wrong(*arguments: Any) -> list[str]:
        return [*right(*arguments)[:-1], "something else"]

    monkeypatch.setattr(loops, way, wrong)
    with pytest.raises(SystemExit, match=r"for line 20, not .*; no figures"):
        rehearse(bench, "--checkpoints", "gpt2-words")
    assert "samples/s" not in capsys.readouterr().out


def test_texts_that_go_wrong_while_timed_stop_it(
    bench: Any, loops: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = loops.through_stages
    calls: list[int] = []

    def late(*arguments: Any) -> list[str]:
        calls.append(1)
        texts: list[str] = right(*arguments)
        # Each way once for the comparison, then the first one that is timed.
        return texts[:-1] if len(calls) == len(STAGES) + 1 else texts

    monkeypatch.setattr(loops, "through_stages", late)
    with pytest.raises(SystemExit, match=r"\+ overlap puts out 19 texts, not 20; no figures"):
        rehearse(bench, "--checkpoints", "gpt2-words", "--csv", str(tmp_path / "table.csv"))
    assert not (tmp_path / "table.csv").exists()


def test_ratios_are_those_of_a_round(bench: Any) -> None:
    """A machine that slows down between rounds changes no ratio."""
    times = {
        "plain loop": bench.timing.Timing([3.0, 30.0, 300.0]),
        "auto": bench.timing.Timing([2.0, 15.0, 200.0], discarded=4, unsteady=1),
    }
    plain, auto = bench.figures(times, 60)
    assert plain == {
        **{"way": "plain loop", "samples/s": 2.0, "ratio": 1.0, "ratio low": 1.0},
        **{"ratio high": 1.0, "rounds": 3, "discarded": 0, "unsteady": 0},
    }
    assert auto == {
        **{"way": "auto", "samples/s": 4.0, "ratio": 1.5, "ratio low": 1.5},
        **{"ratio high": 2.0, "rounds": 3, "discarded": 4, "unsteady": 1},
    }


def test_answers_of_real_checkpoints_end_after_different_numbers_of_tokens(
    loops: Any, tmp_path: Path
) -> None:
    for name in loops.REAL:
        subject = loops.Subject.of(name, tmp_path, 40, tiny=True)
        job = subject.model.text_job()
        answers = job.complete(job.encoder.ids(subject.texts))
        assert len({answer.tokens for answer in answers}) > 1


def test_without_transformers_its_loop_is_left_out(
    loops: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = loops.Subject.of("t5-dates", tmp_path, 4)
    assert list(subject.ways(2, theirs=False)) == ["plain loop", *STAGES]
    monkeypatch.setattr(loops, "find_spec", lambda name: None)
    assert list(subject.ways(2)) == ["plain loop", *STAGES]


def test_threads_are_those_asked_for(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(bench, "bench", lambda *_: [])
    monkeypatch.setattr(bench, "show", lambda rows: None)
    rehearse(bench, "--threads", "3", "--checkpoints", "gpt2-words")
    rehearse(bench, "--checkpoints", "gpt2-words")
    assert asked == [3]


@pytest.mark.parametrize("option", ["--lines", "--repeats", "--threads", "--batch-sizes"])
def test_nothing_is_measured_by_none(bench: Any, option: str) -> None:
    with pytest.raises(SystemExit):
        bench.main([option, "0"])


def test_the_timeline_covers_all_stages(bench: Any, tmp_path: Path) -> None:
    path = tmp_path / "traces" / "pipeline.json"
    rehearse(bench, "--checkpoints", "gpt2-words", "--trace", str(path))
    trace = json.loads(path.read_text())
    about = trace["otherData"]
    names = ["read", "tokenize", "window", "generate", "detokenize", "write"]
    assert list(about["stages"]) == names
    assert {event["name"] for event in trace["traceEvents"]} == set(names)
    assert (about["lines"], about["batch"]) == (20, 4)
    assert all(0 <= busy <= about["seconds"] for busy in about["stages"].values())
    samples = [e["args"]["samples"] for e in trace["traceEvents"] if e["name"] == "generate"]
    assert sum(samples) == 20


def test_the_picture_is_that_of_its_timeline(bench: Any, report: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the bench extra brings it")
    trace, picture = tmp_path / "pipeline.json", tmp_path / "pipeline.png"
    rehearse(bench, "--checkpoints", "gpt2-words", "--trace", str(trace))
    report.draw_trace(trace, picture)
    assert report.trace_digest(trace).encode() in picture.read_bytes()
    trace.write_text(trace.read_text().replace('"lines": 20', '"lines": 21'))
    assert report.trace_digest(trace).encode() not in picture.read_bytes()


def test_bars_are_clipped_and_seen(report: Any) -> None:
    events = [("read", 0, 1), ("read", 1_000_000, 500_000), ("read", 4_000_000, 9), ("write", 5, 9)]
    trace = {"traceEvents": [{"name": n, "ts": ts, "dur": dur} for n, ts, dur in events]}
    assert report._bars(trace, "read", 4.0) == [(0.0, 4.0 * report.VISIBLE), (1.0, 0.5)]
