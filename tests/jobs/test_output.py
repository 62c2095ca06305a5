"""What lies where a job keeps its files: links, pipes, folders, mounts, other users' files."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tritonseq.cli.main import main
from tritonseq.decoding.completion import Completion
from tritonseq.demo.run import EMBEDDED
from tritonseq.errors import JobFailed
from tritonseq.jobs import disk, output
from tritonseq.jobs import writer as sinks
from tritonseq.jobs.disk import lock
from tritonseq.jobs.input import InputFile
from tritonseq.jobs.output import OutputFile
from tritonseq.stages.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable

Captured = pytest.CaptureFixture[str]
MODEL = str(EMBEDDED / "gpt2-words")
PRECIOUS = b"precious"

KINDS: dict[str, Callable[[Path], Any]] = {
    "link": lambda path: path.symlink_to(path.with_name("other")),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "named pipe": os.mkfifo,
    "folder": Path.mkdir,
}
if os.geteuid() == 0:
    KINDS["device"] = lambda path: os.mknod(path, 0o20666, os.makedev(1, 3))
ENDINGS = (".partial", ".journal", ".journal.new", ".rejected.jsonl")


def sample(number: int = 0) -> Sample:
    return Sample(number, number, "source", completion=Completion(texts=[f"text {number}"]))


def rejected() -> Sample:
    return Sample(0, 0, "source", completion=Completion(fault="no"))


def begun(path: Path, **flags: Any) -> None:
    """A job that was interrupted after its first sample."""
    writer = OutputFile(str(path), **flags).open({})
    writer.add([sample()])
    writer.checkpoint()
    writer.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "other").write_bytes(PRECIOUS)
    return tmp_path


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}], ids=str)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_only_files_are_taken_for_files_of_a_job(
    kind: str, ending: str, flags: dict[str, bool], folder: Path
) -> None:
    path = folder / f"out{ending}"
    if flags:
        begun(folder / "out")
        path.unlink(missing_ok=True)
    KINDS[kind](path)
    for refuse in (OutputFile.check, lambda target: target.open({})):
        with pytest.raises(ValueError, match=rf"{path} is a .*move it away"):
            refuse(OutputFile(str(folder / "out"), **flags))
    assert (folder / "other").read_bytes() == PRECIOUS
    assert not (folder / "nowhere").exists()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_with_another_name_keeps_its_bytes(ending: str, folder: Path) -> None:
    (folder / f"out{ending}").hardlink_to(folder / "other")
    writer = OutputFile(str(folder / "out"), overwrite=True).open({})
    writer.add([rejected(), sample(1)])
    writer.finish()
    assert (folder / "out").read_bytes() == b"\ntext 1\n"
    assert (folder / "other").read_bytes() == PRECIOUS


def test_a_link_that_appears_later_is_not_followed(folder: Path) -> None:
    writer = OutputFile(str(folder / "out")).open({})
    for name in ("out.journal.new", "out.rejected.jsonl"):
        (folder / name).symlink_to("other")
    writer.add([rejected()])
    with pytest.raises((JobFailed, ValueError), match="rejected"):
        writer.checkpoint()
    writer.close()
    assert (folder / "other").read_bytes() == PRECIOUS


def test_a_link_to_itself_is_no_output(folder: Path) -> None:
    (folder / "out").symlink_to("out")
    with pytest.raises(ValueError, match="leads to itself"):
        OutputFile(str(folder / "out"), overwrite=True).check()


@pytest.mark.parametrize("by", ["name", "link", "hard link"])
def test_no_file_of_the_command_is_lost_by_another_name(
    by: str, folder: Path, capsys: Captured
) -> None:
    source, other = folder / "in.txt", folder / "x"
    source.write_text("three plus four =\n")
    output = folder / "other"
    if by == "name":
        other = output
    elif by == "link":
        other.symlink_to(output)
    else:
        other.hardlink_to(output)
    command = ["generate", MODEL, str(source), str(output), "--overwrite", "--device", "cpu"]
    for flag in ("--reference", "--trace", "--score-path"):
        more = ["--reference", str(source)] if flag == "--score-path" else []
        assert main([*command, flag, str(other), *more]) == 2
        assert "is a file of the job itself" in capsys.readouterr().err
    assert main([*command[:2], str(other), *command[3:]]) == 2
    assert "is the input, and would be lost" in capsys.readouterr().err
    assert output.read_bytes() == PRECIOUS


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_is_a_file(kind: str, folder: Path, capsys: Captured) -> None:
    (folder / "in.txt").write_text("three plus four =\n")
    KINDS[kind](folder / "trace")
    places = (str(folder / name) for name in ("in.txt", "out"))
    assert main(["generate", MODEL, *places, "--trace", str(folder / "trace"), "--overwrite"]) == 2
    assert "--trace" in capsys.readouterr().err
    assert not (folder / "out").exists() and (folder / "other").read_bytes() == PRECIOUS


def test_a_trace_that_cannot_be_written_takes_nothing_from_the_output(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (folder / "in.txt").write_text("three plus four =\n")
    monkeypatch.setattr("tritonseq.jobs.job.write_timeline", full)
    files = (str(folder / name) for name in ("in.txt", "out"))
    command = ["generate", MODEL, *files, "--trace", str(folder / "trace"), "--device", "cpu"]
    assert main(command) == 0
    assert "the trace" in capsys.readouterr().err
    assert (folder / "out").read_text() == "three plus four = seven\n"


# Mount points


MOUNTED = r"""
36 35 98:0 / / rw,noatime - ext3 /dev/root rw
37 36 98:0 /x {path} rw,noatime shared:1 - ext3 /dev/root rw
"""


@pytest.mark.parametrize("name", ["out", "o u\\t", "out.journal", "out.rejected.jsonl"])
def test_an_output_that_is_mounted_is_refused_at_the_start(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    escaped = str(folder / name).replace("\\", r"\134").replace(" ", r"\040")
    (folder / "mountinfo").write_text(MOUNTED.format(path=escaped))
    monkeypatch.setattr(disk, "_MOUNTS", folder / "mountinfo")
    output = folder / (name if name.startswith("o u") else "out")
    (folder / "link").symlink_to(output)
    for path in (output, folder / "link"):
        with pytest.raises(ValueError, match=r"is a mount point.*mount its folder and not the"):
            OutputFile(str(path), overwrite=True).check()
    OutputFile(str(folder / "free")).check()


def test_a_file_that_is_really_mounted_is_refused(folder: Path) -> None:
    """In a namespace of its own, where the system lets us have one."""
    (folder / "in.txt").write_text("three plus four =\n")
    (folder / "out").touch()
    command = [sys.executable, "-m", "tritonseq", "generate", MODEL, "in.txt", "out"]
    script = 'mount --bind other out || exit 99; "$@"'
    unshare = shutil.which("unshare") or "false"
    result = subprocess.run(
        [unshare, "-m", "sh", "-c", script, "sh", *command, "--overwrite"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    if result.returncode == 2:
        assert "is a mount point" in result.stderr
    else:
        assert "unshare" in result.stderr or result.returncode in (1, 99), "no namespaces here"
    assert sorted(path.name for path in folder.iterdir()) == ["in.txt", "other", "out"]


def test_a_mount_that_comes_later_is_told_and_nothing_is_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(folder / "out")
    target = OutputFile(str(folder / "out"), resume=True)

    def busy(*_: Any) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    with monkeypatch.context() as patch:
        writer = target.open({})
        patch.setattr(sinks.os, "replace", lambda old, new, do=os.replace: (
            busy() if str(new).endswith("out") else do(old, new)
        ))  # fmt: skip
        with pytest.raises(JobFailed, match="unmount it"):
            writer.finish()
        writer.close()
    writer = target.open({})
    writer.finish()
    assert (folder / "out").read_bytes() == b"text 0\n"


@pytest.mark.parametrize("ending", ["", ".partial", ".new"])
def test_the_file_of_the_searches_is_checked_before_anything_is_made(
    ending: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = folder / "out.trace.pickle"
    target = OutputFile(str(folder / "out"), traces=traces)
    target.check()
    (folder / "mountinfo").write_text(MOUNTED.format(path=f"{traces}{ending}"))
    with monkeypatch.context() as patch:
        patch.setattr(disk, "_MOUNTS", folder / "mountinfo")
        with pytest.raises(ValueError, match="is a mount point"):
            target.open({})
    if ending:
        Path(f"{traces}{ending}").symlink_to(folder / "other")
        with pytest.raises(ValueError, match="is a symbolic link"):
            target.open({})
    assert not (folder / "out.journal").exists() and not (folder / "out.partial").exists()


# What is open already


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "/proc/{pid}/fd/{}", "link"])
def test_a_file_that_is_open_is_written_to_where_it_is(name: str, folder: Path) -> None:
    with (folder / "log").open("w+b", buffering=0) as file:
        path = name.format(file.fileno(), pid=os.getpid())
        if name == "link":
            path = str(folder / "link")
            os.symlink(f"/dev/fd/{file.fileno()}", path)
        file.write(b"HEAD\n")
        for flags in ({}, {"overwrite": True}):
            target = OutputFile(path, **flags)
            assert target.is_pipe and not target.paths
            target.check()
            writer = target.open({})
            writer.add([sample()])
            writer.finish()
        file.write(b"FOOT\n")
        with pytest.raises(ValueError, match="no file that could be gone on with"):
            OutputFile(path, resume=True).check()
        with pytest.raises(ValueError, match="is the input"):
            OutputFile(path).check(InputFile(folder / "log"))
    assert (folder / "log").read_bytes() == b"HEAD\ntext 0\ntext 0\nFOOT\n"
    with pytest.raises(ValueError, match="is not open"):
        OutputFile(path).check()
    assert {item.name for item in folder.iterdir()} <= {"other", "log", "link"}


# Others in the same folder


def test_an_output_that_is_replaced_keeps_its_mode(folder: Path) -> None:
    output = folder / "out"
    output.write_bytes(PRECIOUS)
    for mode in (0o600, 0o440):
        output.chmod(mode)
        writer = OutputFile(str(output), overwrite=True).open({})
        writer.add([sample()])
        writer.checkpoint()
        assert (folder / "out.partial").stat().st_mode & 0o077 == mode & 0o077
        writer.finish()
        assert output.stat().st_mode & 0o777 == mode
        assert output.read_bytes() == b"text 0\n"


def test_a_file_that_only_its_owner_may_replace_is_refused_at_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = folder / "shared"
    shared.mkdir()
    (shared / "out").write_bytes(PRECIOUS)
    os.chmod(shared, 0o1777)
    OutputFile(str(shared / "out"), overwrite=True).check()
    monkeypatch.setattr(output.os, "geteuid", lambda: 65534)
    with pytest.raises(ValueError, match="is of another user"):
        OutputFile(str(shared / "out"), overwrite=True).check()
    OutputFile(str(shared / "mine")).check()


@pytest.mark.parametrize("how", ["removed", "replaced", "with its folder"])
def test_an_output_that_is_taken_away_meanwhile_is_noticed(how: str, folder: Path) -> None:
    (folder / "sub").mkdir()
    partial = folder / "sub" / "out.partial"
    writer = OutputFile(str(folder / "sub" / "out")).open({})
    writer.add([sample()])
    writer.checkpoint()
    if how == "with its folder":
        shutil.rmtree(folder / "sub")
    else:
        partial.unlink()
    if how == "replaced":
        partial.write_bytes(PRECIOUS)
    writer.add([sample(1)])
    with pytest.raises(JobFailed, match="removed or replaced by others"):
        writer.finish()
    writer.close()
    assert not (folder / "sub" / "out").exists()


def test_no_file_of_a_job_is_a_standard_stream(folder: Path) -> None:
    """Where those are closed, what is told on stderr would be written into it."""
    code = (
        "import os, sys; from pathlib import Path; from tritonseq.jobs.disk import lock\n"
        "os.close(0); os.close(2); sys.exit(lock(Path(sys.argv[1]), 'out') <= 2)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder / "file")]).returncode == 0
    os.close(lock(folder / "file", "out"))
