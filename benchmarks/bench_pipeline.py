"""The pipeline beside a plain loop: the same texts in, the same texts out, and what makes it fast.

    python benchmarks/bench_pipeline.py --csv benchmarks/results/pipeline_cpu.csv
    python benchmarks/bench_pipeline.py --checkpoints bart-base opus-mt --batch-sizes 16
    python benchmarks/bench_pipeline.py --trace benchmarks/results/traces/pipeline.json
    python benchmarks/bench_pipeline.py --rehearse         # toy sizes, in seconds

A BART-base and an opus-mt of real width answer paragraphs of English, the embedded checkpoints
problems, of all lengths in no order. The plain loop takes a batch of them after the other:
tokenize, generate, detokenize. Then the pipeline does it with one idea
more each time, at the same batch size, and last as it comes. All ways run in turn in one process;
no figure is printed unless all have put out the same texts.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.metadata
import json
import statistics
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from texts.loops import NAMES, PLAIN, Subject, piped, stages, through_stages

from tritonseq.bench import timing
from tritonseq.jobs.job import write_timeline

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")


def bench(
    subject: Subject, batch: int, calibration: timing.Calibration, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Check, then time all ways at one batch size; a row for each."""
    ways = subject.ways(batch, theirs=args.transformers)
    texts = {name: way() for name, way in ways.items()}
    compare(texts)

    def again(name: str) -> Callable[[], None]:
        return lambda: texts.update({name: ways[name]()})

    times = timing.time_in_turn(
        {name: again(name) for name in ways},
        CPU,
        repeats=args.repeats,
        attempts=1 if args.rehearse else 6,
        calibration=calibration,
    )
    compare(texts)
    what = {"checkpoint": subject.name, "title": subject.title}
    what |= {"batch": batch, "lines": len(subject.texts)}
    return [what | row for row in figures(times, len(subject.texts))]


def compare(texts: dict[str, list[str]]) -> None:
    """Raise unless all put out what the plain loop does, text by text."""
    wanted = texts[PLAIN]
    for name, found in texts.items():
        if len(found) != len(wanted):
            raise SystemExit(f"{name} puts out {len(found)} texts, not {len(wanted)}; no figures")
        for number, pair in enumerate(zip(found, wanted, strict=True), 1):
            if pair[0] != pair[1]:
                raise SystemExit(
                    f"{name} puts out {pair[0]!r} for line {number}, not {pair[1]!r}; no figures"
                )


def figures(times: dict[str, timing.Timing], lines: int) -> list[dict[str, Any]]:
    """Rates, and how many times as fast as the plain loop of the same round each way was."""
    rows = []
    for name, measured in times.items():
        # Those of a round stand next to each other in time, so they saw the same machine.
        pairs = zip(times[PLAIN].seconds, measured.seconds, strict=True)
        ratios = [plain / own for plain, own in pairs]
        rows.append(
            {
                "way": name,
                "samples/s": float(f"{lines / measured.median:.4g}"),
                "ratio": round(statistics.median(ratios), 3),
                "ratio low": round(min(ratios), 3),
                "ratio high": round(max(ratios), 3),
                "rounds": len(ratios),
                "discarded": measured.discarded,
                "unsteady": measured.unsteady,
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """The rows of one subject and batch size, with the plain loop on top."""
    first = rows[0]
    print(f"\n{first['title']}: {first['lines']} lines, batch {first['batch']}, all outputs equal")
    print(f"  {'':<20}{'samples/s':>10}{'ratio':>8}   of {first['rounds']} rounds")
    for row in rows:
        spread = f"{row['ratio low']:.2f}-{row['ratio high']:.2f}"
        unsteady = f", {row['unsteady']} unsteady" if row["unsteady"] else ""
        print(
            f"  {row['way']:<20}{row['samples/s']:>10,.1f}{row['ratio']:>8.2f}   {spread}{unsteady}"
        )


def stamp() -> dict[str, str]:
    """When, where and with what."""
    try:
        theirs = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        theirs = ""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": timing.machine(CPU),
        "torch": torch.__version__,
        "transformers": theirs,
        "commit": timing.commit(),
    }


def append_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """One line per way."""
    rows = [stamp() | row for row in rows]
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def write_trace(path: Path, subject: Subject, batch: int) -> None:
    """The timeline of one run, as ui.perfetto.dev and the README's picture show it."""
    run = stages(batch)["auto"]
    # The first call of all pays for set-up.
    through_stages(replace(subject, texts=subject.texts[:batch]), run)
    pipeline = piped(subject, replace(run, traced=True))
    count = sum(1 for _ in pipeline)
    seconds = pipeline.clock.seconds
    path.parent.mkdir(parents=True, exist_ok=True)
    write_timeline(pipeline.clock.spans, path)
    trace = json.loads(path.read_text(encoding="utf-8"))
    for event in trace["traceEvents"]:
        event |= {"ts": round(event["ts"]), "dur": round(event["dur"])}
    trace["otherData"] = stamp() | {
        "title": subject.title,
        "batch": batch,
        "lines": count,
        "seconds": round(seconds, 3),
        "stages": {times.name: round(times.busy / times.seats, 4) for times in pipeline.times},
    }
    path.write_text(json.dumps(trace) + "\n", encoding="utf-8")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--checkpoints", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[16, 64], metavar="N")
    parser.add_argument(
        "--lines", type=int, help="texts; default: 160 for models of real width, 2000 for others"
    )
    parser.add_argument(
        "--store",
        type=Path,
        metavar="FOLDER",
        help="write checkpoints of real width there and use those that lie there; default: a "
        "folder that is removed at the end",
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds; default: 5")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="measure nothing: write the timeline of one run, of the first checkpoint at the first "
        "batch size",
    )
    parser.add_argument(
        "--transformers",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="its loop as well, if it is installed; default: yes",
    )
    parser.add_argument("--rehearse", action="store_true", help="toy sizes, one round")
    args = parser.parse_args(argv)
    given = [number for number in (args.threads, args.lines) if number is not None]
    if min(args.repeats, *given, *args.batch_sizes) < 1:
        parser.error("lines, repeats, threads and batch sizes are at least 1")
    if args.rehearse:
        args.lines, args.repeats, args.batch_sizes = 20, 1, [4]
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        run(args, args.store or Path(folder))


def run(args: argparse.Namespace, store: Path) -> None:
    """Write the timeline that is asked for, or measure every subject."""
    of = partial(Subject.of, store=store, lines=args.lines, tiny=args.rehearse)

    if args.trace:
        write_trace(args.trace, of(args.checkpoints[0]), args.batch_sizes[0])
        return
    print(f"{timing.machine(CPU)}; torch {torch.__version__}; commit {timing.commit()}", flush=True)
    calibration = timing.Calibration(CPU, size=64 if args.rehearse else 1024)
    for name in args.checkpoints:
        subject = of(name)
        for batch in args.batch_sizes:
            rows = bench(subject, batch, calibration, args)
            show(rows)
            if args.csv:
                append_csv(args.csv, rows)


if __name__ == "__main__":
    main()
