"""The command line: `tritonseq generate | demo | bench | env`."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import io
import os
import signal
import sys
import threading
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeGuard

from tritonseq.bench.options import add_bench
from tritonseq.errors import JobFailed
from tritonseq.progress import note
from tritonseq.stages.process import take_descriptors

from . import fastseq_flags, unilm_flags
from .arguments import add_generate, add_group, add_placement, generation_options
from .rules import check_flags

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# The values of the one flag that may also stand alone.
_BARE = "--early-stopping"
_BARE_VALUES = ("true", "false", "never")

# What only flags of UniLM and FastSeq say.
_UNSAID: dict[str, Any] = {
    "cuts_sources": False,
    "unilm_network": None,
    "token_names": {},
    "traces": None,
}

_INTERRUPTED = 130

_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

_PIPE_CLOSED = 141
"""What a shell reports for a program that SIGPIPE ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    That is 2, with one line on stderr, for bad input, and 1 for a job that failed half-way. What
    cannot be told on stderr is not told, and changes nothing.
    """
    take_descriptors()
    is_own = arguments is None
    with _forgiving_stderr():
        code = _run(sys.argv[1:] if arguments is None else arguments, is_own=is_own)
    if is_own:
        _go_deaf()
    return code


def _go_deaf() -> None:
    """The process is about to end, and its work is done: no signal shall make a failure of it, or
    have it tell where it was."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def _run(arguments: Sequence[str], *, is_own: bool) -> int:
    try:
        try:
            parsed = _parse(arguments)
            parsed.when_done = _go_deaf if is_own else None
            with warnings.catch_warnings():
                warnings.showwarning = _Once().show
                code: int = parsed.command(parsed)
        finally:
            _flush_stdout()
    except BrokenPipeError:
        _silence_stdout()
        return _PIPE_CLOSED
    except (ValueError, OSError, JobFailed) as error:
        if _is_of_writing(error):
            error = JobFailed(f"the output cannot be written ({error.strerror})")
        return _say(error, 1 if isinstance(error, JobFailed) else 2)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def _say(error: Exception, code: int) -> int:
    note(f"tritonseq: error: {' '.join(str(error).split())}")
    return code


def _is_of_writing(error: Exception) -> TypeGuard[OSError]:
    """Whether writing to a file that was open failed, as a full disk makes it."""
    return isinstance(error, OSError) and error.filename is None and error.errno in _WRITING


class _Once:
    """Shows a warning the first time that it comes, however many batches it is about."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def show(self, message: Warning | str, *_: object, **__: object) -> None:
        """Without the file and line that Python adds, which say nothing to a user."""
        if str(message) not in self._shown:
            self._shown.add(str(message))
            note(f"tritonseq: warning: {message}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse, or exit with the usage and, for an unknown flag, the nearest known one."""
    parser = build_parser()
    parsed, rest = parser.parse_known_args(_spell_out(arguments))
    rest = _place(parsed, rest)
    if rest:
        parsed.parser.error(_complaint(rest, parsed.parser))
    return parsed


def _spell_out(arguments: Sequence[str]) -> Iterator[str]:
    """Write flags with dashes, as they are declared, and give a bare --early-stopping its value,
    lest it take what follows, MODEL say, for it."""
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument.startswith("--"):
            flag, sign, value = argument.partition("=")
            argument = flag.replace("_", "-") + sign + value
        if argument == _BARE:
            given = bool(rest) and rest[0].lower() in _BARE_VALUES
            argument = f"{_BARE}={rest.pop(0).lower() if given else 'true'}"
        yield argument


def _place(parsed: argparse.Namespace, rest: list[str]) -> list[str]:
    """Put INPUT and OUTPUT where they belong; what remains has no place.

    argparse takes all positional arguments from the first run of them, and leaves those that come
    after a further flag.
    """
    names = [name for name in ("model", "input", "output") if hasattr(parsed, name)]
    free = [name for name in names if getattr(parsed, name) is None]
    while rest and free and (rest[0] == "-" or not rest[0].startswith("-")):
        setattr(parsed, free.pop(0), rest.pop(0))
    return rest


def _complaint(unknown: Sequence[str], parser: argparse.ArgumentParser) -> str:
    known = [flag for action in parser._actions for flag in action.option_strings]
    for argument in unknown:
        flag = argument.partition("=")[0]
        if flag in fastseq_flags.FAIRSEQ:
            return f"{flag} is a flag of fairseq's: here say {fastseq_flags.FAIRSEQ[flag]}"
        if flag.startswith("--"):
            nearest = difflib.get_close_matches(flag, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "--help lists what there is"
            return f"unknown flag {flag}: {hint}"
    return f"unrecognized arguments: {' '.join(unknown)}"


class _Parser(argparse.ArgumentParser):
    """One that tells when its help cannot be written; argparse passes over that."""

    def print_help(self, file: Any = None) -> None:
        stream = sys.stdout if file is None else file
        if stream is not None:
            stream.write(self.format_help())


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    parser = _Parser(
        prog="tritonseq",
        description="Fast exact generation with encoder-decoder and small decoder models.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tritonseq {version('tritonseq')}")
    commands = parser.add_subparsers(metavar="command", required=True)
    generate = add_generate(commands)
    for module in (unilm_flags, fastseq_flags):
        add_group(generate, module.TITLE, module.DESCRIPTION, module.FLAGS)
    generate.set_defaults(command=_generate, parser=generate, **_UNSAID)
    demo = commands.add_parser(
        "demo",
        help="solve small tasks with the embedded models and check every answer",
        allow_abbrev=False,
    )
    add_placement(demo)
    demo.add_argument("--problems", type=int, default=200, metavar="N", help="default: 200")
    demo.set_defaults(command=_demo, parser=demo)
    add_bench(commands)
    env = commands.add_parser(
        "env", help="print versions and hardware, for bug reports", allow_abbrev=False
    )
    env.set_defaults(command=_env, parser=env)
    return parser


def _generate(parsed: argparse.Namespace) -> int:
    check_flags(parsed)
    options = generation_options(parsed)
    for flag, other in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        # What is said on the command line goes before what the checkpoint says of the same.
        if flag in options and other not in options:
            options[other] = None
    if parsed.input is not None and not parsed.stream:
        from . import generate_files

        return generate_files.run(parsed, options)

    if sys.stdout is None:
        raise ValueError("stdout is closed: name INPUT, and a file as OUTPUT")
    from . import generate_prompts

    return generate_prompts.run(parsed, options)


def _demo(parsed: argparse.Namespace) -> int:
    from tritonseq.demo.run import run

    return run(device=parsed.device, dtype=parsed.dtype, count=parsed.problems)


def _env(parsed: argparse.Namespace) -> int:
    from .env import describe

    for name, value in describe():
        print(f"{name:<18}{value}")
    return 0


@contextlib.contextmanager
def _forgiving_stderr() -> Iterator[None]:
    """Meanwhile, messages that cannot be written are dropped: no work may fail for them.

    A stderr that a caller has put in its place is left as it is.
    """
    before = sys.stderr
    if before is not sys.__stderr__:
        yield
        return
    if before is not None:
        with contextlib.suppress(OSError):
            before.flush()
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Forgiving(2, "w", closefd=False)),
        encoding=getattr(before, "encoding", None),
        errors="backslashreplace",
        line_buffering=True,
        write_through=True,
    )
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before


class _Forgiving(io.FileIO):
    """A file that is told all, and need not take it."""

    def write(self, data: Any) -> int:
        """As of every file, but what it refuses counts as written."""
        with contextlib.suppress(OSError):
            written = super().write(data)
            if written is not None:
                return written
        return memoryview(data).nbytes


def _flush_stdout() -> None:
    """Hand over what was printed. Raises BrokenPipeError if its reader has gone, JobFailed if it
    cannot be written; then it is dropped."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        raise
    except OSError as error:
        _silence_stdout()
        raise JobFailed(f"stdout cannot be written ({error.strerror})") from error


def _silence_stdout() -> None:
    """Let what is still to be printed go nowhere, lest the interpreter fails at it as it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
