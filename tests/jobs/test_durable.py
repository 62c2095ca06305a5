"""What is finished is durable about once a second, in every format; a job that is stopped again and
again comes to its end.

Compressed outputs are the hard ones: what is packed is packed by the thousand lines, and what is
drawn, or has scores, is found by whole batches.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from commands import SLOW, Job
from processes import children, is_alive

from tritonseq.__main__ import run
from tritonseq.cli import generate_files
from tritonseq.cli.main import main
from tritonseq.demo.run import CHECKPOINTS, EMBEDDED
from tritonseq.engine.request import Request
from tritonseq.jobs.job import _interrupts
from tritonseq.jobs.writer import JournaledFile
from tritonseq.text_task import TextJob

if TYPE_CHECKING:
    from pathlib import Path

    from tritonseq.jobs.journal import State

PROBLEMS = {checkpoint.name: checkpoint.problems for checkpoint in CHECKPOINTS}
SCORES = ("--num-beams", "2", "--n-best", "2", "--scores")
DRAWS = ("--do-sample", "--temperature", "4", "--top-k", "0", "--seed", "3")
JOBS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "scores": ("bart-numbers", "txt.gz", SCORES),
    "scores in JSON": ("t5-dates", "jsonl.gz", (*SCORES, "--token-scores")),
    "scores in lines": ("bart-numbers", "txt", SCORES),
    "draws": ("gpt2-words", "txt.gz", (*DRAWS, "--postprocess-workers", "1")),
    "draws in lines": ("gpt2-words", "txt", DRAWS),
    "two processes": ("unilm-clock", "txt.gz", (*SCORES, "--devices", "cpu:2")),
}  # fmt: skip


def make(kind: str, folder: Path, count: int) -> Job:
    """A job with fewer lines than are packed together; some of them are blank, or faulty."""
    name, ending, flags = JOBS[kind]
    folder.mkdir()
    texts = [problem.prompt for problem in islice(PROBLEMS[name](4, unseen=True), count)]
    texts[5::17] = ["" for _ in texts[5::17]]
    texts[7::19] = ["three " * 200 for _ in texts[7::19]]
    source = folder / f"in.{ending.removesuffix('.gz')}"
    # Of these nothing can be made.
    lines = [json.dumps({"source": text}) if "json" in ending else text for text in texts]
    if "json" in ending:
        lines[7::19] = ["{" for _ in lines[7::19]]
    source.write_text("".join(f"{line}\n" for line in lines))
    return Job(EMBEDDED / name, source, folder / f"out.{ending}", ("--batch-size", "4", *flags))


def uninterrupted(job: Job) -> tuple[bytes, bytes | None]:
    """What is written by a run in this process that is left in peace."""
    flags = list(job.flags)
    for flag in ("--devices", "--postprocess-workers"):
        if flag in flags:
            at = flags.index(flag)
            del flags[at : at + 2]
    folder = job.output.parent / "calm"
    folder.mkdir()
    calm = Job(job.model, job.source, folder / job.output.name, tuple(flags))
    assert main(calm.arguments()) in (0, 3)
    results = calm.results()
    shutil.rmtree(folder)
    return results


def go_on(job: Job, wanted: tuple[bytes, bytes | None]) -> None:
    """To the end, by the command in this process."""
    before = job.lines
    known = json.loads(job.journal.read_bytes())
    assert 0 < before == known["lines"] + len(known["ahead"])
    code, told = job.start("--resume").finish()
    assert code == 3, told
    assert job.results() == wanted


@pytest.mark.parametrize("kind", ["scores in JSON", "draws", "two processes"])
def test_a_job_is_killed_in_its_first_seconds(kind: str, tmp_path: Path) -> None:
    job = make(kind, tmp_path / "job", 200)
    wanted = uninterrupted(job)
    process = job.start(fault=SLOW)
    assert process.wait_for(lambda: job.lines > 0)
    process.kill_9()
    assert 0 < job.lines < 200, "and not all of what is packed together"
    go_on(job, wanted)


@pytest.mark.parametrize(
    ("kind", "number"),
    [("scores", signal.SIGTERM), ("draws", signal.SIGINT), ("two processes", signal.SIGHUP)],
)
def test_a_job_is_asked_to_end_in_its_first_seconds(
    kind: str, number: signal.Signals, tmp_path: Path
) -> None:
    job = make(kind, tmp_path / "job", 200)
    wanted = uninterrupted(job)
    process = job.start("--window", "16", fault=SLOW)
    assert process.wait_for(lambda: job.lines > 0)
    family = children(process.pid)
    os.killpg(process.pid, number)
    code, told = process.finish()
    assert code == 130, told
    assert "Traceback" not in told
    assert not any(map(is_alive, family))
    assert 0 < job.lines < 200
    go_on(job, wanted)


HALF = ("--dtype", "bfloat16", "--num-beams", "2")


@pytest.mark.parametrize("ways", [(), ("--refill",)], ids=["batches", "slots"])
def test_in_half_precision_a_job_goes_on_in_the_batches_that_it_was_in(
    ways: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last bits of a row depend on the shape of its batch there."""
    job = make("scores in lines", tmp_path / "job", 50)
    job = replace(job, flags=("--batch-size", "4", *HALF, *ways))
    seen: list[set[tuple[tuple[int, ...], ...]]] = [set(), set()]

    def watch(into: set[tuple[tuple[int, ...], ...]]) -> None:
        for kind, name in ((TextJob, "complete"), (Request, "together")):
            monkeypatch.setattr(kind, name, watched(getattr(kind, name), into))

    watch(seen[0])
    calm = replace(job, output=tmp_path / "calm.txt")
    assert main(calm.arguments("--window", "1")) == 3
    monkeypatch.undo()
    watch(seen[1])
    with monkeypatch.context() as patch:
        patch.setattr(JournaledFile, "record", record_and_die)
        for _ in range(2):
            with pytest.raises(Preempted):
                main(job.arguments("--resume"))
    assert main(job.arguments("--resume")) == 3
    assert seen[1] <= seen[0]
    assert job.output.read_bytes() == calm.output.read_bytes()


def watched(found: Any, into: set[tuple[tuple[int, ...], ...]]) -> Any:
    def watch(self: Any, rows: Any, *others: Any) -> Any:
        into.add(tuple(map(tuple, rows)))
        return found(self, rows, *others)

    return watch


class Preempted(BaseException):
    """The process is gone."""


def record_and_die(files: JournaledFile, state: State, record: Any = JournaledFile.record) -> None:
    record(files, state)
    if not state.is_complete:
        raise Preempted


@pytest.mark.parametrize("kind", ["scores", "scores in JSON", "draws in lines"])
def test_a_job_that_is_stopped_again_and_again_gets_on_each_time(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped whenever anything new is durable: it comes to its end all the same."""
    job = make(kind, tmp_path / "job", 60)
    wanted = uninterrupted(job)
    stops = 0
    with monkeypatch.context() as patch:
        patch.setattr(JournaledFile, "record", record_and_die)
        while True:
            before = job.lines
            try:
                assert main(job.arguments("--resume")) == 3
                break
            except Preempted:
                stops += 1
                assert job.lines > before, "nothing was new"
    assert 2 < stops <= 60
    assert job.results() == wanted


def test_signals_that_are_ignored_stay_so() -> None:
    """As nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _interrupts() as interrupted:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupted.is_set()
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupted.is_set()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_after_the_output_is_complete_makes_no_failure_of_it(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while it gets its name, and, where the process is the command's own, not until its end:
    a caller's own handlers stay."""
    job = make("draws in lines", tmp_path / "job", 3)
    finish = JournaledFile.finish

    def finish_and_be_told(files: JournaledFile, state: State) -> None:
        finish(files, state)
        os.kill(os.getpid(), number)

    def told_at_the_end(*arguments: Any, end: Any = generate_files._end) -> int:
        os.kill(os.getpid(), number)
        code: int = end(*arguments)
        return code

    monkeypatch.setattr(JournaledFile, "finish", finish_and_be_told)
    before = [signal.getsignal(each) for each in NUMBERS]
    try:
        assert main(job.arguments()) == 0
        assert [signal.getsignal(each) for each in NUMBERS] == before
        monkeypatch.setattr("sys.argv", ["tritonseq", *job.arguments("--overwrite")])
        monkeypatch.setattr(generate_files, "_end", told_at_the_end)
        assert main() == 0
        assert {signal.getsignal(each) for each in NUMBERS} == {signal.SIG_IGN}
    finally:
        for each, handler in zip(NUMBERS, before, strict=True):
            signal.signal(each, handler)
    job.results()


@pytest.mark.parametrize("arguments", [["env"], ["generate", "/no/model", "none", "out"]])
def test_the_process_of_a_command_is_deaf_as_it_ends(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its code is: nothing is left to be interrupted."""
    before = [signal.getsignal(each) for each in NUMBERS]
    monkeypatch.setattr("sys.argv", ["tritonseq", *arguments])
    try:
        main()
        assert {signal.getsignal(each) for each in NUMBERS} == {signal.SIG_IGN}
    finally:
        for each, handler in zip(NUMBERS, before, strict=True):
            signal.signal(each, handler)


def test_ctrl_c_while_everything_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.delitem(sys.modules, "tritonseq.cli.main")
    monkeypatch.setattr("importlib._bootstrap._find_spec", interrupted)
    try:
        assert run() == 130
    finally:
        signal.signal(signal.SIGINT, before)
