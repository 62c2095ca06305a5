"""Progress bar: samples done, with counts and speeds, and notes above it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Any, TextIO

_BAR = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
_COUNT = "{n_fmt} samples [{elapsed}{postfix}]"  # where their number is not known
_USUAL_SIZE = (80, 24)


class Progress:
    """A bar on a terminal: samples done, time left, speed, rejected lines.

    It stays away where `stream` (default: stderr) is no terminal, unless it was `asked` for (a
    notebook shows it too), and if it is to be `quiet`. Counts are those of the whole job: what was
    there before a resumption fills the bar, and does not count as speed.
    """

    def __init__(
        self,
        total: int | None,
        *,
        lines: int = 0,
        tokens: int = 0,
        quiet: bool = False,
        asked: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        # A process without a terminal may have no stderr at all.
        self._stream: TextIO | None = sys.stderr if stream is None else stream
        self._first = (lines, tokens)
        self._start = time.perf_counter()
        self._bar: Any = None
        if quiet or self._stream is None or not (asked or self._stream.isatty()):
            return
        # Imported only where a bar is shown.
        from tqdm import tqdm

        sized = _has_size(self._stream)
        self._bar = tqdm(
            total=total,
            initial=lines,
            file=self._stream,
            bar_format=_BAR if total else _COUNT,
            dynamic_ncols=sized,
            ncols=None if sized else _USUAL_SIZE[0],
            nrows=None if sized else _USUAL_SIZE[1],
            # Looked at often enough, even while no line is done.
            miniters=0,
            # The mean speed: lines are done in bursts.
            smoothing=0,
        )

    def show(self, lines: int, tokens: int, rejected: int) -> None:
        """Bring it up to date; cheap, however often."""
        if self._bar is None:
            return
        seconds = time.perf_counter() - self._start
        first_line, first_token = self._first
        speeds = (lines - first_line, tokens - first_token, rejected, seconds)
        self._bar.set_postfix_str(postfix(*speeds), refresh=False)
        self._bar.update(lines - self._bar.n)

    def note(self, message: str) -> None:
        """As the function `note`, where the bar is."""
        note(message, self._stream)

    def close(self) -> None:
        """Leave the last state on the screen; closing it again does nothing."""
        if self._bar is not None:
            self._bar.close()


def note(message: str, stream: TextIO | None = None) -> None:
    """Print a line, by default on stderr, and above the bar that stands there, if one does.

    Where stderr is closed or full, the line is lost, and nothing fails.
    """
    from tqdm import tqdm

    stream = sys.stderr if stream is None else stream
    if stream is not None:
        with contextlib.suppress(OSError):
            tqdm.write(message, file=stream)


def postfix(lines: int, tokens: int, rejected: int, seconds: float) -> str:
    """What stands at the end of the bar; counts are of the `seconds` that it runs."""
    speeds = (per_second(lines, seconds), per_second(tokens, seconds))
    # There is little room: the decimal is for slow models.
    samples, new = (speed if len(speed) < 5 else speed[:-2] for speed in speeds)
    shown = f"{samples} samples/s, {new} tokens/s"
    return shown + (f", {rejected:,} rejected" if rejected else "")


def _has_size(terminal: TextIO) -> bool:
    """False for one that says it has no columns at all, as in some containers."""
    try:
        return os.get_terminal_size(terminal.fileno()).columns > 0
    except (OSError, ValueError):
        return True


def per_second(count: int, seconds: float) -> str:
    """A speed, written out; 0.0 where no time has passed."""
    return f"{count / seconds if seconds else 0.0:,.1f}"
