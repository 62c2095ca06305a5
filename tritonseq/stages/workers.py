"""Workers: the model and the tokenizer in this process, or in others, replaced if they die."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tritonseq import callers
from tritonseq.errors import JobFailed
from tritonseq.model import load, load_tokenizer

from .batching import Answers, Row
from .process import Remote, WorkerDied

if TYPE_CHECKING:
    from tritonseq.model import Model
    from tritonseq.text.encoding import Text, TextEncoder
    from tritonseq.text.tokenizer import Tokenizer

    from .batching import Numbered
    from .model_info import Facts
    from .run_options import RunOptions
    from .steps import Decode, Encode, Respond
    from .worker_main import Handler


Options = Mapping[str, Any]


class Setup(NamedTuple):
    """What `serve` makes `Answers` of."""

    load: Mapping[str, Any]
    """Arguments of `tritonseq.load`."""
    options: Mapping[str, Any]
    """Arguments of `Model.text_job`."""
    run: RunOptions
    threads: int | None
    """Of torch, where several processes share the CPU."""


def serve(setup: Setup) -> Handler:
    """For `Remote`: requests are rows, replies completions of some; None asks for facts."""
    if setup.threads is not None:
        # Fewer if the user says so, by OMP_NUM_THREADS.
        torch.set_num_threads(min(setup.threads, torch.get_num_threads()))
    model = load(**setup.load)
    answers = Answers(model.text_job(**setup.options), setup.run)

    def handle(rows: list[Row] | None, stopped: Callable[[], bool]) -> Iterator[Any]:
        if rows is None:
            return iter([answers.facts(model)])
        return answers.run(rows, lambda: not stopped())

    return handle


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint by the arguments of `tritonseq.load`: what several processes can load."""

    name_or_path: str
    arguments: Options = field(default_factory=dict)

    def load(self) -> Model:
        """The model itself."""
        return load(self.name_or_path, **self.arguments)

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; loads no weights."""
        return load_tokenizer(self.name_or_path, **self.arguments)

    def on(self, device: str) -> dict[str, Any]:
        """All arguments of `load`, for this device."""
        return {"name_or_path": self.name_or_path, **self.arguments, "device": device}


class Workers:
    """One function for every seat of a stage; `close` ends the processes behind them."""

    def __init__(
        self,
        model: Model | ModelSource,
        options: Options,
        run: RunOptions,
        warn: Callable[[str], None] = callers.warn,
    ) -> None:
        """`options`: arguments of `Model.text_job`. Raises ValueError as that and `load` do."""
        self.run = run
        self._warn = warn
        self._process = os.getpid()
        self._looked = False
        self._closing = contextlib.ExitStack()
        self._models: list[Remote] = []
        with self._closed_on_error():
            self.responds: list[Respond] = []
            self.facts = self._set_up(model, options)
            self.encodes: list[Encode] = self._text_seats("encode", run.preprocess_workers)
            self.decodes: list[Decode] = self._text_seats("decode", run.postprocess_workers)

    @cached_property
    def encoder(self) -> TextEncoder:
        """The text encoder of this process, which several threads may use."""
        return self.facts.text.encoder()

    def look(self, texts: Sequence[Text]) -> None:
        """Warn once if neither options nor texts say which of several languages to write."""
        if self._looked or not self.facts.asks_for_language:
            return
        self._looked = True
        if (message := self.encoder.open_target(texts)) is not None:
            self._warn(message)

    def drain(self) -> None:
        """Let nothing more begin."""
        for remote in self._models:
            remote.interrupt()

    def close(self) -> None:
        """End all processes; whoever waits for one gets an error.

        After a fork they are the parent's, and left to it.
        """
        if os.getpid() == self._process:
            self._closing.close()

    def _set_up(self, model: Model | ModelSource, options: Options) -> Facts:
        devices = self.run.devices
        if not devices:
            loaded = model.load() if isinstance(model, ModelSource) else model
            job = loaded.text_job(**options)
            answers = Answers(job, self.run, self._warn)
            self.responds.append(answers.run)
            self.encoder = job.encoder
            return answers.facts(loaded)
        if not isinstance(model, ModelSource):
            raise ValueError(
                "devices are for processes that load the model themselves: pass its name or "
                "folder, not a Model"
            )
        # All load at once.
        for number, device in enumerate(devices):
            setup = Setup(model.on(device), options, self.run, _threads(devices))
            _check_portable(setup)
            name = f"model worker {number} ({device})"
            remote = self._remote("tritonseq.stages.workers:serve", setup, name)
            self._models.append(remote)
            self.responds.append(_responding(remote))
        facts: list[Facts] = [_call(remote, None) for remote in self._models]
        return facts[0]

    def _text_seats(self, kind: str, count: int) -> list[Any]:
        """Functions that "encode" or "decode", of `count` processes or else of this one."""
        if not count:
            self.encoder.check()
            return [getattr(self.encoder, kind)]
        names = [f"text worker {number} ({kind})" for number in range(count)]
        remotes = [
            self._remote("tritonseq.stages.text_worker:serve", self.facts.text, name)
            for name in names
        ]
        return [partial(_text_call, remote, kind) for remote in remotes]

    def _remote(self, service: str, setup: Any, name: str) -> Remote:
        remote = Remote(service, setup, name=name)
        self._closing.callback(remote.close)
        return remote

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


def _check_portable(setup: Setup) -> None:
    """Raise ValueError for options that only this process can have, such as local functions."""
    try:
        pickle.dumps(setup)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise ValueError(
            f"{error}: other processes cannot be handed that. Define functions at the top of a "
            "module, or leave out devices"
        ) from None


def _threads(devices: Sequence[str]) -> int | None:
    """How many threads torch gets in each process, if they share the CPU."""
    if any(device.startswith("cuda") for device in devices):
        return None
    return max(1, len(os.sched_getaffinity(0)) // len(devices))


def _call(remote: Remote, request: Any) -> Any:
    try:
        return remote.call(request)
    except WorkerDied as error:
        raise JobFailed(f"{error}; what is done is kept") from error


def _text_call(remote: Remote, kind: str, things: Sequence[Any]) -> Any:
    return _call(remote, (kind, list(things))) if things else []


def _responding(remote: Remote) -> Respond:
    """Rows through a child; if it dies, another goes on with those that have no answer yet.

    It is shown all of them: batches may have to be those that they were.
    """

    def respond(rows: Sequence[Row], admits: Callable[[], bool]) -> Iterator[list[Numbered]]:
        waiting = {row.number for row in rows if not row.is_answered}

        def left() -> list[Row] | None:
            told = [row._replace(is_answered=row.number not in waiting) for row in rows]
            return told if waiting else None

        try:
            for completions in remote.stream(left):
                waiting -= {number for number, _ in completions}
                yield completions
        except WorkerDied as error:
            raise JobFailed(f"{error}; what is done is kept") from error

    return respond
