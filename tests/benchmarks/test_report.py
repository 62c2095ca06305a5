"""The README's results are those of the files in benchmarks/results, and nothing else."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("report")


@pytest.fixture
def elsewhere(report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of what the report reads and writes."""
    results = tmp_path / "results"
    shutil.copytree(BENCHMARKS / "results", results, ignore=shutil.ignore_patterns("*.json"))
    for name in ("README", "CHART"):
        copy = tmp_path / getattr(report, name).name
        shutil.copy(getattr(report, name), copy)
        monkeypatch.setattr(report, name, copy)
    monkeypatch.setattr(report, "STAGES", tmp_path / report.STAGES.name)
    for module in ("report", "reports.charts"):
        monkeypatch.setattr(importlib.import_module(module), "RESULTS", results)
    return tmp_path


def test_the_readme_is_up_to_date(report: Any) -> None:
    assert report.main(["--check"]) == 0


def test_a_number_that_was_typed_is_noticed(
    report: Any, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = report.README.read_text()
    report.README.write_text(readme.replace("not yet measured", "9999", 1))
    assert report.main(["--check"]) == 1
    assert capsys.readouterr().out.startswith("README.md is not what the results say")
    report.main([])
    assert report.README.read_text() == readme


def test_a_new_row_changes_table_and_chart(
    report: Any, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    append(elsewhere, "a machine", {"transformers": 20.0, "tritonseq": 1.25})
    assert report.main(["--check"]) == 1
    printed = capsys.readouterr().out
    assert "README.md is not" in printed and "speed.png is not" in printed
    append(elsewhere, "a machine", {"tritonseq": 1.0})
    assert "| 20 s | 1 s | 20.0 |" in report.section()


def test_machines_have_tables_of_their_own_with_the_engines_that_they_ran(
    report: Any, elsewhere: Path
) -> None:
    before = report.section().splitlines()
    name = before[0].removeprefix("**CPU** (").partition("; ")[0]
    append(elsewhere, "a machine", {"transformers": 20.0, "tritonseq": 2.0, "tritonseq int8": 1.0})
    lines = report.section().splitlines()
    assert lines[0].startswith("**CPU** (a machine; torch 2.13, transformers 5.24), ")
    assert lines[2] == "| workload | transformers | tritonseq | int8 | times as fast |"
    assert lines[4].endswith(" | 20 s | 2 s | 1 s | 10.0 |")
    assert lines[6].startswith(f"Likewise on {name}; ")
    assert lines[8:12] == before[2:6]


def append(elsewhere: Path, machine: str, seconds: dict[str, float]) -> None:
    """Rows of the workload "bart"."""
    with (elsewhere / "results" / "cpu.csv").open("a") as file:
        for engine, value in seconds.items():
            file.write(f"2030-01-01,{machine},2.13,5.24,abc,bart,{engine} s,{value}\n")


def test_a_run_on_a_gpu_takes_its_place(report: Any, elsewhere: Path) -> None:
    def save(name: str, date: str, rate: float, *, rehearsal: bool = False) -> None:
        machine = {"date": date, "device": "a GPU", "torch": "2.11.0"}
        row = {
            "workload": "bart",
            "title": "BART",
            "ours": rate,
            "theirs": 30.0,
            "engine": "transformers",
            "ratio": rate / 30,
            "share of floor": 0.75,
        }
        run = {
            "rehearsal": rehearsal,
            "commit": "abc",
            "dtype": "bfloat16",
            "parts": {"machine": {"results": {"machine": machine}}},
            "workloads": [row],
        }
        (elsewhere / "results" / name).write_text(json.dumps(run))

    save("later.json", "2030-02-01", 250.0)
    save("earlier.json", "2030-01-01", 111.0)
    save("toy.json", "2030-03-01", 333.0, rehearsal=True)
    (line,) = [
        line for line in report.section().splitlines() if line.startswith("| BART-large, 128")
    ]
    assert "**250** (a GPU, bfloat16, torch 2.11.0, 2030-02-01, abc, 75% of its floor)" in line
    assert "transformers: 30" in line
    assert report.section().count("not yet measured") == 4


def test_rows_of_the_pipeline_become_its_table(report: Any, elsewhere: Path) -> None:
    names = "machine,torch,transformers,checkpoint,title,batch,lines,way,samples/s,ratio"
    rounds = "ratio low,ratio high,rounds,unsteady"
    start = 'cpu,2.13.0,5.23.0,bart-numbers,"BART, 4 beams",16,2000'
    rows = [
        f"{start},plain loop,1160.4,1.0,1.0,1.0,5,0",
        f"{start},+ overlap,99.0,9.0,9.0,9.0,5,0",
        f"another {start},+ refill,99.0,9.0,9.0,9.0,5,0",
        f"{start},+ overlap,1276.0,1.1,1.0,1.21,5,2",
        f"{start},defaults,2000.0,1.724,1.7,1.75,5,0",
    ]
    table = elsewhere / "results" / "pipeline_cpu.csv"
    table.write_text("\n".join([f"{names},{rounds}", *rows]))
    assert report.main(["--check"]) == 1
    shown = report.section().splitlines()
    assert shown[-7].startswith("**Pipeline** (cpu; torch 2.13.0, transformers 5.23.0), ")
    assert shown[-5:] == [
        "| checkpoint | batch | plain loop | + overlap | defaults |",
        "|---|---|---|---|---|",
        "| BART, 4 beams | 16 | 1,160 samples/s | 1.10 | 1.72 |",
        "",
        "Medians of 5 rounds over 2,000 lines; of one ratio, rounds differ by up to 19%. "
        "In 2 of 15 measurements the machine was unsteady.",
    ]
    # A plain loop of its own makes a table of its own, behind the newest one.
    other = f"another {start},plain loop,7.04,1.0,1.0,1.0,5,0"
    table.write_text("\n".join([f"{names},{rounds}", other, *rows]))
    shown = report.section().splitlines()
    assert "Likewise on another cpu; torch 2.13.0, transformers 5.23.0:" in shown
    assert "| BART, 4 beams | 16 | 7.0 samples/s | 9.00 |" in shown


def test_another_timeline_asks_for_another_picture(
    report: Any, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = elsewhere / "results" / "traces" / "pipeline.json"
    trace.parent.mkdir(exist_ok=True)
    trace.write_text("{}")
    report.STAGES.write_bytes(b"timeline 0123456789abcdef")
    assert report.main(["--check"]) == 1
    assert "pipeline.png is not what the results say" in capsys.readouterr().out
    report.STAGES.write_bytes(report.trace_digest(trace).encode())
    assert report.main(["--check"]) == 0


def test_without_its_markers_it_stops(report: Any, elsewhere: Path) -> None:
    report.README.write_text("# nothing")
    with pytest.raises(SystemExit, match=r"README\.md needs one line"):
        report.main([])
