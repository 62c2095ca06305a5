"""One child process, from its start to its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing import Pipe
from pathlib import Path
from typing import TYPE_CHECKING

from .descriptors import take_descriptors
from .worker_main import DECIDED_BY_PARENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATIENCE = 5.0
"""Seconds that a child has to end when it is told to, before it is killed."""

# The package is taken from where this process has it, whatever the path would find.
_BEGIN = """\
import sys
sys.path[:] = {path!a}
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("tritonseq", {file!a}, submodule_search_locations=[{folder!a}])
sys.modules["tritonseq"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["tritonseq"])
from tritonseq.stages.worker_main import main
main({descriptor})
"""
_PACKAGE = Path(__file__).absolute().parents[1]


class Child:
    """A new interpreter that runs `worker.main`, with a connection to it.

    It shares nothing with the parent's threads, and runs nothing of the parent's script. Messages
    may be sent by several threads.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.is_ready = False
        """Has its service been made?"""
        self._sending = threading.Lock()
        # The child inherits them, and its connection must be none of them.
        take_descriptors()
        # Never closed but with the last reference: a number that is free again, and belongs to
        # another file, could still be in use by another thread.
        self._connection, theirs = Pipe()
        descriptor = theirs.fileno()
        code = _BEGIN.format(
            path=[str(entry) for entry in sys.path],
            file=str(_PACKAGE / "__init__.py"),
            folder=str(_PACKAGE),
            descriptor=descriptor,
        )
        isolated = ["-I"] if sys.flags.isolated else []
        # Until the child ignores Ctrl-C and the like, which go to it as well, it does not get them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, DECIDED_BY_PARENT)
        try:
            self._process = subprocess.Popen(
                [sys.executable, *isolated, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[descriptor],
                env=environment,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
        self.pid = self._process.pid

    def send(self, number: int, body: bytes | None) -> None:
        """A request with its number. If the child is dead it is lost, as `receive` will tell."""
        with self._sending, contextlib.suppress(OSError), self._whole_messages():
            self._connection.send((number, body))

    def stop(self, number: int) -> None:
        """Let this request, and all before it, end early."""
        self.send(number, None)

    def receive(self) -> tuple[int, str, bytes]:
        """The next message, as in `worker`; EOFError or OSError if the child hung up."""
        with self._whole_messages():
            message: tuple[int, str, bytes] = self._connection.recv()
        return message

    def end(self) -> int:
        """Hang up, which ends the child and wakes who waits for it; then its exit code."""
        self._hang_up()
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    @contextlib.contextmanager
    def _whole_messages(self) -> Iterator[None]:
        """Hang up if Ctrl-C, say, cuts a message in two: the rest would be read as another."""
        try:
            yield
        except BaseException:
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        with (
            contextlib.suppress(OSError),
            socket.socket(fileno=os.dup(self._connection.fileno())) as line,
        ):
            line.shutdown(socket.SHUT_RDWR)


def obituary(code: int) -> str:
    """How a process ended, and what its user can look at."""
    if code >= 0:
        return f"ended with exit code {code}, and has told on stderr why if it could"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if -code == signal.SIGKILL:
        return (
            f"was killed by {name}, perhaps by the out-of-memory killer: see whether the memory of "
            "the machine is enough (dmesg tells)"
        )
    return f"was killed by {name}"
