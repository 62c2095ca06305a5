"""A service in a child process: asked by one thread, and replaced when it dies."""

from __future__ import annotations

import os
import pickle
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from tritonseq.callers import warn

from .process import Child, obituary
from .worker_main import END, ERROR, FOR_EVER, REPLY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

R = TypeVar("R")


class WorkerDied(RuntimeError):
    """A child died over its work again and again, or never came to life."""


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
            service: "package.module:function", where `function(setup)` makes a `worker.Handler`.
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
        self._child: Child | None = None
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
        """End the child, by force if it takes long. Whoever waits for a reply gets Closed."""
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
            if kind == REPLY:  # Nobody waits for the others.
                child.stop(number)
        if kind == ERROR:
            raise _error(message[1])
        assert kind == END

    def _ready_child(self) -> Child:
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

    def _begin(self) -> Child:
        """Start a child, and hand it what its service is made of."""
        with self._lock:
            if self._is_closed:
                raise Closed(f"{self._name} is closed")
            child = self._child = Child(self._environment)
            is_interrupted = self._is_interrupted
        child.send(0, self._setup)
        if is_interrupted:
            child.stop(FOR_EVER)
        return child

    def _receive(self, child: Child, number: int) -> tuple[str, bytes]:
        """The next message that is about this request."""
        try:
            while (message := child.receive())[0] != number:
                pass
        except (EOFError, OSError):
            raise _Death(self._bury(child), is_final=not child.is_ready) from None
        return message[1:]

    def _bury(self, child: Child) -> int:
        """End a child for good; its exit code."""
        code = child.end()
        with self._lock:
            if self._child is child:
                self._child = None
        return code


class _Death(Exception):
    """A child has ended over its work."""

    def __init__(self, code: int, is_final: bool) -> None:
        super().__init__(obituary(code))
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
