"""Workers: the model and the tokenizer in this process, or in others, replaced if they die."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tritonseq import callers
from tritonseq.checkpoint.origin import of_files
from tritonseq.errors import JobFailed
from tritonseq.model import load, load_tokenizer

from .batching import Batcher, BatchRow
from .process import Remote, WorkerDied
from .text_worker import TextSetup

if TYPE_CHECKING:
    from tritonseq.model import Model
    from tritonseq.text.encoding import Fault, Text, TextEncoder
    from tritonseq.text.tokenizer import Tokenizer

    from .batching import Generate, Keyed
    from .run_options import RunOptions
    from .worker_main import Handler

    Encode = Callable[[Sequence[Text]], list[list[int] | Fault]]
    Decode = Callable[[Sequence[Sequence[int]]], list[str | Fault]]

Options = Mapping[str, Any]


class ModelSetup(NamedTuple):
    """What `serve` makes a `Batcher` of."""

    load: Mapping[str, Any]
    """Arguments of `tritonseq.load`."""
    options: Mapping[str, Any]
    """Arguments of `Model.text_job`."""
    run: RunOptions
    threads: int | None
    """Of torch, where several processes share the CPU."""


def serve(setup: ModelSetup) -> Handler:
    """For `Remote`: requests are rows, replies completions of some; None asks for `ModelInfo`."""
    if setup.threads is not None:
        # Fewer if the user says so, by OMP_NUM_THREADS.
        torch.set_num_threads(min(setup.threads, torch.get_num_threads()))
    model = load(**setup.load)
    batcher = Batcher(model.text_job(**setup.options), setup.run)

    def handle(rows: list[BatchRow] | None, stopped: Callable[[], bool]) -> Iterator[Any]:
        if rows is None:
            return iter([ModelInfo.of(model, batcher)])
        return batcher.run(rows, lambda: not stopped())

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


class ModelInfo(NamedTuple):
    """What the stages around a model have to know of it, under the options of a job; the model may
    be in another process."""

    text: TextSetup
    """What texts are read and written by."""
    copies: int
    """The outputs of every sample."""
    has_scores: bool
    """Whether outputs have scores."""
    has_traces: bool
    """Whether there is a whole search to keep of each sample, that of UniLM."""
    unit: int
    """So many consecutive samples are generated together in any case."""
    batch: int
    """The samples that are generated at once, if their sources are short."""
    settings: Mapping[str, Any]
    """What decides about the outputs, as JSON values."""
    batches: Mapping[str, Any]
    """Likewise what decides which samples are generated together, where that matters."""
    plan: str
    """The memory that it takes, in words."""
    asks_for_language: bool
    """Whether it is for the texts to say which of several languages to write."""
    is_drawn: bool = False
    """Whether a unit is generated as a whole or not at all, as what is drawn at random is."""

    @classmethod
    def of(cls, model: Model, batcher: Batcher) -> ModelInfo:
        """That of the model which the batches go through."""
        job, config = batcher.job, batcher.job.request.config
        text = TextSetup(*model.tokenizer_source, job.encoder.encoding)
        settings = {name: getattr(config, name) for name in sorted(config.option_names)} | {
            "dtype": str(model.dtype),
            "device": model.device.type,
            "source_cache": model.source_cache,
            # All of its weights, and the files of its tokenizer: they tell it from another.
            "model_and_tokenizer": f"{model.decoder.checksum()} {of_files(text.folder)}",
        }
        return cls(
            text=text,
            copies=config.num_return_sequences,
            has_scores=config.num_beams > 1,
            has_traces=config.num_beams > 1 and config.has_unilm_search,
            unit=batcher.unit,
            batch=batcher.sizing.count(1),
            settings=json.loads(json.dumps(settings, default=repr)),
            batches=batcher.batches,
            plan=batcher.plan,
            asks_for_language=job.asks_for_language,
            is_drawn=batcher.is_drawn,
        )


class Workers:
    """One function for every thread of a stage; `close` ends the processes behind them."""

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
            self.generates: list[Generate] = []
            self.info = self._set_up(model, options)
            self.encodes: list[Encode] = self._text_functions("encode", run.preprocess_workers)
            self.decodes: list[Decode] = self._text_functions("decode", run.postprocess_workers)

    @cached_property
    def encoder(self) -> TextEncoder:
        """The text encoder of this process, which several threads may use."""
        return self.info.text.encoder()

    def look(self, texts: Sequence[Text]) -> None:
        """Warn once if neither options nor texts say which of several languages to write."""
        if self._looked or not self.info.asks_for_language:
            return
        self._looked = True
        if (message := self.encoder.open_target(texts)) is not None:
            self._warn(message)

    def drain(self) -> None:
        """Let nothing more begin."""
        for remote in self._models:
            remote.interrupt()

    def close(self) -> None:
        """End all processes; threads that wait for one get an error.

        After a fork they are the parent's, and left to it.
        """
        if os.getpid() == self._process:
            self._closing.close()

    def _set_up(self, model: Model | ModelSource, options: Options) -> ModelInfo:
        devices = self.run.devices
        if not devices:
            loaded = model.load() if isinstance(model, ModelSource) else model
            job = loaded.text_job(**options)
            batcher = Batcher(job, self.run, self._warn)
            self.generates.append(batcher.run)
            self.encoder = job.encoder
            return ModelInfo.of(loaded, batcher)
        if not isinstance(model, ModelSource):
            raise ValueError(
                "devices are for processes that load the model themselves: pass its name or "
                "folder, not a Model"
            )
        # All load at once.
        for number, device in enumerate(devices):
            setup = ModelSetup(model.on(device), options, self.run, _threads(devices))
            _check_portable(setup)
            name = f"model worker {number} ({device})"
            remote = self._remote("tritonseq.stages.workers:serve", setup, name)
            self._models.append(remote)
            self.generates.append(_generating(remote))
        infos: list[ModelInfo] = [_call(remote, None) for remote in self._models]
        return infos[0]

    def _text_functions(self, kind: str, count: int) -> list[Any]:
        """Functions that "encode" or "decode", of `count` processes or else of this one."""
        if not count:
            self.encoder.check()
            return [getattr(self.encoder, kind)]
        names = [f"text worker {number} ({kind})" for number in range(count)]
        remotes = [
            self._remote("tritonseq.stages.text_worker:serve", self.info.text, name)
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


def _check_portable(setup: ModelSetup) -> None:
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


def _generating(remote: Remote) -> Generate:
    """Rows through a child; if it dies, another goes on with those that are not done.

    It is shown all of them: batches may have to be those that they were.
    """

    def generate(rows: Sequence[BatchRow], admits: Callable[[], bool]) -> Iterator[list[Keyed]]:
        waiting = {row.key for row in rows if not row.is_done}

        def left() -> list[BatchRow] | None:
            told = [row._replace(is_done=row.key not in waiting) for row in rows]
            return told if waiting else None

        try:
            for completions in remote.stream(left):
                waiting -= {key for key, _ in completions}
                yield completions
        except WorkerDied as error:
            raise JobFailed(f"{error}; what is done is kept") from error

    return generate
