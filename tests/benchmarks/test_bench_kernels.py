"""The kernel benchmark rehearses every kernel, and times none whose result is wrong."""

from __future__ import annotations

import csv
import itertools
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tritonseq.kernels
from tritonseq.bench import case as checks
from tritonseq.bench import table, timing
from tritonseq.bench.case import Case, copied
from tritonseq.bench.draw import Draw
from tritonseq.bench.measure import Bench, Inputs
from tritonseq.bench.registry import all_cases
from tritonseq.bench.shapes import SHAPES
from tritonseq.cli.main import main

CPU = torch.device("cpu")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bench_kernels.py"
NAMES = sorted(tritonseq.kernels.__all__)
CASES = list(all_cases(list(SHAPES), NAMES, tiny=True))
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def torch_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that wants the interpreter says so."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(timing.Calibration, "is_steady", lambda _: True)


def rehearse(*arguments: str) -> int:
    options = ["--tiny", "--device", "cpu", "--repeats", "2"]
    return main(["bench", "kernels", *options, *arguments])


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_every_public_kernel_has_a_case() -> None:
    assert sorted({case.kernel for case in CASES}) == NAMES


def test_no_two_cases_have_one_name() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_every_case_is_checked_timed_and_becomes_a_row(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "table.csv"
    assert rehearse("--csv", str(path)) == 0
    rows = read(path)
    named = [f"{row['kernel']} {row['workload']} {row['part']}".strip() for row in rows]
    assert named == [case.name for case in CASES]
    for row in rows:
        assert (row["check"], row["scale"], row["path"]) == ("green", "tiny", "torch")
        for figure in ("us", "us p20", "us p80", "MB", "GB/s", "share", "naive us", "naive ratio"):
            assert float(row[figure]) > 0, (row["kernel"], figure)
        assert float(row["us p20"]) <= float(row["us"]) <= float(row["us p80"])
        for where in ("date", "machine", "torch", "triton", "commit"):
            assert row[where]
    printed = capsys.readouterr().out
    assert f"{len(CASES)} cases, 0 red" in printed
    assert "memory: copy" in printed


# The slowest in the interpreter, a product, is in workload a; UniLM's two rows are in e.
@pytest.mark.parametrize("workload", ["a", "e"])
def test_kernels_are_interpreted_where_that_is_switched_on(
    workload: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("kernels are compiled in this process")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    path = tmp_path / "table.csv"
    assert rehearse("--workloads", workload, "--repeats", "1", "--csv", str(path)) == 0
    rows = read(path)
    assert {row["path"] for row in rows} == {"triton"}
    assert {row["check"] for row in rows} == {"green"}


@pytest.mark.gpu
@pytest.mark.parametrize("letter", SHAPES)
def test_a_gpu_is_timed_by_graphs(letter: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    arguments = ["--tiny", "--device", "cuda", "--workloads", letter, "--no-compile"]
    assert main(["bench", "kernels", *arguments, "--csv", str(path)]) == 0
    assert all(float(row["us"]) > 0 for row in read(path))


def test_half_precision_is_judged_by_that_of_torch() -> None:
    for letter in ("a", "d", "e"):
        for case in all_cases([letter], NAMES, tiny=True):
            assert case.fault(CPU, torch.bfloat16, "torch") == "", case.name


def spoilt(name: str) -> Any:
    """A kernel that is right but for one element of one tensor of its result."""
    right = getattr(tritonseq.kernels, name)

    def wrong(**arguments: Any) -> Any:
        result = right(**arguments)
        found = checks.tensors(result if result is not None else arguments)
        last = found[0].view(-1) if found[0].is_contiguous() else found[0]
        if last.dtype == torch.bool:
            last[..., -1] = ~last[..., -1]
        else:
            last[..., -1] += 1
        return result

    return wrong


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_kernel_is_red_and_not_timed(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured
) -> None:
    monkeypatch.setattr(tritonseq.kernels, name, spoilt(name))
    other = "embed" if name != "embed" else "add_norm"
    path = tmp_path / "table.csv"
    names = ",".join((name, other))
    assert rehearse("--workloads", "a,c", "--kernels", names, "--csv", str(path)) == 1
    rows = read(path)
    red = [row for row in rows if row["kernel"] == name]
    green = [row for row in rows if row["kernel"] == other]
    assert red and green
    for row in red:
        assert row["check"].startswith("RED: against the reference: ")
        assert not row["us"] and not row["naive us"] and not row["GB/s"]
    assert all(row["check"] == "green" and row["us"] for row in green)
    printed = capsys.readouterr().out
    assert printed.count("RED: ") == len(red)
    assert f"{len(rows)} cases, {len(red)} red" in printed


def test_a_kernel_that_is_wrong_in_a_late_sample_only_is_red(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reference sees two samples; the others are held against the naive formulation."""
    right = tritonseq.kernels.add_norm

    def wrong(**arguments: Any) -> torch.Tensor:
        result = right(**arguments)
        result[8:] += 1
        return result

    monkeypatch.setattr(tritonseq.kernels, "add_norm", wrong)
    shape = replace(SHAPES["b"].shrunk(), samples=3)
    assert 2 * shape.beams <= 8 < 3 * shape.beams
    (case,) = (case for case in CASES if case.name == "add_norm b")
    rows = type(case.draw.__self__)(shape)  # type: ignore[attr-defined]
    fault = replace(case, shape=shape, draw=rows.draw_norm).fault(CPU, torch.float32, "torch")
    assert fault.startswith("against the naive formulation: ")


def test_a_kernel_that_raises_is_red_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError("no such\nluck")

    monkeypatch.setattr(tritonseq.kernels, "embed", broken)
    assert rehearse("--workloads", "a", "--kernels", "add_norm,embed") == 1
    printed = capsys.readouterr().out
    assert "RED: RuntimeError: no such luck" in printed
    assert "2 cases, 1 red" in printed


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_draws_are_repeatable_and_follow_the_samples(case: Case) -> None:
    def drawn(seed: int, samples: int) -> list[torch.Tensor]:
        return checks.tensors(case.draw(Draw(CPU, torch.float32, seed), samples))

    once, again, other = drawn(5, 2), drawn(5, 2), drawn(6, 2)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(once, other, strict=True))
    assert sum(x.numel() for x in drawn(5, 3)) > sum(x.numel() for x in once)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_repeated_calls_find_what_the_first_one_found(case: Case) -> None:
    """What a call writes is undone, unless the next one writes the same."""
    bench = Bench(CPU, torch.float32, "torch", 1, False, tiny=True)
    inputs = Inputs(case, bench)
    before = checks.tensors(copied({"sets": inputs.sets}))
    for _ in range(2):
        for arguments in inputs.sets:
            case.run(arguments, "torch")
    once = checks.tensors(copied({"sets": inputs.sets}))
    inputs.restore("kernel")
    after = checks.tensors({"sets": inputs.sets})
    if case.repeatable:
        for arguments in inputs.sets:
            case.run(arguments, "torch")
        assert all(torch.equal(a, b) for a, b in zip(once, after, strict=True))
    else:
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(once, after, strict=True))


def by_name(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def test_fewest_bytes_worked_out_by_hand() -> None:
    draw = Draw(CPU, torch.float32, 0)
    # Two samples of three beams, 32 wide, of 3 positions, every slot of them alive or shared.
    case = by_name("decode_attention b self")
    arguments = case.draw(draw, 2)
    arguments["lineage"][:] = torch.tensor([0, 0, 2])
    new, live, lineage, source = 2 * 3 * 32 * 4, 2 * 3 * 2, 2 * 3 * 3 * 8, 2 * 9 * 32 * 4
    by_hand = 2 * new + 2 * 2 * new + 2 * live * 32 * 4 + lineage + 2 * source
    assert case.bytes_moved(arguments) == by_hand
    # Sum and norm of six rows: two read, two written; scale and shift.
    case = by_name("add_norm b")
    assert case.bytes_moved(case.draw(draw, 2)) == (4 * 6 + 2) * 32 * 4
    # A row of each table for one token, and the sum; its id and its position.
    case = by_name("embed a")
    assert case.bytes_moved(case.draw(draw, 1)) == 3 * 32 * 4 + 2 * 8
    # In place: read and written once, though it is returned too.
    case = by_name("activate c gelu")
    assert case.bytes_moved(case.draw(draw, 2)) == 2 * 6 * 40 * 4 + 40 * 4


def test_copies_keep_what_pads_the_rows() -> None:
    whole = torch.arange(24.0).view(4, 6)
    view = whole[1:, :5]
    copy = copied({"x": view})["x"]
    assert torch.equal(copy, view) and copy.stride() == view.stride()
    assert copy.untyped_storage().nbytes() == whole.untyped_storage().nbytes()
    copy.zero_()
    assert whole[1, 0] == 6


@pytest.mark.parametrize(
    ("ours", "fault"),
    [
        ([1.0, 2.0, -math.inf], ""),
        ([1.0, 2.0, math.inf], "infinities"),
        ([1.0, math.nan, -math.inf], "infinities"),
        ([1.0, 2.1, -math.inf], "errs by 1.0e-01"),
        ([1.0, 2.0], "[2] instead of [3]"),
    ],
)
def test_distance(ours: list[float], fault: str) -> None:
    true = torch.tensor([1.0, 2.0, -math.inf])
    found = checks.distance(torch.tensor(ours), true, None)
    assert fault in found and bool(found) == bool(fault)
    # An error as large as that of torch's own operations is none.
    own = torch.tensor([1.0, 2.05, -math.inf])
    assert not checks.distance(torch.tensor([1.0, 2.1, -math.inf]), true, own)


def test_lineages_merge_and_each_step_is_in_its_own_slot() -> None:
    lineage = Draw(CPU, torch.float32, 0).lineage(3, 30, 4)
    assert torch.equal(lineage[:, -1], torch.arange(4).expand(3, -1))
    # The parents of any step explain all earlier positions.
    for sample in lineage:
        for earlier, later in itertools.pairwise(sample):
            pairs = set(zip(later.tolist(), earlier.tolist(), strict=True))
            assert len(pairs) == len({slot for slot, _ in pairs})
    assert (lineage[:, 0] == lineage[:, 0, :1]).all()


def test_quantiles_lie_between_measurements() -> None:
    measured = timing.Timing([5.0, 1.0, 2.0, 4.0, 3.0])
    assert measured.quantile(0.5) == measured.median == 3.0
    assert measured.quantile(0.2) == pytest.approx(1.8)
    assert timing.Timing([7.0]).quantile(0.8) == 7.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workloads", "a,z"], "--workloads: unknown z; choose from a, b, c, d, e"),
        (["--kernels", "embedd"], "--kernels: unknown embedd; choose from activate"),
        (["--repeats", "0"], "--repeats is 0: it must be at least 1"),
        (["--scale", "-1"], "--scale is -1: it must be at least 1"),
        (["--dtype", "int8"], "dtype 'int8' is not supported"),
        (["--device", "abacus"], "device 'abacus' is not known"),
    ],
)
def test_bad_arguments_are_one_line(arguments: list[str], message: str, capsys: Captured) -> None:
    assert main(["bench", "kernels", "--tiny", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert not captured.out


def test_a_chart_without_matplotlib_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert rehearse("--png", str(tmp_path / "chart.png")) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_the_chart_is_a_picture_of_the_green_rows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the bench extra brings it")
    row = {"kernel": "embed", "workload": "a", "part": "", "check": "green", "share": 0.5}
    rows = [row | {"naive ratio": 2.0, "compiled ratio": 1.5}, row | {"naive ratio": 0.5}]
    for count, drawn in ((1, rows[1:]), (2, [*rows, row | {"check": "RED: wrong"}])):
        path = tmp_path / f"{count}.png"
        table.draw_png(path, drawn, "a machine")
        assert path.read_bytes().startswith(b"\x89PNG")
    # All red is no reason to fail.
    table.draw_png(tmp_path / "none.png", [row | {"check": "RED: wrong"}], "a machine")


def test_batches_are_divided_and_the_row_says_so() -> None:
    assert SHAPES["b"].divided(16).scale == "1/16"
    assert SHAPES["b"].divided(16).samples == 4
    assert SHAPES["a"].divided(16).scale == "1"
    assert SHAPES["c"].divided(1000).scale == "1/128"


def test_the_script_is_the_command(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    options = ["--tiny", "--device", "cpu", "--repeats", "1", "--workloads", "a"]
    command = [sys.executable, str(SCRIPT), *options, "--kernels", "embed", "--csv", str(path)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    assert rehearse("--workloads", "a", "--kernels", "embed", "--csv", str(path)) == 0
    lines = path.read_text().splitlines()
    assert len(lines) == 3 and sum(line.startswith("date,") for line in lines) == 1


def test_without_a_checkout_the_commit_is_called_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Even where the environment lies within another repository."""
    package = tmp_path / "site" / "tritonseq"
    (package / "bench").mkdir(parents=True)
    (package / "__init__.py").touch()
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setattr(timing, "__file__", str(package / "bench" / "timing.py"))
    assert timing.commit() == "installed"
