"""The GPU suite runs on any machine as a rehearsal, and keeps what it has whatever happens."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CASES = ["gpt2-greedy", "gpt2-beams", "bart", "t5", "unilm"]


class TestRehearsal:
    @pytest.fixture(scope="class")
    @staticmethod
    def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The folder of one rehearsal, run as a user would."""
        folder = tmp_path_factory.mktemp("suite")
        command = [sys.executable, str(BENCHMARKS / "gpu_suite.py"), "--rehearse"]
        done = subprocess.run(
            [*command, "--out", str(folder)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        return folder

    @pytest.fixture(scope="class")
    @staticmethod
    def run(out: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((out / "suite.json").read_text())
        return found

    def test_every_part_is_done(self, run: dict[str, Any]) -> None:
        parts = suite_parts()
        assert {name: part["status"] for name, part in run["parts"].items()} == {
            part.name: "done" for part in parts.PARTS
        }
        assert run["rehearsal"] is True

    def test_what_needs_a_gpu_says_so(self, run: dict[str, Any]) -> None:
        machine = run["parts"]["machine"]
        assert set(machine["not run"]) == {"launch us", "chained launch us"}
        assert all("no GPU" in reason for reason in machine["not run"].values())
        assert "no GPU" in run["parts"]["ablation"]["results"]["bart: eager"]["note"]

    def test_ids_equal_those_of_the_others(self, run: dict[str, Any]) -> None:
        found = run["parts"]["exactness"]["results"]
        assert {name.split()[0] for name in found} == {"gpt2", "t5", "bart", "unilm"}
        assert {entry["verdict"] for entry in found.values()} == {"identical"}

    def test_every_workload_stands_beside_its_floor_and_another(self, run: dict[str, Any]) -> None:
        assert [row["workload"] for row in run["workloads"]] == CASES
        for row in run["workloads"]:
            assert row["ours"] > 0 and row["theirs"] > 0 and row["ratio"] > 0
            assert 0 < row["floor ms/step"][0] <= row["floor ms/step"][1] < row["ms/step"]
            assert len(row["warm-ups s"]) == 2
        assert "upstream's method" in run["workloads"][-1]["engine"]
        assert "theirs static" in run["parts"]["gpt2-greedy"]["results"]

    def test_drift_profile_ablation_and_kernels_have_figures(self, run: dict[str, Any]) -> None:
        results = {name: part["results"] for name, part in run["parts"].items()}
        assert set(results["drift"]) == {"gpt2", "bart", "t5", "unilm"}
        assert all(found["max |dlogprob| theirs"] > 0 for found in results["drift"].values())
        assert list(results["profile"]) == CASES
        assert all(found["launches/step"] > 10 for found in results["profile"].values())
        assert results["ablation"]["bart: reorder with source"]["added ms/step"] > 0
        assert sum(report["passed"] for report in results["tests"].values()) > 10
        assert {row["check"] for row in results["kernels"]["rows"]} == {"green"}

    def test_page_and_chart(self, out: Path, run: dict[str, Any]) -> None:
        page = (out / "suite.md").read_text()
        assert page.startswith("# A rehearsal")
        assert all(row["title"] in page for row in run["workloads"])
        if importlib.util.find_spec("matplotlib") is None:
            assert "matplotlib is not installed" in run["chart"]
        else:
            assert (out / run["chart"]).read_bytes().startswith(b"\x89PNG")
        assert len(list(out.iterdir())) <= 8


def suite_parts() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("suite.parts")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def conductor(benchmarks: None) -> Any:
    return importlib.import_module("suite.conductor")


@pytest.fixture
def conduct(conductor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs parts whose bodies are given as source, by name, as the command would."""
    script = importlib.import_module("gpu_suite")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(minutes: float = 1.0, **bodies: str | None) -> tuple[int, dict[str, Any]]:
        parts = []
        for name, body in bodies.items():
            if body is not None:
                source = "".join(f"    {line}\n" for line in body.splitlines())
                (tmp_path / f"part_{name}.py").write_text(f"def run(task):\n{source}")
            share = 1e-6 if name == "last" else 1.0
            parts.append(conductor.Part(name, f"part_{name}", name, share))
        out = tmp_path / "out"
        args = argparse.Namespace(
            minutes=minutes, out=out, rehearse=True, dtype="bfloat16", commit="a commit"
        )
        status = script.suite(parts, args)
        return status, json.loads((out / "suite.json").read_text())["parts"]

    return run


KEEP = "task.keep('figure', 42)\n"


def test_a_part_that_raises_takes_nothing_with_it(conduct: Any) -> None:
    status, parts = conduct(before=KEEP, broken=KEEP + "raise RuntimeError('so it is')", after=KEEP)
    assert status == 1
    assert [part["status"] for part in parts.values()] == ["done", "failed", "done"]
    assert all(part["results"] == {"figure": 42} for part in parts.values())
    assert parts["broken"]["failures"] == {"broken": "RuntimeError: so it is"}


@pytest.mark.parametrize(
    ("death", "word"), [("os.kill(os.getpid(), 9)", "-9"), ("os._exit(11)", "11")]
)
def test_a_part_that_dies_takes_nothing_with_it(conduct: Any, death: str, word: str) -> None:
    body = f"import os\n{KEEP}print('last words', flush=True)\n{death}"
    status, parts = conduct(broken=body, after=KEEP)
    assert status == 1
    assert parts["broken"]["results"] == parts["after"]["results"] == {"figure": 42}
    assert parts["broken"]["failures"]["process"] == f"ended with status {word}: last words"


def test_a_part_that_cannot_be_imported_is_named(conduct: Any) -> None:
    status, parts = conduct(missing=None, after=KEEP)
    assert status == 1
    assert [part["status"] for part in parts.values()] == ["failed", "done"]
    assert "No module named 'part_missing'" in parts["missing"]["failures"]["process"]


def test_one_failure_inside_a_part_leaves_the_rest_of_it(conduct: Any) -> None:
    body = "task.attempt('wrong', lambda: 1 / 0)\ntask.attempt('right', lambda: 42)"
    status, parts = conduct(mixed=body)
    assert status == 1
    assert parts["mixed"]["results"] == {"right": 42}
    assert "ZeroDivisionError" in parts["mixed"]["failures"]["wrong"]


def test_when_time_runs_out_the_rest_is_listed(conduct: Any, tmp_path: Path) -> None:
    """A part that never ends is stopped with all that it has started."""
    started = tmp_path / "started"
    body = (
        "import subprocess, time\n"
        f"{KEEP}"
        "process = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(started)!r}, 'w').write(str(process.pid))\n"
        "time.sleep(600)"
    )
    begin = time.monotonic()
    status, parts = conduct(0.15, first=KEEP, endless=body, last=KEEP)
    assert status == 3
    assert time.monotonic() - begin < 60
    assert parts["first"]["status"] == "done"
    assert parts["endless"]["status"] == "out of time"
    assert parts["endless"]["results"] == {"figure": 42}
    assert parts["last"] == {"status": "not run: out of time"}
    with pytest.raises(ProcessLookupError):
        wait_for_the_end_of(int(started.read_text()))


def wait_for_the_end_of(process: int) -> None:
    for _ in range(100):
        os.kill(process, 0)
        # A zombie that has not been waited for yet is an end as well.
        if Path(f"/proc/{process}/stat").read_text().split()[2] == "Z":
            raise ProcessLookupError
        time.sleep(0.1)


def test_an_item_is_not_begun_without_its_time(conduct: Any) -> None:
    body = "task.attempt('long', lambda: 42, needs=1e6)\ntask.attempt('short', lambda: 42)"
    status, parts = conduct(part=body)
    assert status == 3
    assert parts["part"]["status"] == "incomplete"
    assert parts["part"]["results"] == {"short": 42}
    assert parts["part"]["not run"]["long"].startswith("out of time")


def test_time_that_is_left_over_goes_to_the_others(conductor: Any) -> None:
    parts = [
        conductor.Part(name, "m", stage, s)
        for name, stage, s in [("a", "x", 10), ("b", "x", 20), ("c", "y", 20)]
    ]
    groups = conductor.stages(parts)
    assert [[part.name for part in group] for group in groups] == [["a", "b"], ["c"]]
    assert conductor.share(groups) == 0.5
    assert conductor.share(groups[1:]) == 1.0


def test_unknown_parts_and_missing_gpus_are_usage_errors(
    benchmarks: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = importlib.import_module("gpu_suite")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, message in [
        (["--rehearse", "--only", "gpt5"], "unknown: gpt5; choose from workloads, prepare"),
        ([], "--rehearse runs on the CPU"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            script.main(["--out", "nowhere", *arguments])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    assert not Path("nowhere").exists()


def test_parts_by_name() -> None:
    parts = suite_parts()
    assert [part.name for part in parts.select(["workloads"])] == ["machine", *CASES]
    assert [part.name for part in parts.select(["t5"])] == ["machine", "t5"]
    assert parts.select([]) == parts.PARTS


def test_a_checkout_is_importable_without_being_installed(benchmarks: None, tmp_path: Path) -> None:
    checkout = importlib.import_module("suite.checkout")
    checkout.link_package(tmp_path / "links")
    code = (
        "import tritonseq.kernels, tritonseq.models.gpt2, tritonseq as t; print(t.__file__)\n"
        "print(tritonseq.kernels.__file__)"
    )
    # Without `site`, no installation of the package in any form is in force.
    libraries = os.pathsep.join([str(tmp_path / "links"), sysconfig.get_paths()["purelib"]])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": libraries},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(str(tmp_path)) for line in done.stdout.splitlines())


PUBLISHED = {
    # Bytes of a step in GB and milliseconds (live slots, all slots), then rates (all, live).
    "gpt2-greedy": ((0.25, 0.25), (0.058, 0.058), (17150, 17150)),
    "gpt2-beams": ((1.81, 2.45), (0.444, 0.594), (481, 621)),
    "bart": ((7.63, 8.80), (1.96, 2.24), (307, 339)),
    "t5": ((0.90, 1.24), (0.313, 0.391), (4129, 4920)),
    "unilm": ((4.59, 5.97), (1.43, 1.75), (228, 267)),
}
CAPS = {"gpt2-beams": 46.5, "bart": 44.4, "t5": 1120, "unilm": 23.4}


@pytest.mark.parametrize("name", CASES)
def test_floors_are_those_worked_out_by_hand(benchmarks: None, name: str) -> None:
    roofline = importlib.import_module("suite.measures.roofline")
    case = importlib.import_module("suite.measures.cases").CASES[name]
    moved, steps, rates = PUBLISHED[name]
    need, h200 = roofline.demand(case), roofline.H200
    close = {"rel": 0.01}
    for live, gigabytes, milliseconds in zip((True, False), moved, steps, strict=True):
        assert need.bytes(live=live) / 1e9 == pytest.approx(gigabytes, **close)
        assert need.seconds(h200, live=live) * 1e3 == pytest.approx(milliseconds, **close)
    for live, rate in zip((False, True), rates, strict=True):
        assert roofline.rate(case, h200, live=live) == pytest.approx(rate, **close)
    if name in CAPS:
        assert roofline.transformers_cap(case, h200) == pytest.approx(CAPS[name], **close)


def test_a_baseline_that_does_not_fit_gets_half_the_batch(
    benchmarks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = importlib.import_module("suite.measures.workload")
    case = importlib.import_module("suite.measures.cases").CASES["bart"]

    def timed(make: Any, name: str, case: Any, task: Any) -> dict[str, Any]:
        if case.workload.batch > 32:
            raise torch.cuda.OutOfMemoryError
        return {"batch": case.workload.batch}

    monkeypatch.setattr(workload, "time_baseline", timed)
    found = workload.baseline(None, "theirs", case, None)
    assert found == {"batch": 32, "out of memory at batch": [128, 64]}


def test_results_of_tests_are_read_from_what_was_cut_off(benchmarks: None) -> None:
    tests = importlib.import_module("suite.hardware_tests")
    report = tests.read(
        "tests/kernels/test_x.py::TestA::test_one[a - b] PASSED      [ 20%]\n"
        "tests/kernels/test_x.py::test_two FAILED [ 40%]\n"
        "tests/kernels/test_x.py::test_three SKIPPED (needs a GPU) [ 60%]\n"
        "FAILED tests/kernels/test_x.py::test_two - assert 1 == 2\n"
        "tests/kernels/test_x.py::test_four "
    )
    assert report == {"passed": 1, "skipped": 1, "failed": {"test_x.py::test_two": "assert 1 == 2"}}


def test_a_different_answer_is_a_counterexample_and_a_tie_is_none(benchmarks: None) -> None:
    exactness = importlib.import_module("suite.measures.exactness")

    def output(last: int, score: float) -> Any:
        ids = torch.tensor([[1, 2, 3], [1, 5, last]])
        return argparse.Namespace(sequences=ids, sequences_scores=torch.tensor([-1.0, score]))

    found = exactness.difference(output(7, -2.0), output(8, -2.5), 0)
    assert found["verdict"] == "different"
    assert found["counterexample"]["sample"] == 1
    assert found["counterexample"]["ours"] == [1, 5, 7]
    assert exactness.difference(output(7, -2.0), output(8, -2.000001), 0)["verdict"] == "tie"
