"""From file to file, whatever happens meanwhile: nothing is lost, and no byte is another.

Where a job is killed, it is the command itself, in a process of its own.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from commands import SLOW, Job, kill_at_random, start
from processes import PATIENCE, children, is_alive, resident, wait_until

import tritonseq
from tritonseq.cli.main import main
from tritonseq.demo.run import CHECKPOINTS, EMBEDDED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Captured = pytest.CaptureFixture[str]
PROBLEMS = {checkpoint.name: checkpoint.problems for checkpoint in CHECKPOINTS}


def prompts(name: str, count: int) -> list[str]:
    return [problem.prompt for problem in islice(PROBLEMS[name](4, unseen=True), count)]


def with_faults(name: str, count: int) -> bytes:
    """Lines of text; of some nothing can be made, and some are blank."""
    lines = [prompt.encode() for prompt in prompts(name, count)]
    for place in range(3, len(lines), 11):
        lines[place] = (b"", b"three \xff plus", b"three " * 90, b"  ")[place % 4]
    return b"".join(line + b"\n" for line in lines)


def with_faults_in_json(name: str, count: int) -> bytes:
    lines = [
        json.dumps({"id": number, "source": prompt, "of": [name]})
        for number, prompt in enumerate(prompts(name, count))
    ]
    for place in range(0, len(lines), 3):  # much is blank: what is packed is packed by the thousand
        lines[place] = ""
    for place in range(3, len(lines), 11):
        lines[place] = ('{"id": 1, "source": ', '{"id": "x"}', "", '{"source": [1]}')[place % 4]
    return "".join(f"{line}\n" for line in lines).encode()


KINDS = TEXTS, NESTED, WORKERS, DEVICES = "texts", "nested", "workers", "devices"


def make(kind: str, folder: Path, count: int) -> Job:
    """A job of one kind, with an input of so many lines."""
    name, flags, ending, lines = {
        TEXTS: ("gpt2-words", ("--batch-size", "4"), "txt", with_faults),
        NESTED: (
            "t5-dates",
            ("--batch-size", "16", "--num-beams", "2", "--n-best", "2", "--id-field", "id"),
            "jsonl.gz", with_faults_in_json,
        ),
        WORKERS: (
            "bart-numbers",
            ("--batch-size", "8", "--num-beams", "3", "--scores", "--postprocess-workers", "2"),
            "txt", with_faults,
        ),
        DEVICES: (
            "unilm-clock", ("--batch-size", "8", "--num-beams", "2", "--devices", "cpu:2"), "txt",
            with_faults,
        ),
    }[kind]  # fmt: skip
    folder.mkdir()
    source = folder / f"in.{ending.removesuffix('.gz')}"
    source.write_bytes(lines(name, count))
    return Job(EMBEDDED / name, source, folder / f"out.{ending}", flags)


def uninterrupted(job: Job) -> tuple[bytes, bytes | None]:
    """What a run without any mishap writes: elsewhere, in this process, without workers.

    In other batches, too, but for scores, whose last digits tell of their batch.
    """
    folder = job.output.parent / "uninterrupted"
    folder.mkdir()
    flags = list(job.flags)
    for flag in ("--postprocess-workers", "--devices"):
        if flag in flags:
            at = flags.index(flag)
            del flags[at : at + 2]
    output = folder / job.output.name
    batches = () if "--scores" in flags else ("--batch-size", "64")
    calm = Job(job.model, job.source, output, (*flags, *batches))
    assert main(calm.arguments()) in (0, 3)
    results = calm.results()
    shutil.rmtree(folder)
    return results


def copies(output: bytes, job: Job) -> int:
    """Its lines."""
    import gzip

    return (gzip.decompress(output) if job.output.suffix == ".gz" else output).count(b"\n")


class TestBytes:
    """The output depends on the input and the options of generation alone."""

    @pytest.mark.parametrize("kind", [TEXTS, NESTED, WORKERS])
    def test_no_knob_changes_the_output(self, kind: str, tmp_path: Path) -> None:
        job = make(kind, tmp_path / "job", 1010 if kind == NESTED else 150)
        rng = random.Random(kind)
        wanted = uninterrupted(job)
        assert wanted[1] is not None and wanted[1].count(b"\n") > 5
        assert copies(wanted[0], job) == job.source.read_bytes().count(b"\n")
        for workers in ("0", "0", "1"):
            knobs = [
                "--window", str(rng.choice([1, 7, 1000])), rng.choice(["--refill", "--no-refill"]),
                "--preprocess-workers", workers, "--postprocess-workers", workers,
            ]  # fmt: skip
            if kind != WORKERS:
                knobs += ["--batch-size", str(rng.choice([7, 16, 64]))]
            assert main(job.arguments("--overwrite", *knobs)) == 3
            assert job.results() == wanted, knobs

    def test_they_are_what_generate_text_gives(self, tmp_path: Path) -> None:
        job = make(TEXTS, tmp_path / "job", 150)
        output, rejected = uninterrupted(job)
        model = tritonseq.load(job.model, device="cpu")
        lines = job.source.read_bytes().splitlines()
        rows = [json.loads(line) for line in (rejected or b"").splitlines()]
        reasons = {row["line"]: row["reason"] for row in rows}
        for number, (line, told) in enumerate(
            zip(lines, output.decode().splitlines(), strict=True), start=1
        ):
            if not line.strip():
                assert told == line.decode()
            elif b"\xff" in line:
                assert (told, reasons.pop(number)[:13]) == ("", "invalid UTF-8")
            elif len(line) > 500:
                assert (told, "shorten it" in reasons.pop(number)) == ("", True)
            elif number % 7 == 0:  # a few: one by one they take their time
                (text,) = model.generate_text([line.decode()])
                assert told == line.decode() + text
        assert not reasons

    def test_what_is_drawn_is_drawn_again(self, tmp_path: Path) -> None:
        job = make(TEXTS, tmp_path / "job", 150)
        draws = ("--do-sample", "--temperature", "4", "--top-k", "0")
        for number, knobs in enumerate(
            (["--window", "9"], ["--postprocess-workers", "1"], ["--seed", "8"])
        ):
            assert main(job.arguments("--overwrite", *draws, *knobs)) == 3
            if number == 0:
                wanted = job.results()
        assert job.results() != wanted, "with another seed"
        assert main(job.arguments("--overwrite", *draws)) == 3
        assert job.results() == wanted

    def test_the_plan_of_the_memory_is_told(self, tmp_path: Path, capsys: Captured) -> None:
        job = make(TEXTS, tmp_path / "job", 9)
        assert main(job.arguments("--verbose")) == 0
        told = capsys.readouterr().err
        for words in ("4 samples at once", "weights", "source cache", "target cache", "workspace"):
            assert words in told


class TestKilled:
    """`kill -9`, again and again; then the output is that of a job that was left in peace."""

    @pytest.mark.parametrize(
        ("kind", "count", "kills", "seed"),
        [
            (TEXTS, 350, 3, 1),
            (NESTED, 350, 2, 2),
            (WORKERS, 250, 2, 3),
            (DEVICES, 200, 1, 4),
            *(pytest.param(kind, 700, 4, 5, marks=pytest.mark.long) for kind in KINDS),
        ],
    )
    def test_it_goes_on_where_it_was(
        self, kind: str, count: int, kills: int, seed: int, tmp_path: Path
    ) -> None:
        rng = random.Random(seed)
        job = make(kind, tmp_path / "job", count)
        wanted = uninterrupted(job)
        killed = kill_at_random(job, rng, kills)
        while killed < kills:  # it was complete before
            assert job.results() == wanted
            job.output.unlink()
            job.rejected.unlink()
            killed += kill_at_random(job, rng, kills - killed)
        if not job.output.exists() or job.journal.exists():
            code, told = job.start("--resume").finish()
            assert code == 3, told
        assert job.results() == wanted

    def test_what_was_drawn_is_not_drawn_anew(self, tmp_path: Path) -> None:
        kind = make(TEXTS, tmp_path / "job", 300)
        draws = ("--do-sample", "--temperature", "4", "--top-k", "0")
        job = Job(kind.model, kind.source, kind.output, ("--batch-size", "4", *draws))
        process = job.start(fault=SLOW)
        assert process.wait_for(lambda: job.lines > 0)
        process.kill_9()
        assert job.lines % 4 == 0
        code, told = job.start("--resume").finish()
        assert code == 3, told
        results = job.results()
        assert main(job.arguments("--overwrite")) == 3
        assert job.results() == results


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Any]:
    """A job that was killed half-way, and what it would have written."""
    job = make(TEXTS, tmp_path_factory.mktemp("interrupted") / "job", 500)
    wanted = uninterrupted(job)
    process = job.start(fault=SLOW)
    assert process.wait_for(lambda: job.lines_in_order > 2)
    process.kill_9()
    assert 0 < job.lines < 500
    return job, wanted


class TestResumed:
    @pytest.fixture
    def job(self, interrupted: tuple[Job, Any], tmp_path: Path) -> Job:
        """The same job in a folder of its own."""
        whole, _ = interrupted
        folder = tmp_path / "job"
        shutil.copytree(whole.output.parent, folder)
        return Job(whole.model, folder / whole.source.name, folder / whole.output.name, whole.flags)

    def told(self, capsys: Captured) -> str:
        told = capsys.readouterr().err
        assert told.startswith("tritonseq: error: ") and told.count("\n") == 1
        return told

    def test_it_is_completed(self, job: Job, interrupted: tuple[Job, Any]) -> None:
        knobs = ["--batch-size", "32", "--window", "5", "--no-refill"]
        assert main(job.arguments("--resume", *knobs)) == 3
        assert job.results() == interrupted[1]

    def test_it_is_neither_resumed_nor_replaced_unasked(self, job: Job, capsys: Captured) -> None:
        kept = {path.name: path.read_bytes() for path in job.output.parent.iterdir()}
        assert main(job.arguments()) == 2
        assert "pass --resume to go on" in self.told(capsys)
        assert {path.name: path.read_bytes() for path in job.output.parent.iterdir()} == kept

    @pytest.mark.parametrize(
        ("flags", "named"),
        [
            (["--num-beams", "2"], "num_beams was 1 and is 2 now"),
            (["--no-full-text"], "whole was true and is false now"),
            (["--prefix", "so "], "prefix"),
            (["--max-new-tokens", "11"], "max_new_tokens was 12 and is 11 now"),
        ],
    )
    def test_other_options_are_named(
        self, flags: list[str], named: str, job: Job, capsys: Captured
    ) -> None:
        assert main(job.arguments("--resume", *flags)) == 2
        assert named in self.told(capsys)
        assert job.journal.exists()

    @pytest.mark.parametrize("at", [0, 499])
    def test_another_input_is_noticed(
        self, at: int, job: Job, interrupted: tuple[Job, Any], capsys: Captured
    ) -> None:
        """Where it is another: among the lines that are done."""
        data = job.source.read_bytes()
        lines = data.splitlines(keepends=True)
        if at == 0:
            job.source.write_bytes(b"eight" + data)
        else:
            job.source.write_bytes(b"".join(lines[:2]))
        assert main(job.arguments("--resume")) == 2
        assert "is not what the job began with" in self.told(capsys)
        job.source.write_bytes(data)
        assert main(job.arguments("--resume")) == 3
        assert job.results() == interrupted[1]

    def test_a_complete_output_is_not_made_again(
        self, job: Job, interrupted: tuple[Job, Any], capsys: Captured
    ) -> None:
        assert main(job.arguments("--resume")) == 3
        capsys.readouterr()
        assert main(job.arguments()) == 2
        assert "exists" in self.told(capsys)
        assert main(job.arguments("--resume")) == 3
        assert "is complete: there is nothing to go on with" in capsys.readouterr().err
        assert job.results() == interrupted[1]


class TestInterrupted:
    """Ctrl-C finishes what is begun; the rest is for --resume."""

    @pytest.mark.parametrize(
        ("number", "kind"), [(signal.SIGINT, DEVICES), (signal.SIGTERM, TEXTS)]
    )
    def test_it_drains(self, number: int, kind: str, tmp_path: Path) -> None:
        job = make(kind, tmp_path / "job", 500)
        wanted = uninterrupted(job)
        # So that not all of it is begun.
        process = job.start("--window", "16", fault=SLOW)
        assert process.wait_for(lambda: job.lines > 0)
        family = children(process.pid)
        # As a terminal does it: the children get it, too.
        os.killpg(process.pid, number) if number == signal.SIGINT else process.terminate()
        code, told = process.finish()
        assert code == 130, told
        assert "the same command with --resume goes on" in told
        assert "Traceback" not in told
        assert not any(map(is_alive, family))
        assert 0 < job.lines < 500
        assert not job.output.exists()
        code, told = job.start("--resume").finish()
        assert code == 3, told
        assert job.results() == wanted

    def test_twice_it_ends_at_once(self, tmp_path: Path) -> None:
        job = make(TEXTS, tmp_path / "job", 700)
        wanted = uninterrupted(job)
        # What is begun would take its time.
        process = job.start("--batch-size", "700", "--no-refill", fault="slow:0.01")
        assert process.wait_for(lambda: job.lines > 0)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert b"once more ends at once" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        code, told = process.finish()
        assert code == 130, told
        code, told = job.start("--resume").finish()
        assert code == 3, told
        assert job.results() == wanted

    def test_stdin_that_says_nothing_is_no_reason_to_hang(self) -> None:
        model = str(EMBEDDED / "gpt2-words")
        process = start(
            ["generate", model, "-", "-", "--device", "cpu", "--no-full-text"],
            stdin=subprocess.PIPE,
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"three plus four =\n")
        process.stdin.flush()
        assert process.stdout.readline() == b" seven\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        told = process.stderr.read().decode() if process.stderr else ""
        assert "interrupted after 1 lines" in told
        assert "Fatal" not in told
        process.stdin.close()


class TestStalled:
    """A reader that waits for its lines holds back nothing that came before."""

    def test_lines_come_out_as_they_come_in(self) -> None:
        model = str(EMBEDDED / "gpt2-words")
        process = start(
            ["generate", model, "-", "--device", "cpu", "--no-full-text", "--quiet"],
            stdin=subprocess.PIPE,
        )
        assert process.stdin is not None and process.stdout is not None
        for count in (1, 3, 40):
            process.stdin.write(b"three plus four =\n" * count)
            process.stdin.flush()
            # It would wait for ever if they were held back.
            assert [process.stdout.readline() for _ in range(count)] == [b" seven\n"] * count
        process.stdin.write(b"three plus five =")
        assert process.finish()[0] == 0

    def test_a_named_pipe_is_interrupted_and_read_again(self, tmp_path: Path) -> None:
        lines = [f"{prompt}\n".encode() for prompt in prompts("gpt2-words", 40)]
        pipe, output = tmp_path / "in.txt", tmp_path / "out.txt"
        pipe.write_bytes(b"".join(lines))
        job = Job(EMBEDDED / "gpt2-words", pipe, output)
        wanted = uninterrupted(job)
        pipe.unlink()
        os.mkfifo(pipe)
        process = job.start()
        with pipe.open("wb", buffering=0) as feed:
            feed.write(b"".join(lines[:25]))
            assert process.wait_for(lambda: job.lines == 25)
            process.send_signal(signal.SIGINT)
            code, told = process.finish()
        assert code == 130, told
        process = job.start("--resume")
        with pipe.open("wb", buffering=0) as feed:
            feed.write(b"".join(lines))
        code, told = process.finish()
        assert code == 0, told
        assert job.results() == wanted


def limited(size: int) -> Callable[[], None]:
    """No file may have more bytes, as on a disk that is full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


class TestBroken:
    """What is around the job fails; it says so, and goes on later."""

    @pytest.mark.parametrize("kind", [TEXTS, NESTED])
    def test_a_full_disk(self, kind: str, tmp_path: Path) -> None:
        job = make(kind, tmp_path / "job", 300)
        wanted = uninterrupted(job)
        room = len(wanted[0]) // 2
        code, told = job.start(preexec_fn=limited(room)).finish()
        assert code == 1
        assert told.count("\n") == 1, told
        assert "ulimit -f" in told and "--resume" in told
        assert not job.output.exists()
        code, told = job.start("--resume").finish()
        assert code == 3, told
        assert job.results() == wanted

    @pytest.mark.parametrize("workers", ["0", "1"])
    def test_a_detokenizer_that_raises(self, workers: str, tmp_path: Path) -> None:
        job = make(TEXTS, tmp_path / "job", 120)
        job = Job(job.model, job.source, job.output, ("--no-full-text",))
        output, _ = uninterrupted(job)
        lines = output.decode().splitlines()
        text = next(line for line in lines if line)
        process = job.start("--postprocess-workers", workers, fault=f"raise:{text}")
        code, told = process.finish()
        assert code == 3, told
        found, rejected = job.results()
        assert found.decode().splitlines() == ["" if line == text else line for line in lines]
        rows = [json.loads(row) for row in (rejected or b"").splitlines()]
        reasons = {row["line"]: row["reason"] for row in rows}
        for number, line in enumerate(lines, start=1):
            if line == text:
                assert "RuntimeError: a screw is loose" in reasons[number]

    def test_workers_that_die_are_replaced(self, tmp_path: Path) -> None:
        """One of each kind, while the job is at work."""
        job = make(TEXTS, tmp_path / "job", 1000)
        flags = ("--devices", "cpu", "--preprocess-workers", "1", "--postprocess-workers", "1")
        wanted = uninterrupted(job)
        job = Job(job.model, job.source, job.output, (*job.flags, *flags))
        process = job.start(fault=SLOW)
        killed: list[int] = []
        assert process.wait_for(lambda: job.lines > 0)
        for pid in children(process.pid):
            before = job.lines
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            process.wait_for(lambda before=before: job.lines > before)  # type: ignore[misc]
        code, told = process.finish()
        assert code == 3, told
        assert len(killed) == 3
        assert "was killed by SIGKILL" in told and "it is replaced" in told
        assert "model worker 0 (cpu)" in told and "text worker 0 (decode)" in told
        assert job.results() == wanted

    def test_a_worker_that_dies_at_every_attempt_ends_the_job(self, tmp_path: Path) -> None:
        job = make(TEXTS, tmp_path / "job", 200)
        job = Job(job.model, job.source, job.output, ("--no-full-text", "--batch-size", "4"))
        wanted = uninterrupted(job)
        text = next(line for line in reversed(wanted[0].decode().splitlines()) if line)
        process = job.start("--postprocess-workers", "1", fault=f"die:{text}")
        code, told = process.finish()
        assert code == 1
        (last,) = (line for line in told.splitlines() if "error" in line)
        assert "text worker 0 (decode) died 3 times over its work" in last
        assert "Traceback" not in told
        code, told = job.start("--resume").finish()
        assert code == 3, told
        assert job.results() == wanted

    def test_two_jobs_do_not_write_one_output(self, tmp_path: Path, capsys: Captured) -> None:
        job = make(TEXTS, tmp_path / "job", 300)
        wanted = uninterrupted(job)
        process = job.start(fault=SLOW)
        assert process.wait_for(job.journal.exists)
        for flags in ([], ["--resume"], ["--overwrite"]):
            assert main(job.arguments(*flags)) == 2
            assert "is being written by another job" in capsys.readouterr().err
        assert process.finish()[0] == 3
        assert job.results() == wanted


@pytest.mark.long
def test_memory_stays_flat(tmp_path: Path) -> None:
    """200,000 lines; what a job holds after a tenth of them is what it holds in the end."""
    count = 200_000
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    some = prompts("gpt2-words", 5000)
    source.write_text("".join(f"{prompt}\n" for prompt in some) * (count // len(some)))
    job = Job(EMBEDDED / "gpt2-words", source, output, ("--no-full-text",))
    process = job.start()
    sizes: list[tuple[int, int]] = []

    def ended() -> bool:
        if process.poll() is None:
            sizes.append((job.lines, resident(process.pid)))
        return process.poll() is not None

    wait_until(ended, patience=60 * PATIENCE, rest=0.5)
    assert process.finish()[0] == 0
    early = max(size for lines, size in sizes if lines <= count / 10)
    late = [size for lines, size in sizes if lines > count * 0.9]
    print(f"after a tenth {early / 2**20:.0f} MiB, in the end {late[-1] / 2**20:.0f} MiB")
    assert max(late) < 1.1 * early + 30 * 2**20
    lines = output.read_text().splitlines()
    assert len(lines) == count
    assert lines[: len(some)] == lines[-len(some) :]
