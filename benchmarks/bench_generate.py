"""tritonseq beside other engines: the same work, the seconds and the memory of each.

    python benchmarks/bench_generate.py                    # all workloads, then memory
    python benchmarks/bench_generate.py bart t5 --int8
    python benchmarks/bench_generate.py greedy --repeats 9
    python benchmarks/bench_generate.py --tiny             # a rehearsal, in seconds
    python benchmarks/bench_generate.py --device cuda --csv benchmarks/results/gpu.csv

The others are transformers and CTranslate2, and for UniLM, which neither has, upstream's method.
Weights are random and of real shapes: GPT-2 124M, BART-large, T5-base, opus-mt, NLLB-600M,
ProphetNet-large, UniLM-base. All engines
read the same checkpoint and inputs and run in turn in one process; no figure is printed whose
output has not been checked.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.metadata
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from generate import agreement, checkpoints, engines, footprint
from generate.workloads import WORKLOADS

from tritonseq.bench import timing

if TYPE_CHECKING:
    from collections.abc import Callable

    from generate.workloads import Workload


def job_for(workload: Workload, folder: str, args: argparse.Namespace) -> engines.Job:
    """Write the checkpoint and draw the inputs."""
    checkpoints.write_checkpoint(workload.model, Path(folder), tiny=args.tiny)
    vocabulary = checkpoints.shape_of(workload.model, args.tiny).vocabulary
    return engines.Job(Path(folder), workload, workload.inputs(vocabulary, args.device))


def bench(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Check and time one workload; a row of the table."""
    workload = footprint.workload_of(name, args.tiny)
    able = engines.able(workload, args.device, int8=args.int8)
    with tempfile.TemporaryDirectory() as folder:
        job = job_for(workload, folder, args)
        runners = {engine: engines.ENGINES[engine](job) for engine in able}
        ids = {engine: runner.generate() for engine, runner in runners.items()}
        verdict = (
            agreement.compare_ids(ids)
            if workload.dtype == torch.float32
            else agreement.compare_error(runners, job)
        )

    def again(engine: str) -> Callable[[], None]:
        return lambda: ids.update({engine: runners[engine].generate()})

    runs = {engine: again(engine) for engine in runners}
    times = timing.time_in_turn(runs, args.device, repeats=args.repeats)
    if workload.dtype == torch.float32:
        verdict = agreement.compare_ids(ids)
    return figures(name, workload, times) | {"check": verdict}


def figures(name: str, workload: Workload, times: dict[str, timing.Timing]) -> dict[str, Any]:
    """Seconds, ratios to ours, and rates, in the order of the engines."""
    unit, count = workload.unit
    mine = times["tritonseq"].median
    row: dict[str, Any] = {"workload": name}
    row |= {f"{engine} s": round(t.median, 3) for engine, t in times.items()}
    for engine, t in times.items():
        if engine != "tritonseq":
            figure = "ratio" if engine == "transformers" else f"ratio to {engine}"
            row[figure] = round(t.median / mine, 2)
    for engine, t in times.items():
        figure = unit if engine == "tritonseq" else f"{engine} {unit}"
        row[figure] = float(f"{count / t.median:.3g}")
    if "ctranslate2" in times:
        row["ctranslate2"] = importlib.metadata.version("ctranslate2")
    return row | {
        "spread": "/".join(f"{t.spread:.2f}" for t in times.values()),
        "discarded": sum(t.discarded for t in times.values()),
        "unsteady": sum(t.unsteady for t in times.values()),
    }


def bench_ngram_cost(args: argparse.Namespace) -> dict[str, Any]:
    """What n-gram blocking adds to beam search, measured against ourselves."""
    workloads = {
        "plain": footprint.workload_of("beams", args.tiny),
        "blocked": footprint.workload_of("beams-ngram", args.tiny),
    }
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            version: engines.Tritonseq(job_for(workload, folder, args)).generate
            for version, workload in workloads.items()
        }
    times = timing.time_in_turn(runs, args.device, repeats=max(5, args.repeats))
    plain, blocked = times["plain"], times["blocked"]
    # Pairs stand next to each other in time, so their ratios see the same machine.
    ratios = sorted(b / a for a, b in zip(plain.seconds, blocked.seconds, strict=True))
    return {
        "workload": "beams-ngram over beams, tritonseq",
        "plain s": round(plain.median, 3),
        "blocked s": round(blocked.median, 3),
        "ratio": round(ratios[len(ratios) // 2], 3),
        "discarded": plain.discarded + blocked.discarded,
        "unsteady": plain.unsteady + blocked.unsteady,
    }


def rows_of(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows that one word of the command line stands for."""
    if name == "ngram-cost":
        return [bench_ngram_cost(args)]
    if name != "memory":
        return [bench(name, args)]
    if args.device.type != "cpu":
        print("memory is left out: it is measured on the CPU only")
        return []
    return [footprint.bench_memory(measured, tiny=args.tiny) for measured in footprint.MEASURED]


def append_csv(path: Path, rows: list[dict[str, Any]], device: torch.device) -> None:
    """Append one line per figure: what, where, with what, when."""
    import transformers

    stamp = {
        "date": datetime.date.today().isoformat(),
        "machine": timing.machine(device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": timing.commit(),
    }
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow([*stamp, "workload", "figure", "value"])
        for row in rows:
            for figure, value in row.items():
                if figure != "workload":
                    writer.writerow([*stamp.values(), row["workload"], figure, value])


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*WORKLOADS, "ngram-cost", "memory"]
    parser.add_argument("what", nargs="*", metavar="|".join(names), help="default: all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--csv", type=Path, help="append the figures to this file")
    parser.add_argument("--int8", action="store_true", help="int8 as well, ours and CTranslate2's")
    parser.add_argument("--tiny", action="store_true", help="rehearse on tiny shapes")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.what) - set(names)):
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(names)}")
    args.what = args.what or names
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    print(f"{timing.machine(args.device)}; torch {torch.__version__}; commit {timing.commit()}")
    for name in args.what:
        for row in rows_of(name, args):
            if args.tiny:
                row["workload"] = f"tiny {row['workload']}"
            print("  ".join(f"{figure}: {value}" for figure, value in row.items()), flush=True)
            if args.csv:
                append_csv(args.csv, [row], args.device)


if __name__ == "__main__":
    main()
