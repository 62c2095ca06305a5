"""The README's results are those of the files in benchmarks/results, and nothing else."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("report")


@pytest.fixture
def elsewhere(report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of what the report reads and writes."""
    results = tmp_path / "results"
    results.mkdir()
    shutil.copy(BENCHMARKS / "results" / "cpu.csv", results)
    for name in ("README", "CHART"):
        copy = tmp_path / getattr(report, name).name
        shutil.copy(getattr(report, name), copy)
        monkeypatch.setattr(report, name, copy)
    for module in ("report", "report_chart"):
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
    table = elsewhere / "results" / "cpu.csv"
    last = table.read_text().splitlines()[-1].split(",")
    last[-3:] = ["bart", "tritonseq s", "1.25"]
    with table.open("a") as file:
        file.write(",".join(last) + "\n")
    assert report.main(["--check"]) == 1
    printed = capsys.readouterr().out
    assert "README.md is not" in printed and "speed.png is not" in printed
    assert "| 1.25 s | 16.3 |" in report.section()


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


def test_without_its_markers_it_stops(report: Any, elsewhere: Path) -> None:
    report.README.write_text("# nothing")
    with pytest.raises(SystemExit, match=r"README\.md needs one line"):
        report.main([])
