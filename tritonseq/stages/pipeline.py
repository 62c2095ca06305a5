"""`tritonseq.pipeline`: texts in, results out, in the same order or as soon as they are ready."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonseq.options.containers import check_texts
from tritonseq.progress import Progress

from .arrivals import check_languages, samples_of
from .graph import CHUNK, StageGraph
from .run_options import RunOptions
from .runtime import Aborted, BoundedQueue, Clock, Ended
from .sample import InOrder
from .workers import ModelSource, Workers

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterable,
        AsyncIterator,
        Generator,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )

    from tritonseq.model import Model
    from tritonseq.text.encoding import Text

    from .runtime import StageTimes
    from .sample import Sample


@dataclass(frozen=True)
class Result:
    """What became of a text."""

    text: str
    """The output, the best if there are several; "" if there is none."""
    texts: list[str]
    """All num_return_sequences outputs, best first; [] if the text was rejected."""
    scores: list[float] | None
    """Of each output, where beams gave them: log-probability, length penalty included."""
    tokens: int
    """How many were generated, ends included."""
    fault: str | None
    """Why the text was rejected: too long, say; None for all others."""
    index: int
    """The place of the text among all, from 0."""
    token_ids: list[list[int]] | None = None
    """With output_token_scores, of each output the tokens that were chosen, ends included."""
    token_scores: list[list[float]] | None = None
    """With output_token_scores, the log-probability of each of these."""

    def __str__(self) -> str:
        return self.text


def pipeline(
    model: Model | str | Path,
    texts: Iterable[Text] | AsyncIterable[Text],
    *,
    source_cache: str | None = None,
    src_lang: str | Iterable[str | None] | None = None,
    tgt_lang: str | Iterable[str | None] | None = None,
    prefix: str | None = None,
    split_sentences: bool | str = False,
    truncation: bool = False,
    max_source_length: int | None = None,
    add_special_tokens: bool = True,
    skip_special_tokens: bool = True,
    clean_up_tokenization_spaces: bool | None = None,
    bad_words: Sequence[str] | None = None,
    task: str | None = None,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    window: int | None = None,
    refill: bool | None = None,
    preprocess_workers: int = 0,
    postprocess_workers: int = 0,
    devices: str | Sequence[str] = (),
    seed: int = 0,
    ordered: bool = True,
    progress: bool = False,
    output_token_scores: bool = False,
    traced: bool = False,
    **options: Any,
) -> Pipeline:
    """Answer or continue any number of texts; iterate over what this returns, once.

    Tokenizing, generating and detokenizing overlap, texts of like lengths are generated together,
    and samples that have ended make room for others; in float32 none of this changes a result. In
    half precision the last bits, and so now and then a token, depend on what is beside a text in
    its batch. Memory does not grow with the number of texts. The idea is FastSeq's (Yan et al.,
    2021).

        for result in tritonseq.pipeline("t5-base", lines, task="summarization"):
            print(result.text)

    Args:
        model: a Model, or what `load` takes as a name.
        texts: any iterable of texts, or of lists of tokens; for `async for` also an asynchronous
            one. It is read by another thread, a few windows ahead of the results.
        source_cache: as for `load`, if the model is a name.
        src_lang, tgt_lang, prefix, split_sentences, truncation, max_source_length,
            add_special_tokens, skip_special_tokens, clean_up_tokenization_spaces, bad_words, task:
            as for `Model.generate_text`; languages of each text may come from any iterable. With
            `split_sentences` scores are summed over the sentences of a text, and a fault of one is
            that of the text.
        batch_size: the most samples at once; by default as many as pay and fit into memory. If
            memory fails all the same, half as many go on, and a warning says so.
        batch_tokens: the most tokens of sources at once, each counted as long as the longest.
        window: texts that are put in order of length together; by default 16 batches, and fewer at
            first, so that the first results come soon.
        refill: fill the slots of samples that have ended; by default where it is found to be
            faster.
        preprocess_workers, postprocess_workers: processes that tokenize and detokenize; 0 leaves
            it to a thread of this process.
        devices: such as ("cuda:0", "cuda:1") or ("cpu", "cpu"): a process for each, all of which
            load the model, which must be a name then.
        seed: of what is drawn at random. Then, and with functions of yours, batches are of
            `batch_size` (default: 16) consecutive texts, and results depend on that number. On a
            GPU nothing else may draw from torch's generator meanwhile.
        ordered: give results in the order of `texts`. With False each comes as soon as it is done,
            and `Result.index` tells which it is; the results are the same.
        progress: show a bar on stderr while results are taken, also in a notebook.
        output_token_scores: tell what each token of an output scored, `Result.token_scores`, as
            `Model.generate` does.
        traced: keep what each stage did when, for `Pipeline.clock`.
        options: those of `Model.generate`. Those that speak of samples by their place are refused.

    Returns:
        An iterable, and asynchronous iterable, of one `Result` per text. A text that cannot be
        answered gives one with a `fault`, and ends nothing.

    Raises:
        ValueError: for what `load` or `generate` refuses, and for tables, dictionaries and other
            containers that are no list of texts. While iterating: whatever `texts` raises,
            once all results before it are out, and JobFailed if worker processes keep dying.
    """
    check_texts("texts", texts)
    loadable = _loadable(model, source_cache)
    run = RunOptions(
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        window=window,
        refill=refill,
        preprocess_workers=preprocess_workers,
        postprocess_workers=postprocess_workers,
        devices=devices,
        seed=seed,
        ordered=ordered,
        progress=progress,
        output_token_scores=output_token_scores,
        traced=traced,
    )
    languages = {"src_lang": src_lang, "tgt_lang": tgt_lang}
    for_all = {name: code for name, code in languages.items() if isinstance(code, str | None)}
    each = {name: codes for name, codes in languages.items() if name not in for_all}
    for name, codes in each.items():
        check_languages(name, codes, texts)
    of_texts = {
        **for_all,
        "prefix": prefix,
        "split_sentences": split_sentences,
        "truncation": truncation,
        "max_source_length": max_source_length,
        "add_special_tokens": add_special_tokens,
        "skip_special_tokens": skip_special_tokens,
        "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
        "bad_words": bad_words,
        "task": task,
    }
    return Pipeline(texts, Workers(loadable, {**of_texts, **options}, run), each)


def _loadable(model: Any, source_cache: str | None) -> Model | ModelSource:
    """What `Workers` take, with what `load` is told of a model that is a name."""
    if isinstance(model, (str, Path)):
        return ModelSource(
            str(model), {} if source_cache is None else {"source_cache": source_cache}
        )
    if not hasattr(model, "text_job"):
        raise ValueError(f"model must be a Model, or what load takes as a name, not {model!r}")
    if source_cache not in (None, model.source_cache):
        raise ValueError(
            f"source_cache is {source_cache!r}, and the model was loaded with "
            f"{model.source_cache!r}: say it to load, or pass the model's name"
        )
    loaded: Model = model
    return loaded


class Pipeline:
    """Results of texts; made by `pipeline`, iterated over once.

    A loop that stops early should call `close`, or leave a `with` block, so that threads and
    processes end at once and not with this object.
    """

    def __init__(
        self,
        texts: Iterable[Text] | AsyncIterable[Text],
        workers: Workers,
        languages: Mapping[str, Any],
    ) -> None:
        """`languages`: iterables of those of each text, by the names of fields of `Sample`."""
        self.clock = Clock(traced=workers.run.traced)
        """What the stages did when, if it is traced."""
        self._texts: Any = texts
        self._workers = workers
        self._languages = languages
        self._graph: StageGraph | None = None
        self._running: Generator[list[Result], None, None] | None = None
        self._is_closed = False

    @property
    def times(self) -> list[StageTimes]:
        """How long each stage has worked and waited so far."""
        return self.clock.times()

    def __iter__(self) -> Iterator[Result]:
        if not hasattr(self._texts, "__iter__"):
            raise ValueError("these texts come asynchronously: iterate with async for")
        try:
            for results in self._begin(self._texts):
                yield from results
        finally:
            self.close()

    async def __aiter__(self) -> AsyncIterator[Result]:
        # One that asks for results, one that waits for room for texts. Those that the loop shares
        # are few: many pipelines could have them all wait for results, and none bring texts.
        with ThreadPoolExecutor(2, "tritonseq async") as threads:
            texts = self._texts
            feed = _Feed(texts, threads) if hasattr(texts, "__aiter__") else None
            try:
                running = self._begin(texts if feed is None else feed)
                while (results := await self._next(running, threads)) is not None:
                    for result in results:
                        yield result
            finally:
                if feed is not None:
                    feed.close()
                self.close()

    @contextlib.contextmanager
    def _closed_quietly(self) -> Iterator[None]:
        """Where `close` is called by another thread, the results end."""
        try:
            yield
        except Aborted:
            if not self._is_closed:
                raise

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it now; results that are on their way are dropped. Doing so again does nothing."""
        self._abort()
        self._workers.close()
        if self._running is not None:
            # If another thread is in it, it ends there.
            with contextlib.suppress(ValueError):
                self._running.close()

    def _abort(self) -> None:
        self._is_closed = True
        if self._graph is not None:
            self._graph.abort()

    async def _next(
        self, running: Iterator[list[Result]], threads: ThreadPoolExecutor
    ) -> list[Result] | None:
        """What is ready next; None at the end. Cancelling it ends the pipeline."""
        loop = asyncio.get_running_loop()
        waiting = loop.run_in_executor(threads, lambda: next(running, None))
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            self._abort()
            with contextlib.suppress(Exception):
                await waiting
            raise

    def _begin(self, texts: Iterable[Text]) -> Iterator[list[Result]]:
        if self._running is not None or self._is_closed:
            how = "is iterated over once" if self._running is not None else "that is closed is over"
            raise ValueError(f"a pipeline {how}: make another for more texts")
        self._running = self._results(texts)
        return self._running

    def _results(self, texts: Iterable[Text]) -> Generator[list[Result], None, None]:
        samples = samples_of(texts, self._workers, self._languages)
        self._graph = graph = StageGraph(samples, self._workers, self.clock)
        order, bar = InOrder() if self._workers.run.ordered else None, self._bar()
        finished = graph.run()
        with contextlib.closing(bar), contextlib.closing(finished), self._closed_quietly():
            if self._is_closed:  # while this was made, and there was nothing to abort
                return
            for some in finished:
                bar.count(some)
                ready = some if order is None else order.add(some)
                # Many that waited for one become ready at once, and leave as the caller takes them.
                for start in range(0, len(ready), CHUNK):
                    taken = ready[start : start + CHUNK]
                    graph.leave(len(taken))
                    asked = self._workers.run.output_token_scores
                    yield [_result(sample, with_tokens=asked) for sample in taken]

    def _bar(self) -> _Bar:
        total = len(self._texts) if hasattr(self._texts, "__len__") else None
        return _Bar(Progress(total, quiet=not self._workers.run.progress, asked=True))


class _Bar:
    """A bar that counts the samples that are done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._samples = self._tokens = self._rejected = 0

    def count(self, samples: Sequence[Sample]) -> None:
        """These are done too."""
        self._samples += len(samples)
        self._tokens += sum(sample.completion.tokens for sample in samples)
        self._rejected += sum(sample.completion.fault is not None for sample in samples)
        self._progress.show(self._samples, self._tokens, self._rejected)

    def close(self) -> None:
        self._progress.close()


def _result(sample: Sample, *, with_tokens: bool) -> Result:
    done = sample.completion
    texts = done.texts or []
    text = texts[0] if texts else ""
    result = Result(text, texts, done.scores, done.tokens, done.fault, sample.number)
    if not with_tokens:
        return result
    # A blank text has outputs of no tokens.
    none: list[list[Any]] = [[] for _ in texts]
    return replace(result, token_ids=done.token_ids or none, token_scores=done.token_scores or none)


class _Feed:
    """Texts that come asynchronously, for a thread that takes them one by one."""

    def __init__(self, texts: AsyncIterable[Text], threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._queue: BoundedQueue[Text] = BoundedQueue(CHUNK)
        self._failure: BaseException | None = None
        self._task = asyncio.ensure_future(self._fill(texts))

    def __iter__(self) -> Iterator[Text]:
        with contextlib.suppress(Ended):
            while True:
                yield from self._queue.take(CHUNK)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Take no more."""
        self._task.cancel()
        self._queue.abort()

    async def _fill(self, texts: AsyncIterable[Text]) -> None:
        loop = asyncio.get_running_loop()
        try:
            async for text in texts:
                # Waits for room, which must not keep the loop from running.
                await loop.run_in_executor(self._threads, self._queue.put, text)
        except BaseException as error:  # texts that are cancelled have not come to their end
            self._failure = error
        finally:
            self._queue.close()
