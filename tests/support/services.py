"""Services for child processes that do what a real one should not: die, hang, fail, tell."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tritonseq.stages.worker_main import Handler
    from tritonseq.text.encoding import Encoding


class Unpicklable(Exception):
    """Stays where it is."""

    def __reduce__(self) -> Any:
        raise TypeError("no")


class Awkward(Exception):
    """Is pickled, and cannot be made again from that."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def act(setup: Any) -> Handler:
    """Requests are the name of a function of `ACTS`, and its arguments."""

    def handle(request: tuple[Any, ...], stopped: Callable[[], bool]) -> Iterator[Any]:
        name, *arguments = request
        yield ACTS[name](*arguments)

    return handle


def count(folder: Path) -> Handler:
    """Requests are numbers to reply with, and how often to die before which of them."""

    def handle(
        request: tuple[list[int], dict[int, int]], stopped: Callable[[], bool]
    ) -> Iterator[int]:
        numbers, deaths = request
        for number in numbers:
            for time_ in range(deaths.get(number, 0)):
                mark = folder / f"{number}-{time_}"
                if not mark.exists():
                    mark.touch()
                    die(-signal.SIGKILL)
            yield number

    return handle


def tick(setup: Any) -> Handler:
    """Replies are numbers, without an end unless it is stopped."""

    def handle(request: int, stopped: Callable[[], bool]) -> Iterator[int]:
        number = request
        while not stopped():
            yield number
            number += 1
            time.sleep(0.001)

    return handle


def texts_and_modules(setup: tuple[Path, Encoding]) -> Handler:
    """The service for texts; "modules" as a request asks which it has imported."""
    from tritonseq.stages.text_worker import TextSetup, serve

    texts = serve(TextSetup(setup[0], None, setup[1]))

    def handle(request: Any, stopped: Callable[[], bool]) -> Iterator[Any]:
        if request == "modules":
            yield sorted(sys.modules)
        else:
            yield from texts(request, stopped)

    return handle


def refuse(message: str) -> Handler:
    """A service that cannot be made."""
    raise ValueError(message)


def vanish(code: int) -> Handler:
    """A service whose process ends before it is made."""
    return die(code)


def die(code: int) -> Any:
    """End the process with this exit code, or by the signal that it is the negative of."""
    if code < 0:
        os.kill(os.getpid(), -code)
        time.sleep(600)
    os._exit(code)


def _say(text: str) -> None:
    print(text, flush=True)


def _fail(error: Exception) -> None:
    raise error


def _fail_here(kind: str) -> None:
    if kind == "memory":
        import torch

        raise torch.OutOfMemoryError("none is left")
    raise {"awkward": Awkward, "unpicklable": Unpicklable}[kind]("this", "that")


def _hang(folder: Path) -> None:
    """Tell the process id in a file, then hang."""
    (folder / "part").write_text(str(os.getpid()))
    (folder / "part").rename(folder / "pid")
    time.sleep(600)


ACTS: dict[str, Callable[..., Any]] = {
    "die": die,
    "echo": lambda value: value,
    "fail": _fail,
    "fail here": _fail_here,
    "function": lambda: lambda: 0,
    "hang": _hang,
    "home": lambda module: sys.modules[module].__file__,
    "say": _say,
    "variable": os.environ.get,
}


def generate(models: list[Any], ids: list[list[int]], answers: Any) -> None:
    """What each of the models makes of `ids`, for the process that has sent them."""
    answers.put([model.generate(ids).tolist() for model in models])
