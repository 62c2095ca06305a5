"""A job: from one file to another, through all stages, so that nothing is lost whatever happens."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.errors import JobFailed
from tritonseq.progress import Progress, per_second
from tritonseq.stages.graph import StageGraph
from tritonseq.stages.run_options import RunOptions
from tritonseq.stages.runtime import Clock
from tritonseq.stages.workers import Workers

from .disk import OWN
from .traces import Traces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from tritonseq.stages.runtime import StageTimes, WorkSpan
    from tritonseq.stages.workers import ModelInfo, ModelSource
    from tritonseq.text.tokenizer import Tokenizer

    from .input import InputFile
    from .output import OutputFile
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
    timeline: Path | None = None
    """Where to write what each stage did when, as chrome://tracing reads it."""
    searches: Path | None = None
    """Where to write the whole search of each line, as UniLM's tools read it."""
    when_done: Callable[[], object] | None = None
    """Called when the output is complete, before any signal can end this process again."""


class JobSummary(NamedTuple):
    """What a job has done; counts include what was done before it was resumed."""

    lines: int
    rejected: int
    tokens: int
    earlier_lines: int
    """Of `lines`, those that were done before; so for the tokens."""
    earlier_tokens: int
    seconds: float
    """Of this run, without loading the model."""
    stages: list[StageTimes]
    interrupted: bool

    def __str__(self) -> str:
        """Counts and speeds, and a table of what the stages did with the time."""
        counts = [
            f"lines: {self.lines:,}",
            f"rejected: {self.rejected:,}",
            f"tokens: {self.tokens:,}",
            f"seconds: {self.seconds:.2f}",
            f"lines/s: {per_second(self.lines - self.earlier_lines, self.seconds)}",
            f"tokens/s: {per_second(self.tokens - self.earlier_tokens, self.seconds)}",
        ]
        return "\n".join([", ".join(counts), *_table(self.stages, self.seconds)])


def run_job(
    source: InputFile,
    target: OutputFile,
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
    keeps_search = options.searches is not None
    run = replace(
        options.run,
        exact_scores=target.with_scores or target.with_token_scores or keeps_search,
        output_token_scores=target.with_token_scores,
        # The reader of a pipe wants what is done, and no job can go on with it.
        exact_half=not target.is_pipe,
        keeps_search=keeps_search,
        traced=options.timeline is not None,
    )
    if keeps_search and text_options.get("split_sentences"):
        raise ValueError(
            "--need-score-traces writes one search for each text, and --split-sentences makes "
            "several of it: drop one of them"
        )
    if callable(generation_options):
        generation_options = generation_options(model.tokenizer())
    workers = Workers(model, {**text_options, **generation_options}, run, report)
    try:
        _check(workers.info, source, target)
        if keeps_search and not (workers.info.has_traces and workers.info.copies == 1):
            raise ValueError(_NO_TRACES)
        if options.verbose:
            report(workers.info.plan)
        fingerprint = _fingerprint(source, target, text_options, workers)
        unit, is_drawn = workers.info.unit, workers.info.is_drawn
        writer = target.open(fingerprint, unit=unit, whole_units=is_drawn, warn=report)
        try:
            if options.searches is not None:
                writer.traces = Traces(options.searches, writer.state.lines)
            return _run(source, writer, workers, options, report)
        finally:
            writer.close()
    finally:
        workers.close()


def _run(
    source: InputFile,
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
        if options.timeline is not None:
            try:
                write_timeline(clock.spans, options.timeline)
            except OSError as error:
                # What the job has done is no worse for it.
                report(
                    f"warning: the trace {options.timeline} cannot be written ({error.strerror})"
                )
    return JobSummary(
        writer.lines, writer.rejected, writer.tokens, *earlier, clock.seconds, clock.times(),
        interrupted=not is_complete,
    )  # fmt: skip


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


def _check(info: ModelInfo, source: InputFile, target: OutputFile) -> None:
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
    source: InputFile, target: OutputFile, text_options: Mapping[str, Any], workers: Workers
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

    Those that this process was started to ignore, as by nohup, stay ignored. Only the main thread
    can: in others nothing changes. Nothing else is done at once, as the code that is interrupted
    may hold any lock.
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
            # A handler that was put in its place meanwhile is wanted.
            if signal.getsignal(number) in ours:
                signal.signal(number, handler)


def _give_up(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _table(stages: Iterable[StageTimes], seconds: float) -> list[str]:
    """A line for every stage, under a heading; shares are of the time of all of its seats."""
    rows: list[tuple[str, ...]] = [
        ("stage", "seats", "busy", "waited for input", "waited for output")
    ]
    for stage in stages:
        whole = stage.seats * seconds
        times = (stage.busy, stage.waited_for_input, stage.waited_for_output)
        shares = [f"{100 * time / whole if whole else 0.0:.0f}%" for time in times]
        rows.append((stage.name, str(stage.seats), *shares))
    if len(rows) == 1:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *_right(row[1:], widths[1:])]) for row in rows]


def _right(cells: Iterable[str], widths: Iterable[int]) -> list[str]:
    return [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]


def write_timeline(spans: Iterable[WorkSpan], path: Path) -> None:
    """What the stages did when, as JSON that chrome://tracing and ui.perfetto.dev show."""
    events = [
        {
            "name": span.stage, "ph": "X", "pid": 0, "tid": f"{span.stage} {span.thread}",
            "ts": span.start * 1e6, "dur": (span.end - span.start) * 1e6,
            "args": {"samples": span.samples},
        }
        for span in spans
    ]  # fmt: skip
    with open(path, "w", encoding="utf-8", opener=_open_own) as file:
        file.write(json.dumps({"traceEvents": events}))


def _open_own(path: str, flags: int) -> int:
    return os.open(path, flags | OWN, 0o666)
