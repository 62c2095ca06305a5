"""A worker process, from its start to its end, and the service in it, replaced when it dies."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing import Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tritonseq.callers import warn

from .worker_main import DECIDED_BY_PARENT, END, ERROR, FOR_EVER, REPLY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


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


R = TypeVar("R")


class WorkerProcess:
    """A new interpreter that runs `worker_main.main`, with a connection to it.

    It shares nothing with the parent's threads, and runs nothing of the parent's script. Messages
    may be sent by several threads.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.is_ready = False
        """Whether its service has been made."""
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
        """The next message, as in `worker_main`; EOFError or OSError if the child hung up."""
        with self._whole_messages():
            message: tuple[int, str, bytes] = self._connection.recv()
        return message

    def end(self) -> int:
        """Hang up, which ends the child and wakes the thread that receives; then its exit code."""
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


def take_descriptors() -> None:
    """Open those of stdin, stdout and stderr that the caller has closed, on nothing.

    Else the next file that is opened becomes one of them, and what libraries and child processes
    tell their user is written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest that is free is this one.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)


def exit_in_words(code: int) -> str:
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


class WorkerDied(RuntimeError):
    """A child died over its work again and again, or could never start."""


class Closed(RuntimeError):
    """A child was needed, but `close` has ended it."""


class Remote:
    """A service in a child process of its own, which starts at once.

    One thread uses it; `interrupt` and `close` may come from others.
    """

    def __init__(
        self,
        service: str,
        setup: Any,
        *,
        name: str,
        attempts: int = 3,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            service: "package.module:function", where `function(setup)` makes a `Handler`
                of `worker_main`.
            setup: anything that can be pickled.
            name: what messages call the child, such as "text worker 2".
            attempts: how many children may die over one request.
            environment: variables that the child has beside those of this process.
        """
        self._setup = pickle.dumps((service, pickle.dumps(setup)))
        self._name = name
        self._attempts = attempts
        self._environment = {**os.environ, **(environment or {})}
        self._lock = threading.Lock()
        self._number = 0
        # These three are read and changed together, under the lock.
        self._child: WorkerProcess | None = None
        self._is_interrupted = False
        self._is_closed = False
        self._begin()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is no child."""
        child = self._child
        return None if child is None else child.pid

    def ready(self) -> None:
        """Wait until the child can work; raises as `call` does."""
        self._survive(self._ready_child)

    def call(self, request: Any) -> Any:
        """The one reply to a request, which is repeated if the child dies.

        Raises what the handler raised, or the making of the service; WorkerDied if `attempts`
        children died, or one could not start; Closed after `close`.
        """
        body = pickle.dumps(request)
        (reply,) = self._survive(lambda: list(self._replies(body)))
        return reply

    def stream(self, work: Callable[[], Any]) -> Iterator[Any]:
        """The replies to a request, each as soon as it is there.

        `work` gives the request. If the child dies, it is asked again, for a request of what is
        left to do: None if that is nothing. Raises as `call` does; when there were replies, and
        less is left, deaths are counted anew. Closing the iterator lets the handler end early.
        """
        deaths, request = 0, work()
        while request is not None:
            body, is_answered = pickle.dumps(request), False
            try:
                for reply in self._replies(body):
                    is_answered = True
                    yield reply
                return
            except _Death as death:
                if self._is_interrupted or (request := work()) is None:
                    return
                deaths = 1 if is_answered and pickle.dumps(request) != body else deaths + 1
                self._outlive(death, deaths)

    def interrupt(self) -> None:
        """From now on `stopped()` is true: handlers end early, this one and those to come."""
        with self._lock:
            self._is_interrupted = True
            child = self._child
        if child is not None:
            child.stop(FOR_EVER)

    def close(self) -> None:
        """End the child, by force if it takes long. A thread that waits for a reply gets Closed."""
        with self._lock:
            self._is_closed = True
            child = self._child
        if child is not None:
            child.end()

    def _survive(self, act: Callable[[], R]) -> R:
        """What `act` returns, which is repeated if the child dies over it."""
        deaths = 0
        while True:
            try:
                return act()
            except _Death as death:
                deaths += 1
                self._outlive(death, deaths)

    def _outlive(self, death: _Death, deaths: int) -> None:
        """Go on with another child, or raise what ends the work."""
        if self._is_closed:
            raise Closed(f"{self._name} was closed while it worked") from None
        if death.is_final:
            raise WorkerDied(f"{self._name} could not start: it {death}") from None
        if deaths >= self._attempts:
            raise WorkerDied(
                f"{self._name} died {deaths} times over its work: it {death}"
            ) from None
        warn(f"{self._name} {death}; it is replaced", RuntimeWarning)

    def _replies(self, body: bytes) -> Iterator[Any]:
        """Those of one child to one request."""
        child = self._ready_child()
        self._number += 1
        number = self._number
        kind = REPLY
        try:
            child.send(number, body)
            while (message := self._receive(child, number))[0] == REPLY:
                yield pickle.loads(message[1])
            kind = message[0]
        finally:
            if kind == REPLY:  # The others are not waited for.
                child.stop(number)
        if kind == ERROR:
            raise _error(message[1])
        assert kind == END

    def _ready_child(self) -> WorkerProcess:
        """A child whose service has been made."""
        child = self._child or self._begin()
        if self._is_closed:
            raise Closed(f"{self._name} is closed")
        if not child.is_ready:
            kind, value = self._receive(child, 0)
            if kind == ERROR:
                self._bury(child)
                raise _error(value)
            child.is_ready = True
        return child

    def _begin(self) -> WorkerProcess:
        """Start a child, and hand it what its service is made of."""
        with self._lock:
            if self._is_closed:
                raise Closed(f"{self._name} is closed")
            child = self._child = WorkerProcess(self._environment)
            is_interrupted = self._is_interrupted
        child.send(0, self._setup)
        if is_interrupted:
            child.stop(FOR_EVER)
        return child

    def _receive(self, child: WorkerProcess, number: int) -> tuple[str, bytes]:
        """The next message that is about this request."""
        try:
            while (message := child.receive())[0] != number:
                pass
        except (EOFError, OSError):
            raise _Death(self._bury(child), is_final=not child.is_ready) from None
        return message[1:]

    def _bury(self, child: WorkerProcess) -> int:
        """End a child for good; its exit code."""
        code = child.end()
        with self._lock:
            if self._child is child:
                self._child = None
        return code


class _Death(Exception):
    """A child has ended over its work."""

    def __init__(self, code: int, is_final: bool) -> None:
        super().__init__(exit_in_words(code))
        # What ends by itself before it can work will do so again.
        self.is_final = is_final and code >= 0


class _InChild(Exception):
    """The traceback of an error that a child has sent: its cause, as Python shows it."""

    def __str__(self) -> str:
        return "\n\n" + str(self.args[0])


def _error(message: bytes) -> BaseException:
    """The error that `worker` has sent; RuntimeError in its words if it cannot be had."""
    pickled, words, trace = pickle.loads(message)
    try:
        error = pickle.loads(pickled)
    except Exception:
        error = RuntimeError(words)
    if not isinstance(error, Exception):
        error = RuntimeError(words)
    error.__cause__ = _InChild(trace)
    return error
