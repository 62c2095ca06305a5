"""The output of a job: what is written of a sample, where, and where it is refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tritonseq.decoding.completion import Completion
from tritonseq.errors import JobFailed
from tritonseq.jobs.input import InputFile
from tritonseq.jobs.lines import Formatter
from tritonseq.jobs.output import OutputFile
from tritonseq.stages.sample import Sample


def sample(number: int = 0, text: str | list[str] | None = "source", **values: Any) -> Sample:
    fields = values.pop("fields", {})
    values.setdefault("texts", [f"text {number}"] if "fault" not in values else None)
    return Sample(number, number, text, fields, completion=Completion(**values))


def rejected(number: int = 0, text: str | None = "source", **values: Any) -> Sample:
    return sample(number, text, fault="too long", **values)


def written(target: OutputFile, *samples: Sample) -> bytes:
    """What a job of these samples writes to its file."""
    writer = target.open({})
    writer.add(samples)
    writer.finish()
    return Path(target.path).read_bytes()


LINES: dict[str, tuple[Formatter, Sample, str]] = {
    "a text": (Formatter("lines"), sample(texts=["äöü"]), "äöü\n"),
    "line ends": (Formatter("lines"), sample(texts=["a\nb\r\nc\rd\u2028e"]), "a b c d\u2028e\n"),
    "n-best": (Formatter("lines", copies=2), sample(texts=["a", "b"]), "a\nb\n"),
    "rejected": (Formatter("lines", copies=2), rejected(), "\n\n"),
    "scores": (
        Formatter("lines", copies=2, with_scores=True),
        sample(texts=["a", "b"], scores=[-0.12345678, -1e-9]),
        "-0.1235\ta\n0.0\tb\n",
    ),
    "no scores": (Formatter("lines", with_scores=True), sample(texts=[""]), "\t\n"),
    "whole": (Formatter("lines", whole=True), sample(text="a\n b", texts=[" c"]), "a  b c\n"),
    "tokens": (Formatter("lines", whole=True), sample(text=["a", "b"], texts=["!"]), "a b!\n"),
    "whole, blank": (Formatter("lines", whole=True), sample(text=" ", texts=[""]), " \n"),
    "whole, rejected": (Formatter("lines", whole=True), rejected(), "\n"),
    "half a pair": (Formatter("lines"), sample(texts=["a\ud800"]), "a?\n"),
    "object": (
        Formatter("json"), sample(texts=["ä\n"], fields={"b": 1, "a": [None]}),
        '{"b": 1, "a": [null], "output": "ä\\n"}\n',
    ),
    "object, n-best": (
        Formatter("json", copies=2, with_scores=True, output_field="o", whole=True),
        sample(texts=["a", "b"], scores=[-0.5, float("-inf")]),
        '{"o": ["a", "b"], "scores": [-0.5, null]}\n',
    ),
    "object, score": (
        Formatter("json", with_scores=True), sample(texts=["a"], scores=[2.0]),
        '{"output": "a", "score": 2.0}\n',
    ),
    "object, rejected": (
        Formatter("json", with_scores=True), rejected(fields={"a": 1}),
        '{"a": 1, "output": "", "score": null}\n',
    ),
    "object, n-best, rejected": (
        Formatter("json", copies=2, with_scores=True), rejected(text=None),
        '{"output": ["", ""], "scores": [null, null]}\n',
    ),
    "token scores": (
        Formatter("json", with_token_scores=True),
        sample(texts=["a"], token_ids=[[7, 1]], token_scores=[[-0.123456, float("-inf")]]),
        '{"output": "a", "token_ids": [7, 1], "token_scores": [-0.1235, null]}\n',
    ),
    "token scores, n-best": (
        Formatter("json", copies=2, with_token_scores=True),
        sample(texts=["a", ""], token_ids=[[7], []], token_scores=[[-0.00001], []]),
        '{"output": ["a", ""], "token_ids": [[7], []], "token_scores": [[0.0], []]}\n',
    ),
    "token scores, blank": (
        Formatter("json", with_token_scores=True), sample(texts=[""]),
        '{"output": "", "token_ids": [], "token_scores": []}\n',
    ),
    "token scores, rejected": (
        Formatter("json", copies=2, with_token_scores=True), rejected(text=None),
        '{"output": ["", ""], "token_ids": [null, null], "token_scores": [null, null]}\n',
    ),
    "object, half a pair": (
        Formatter("json"), sample(texts=["ä"], fields={"a": "\ud800"}),
        '{"a": "\\ud800", "output": "\\u00e4"}\n',
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LINES)
def test_what_is_written_of_a_sample(case: str) -> None:
    formatter, given, expected = LINES[case]
    assert formatter.output(given).decode() == expected
    if formatter.format == "json":
        assert json.loads(formatter.output(given))[formatter.output_field] is not None


def test_what_is_written_of_a_rejected_line() -> None:
    formatter = Formatter("lines", id_field="id")
    known = rejected(4, "a text", fields={"id": [7], "other": 1})
    line = formatter.rejection(known).decode()
    assert line == '{"line": 5, "id": [7], "reason": "too long", "source": "a text"}\n'
    unknown = formatter.rejection(rejected(4, None)).decode()
    assert unknown == '{"line": 5, "reason": "too long"}\n'


@pytest.mark.parametrize("seed", range(40))
def test_the_order_of_arrival_changes_no_byte(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    name = rng.choice(["out.txt", "out.jsonl", "out.txt.gz", "out.json.gz"])
    count = rng.choice([0, 1, 7, 999, 1000, 1001, 2300])
    samples = [rejected(n) if rng.random() < 0.05 else sample(n, tokens=2) for n in range(count)]
    wrong = sum(s.completion.fault is not None for s in samples)
    formatter = Formatter("json" if "json" in name else "lines")
    expected = b"".join(map(formatter.output, samples))
    writer = OutputFile(str(tmp_path / name)).open({})
    rng.shuffle(samples)
    while samples:
        size = rng.randrange(1, 200)
        writer.add(samples[:size])
        del samples[:size]
        if rng.random() < 0.2:
            writer.checkpoint()
    assert (writer.lines, writer.rejected, writer.tokens) == (count, wrong, 2 * (count - wrong))
    writer.finish()
    data = (tmp_path / name).read_bytes()
    assert (gzip.decompress(data) if name.endswith(".gz") else data) == expected
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {name} | ({f"{name}.rejected.jsonl"} if wrong else set())
    if wrong:
        lines = (tmp_path / f"{name}.rejected.jsonl").read_text().splitlines()
        numbers = [json.loads(line)["line"] for line in lines]
        assert numbers == sorted(numbers) and len(numbers) == wrong


def test_lines_can_be_followed_while_they_come(tmp_path: Path) -> None:
    writer = OutputFile(str(tmp_path / "out")).open({})
    writer.add([sample(0), sample(2)])
    writer.checkpoint()
    assert (tmp_path / "out.partial").read_bytes() == b"text 0\n"
    assert not (tmp_path / "out").exists()
    writer.add([sample(1)])
    writer.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


# Where an output is refused


@pytest.mark.parametrize("name", ["out", "out.journal", "out.partial", "out.rejected.jsonl"])
def test_nothing_that_exists_is_overwritten_unasked(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"precious")
    for resume in (False, True):
        if resume and name == "out.journal":
            continue
        target = OutputFile(str(tmp_path / "out"), resume=resume)
        for refuse in (target.check, lambda target=target: target.open({})):
            with pytest.raises(ValueError, match=f"{name} .*--overwrite"):
                refuse()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == {
        tmp_path / name: b"precious"
    }
    assert written(OutputFile(str(tmp_path / "out"), overwrite=True), sample()) == b"text 0\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_there_is_nothing_to_resume_after_the_end(tmp_path: Path) -> None:
    target = OutputFile(str(tmp_path / "out"), resume=True)
    assert written(target, sample()) == b"text 0\n"
    with pytest.raises(ValueError, match="no journal, so its job is complete"):
        target.check()


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    writer = OutputFile(str(tmp_path / "out")).open({})
    writer.add([sample()])
    (tmp_path / "out").write_bytes(b"precious")
    with pytest.raises(JobFailed, match=r"made by others meanwhile: move it away.*--resume"):
        writer.finish()
    writer.close()
    with pytest.raises(ValueError, match="move it away, or pass --overwrite too"):
        OutputFile(str(tmp_path / "out"), resume=True).check()
    (tmp_path / "out").unlink()
    again = OutputFile(str(tmp_path / "out"), resume=True).open({})
    assert again.state.is_complete
    again.finish()
    assert (tmp_path / "out").read_bytes() == b"text 0\n"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"mkdir -p {tmp_path}/none"):
        OutputFile(str(tmp_path / "none" / "out")).check()
    for folder in (str(tmp_path), f"{tmp_path}/out/", ""):
        with pytest.raises(ValueError, match="a folder: name a file"):
            OutputFile(folder).check()
    with pytest.raises(ValueError, match="too long: leave 30 bytes"):
        OutputFile(str(tmp_path / ("x" * 250))).check()
    with pytest.raises(ValueError, match="'score', which the scores take"):
        OutputFile(str(tmp_path / "o.json"), with_scores=True, output_field="score").check()
    with pytest.raises(ValueError, match="'token_ids', which the scores take"):
        OutputFile(
            str(tmp_path / "o.json"), with_token_scores=True, output_field="token_ids"
        ).check()
    with pytest.raises(ValueError, match=r"--token-scores needs fields.*--output-format json"):
        OutputFile(str(tmp_path / "o.txt"), with_token_scores=True).check()
    with pytest.raises(ValueError, match="the format is 'xml'"):
        OutputFile(str(tmp_path / "o.json"), format="xml").check()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_permission() -> None:
    user = os.geteuid()
    # Beside the folders of the tests, which other users cannot even enter.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(
                ValueError, match=r"cannot be written to: name an OUTPUT in another"
            ):
                OutputFile(f"{folder}/out").check()
            os.seteuid(user)
            os.chmod(folder, 0o600)
            if user == 0:
                os.seteuid(65534)
            with pytest.raises(ValueError, match=r"cannot be written to"):
                OutputFile(f"{folder}/out").check()
        finally:
            os.seteuid(user)
            os.chmod(folder, 0o700)


def test_the_input_is_not_the_output(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"precious")
    (tmp_path / "soft").symlink_to(path)
    (tmp_path / "hard").hardlink_to(path)
    for name in ("in.txt", "soft", "hard"):
        with pytest.raises(ValueError, match="is the input, and would be lost"):
            OutputFile(str(tmp_path / name), overwrite=True).check(InputFile(path))
    target = OutputFile(str(tmp_path / "out"), overwrite=True)
    (tmp_path / "out.rejected.jsonl").hardlink_to(path)
    with pytest.raises(ValueError, match=r"out.rejected.jsonl is the input"):
        target.check(InputFile(path))
    with path.open("rb") as stream, pytest.raises(ValueError, match="is the input"):
        OutputFile(str(path), overwrite=True).check(InputFile("-", stream=stream))
    OutputFile("/dev/null").check(InputFile("/dev/null"))
    assert path.read_bytes() == b"precious"


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "out"
    link.symlink_to("far/real")
    assert written(OutputFile(str(link)), sample()) == b"text 0\n"
    assert link.is_symlink() and (tmp_path / "far" / "real").is_file()
    with pytest.raises(ValueError, match=r"real exists"):
        OutputFile(str(link)).check()


def test_two_jobs_cannot_write_one_output(tmp_path: Path) -> None:
    path = str(tmp_path / "out")
    first = OutputFile(path).open({})
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match="out is being written by another job"):
            OutputFile(path, **flags).check()
        with pytest.raises(ValueError, match="out is being written by another job"):
            OutputFile(path, **flags).open({})
    first.add([sample()])
    first.close()
    second = OutputFile(path, resume=True).open({})
    assert second.state.lines == 0
    second.close()


# Pipes and devices


class Stream(io.RawIOBase):
    """Takes up to `room` bytes of a write, and remembers all of them."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.writes: list[bytes] = []
        self._room = room

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.writes.append(bytes(data[: self._room]))
        return len(self.writes[-1])


def test_a_pipe_has_each_line_at_once_and_several_together() -> None:
    stream: Any = Stream()
    warnings: list[str] = []
    writer = OutputFile("-", stream=stream).open({"any": 1}, warn=warnings.append)
    assert writer.state.lines == 0
    writer.add([sample(1)])
    writer.add([sample(0), rejected(3), sample(2)])
    writer.checkpoint()
    writer.finish()
    assert stream.writes == [b"text 0\ntext 1\ntext 2\n\n"]
    assert warnings == ["line 4 is rejected: too long"]
    assert not stream.closed
    narrow: Any = Stream(room=2)
    writer = OutputFile("-", format="json", stream=narrow).open({})
    writer.add([sample(0)])
    assert b"".join(narrow.writes) == b'{"output": "text 0"}\n'


def test_stdout(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    print("before")
    writer = OutputFile("-").open({})
    writer.add([sample(0)])
    print("after")
    sys.stdout.flush()
    writer.add([rejected(1)])
    out, err = capfdbinary.readouterr()
    assert out == b"before\ntext 0\nafter\n\n"
    assert err == b"tritonseq: warning: line 2 is rejected: too long\n"


@pytest.mark.parametrize("name", ["-", "/dev/null"])
def test_a_pipe_cannot_be_gone_on_with(name: str) -> None:
    with pytest.raises(ValueError, match="drop --resume"):
        OutputFile(name, resume=True).check()


def test_devices_and_named_pipes_are_written_directly(tmp_path: Path) -> None:
    writer = OutputFile("/dev/null", overwrite=True).open({}, warn=lambda message: None)
    writer.add([sample(0), rejected(1)])
    writer.finish()
    assert not Path("/dev/null.rejected.jsonl").exists()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    os.mkfifo(tmp_path / "fifo.gz")
    reading = os.open(tmp_path / "fifo.gz", os.O_RDONLY | os.O_NONBLOCK)
    writer = OutputFile(str(tmp_path / "fifo.gz")).open({})
    writer.add([sample(0)])
    writer.finish()
    assert gzip.decompress(os.read(reading, 1000)) == b"text 0\n"
    assert os.read(reading, 1000) == b""
    os.close(reading)
    assert [path.name for path in tmp_path.iterdir()] == ["fifo.gz"]


def test_a_pipe_that_nobody_reads_is_told_as_such() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stream:
        writer = OutputFile("-", stream=stream).open({})
        with pytest.raises(BrokenPipeError):
            writer.add([sample()])


def test_a_full_pipe_that_does_not_block_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    big = sample(texts=["x" * 300_000])
    drain = f"import os, sys; sys.stdout.write(str(len(os.fdopen({reading}, 'rb').read())))"
    with subprocess.Popen(
        [sys.executable, "-c", drain], pass_fds=[reading], stdout=subprocess.PIPE, text=True
    ) as reader:
        os.close(reading)
        with os.fdopen(writing, "wb") as stream:
            OutputFile("-", stream=stream).open({}).add([big])
        assert reader.communicate()[0] == "300001"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_device_that_is_full_fails_the_job() -> None:
    writer = OutputFile("/dev/full").open({})
    with pytest.raises(JobFailed, match=r"/dev/full cannot be written \(No space left on device\)"):
        writer.add([sample()])
    with open("/dev/full", "wb") as stream:
        with pytest.raises(JobFailed, match="stdout cannot be written"):
            OutputFile("-", stream=stream).open({}).add([sample()])
        # Nothing is left in a buffer that would fail once more.
        stream.flush()


# With real processes: they are killed, and their files are limited

SCRIPT = """
import resource, sys
from tritonseq.errors import JobFailed
from tritonseq.stages.sample import Sample
from tritonseq.jobs.output import OutputFile

output, limit, count, waits = sys.argv[1], *map(int, sys.argv[2:])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    writer = OutputFile(output, resume=True).open({"count": count})
    for number in range(writer.state.lines, count):
        sample = Sample(number, number, "source")
        if number % 50 == 0:
            sample.reject("no")
        else:
            sample.finish([f"text {number * number}"])
        writer.add([sample])
        if number % 10 == 0:
            writer.checkpoint()
            if waits:
                print(number, flush=True)
                sys.stdin.readline()
    writer.finish()
except JobFailed as error:
    sys.exit(str(error))
"""


def start(output: Path, limit: int = 0, count: int = 500, waits: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(output), str(limit), str(count), str(waits)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def uninterrupted(tmp_path: Path) -> dict[str, bytes]:
    (tmp_path / "whole").mkdir()
    with start(tmp_path / "whole" / "out.txt") as process:
        assert process.communicate(timeout=300)[1] == ""
    return files(tmp_path / "whole")


def test_a_limit_on_file_sizes_fails_the_job_and_another_goes_on(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    size = len(uninterrupted["out.txt"])
    for limit in (100, size // 3, size - 1):
        with start(folder / "out.txt", limit) as process:
            error = process.communicate(timeout=300)[1]
        assert "cannot be written (File too large): free some space" in error
        assert error.count("\n") == 1 and "Traceback" not in error
        assert not (folder / "out.txt").exists()
    with start(folder / "out.txt") as process:
        assert process.communicate(timeout=300)[1] == ""
    assert files(folder) == uninterrupted


def test_a_process_that_is_killed_lets_go_and_another_goes_on(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    target = OutputFile(str(folder / "out.txt"), resume=True)
    for rounds in (1, 20):
        process = start(folder / "out.txt", waits=1)
        with contextlib.closing(process.stdin), contextlib.closing(process.stdout):
            for _ in range(rounds):
                process.stdout.readline()
                process.stdin.write("\n")
                process.stdin.flush()
            with pytest.raises(ValueError, match="is being written by another job"):
                target.check()
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=60)
            process.stderr.close()
        target.check()
    with start(folder / "out.txt") as process:
        assert process.communicate(timeout=300)[1] == ""
    assert files(folder) == uninterrupted


def test_no_torch_is_needed_to_read_and_write() -> None:
    code = "import sys, tritonseq.jobs.input, tritonseq.jobs.output; "
    code += "print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"
