"""Worker process, the child's side: makes a service, then answers until its parent is gone.

A service is a function `setup -> handler`, named "package.module:function". Nothing here imports
torch: what a child weighs is up to its service.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

Handler = Callable[[Any, Callable[[], bool]], Iterable[Any]]
"""`(request, stopped) -> replies`. A handler with many replies asks `stopped()` between them and
ends early once it is true."""

REPLY, END, ERROR = "reply", "end", "error"
"""The kinds of messages to the parent: `(number of the request, kind, pickled value)`. Those from
it are `(number, pickled request)`, or `(number, None)` to stop that request and all before."""

FOR_EVER = 2**63
"""As the number of a request to stop: all, those to come included."""

DECIDED_BY_PARENT = (signal.SIGINT, signal.SIGHUP)
"""What a terminal sends for Ctrl-C, and when it is closed."""

GRACE = 1.0
"""Seconds that a child may go on without its parent."""


class _Gone(BaseException):
    """The parent reads no more replies."""


def main(descriptor: int) -> None:
    """Serve over the socket that the parent left open under this number."""
    # What a terminal sends reaches every process of the job, and it is the parent that decides.
    for number in DECIDED_BY_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.set_inheritable(descriptor, False)
    # The parent's stdout may be the output of the job: what a library prints goes to stderr.
    with contextlib.suppress(OSError):
        os.dup2(2, 1)
    with contextlib.suppress(_Gone):
        Worker(Connection(descriptor)).run()


class Worker:
    """Takes requests one after the other; a thread of its own listens meanwhile."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._requests: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._number = 0
        """The request that is worked on, counted from 1; 0 is the setup."""
        self._stopped = -1
        """This request, and all before it, are to end early."""

    def run(self) -> None:
        """Until the parent hangs up, or the setup fails."""
        threading.Thread(target=self._listen, daemon=True).start()
        handler: Handler | None = None
        while (request := self._requests.get()) is not None:
            self._number, body = request
            try:
                if handler is None:
                    handler = _service(*pickle.loads(body))
                else:
                    for reply in handler(pickle.loads(body), self._is_stopped):
                        self._send(REPLY, reply)
            except Exception as error:
                self._send(ERROR, _portable(error))
                if handler is None:
                    return
            else:
                self._send(END)

    def _listen(self) -> None:
        """Take in what comes, also during work; end the process when the parent is gone."""
        try:
            while True:
                number, body = self._connection.recv()
                if body is None:
                    self._stopped = max(self._stopped, number)
                else:
                    self._requests.put((number, body))
        except (EOFError, OSError):
            pass
        finally:
            self._stopped = FOR_EVER
            self._requests.put(None)
            time.sleep(GRACE)
            os._exit(1)

    def _is_stopped(self) -> bool:
        return self._stopped >= self._number

    def _send(self, kind: str, value: Any = None) -> None:
        message = (self._number, kind, pickle.dumps(value))
        try:
            self._connection.send(message)
        except OSError:
            raise _Gone from None


def _service(name: str, setup: bytes) -> Handler:
    module, function = name.split(":")
    handler: Handler = getattr(import_module(module), function)(pickle.loads(setup))
    return handler


def _portable(error: Exception) -> tuple[bytes | None, str, str]:
    """The error pickled, if that can be done; in words; and where it was raised."""
    words = "".join(traceback.format_exception_only(type(error), error)).strip()
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        return pickle.dumps(error), words, trace
    except Exception:
        return None, words, trace
