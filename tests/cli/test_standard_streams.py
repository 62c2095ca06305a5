"""stdin, stdout and stderr that are closed, full or without a reader: in processes of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tritonseq.demo.run import EMBEDDED
from tritonseq.progress import Progress, note

if TYPE_CHECKING:
    from pathlib import Path

MODEL = str(EMBEDDED / "gpt2-words")
LINE = "three plus four = seven\n"

CASES = {
    # what is redirected, the arguments, the exit code, and what stands in OUT or on stdout
    "stderr closed": ("2>&-", "generate MODEL in.txt out", 0, LINE),
    "all closed": ("<&- >&- 2>&-", "generate MODEL in.txt out --devices cpu", 0, LINE),
    "stderr closed, to stdout": ("2>&- >std", "generate MODEL in.txt -", 0, LINE),
    "stdout closed, to stdout": (">&-", "generate MODEL in.txt -", 2, ""),
    "stdout closed, by its path": (">&-", "generate MODEL in.txt /dev/stdout", 2, ""),
    "stdout is a file, by its path": (">std", "generate MODEL in.txt /dev/stdout", 0, LINE),
    "stdout closed, figures": (">&-", "generate MODEL in.txt out --reference in.txt", 2, ""),
    "figures, full": (
        ">/dev/null",
        "generate MODEL in.txt out --reference in.txt --score-path /dev/full --quiet", 1, LINE,
    ),
    "stdin closed, from stdin": ("<&-", "generate MODEL - out", 2, ""),
    "stdin closed, by its path": ("<&-", "generate MODEL /dev/stdin out", 2, ""),
    "stdout closed, a prompt": (">&-", "generate MODEL --prompt x", 2, ""),
    "stderr full": ("2>/dev/full", "generate MODEL in.txt out --verbose", 0, LINE),
    "stderr full, a fault": ("2>/dev/full", "generate MODEL nothing.txt out", 2, ""),
    "stdout full": (">/dev/full", "generate MODEL in.txt -", 1, ""),
    "stderr without a reader": ("2>&9", "generate MODEL in.txt out", 0, LINE),
    "env": (">&- 2>&- <&-", "env", 0, ""),
    "env, full": (">/dev/full", "env", 1, ""),
    "help, full": (">/dev/full 2>/dev/full", "generate --help", 1, ""),
    "help, without a reader": (">&9", "--help", 141, ""),
    "a usage, closed": ("2>&- >std", "generate --nonsense", 2, ""),
    "demo": ("<&- >&- 2>&-", "demo --problems 2 --device cpu", 0, ""),
    "bench": (">/dev/full", "bench kernels --help", 1, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_command_says_what_it_can_and_loses_nothing(case: str, tmp_path: Path) -> None:
    redirections, arguments, code, wanted = CASES[case]
    (tmp_path / "in.txt").write_text("three plus four =\n")
    reading, writing = os.pipe()
    os.close(reading)
    command = arguments.replace("MODEL", MODEL)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    script = f"exec {sys.executable} -m tritonseq {command} 9>&0 </dev/null {redirections}"
    result = subprocess.run(
        ["sh", "-c", script],
        cwd=tmp_path, stdin=writing, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    os.close(writing)
    files = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != "in.txt"}
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    assert "".join(files.values()) == wanted
    assert set(files) <= {"out", "std"}
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr
    if code in (1, 2) and "2>" not in redirections:
        assert result.stderr.startswith("tritonseq: error: ") and result.stderr.count("\n") == 1


def test_messages_without_a_stderr_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a daemon calls the library."""
    monkeypatch.setattr(sys, "stderr", None)
    heard = False
    note("it is dropped")
    progress = Progress(3)
    progress.note("nor this")
    progress.close()
    with contextlib.suppress(OSError), open("/dev/full", "w", buffering=1) as full:
        note("nor this", full)
        heard = True
    assert heard
