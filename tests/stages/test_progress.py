"""The bar of a job and its summary, on fixed figures."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from tritonseq.jobs.job import JobSummary
from tritonseq.progress import Progress, note, postfix
from tritonseq.stages.runtime import StageTimes


class Terminal(io.StringIO):
    """What a bar takes for a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        """The lines that a user sees: what a carriage return takes back is overwritten."""
        lines = []
        for line in self.getvalue().split("\n"):
            seen = ""
            for written in line.split("\r"):
                seen = written + seen[len(written) :]
            lines.append(seen.rstrip())
        return lines


def done(*stages: StageTimes, lines: int = 12000, seconds: float = 8.0) -> JobSummary:
    return JobSummary(
        lines=lines,
        rejected=3,
        tokens=100000,
        earlier_lines=0,
        earlier_tokens=0,
        seconds=seconds,
        stages=list(stages),
        interrupted=False,
    )


def test_the_end_of_the_bar() -> None:
    assert postfix(1500, 3000, 0, 2.0) == "750 samples/s, 1,500 tokens/s"
    assert postfix(199, 200, 0, 2.0) == "99.5 samples/s, 100 tokens/s"
    assert postfix(1, 2, 1200, 4.0) == "0.2 samples/s, 0.5 tokens/s, 1,200 rejected"
    assert postfix(0, 0, 0, 0.0) == "0.0 samples/s, 0.0 tokens/s"


def test_the_summary_tells_where_the_time_went() -> None:
    """Two seats have twice the time."""
    report = done(StageTimes("read", 1, 0.4, 0.0, 7.6), StageTimes("detokenize", 2, 4.0, 12.0, 0.0))
    assert str(report).splitlines() == [
        "lines: 12,000, rejected: 3, tokens: 100,000, seconds: 8.00, lines/s: 1,500.0, "
        "tokens/s: 12,500.0",
        "stage       seats  busy  waited for input  waited for output",
        "read            1    5%                0%                95%",
        "detokenize      2   25%               75%                 0%",
    ]


def test_speed_is_that_of_this_run() -> None:
    resumed = done()._replace(earlier_lines=11000, earlier_tokens=92000)
    assert str(resumed).splitlines() == [
        "lines: 12,000, rejected: 3, tokens: 100,000, seconds: 8.00, lines/s: 125.0, "
        "tokens/s: 1,000.0",
    ]


def test_the_summary_of_nothing() -> None:
    assert str(done(lines=0, seconds=0.0)).splitlines() == [
        "lines: 0, rejected: 3, tokens: 100,000, seconds: 0.00, lines/s: 0.0, tokens/s: 0.0"
    ]
    assert "read       1    0%" in str(done(StageTimes("read", 1, 0.0, 0.0, 0.0), seconds=0.0))


def test_the_bar_shows_what_is_done_of_how_many() -> None:
    terminal = Terminal()
    progress = Progress(400, stream=terminal)
    progress.show(100, 5000, 2)
    progress.close()
    (*_, bar, rest) = terminal.screen
    assert rest == ""
    assert re.match(r" 25% \|.*\| 100/400 \[00:00<", bar)
    assert re.search(r" samples/s, [\d,.]+ tokens/s, 2 rejected\]$", bar)


def test_a_bar_without_a_total_counts() -> None:
    terminal = Terminal()
    progress = Progress(None, stream=terminal)
    progress.show(70, 5, 0)
    progress.close()
    assert terminal.screen[-2].startswith("70 samples [00:00, ")
    assert "rejected" not in terminal.getvalue()


def test_a_resumed_bar_goes_on_from_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier lines fill it, and are no speed of this run."""
    speeds: list[tuple[int, int]] = []

    def watch(lines: int, tokens: int, rejected: int, seconds: float) -> str:
        speeds.append((lines, tokens))
        return ""

    monkeypatch.setattr("tritonseq.progress.postfix", watch)
    terminal = Terminal()
    progress = Progress(400, lines=300, tokens=900, stream=terminal)
    progress.show(304, 925, 0)
    progress.close()
    assert "75% |" in terminal.getvalue()
    assert "304/400" in terminal.screen[-2]
    assert speeds == [(4, 25)]


def test_notes_do_not_tear_the_bar() -> None:
    terminal = Terminal()
    progress = Progress(4, stream=terminal)
    progress.show(1, 1, 0)
    progress.note("the batch is halved")
    note("line 3 is rejected", terminal)
    progress.show(4, 9, 1)
    progress.close()
    note("done", terminal)
    first, second, bar, last, _ = terminal.screen
    assert (first, second, last) == ("the batch is halved", "line 3 is rejected", "done")
    assert bar.startswith("100% |")


@pytest.mark.parametrize(("stream", "quiet"), [(io.StringIO, False), (Terminal, True)])
def test_no_bar_where_nobody_looks(stream: type[io.StringIO], quiet: bool) -> None:
    output = stream()
    progress = Progress(4, quiet=quiet, stream=output)
    progress.show(3, 3, 0)
    assert output.getvalue() == ""
    progress.note("line 3 is rejected")
    progress.close()
    progress.close()
    assert output.getvalue() == "line 3 is rejected\n"


def test_an_empty_input_has_a_bar_too() -> None:
    terminal = Terminal()
    progress = Progress(0, stream=terminal)
    progress.show(0, 0, 0)
    progress.close()
    assert terminal.screen[-2].startswith("0 samples [")


def test_nothing_goes_to_stdout() -> None:
    program = (
        "import sys; sys.stderr.isatty = lambda: True\n"
        "from tritonseq.progress import Progress\n"
        "bar = Progress(3); bar.show(2, 2, 0); bar.note('hm'); bar.close()\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == ""
    assert "hm\n" in run.stderr
    assert "2/3" in run.stderr


@pytest.mark.parametrize("columns", [0, 60])
def test_a_bar_on_a_terminal_of_any_width(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some containers have terminals of no width: there it is as wide as they usually are."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", columns and 24, columns, 0, 0))
    with open(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        progress = Progress(10)
        progress.show(5, 5, 0)
        progress.close()
        monkeypatch.undo()
        written = b""
        while not written.endswith(b"\n"):
            written += os.read(ours, 1 << 16)
    os.close(ours)
    assert b"5/10" in written
    assert max(map(len, re.split("[\r\n]", written.decode()))) <= (columns or 80)
