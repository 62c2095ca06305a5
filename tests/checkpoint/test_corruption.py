"""Bytes of the files of an interrupted job that change: it is refused, or no byte of the output is
another."""

from __future__ import annotations

import errno
import gzip
import os
import random
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tritonseq.errors import JobFailed
from tritonseq.jobs import disk
from tritonseq.jobs.input import InputFile
from tritonseq.jobs.output import OutputFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tritonseq.stages.sample import Sample

LINES = 60
OUTPUTS = ("out.txt", "out.jsonl", "out.jsonl.gz")
ENDINGS = ("journal", "partial", "rejected.jsonl")


def flip(data: bytes, at: int, rng: random.Random) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def delete(data: bytes, at: int, rng: random.Random) -> bytes:
    return data[:at] + data[at + 1 :]


def insert(data: bytes, at: int, rng: random.Random) -> bytes:
    return data[:at] + bytes([rng.randrange(256)]) + data[at:]


def double(data: bytes, at: int, rng: random.Random) -> bytes:
    """As a file system that has lost a block may leave it."""
    return data[:at] + data[at : at + 32] + data[at:]


CHANGES: tuple[Callable[[bytes, int, random.Random], bytes], ...] = (flip, delete, insert, double)


def answer(sample: Sample) -> None:
    if sample.number % 7 == 0:
        sample.reject("no")
    else:
        sample.finish([f"{sample.number} ä"], scores=[-sample.number / 7], tokens=sample.number)


def run(folder: Path, name: str, *, stop: int | None = None, **flags: Any) -> None:
    """A job without a model, which is killed when it has come to the line `stop`."""
    target = OutputFile(str(folder / name), with_scores=True, **flags)
    source = InputFile(folder / "in.txt", taken=target.formatter.taken)
    target.check(source)
    writer = target.open({"model": "m"})
    try:
        if not writer.state.is_complete:
            source.skip(writer.state.lines, writer.state.digest)
            for sample in writer.state.restore(source, source.name):
                if sample.number == stop:
                    return
                if not sample.is_done:
                    answer(sample)
                # Some wait for their turn: the journal keeps them.
                if stop is None or sample.number != stop // 2:
                    writer.add([sample])
                if sample.number % 10 == 9 or sample.number == stop:
                    writer.checkpoint()
        writer.finish()
    finally:
        writer.close()


def results(folder: Path, name: str) -> tuple[bytes, bytes]:
    return (folder / name).read_bytes(), (folder / f"{name}.rejected.jsonl").read_bytes()


def sweep(tmp_path: Path, count: int, seed: int) -> dict[str, int]:
    rng = random.Random(seed)
    found = {"refused": 0, "harmless": 0}
    for name in OUTPUTS:
        source = "".join(f"line {number}\n" for number in range(LINES))
        calm, killed, trial = (tmp_path / part for part in ("calm", "killed", "trial"))
        for folder in (calm, killed):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / "in.txt").write_text(source)
        run(calm, name)
        run(killed, name, stop=45)
        wanted = results(calm, name)
        for _ in range(count // len(OUTPUTS)):
            shutil.rmtree(trial, ignore_errors=True)
            shutil.copytree(killed, trial)
            path = trial / f"{name}.{rng.choice(ENDINGS)}"
            data = path.read_bytes() if path.exists() else b""
            if not data:  # nothing of it is durable
                path = trial / f"{name}.journal"
                data = path.read_bytes()
            change = rng.choice(CHANGES)
            path.write_bytes(change(data, rng.randrange(len(data)), rng))
            try:
                run(trial, name, resume=True)
            except ValueError as error:
                assert str(path) in str(error) and "--overwrite" in str(error)
                found["refused"] += 1
            except JobFailed:
                found["refused"] += 1
            else:
                assert results(trial, name) == wanted, (path.name, change.__name__)
                found["harmless"] += 1
    return found


def test_a_byte_that_changed_is_refused_or_harmless(tmp_path: Path) -> None:
    found = sweep(tmp_path, 60, seed=1)
    assert found["refused"] > 40


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_many_bytes_that_changed_are_refused_or_harmless(seed: int, tmp_path: Path) -> None:
    sweep(tmp_path, 400, seed=seed + 2)


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_byte_of_what_is_durable_counts(name: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("".join(f"line {number}\n" for number in range(LINES)))
    run(tmp_path, name, stop=45)
    rng = random.Random(name)
    for ending in ENDINGS:
        path = tmp_path / f"{name}.{ending}"
        data = path.read_bytes() if path.exists() else b""
        for at in range(0, len(data), max(1, len(data) // 12)):
            path.write_bytes(flip(data, at, rng))
            with pytest.raises(ValueError, match=rf"{path} (was changed|is no journal)"):
                run(tmp_path, name, resume=True)
        if data:
            path.write_bytes(data)
    run(tmp_path, name, resume=True)
    output = results(tmp_path, name)[0]
    plain = gzip.decompress(output) if name.endswith(".gz") else output
    assert plain.count(b"\n") == LINES


def test_a_complete_output_that_has_changed_is_not_taken_for_the_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when it had its name, and its journal was still there."""
    (tmp_path / "in.txt").write_text("a\nb\n")
    from tritonseq.jobs import writer as sinks

    with monkeypatch.context() as patch:
        patch.setattr(sinks, "remove", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "out.txt")
    path = tmp_path / "out.txt"
    good = path.read_bytes()
    path.write_bytes(flip(good, 2, random.Random(0)))
    with pytest.raises(ValueError, match="exists"):
        run(tmp_path, "out.txt", resume=True)
    path.write_bytes(good)
    run(tmp_path, "out.txt", resume=True)
    assert path.read_bytes() == good and not (tmp_path / "out.txt.journal").exists()


def test_a_journal_of_before_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\nb\n")
    run(tmp_path, "out.txt", stop=1)
    journal = tmp_path / "out.txt.journal"
    journal.write_bytes(b'{"version": 1, "lines": 0, "ahead": []}\n')
    with pytest.raises(ValueError, match=r"its version is 1, and not 3; start afresh"):
        run(tmp_path, "out.txt", resume=True)


@pytest.mark.parametrize("call", ["fsync", "write", "replace", "open"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.EROFS, errno.ESTALE])
def test_a_disk_that_fails_is_told_and_what_is_durable_stays(
    number: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.txt").write_text("".join(f"line {number}\n" for number in range(LINES)))
    run(tmp_path, "calm.txt")
    run(tmp_path, "out.txt", stop=25)

    def fail(*arguments: Any) -> int:
        if call == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR):
            return os.open(*arguments)  # reading goes on
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        # Of the module alone: the others go on reading.
        patch.setattr(disk, "os", SimpleNamespace(**{**vars(os), call: fail}))
        with pytest.raises(JobFailed, match=rf"out.txt.*{os.strerror(number)}.*--resume"):
            run(tmp_path, "out.txt", resume=True)
    run(tmp_path, "out.txt", resume=True)
    assert results(tmp_path, "out.txt") == results(tmp_path, "calm.txt")


def test_a_file_system_that_locks_nothing_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    (tmp_path / "in.txt").write_text("a\n")
    monkeypatch.setattr(disk.fcntl, "flock", fail)
    run(tmp_path, "out.txt")
    assert (tmp_path / "out.txt").exists()
