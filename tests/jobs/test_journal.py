"""Nothing is lost: wherever a job is stopped, going on gives the files of one that never was."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from machine import Killed, Machine, full_disk

from tritonseq.errors import JobFailed
from tritonseq.jobs import disk, writer
from tritonseq.jobs import output as target
from tritonseq.jobs.input import InputFile
from tritonseq.jobs.journal import Done, State
from tritonseq.jobs.output import OutputFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tritonseq.stages.sample import Sample

MEMBER = 4
LINES = 10
OLD = b"an output of before" * 100
FINGERPRINT = {"model": "m", "options": {"num_beams": 2, "length_penalty": 0.5}, "sizes": (1, 2)}


@pytest.fixture(autouse=True)
def small_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MEMBER_LINES", MEMBER)


def answer(sample: Sample, copies: int) -> None:
    """Stands for a model: what it makes of a text depends on nothing else."""
    text = sample.text if isinstance(sample.text, str) else " ".join(sample.text or ())
    value = zlib.crc32(text.encode())
    if value % 4 == 0:
        sample.reject(f"{value}, it cannot be")
        return
    texts = [f"{text[::-1]}\n{copy}ä" for copy in range(copies)]
    scores = [-value / 7 / 10**copy for copy in range(1, copies + 1)]
    ids = [list(range(value % 5 + copy)) for copy in range(copies)]
    own = [[-value / 3 / 10**9 - at for at in row] for row in ids]
    sample.finish(texts, scores=scores, tokens=value % 100, token_ids=ids, token_scores=own)


@dataclass
class Job:
    """A pipeline without stages: samples arrive as they like, and checkpoints come as they like."""

    folder: Path
    output: str = "out.txt"
    input: str = "in.txt"
    lines: int = LINES
    options: dict[str, Any] = field(default_factory=dict)
    answered: int = 0

    def make_input(self) -> None:
        self.folder.mkdir()
        rng = random.Random(self.lines)
        lines = []
        for number in range(self.lines):
            text = "" if rng.random() < 0.1 else f"text {rng.random()}"
            good = json.dumps({"id": number, "source": text}) if "json" in self.input else text
            lines.append(b"{\xff" if rng.random() < 0.1 else good.encode())
        self.source_path.write_bytes(b"\n".join(lines))

    @property
    def source_path(self) -> Path:
        # Beside the folder, so that a cut of power leaves it alone.
        return self.folder.with_name(f"{self.folder.name}-{self.input}")

    def target(self, **flags: Any) -> OutputFile:
        return OutputFile(str(self.folder / self.output), **{**self.options, **flags})

    def run(self, seed: int, **flags: Any) -> None:
        """Go through it; raises what stops it."""
        rng = random.Random(seed)
        goal = self.target(**flags)
        source = InputFile(self.source_path, copies=goal.copies, taken=goal.formatter.taken)
        goal.check(source)
        pen = goal.open(FINGERPRINT)
        try:
            if not pen.state.is_complete:
                source.skip(pen.state.lines, pen.state.digest)
                waiting: list[Sample] = []
                for sample in pen.state.restore(source, source.name):
                    if not sample.is_done:
                        self.answered += 1
                        answer(sample, goal.copies)
                    waiting.append(sample)
                    while len(waiting) > rng.randrange(5):
                        pen.add([waiting.pop(rng.randrange(len(waiting)))])
                    if rng.random() < 0.4:
                        pen.checkpoint()
                rng.shuffle(waiting)
                pen.add(waiting)
            pen.finish()
        finally:
            pen.close()

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


CASES: dict[str, dict[str, Any]] = {
    "lines": {},
    "scores": {"options": {"copies": 2, "with_scores": True, "whole": True}},
    "gz": {"output": "out.txt.gz", "options": {"copies": 2}},
    "members": {"output": "out.gz", "lines": 2 * MEMBER},
    "json": {"output": "out.jsonl", "input": "in.jsonl", "options": {"id_field": "id"}},
    "json.gz": {
        "output": "o.json.gz",
        "input": "in.json",
        "options": {"with_scores": True, "with_token_scores": True},
    },
    "empty": {"lines": 0},
    "empty.gz": {"lines": 0, "output": "out.gz"},
    "one": {"lines": 1, "output": "out.jsonl"},
}

STOPS: dict[str, Callable[[], BaseException]] = {
    "kill": Killed,
    "power": Killed,
    "power once more": Killed,  # other names are lost
    "full disk": full_disk,
}


def stopped(
    job: Job, machine: Machine, how: str, seed: int, patch: pytest.MonkeyPatch, **flags: Any
) -> bool:
    """Run until the machine stops it; False if it came to its end."""
    with patch.context() as context:
        machine.install(context, disk, writer, target)
        try:
            job.run(seed, **flags)
            return False
        except Killed:
            if how.startswith("power"):
                machine.cut_power(random.Random(f"{how} {seed}"))
        except JobFailed as error:
            assert "free some space, then run the same command with --resume" in str(error)
    return True


@pytest.fixture
def uninterrupted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Job, dict[str, bytes]]:
    """A job that has not begun, and the files that it is to give."""
    job = Job(tmp_path / "job", **CASES[request.param])
    job.make_input()
    job.run(0)
    files = job.files()
    shutil.rmtree(job.folder)
    job.folder.mkdir()
    return job, files


@pytest.mark.parametrize("how", STOPS)
@pytest.mark.parametrize("uninterrupted", CASES, indirect=True)
def test_a_job_may_stop_at_any_call(
    uninterrupted: tuple[Job, dict[str, bytes]], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, expected = uninterrupted
    for stop in range(1, 1000):
        machine = Machine(job.folder, stop, STOPS[how]())
        if not stopped(job, machine, how, stop, monkeypatch):
            assert machine.calls < stop
            break
        left = job.files()
        if left == expected:  # nothing was left to do but to make it durable
            job.target(overwrite=True).check()
        else:
            job.run(stop + 1, resume=True)
        assert job.files() == expected, f"stopped at call {stop}, which left {sorted(left)}"
        shutil.rmtree(job.folder)
        job.folder.mkdir()
    assert job.files() == expected
    assert stop > 10


def stop_again_and_again(
    job: Job, expected: dict[str, bytes], how: str, seed: int, patch: pytest.MonkeyPatch
) -> int:
    """Run with stops at random calls until it is done; returns how often it was stopped."""
    rng = random.Random(f"{how} {seed}")
    interrupted = 0
    while job.files() != expected:
        machine = Machine(job.folder, rng.randint(1, 40), STOPS[how]())
        interrupted += stopped(job, machine, how, rng.randrange(100), patch, resume=True)
    shutil.rmtree(job.folder)
    job.folder.mkdir()
    return interrupted


@pytest.mark.parametrize("how", STOPS)
@pytest.mark.parametrize("uninterrupted", ["scores", "gz", "json.gz"], indirect=True)
def test_a_job_may_stop_again_and_again(
    uninterrupted: tuple[Job, dict[str, bytes]], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, expected = uninterrupted
    stops = [stop_again_and_again(job, expected, how, seed, monkeypatch) for seed in range(12)]
    assert sum(stops) > 12


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100))
def test_any_job_may_stop_again_and_again(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    kind = rng.choice(["txt", "txt.gz", "jsonl", "json.gz"])
    options = {"copies": rng.randint(1, 3), "with_scores": rng.random() < 0.5}
    options |= {"whole": rng.random() < 0.5}
    source = rng.choice(["in.txt", "in.jsonl"])
    job = Job(tmp_path / "job", f"out.{kind}", source, rng.randrange(60), options)
    job.make_input()
    job.run(0)
    expected = job.files()
    shutil.rmtree(job.folder)
    job.folder.mkdir()
    for how in STOPS:
        for again in range(5):
            stop_again_and_again(job, expected, how, 5 * seed + again, monkeypatch)


@pytest.mark.parametrize("how", ["kill", "power"])
@pytest.mark.parametrize("uninterrupted", ["lines", "gz"], indirect=True)
def test_the_old_output_stays_until_the_new_one_is_complete(
    uninterrupted: tuple[Job, dict[str, bytes]], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, expected = uninterrupted
    output = job.folder / job.output
    for stop in range(1, 1000):
        for name in (output.name, f"{output.name}.rejected.jsonl", f"{output.name}.partial"):
            (job.folder / name).write_bytes(OLD)
        (job.folder / f"{output.name}.journal").write_bytes(b"damaged")
        if not stopped(
            job, Machine(job.folder, stop), how, stop, monkeypatch, resume=False, overwrite=True
        ):
            break
        left = job.files()
        assert left[output.name] in (OLD, expected[output.name])
        if left != expected:
            job.run(stop, overwrite=True, resume=left[f"{output.name}.journal"] != b"damaged")
        assert job.files() == expected
        shutil.rmtree(job.folder)
        job.folder.mkdir()
    assert job.files() == expected


def begun(folder: Path, *, gap: int = LINES // 2, **case: Any) -> Job:
    """A job that was interrupted when all samples had come, but for the one of line `gap`."""
    job = Job(folder / "job", **case)
    job.make_input()
    pen = job.target().open(FINGERPRINT)
    pen.add(answered(job, without=gap))
    pen.checkpoint()
    pen.close()
    return job


def answered(job: Job, *, without: int) -> list[Sample]:
    samples = [sample for sample in InputFile(job.source_path) if sample.number != without]
    for sample in samples:
        if not sample.is_done:
            answer(sample, 1)
    return samples


def journal(job: Job) -> dict[str, Any]:
    return json.loads((job.folder / f"{job.output}.journal").read_text())


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    job = begun(tmp_path, gap=MEMBER - 1, output="out.gz", lines=MEMBER + 2)
    finished = [0, 1, 2, 4, 5]
    assert journal(job)["lines"] == 0
    assert [done["number"] for done in journal(job)["ahead"]] == finished
    # Should the next run be interrupted before they have come to the writer once more, it keeps
    # them; and what had come is not told twice.
    pen = job.target(resume=True).open(FINGERPRINT)
    pen.add(answered(job, without=MEMBER - 1)[:2])
    pen.checkpoint()
    pen.close()
    assert [done["number"] for done in journal(job)["ahead"]] == finished
    job.run(5, resume=True)
    assert job.answered == 1
    once = Job(tmp_path / "once", output="out.gz", lines=MEMBER + 2)
    once.make_input()
    once.run(0)
    assert once.files() == job.files()


def test_the_state_counts(tmp_path: Path) -> None:
    job = begun(tmp_path, lines=40, gap=30)
    known = journal(job)
    pen = job.target(resume=True).open(FINGERPRINT)
    pen.close()
    assert (pen.state.lines, len(pen.state.ahead)) == (30, 9)
    assert (pen.lines, pen.rejected, pen.tokens) == (30, known["rejected"], known["tokens"])
    rejected = (job.folder / "out.txt.rejected.jsonl").read_bytes()
    assert len(rejected) == known["rejected_bytes"]
    assert rejected.count(b"\n") == known["rejected"] > 0
    assert (job.folder / "out.txt.partial").read_bytes().count(b"\n") == 30
    assert known["tokens"] == sum(s.completion.tokens for s in answered(job, without=30)[:30]) > 0


def test_a_checkpoint_without_news_touches_nothing(tmp_path: Path) -> None:
    job = begun(tmp_path)
    pen = job.target(resume=True).open(FINGERPRINT)
    before = {path: path.stat() for path in job.folder.iterdir()}
    pen.checkpoint()
    pen.add([])
    pen.checkpoint()
    assert {path: path.stat() for path in job.folder.iterdir()} == before
    pen.close()


def test_other_settings_are_told_apart(tmp_path: Path) -> None:
    job = begun(tmp_path)
    other = {"model": "m", "options": {"num_beams": 3}, "new": None}
    with pytest.raises(ValueError, match="other settings") as caught:
        job.target(resume=True).open(other)
    message = str(caught.value)
    assert "new was absent and is null now" in message
    assert 'options was {"length_penalty": 0.5, "num_beams": 2} and is {"num_beams": 3}' in message
    assert "sizes was [1, 2] and is absent now" in message
    assert "model was" not in message and "--overwrite instead of --resume" in message
    job.run(1, resume=True)


def test_another_input_is_refused(tmp_path: Path) -> None:
    job = begun(tmp_path)
    good = job.source_path.read_bytes()
    known = journal(job)
    lines = good.split(b"\n")
    gap = known["lines"]
    assert gap == LINES // 2 and known["ahead"][0]["number"] == gap + 1
    changed = b"\n".join([*lines[:gap], lines[gap] + b"!", *lines[gap + 1 :]])
    for data in (b"x" + good[1:], b"", b"\n".join(lines[: known["lines"] + 1]), changed):
        job.source_path.write_bytes(data)
        with pytest.raises(ValueError, match="is not what the job began with"):
            job.run(1, resume=True)
    job.source_path.write_bytes(good)
    job.run(1, resume=True)


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    job = begun(tmp_path)
    path = job.folder / "out.txt.journal"
    good = path.read_bytes()
    document = json.loads(good)
    wrong: list[Any] = [None, [], 1, {}, {**document, "version": 9}]
    for name in document:
        wrong.append({key: document[key] for key in document if key != name})
        wrong += [{**document, name: value} for value in ("a", -1.0, [1], [{"number": 0}])]
        wrong += [{**document, name: -1}]
    damaged = [json.dumps(value).encode() for value in wrong]
    damaged += [good[:cut] for cut in range(0, len(good) - 2, 7)]
    damaged += [b"\xff" + good, b"[" * 100_000, b"\0" * len(good)]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"is no journal of this version.*--overwrite"):
            job.target(resume=True).check()
    path.write_bytes(good)
    partial = job.folder / "out.txt.partial"
    partial.write_bytes(partial.read_bytes()[: document["output_bytes"] - 1])
    with pytest.raises(ValueError, match=r"fewer than the \d+ that the journal knows"):
        job.run(1, resume=True)
    partial.unlink()
    with pytest.raises(ValueError, match=r"has 0 bytes, fewer than"):
        job.run(1, resume=True)
    job.run(1, overwrite=True)


def test_an_input_that_has_grown_since_the_end_is_refused(tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    job.make_input()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "remove", lambda path: (_ for _ in ()).throw(Killed()))
        patch.setattr(disk, "remove", lambda path: None)
        with pytest.raises(Killed):
            job.run(0)
    pen = job.target(resume=True).open(FINGERPRINT)
    assert pen.state.is_complete and pen.state.lines == LINES
    sample = replace(next(iter(InputFile(job.source_path))), number=LINES)
    with pytest.raises(ValueError, match="complete with 10 lines, and the input has more"):
        pen.add([sample])
    pen.finish()
    assert sorted(job.files()) == ["out.txt", "out.txt.rejected.jsonl"]


def test_the_bytes_of_a_compressed_output_are_those_of_its_members(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", output="out.gz", lines=2 * MEMBER + 1)
    job.make_input()
    job.run(1)
    text = gzip.decompress((job.folder / "out.gz").read_bytes())
    lines = text.splitlines(keepends=True)
    members = [b"".join(lines[at : at + MEMBER]) for at in range(0, len(lines), MEMBER)]
    packed = b"".join(gzip.compress(member, 6, mtime=0) for member in members)
    assert (job.folder / "out.gz").read_bytes() == packed
    assert len(members) == 3


@pytest.mark.parametrize("change", ["an earlier line", "that line", "the end"])
def test_another_input_is_noticed_before_anything_is_made_of_it(
    tmp_path: Path, change: str
) -> None:
    """Also where no line is done in order, and one ahead of its turn is: what is made meanwhile
    would stand in the journal, and the right input be refused after it."""
    path = tmp_path / "in.txt"
    lines = [b"one\n", b"two\n", b"three\n", b"four\n"]
    path.write_bytes(b"".join(lines))
    third = list(InputFile(path))[2]
    done = Done(third.number, third.digest, ["3"], None, 1, None, None, None)
    begun = State(ahead=(done,))
    given = [sample.completion.texts for sample in begun.restore(InputFile(path), "in.txt")]
    assert given == [None, None, ["3"], None]

    if change == "the end":
        path.write_bytes(b"".join(lines[:2]))
    else:
        lines[0 if change == "an earlier line" else 2] = b"other\n"
        path.write_bytes(b"".join(lines))
    samples = begun.restore(InputFile(path), "in.txt")
    with pytest.raises(ValueError, match=r"in.txt is not what the job began with"):
        next(samples)
