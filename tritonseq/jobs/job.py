"""A job: from one file to another, through all stages, so that nothing is lost whatever happens."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tritonseq.errors import JobFailed
from tritonseq.progress import Progress
from tritonseq.stages.graph import StageGraph
from tritonseq.stages.run_options import RunOptions
from tritonseq.stages.runtime import Clock
from tritonseq.stages.workers import Workers

from .summary import JobSummary, write_timeline
from .traces import Traces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tritonseq.stages.workers import ModelInfo, ModelSource
    from tritonseq.text.tokenizer import Tokenizer

    from .input import Source
    from .output import Target
    from .writer import Writer

# Seconds between two records of what is durable, and between two looks at whether one is due.
RECORD = 1.0
TICK = 0.25

_NO_TRACES = (
    "--need-score-traces needs --beam-size above 1, and writes one search for each text, that of "
    "UniLM: drop --num-return-sequences and --search"
)


@dataclass(frozen=True)
class JobOptions:
    """How a job runs, and what its user is shown of it."""

    run: RunOptions = field(default_factory=RunOptions)
    """Those behind `seed` are decided by the job."""
    verbose: bool = False
    """Report the memory plan."""
    quiet: bool = False
    """Show no bar."""
    trace: Path | None = None
    """Where to write what each stage did when, as chrome://tracing reads it."""
    traces: Path | None = None
    """Where to write the whole search of each line, as UniLM's tools read it."""
    when_done: Callable[[], object] | None = None
    """Called when the output is complete, before any signal can end this process again."""


def run_job(
    source: Source,
    target: Target,
    model: ModelSource,
    text_options: Mapping[str, Any],
    generation_options: Mapping[str, Any] | Callable[[Tokenizer], Mapping[str, Any]],
    options: JobOptions,
    *,
    report: Callable[[str], None],
) -> JobSummary:
    """Answer every line of `source` into `target`.

    Ctrl-C, SIGTERM or SIGHUP lets what is begun be finished and recorded; a second one ends it at
    once.

    Args:
        text_options: arguments of `Model.text_job` about texts.
        generation_options: the others; or a function that gives them for the model's tokenizer.
        report: is told what a user should know meanwhile.

    Raises:
        ValueError: for arguments that cannot be, before anything is written.
        JobFailed: if the job cannot go on; what is done is kept, and `target.resume` continues.
    """
    # A search shows the last digits of its scores, and how long its batch took.
    is_traced = options.traces is not None
    run = replace(
        options.run,
        exact_scores=target.with_scores or is_traced,
        # What was written to a pipe is not resumed.
        exact_half=not target.is_pipe,
        keeps_search=is_traced,
        traced=options.trace is not None,
    )
    if callable(generation_options):
        generation_options = generation_options(model.tokenizer())
    workers = Workers(model, {**text_options, **generation_options}, run, report)
    try:
        _check(workers.info, source, target)
        if is_traced and not (workers.info.has_traces and workers.info.copies == 1):
            raise ValueError(_NO_TRACES)
        if options.verbose:
            report(workers.info.plan)
        fingerprint = _fingerprint(source, target, text_options, workers)
        unit, is_drawn = workers.info.unit, workers.info.is_drawn
        writer = target.open(fingerprint, unit=unit, whole_units=is_drawn, warn=report)
        try:
            if options.traces is not None:
                writer.traces = Traces(options.traces, writer.state.lines)
            return _run(source, writer, workers, options, report)
        finally:
            writer.close()
    finally:
        workers.close()


def _run(
    source: Source,
    writer: Writer,
    workers: Workers,
    options: JobOptions,
    report: Callable[[str], None],
) -> JobSummary:
    state = writer.state
    shows = not options.quiet and sys.stderr is not None and sys.stderr.isatty()
    total = source.count_lines() if shows else None
    if state.lines:
        source.skip(state.lines, state.digest)
    if writer.traces is not None:
        # The searches of what was finished ahead are not kept: it is done again.
        state = replace(state, ahead=())
    samples = state.restore(source, source.name, together=workers.info.unit > 1)
    clock = Clock(traced=workers.run.traced)
    graph = StageGraph(samples, workers, clock, state.lines)
    earlier = (writer.lines, writer.tokens)
    progress = Progress(total, lines=writer.lines, tokens=writer.tokens, quiet=options.quiet)
    try:
        with _interrupts() as interrupted:
            # What is interrupted after its last sample is complete all the same.
            is_complete = _write_all(graph, writer, progress, interrupted)
            if is_complete:
                writer.finish()
                if options.when_done is not None:
                    options.when_done()
    finally:
        progress.close()
        if options.trace is not None:
            _write_timeline(clock, options.trace, report)
    return JobSummary(
        writer.lines, writer.rejected, writer.tokens, *earlier, clock.seconds, clock.times(),
        interrupted=not is_complete,
    )  # fmt: skip


def _write_timeline(clock: Clock, path: Path, report: Callable[[str], None]) -> None:
    """What a job has done is no worse if nobody can see how."""
    try:
        write_timeline(clock.spans, path)
    except OSError as error:
        report(f"warning: the trace {path} cannot be written ({error.strerror})")


def _write_all(
    graph: StageGraph, writer: Writer, progress: Progress, interrupted: threading.Event
) -> bool:
    """Write what comes, until no more does; what has come is durable even if a stage fails.

    Once it is interrupted, what is begun is finished, and that is all: False.
    """
    # What is finished first is durable at once: a job may be stopped again and again, every few
    # seconds, and shall come to its end.
    recorded, drains = -math.inf, False
    finished = graph.run(TICK)
    with contextlib.closing(finished):
        while True:
            try:
                samples = next(finished, None)
            except Exception:
                with contextlib.suppress(JobFailed):
                    writer.checkpoint()
                raise
            if samples is None:
                break
            if interrupted.is_set() and not drains:
                drains = True
                graph.drain()
                progress.note("tritonseq: finishing what is begun; once more ends at once")
            graph.leave(writer.add(samples))
            progress.show(writer.lines, writer.tokens, writer.rejected)
            if time.monotonic() - recorded >= RECORD and writer.checkpoint():
                recorded = time.monotonic()
    writer.checkpoint()
    return not drains


def _check(info: ModelInfo, source: Source, target: Target) -> None:
    """Raise ValueError for what only the model's own options tell to be wrong."""
    if target.with_scores and not info.has_scores:
        raise ValueError("only beams have scores: pass --num-beams 2 or more, or drop --scores")
    if info.copies != target.copies:
        raise ValueError(
            f"the checkpoint's own options ask for {info.copies} outputs of each line: pass "
            f"--num-return-sequences {info.copies}, or 1"
        )
    source.copies = info.copies


def _fingerprint(
    source: Source, target: Target, text_options: Mapping[str, Any], workers: Workers
) -> dict[str, Any]:
    """Everything that decides what the output holds, by the names of flags where there are any."""
    return {
        **text_options,
        **workers.info.settings,
        **workers.info.batches,
        "need_score_traces": workers.run.keeps_search,
        **source.settings,
        **target.settings,
    }


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Is set by the first Ctrl-C, SIGTERM or SIGHUP; the second raises KeyboardInterrupt.

    Those that whoever started this process has had ignored, as nohup does, stay ignored.
    Only the main thread can: in others nothing changes. Nothing else is done at once, as whoever
    is interrupted may hold any lock.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    ]

    def handle(number: int, frame: Any) -> None:
        for each in numbers:
            signal.signal(each, _give_up)
        interrupted.set()

    ours = (handle, _give_up)

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            # Whoever has put another in its place meanwhile wants that.
            if signal.getsignal(number) in ours:
                signal.signal(number, handler)


def _give_up(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
