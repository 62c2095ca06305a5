"""What a source cache of states saves and costs beside the usual one: peak memory and seconds.

    python benchmarks/bench_source_cache.py                      # BART-large, 32 x 4, source 1,024
    python benchmarks/bench_source_cache.py --new-tokens 64 --rounds 3 --dtype bfloat16
    python benchmarks/bench_source_cache.py --samples 8 --source 512 --csv source_cache.csv
    python benchmarks/bench_source_cache.py --tiny               # a rehearsal, in seconds

Random weights, on the CPU. Every run has a process of its own, since a peak is that of a process,
and the kinds run in turn. A run with a tiny model comes first in each, so that libraries and
threads do not count. Reading a source and writing its answer are told apart: states are not
projected when they are read, and are attended to at a higher price in every step.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bench_generate import append_csv
from generate import checkpoints, footprint
from generate.workloads import SEED

import tritonseq
from tritonseq.bench import timing

KINDS = ("projected", "states")
CPU = torch.device("cpu")
MEGABYTE = 10**6


class CacheRun(NamedTuple):
    """What a process found: bytes above those of idle libraries, seconds, and the answers."""

    loaded: int
    peak: int
    reading: float
    """Of the encoder, projections and the first position."""
    writing: float
    """Of all steps."""
    ids: list[list[int]]


def sources(samples: int, length: int, *, tiny: bool) -> torch.Tensor:
    """Ids `[B, S]` without padding, the same in every process."""
    draw = torch.Generator().manual_seed(SEED)
    vocabulary = checkpoints.shape_of("bart", tiny).vocabulary
    return torch.randint(4, vocabulary, (samples, length), generator=draw)


def measure(folder: Path, kind: str, args: argparse.Namespace) -> CacheRun:
    """Load and generate in this process."""
    options: dict[str, Any] = {"num_beams": args.beams, "decoder_start_token_id": 2}
    how: dict[str, Any] = {"device": "cpu", "dtype": args.dtype, "source_cache": kind}
    small = tritonseq.load(folder / "tiny", **how)
    small.generate(sources(2, 8, tiny=True), max_new_tokens=2, **options)
    del small
    gc.collect()
    footprint.forget_peak()
    idle = footprint.resident_peak()
    model = tritonseq.load(folder / "measured", **how)
    loaded = footprint.resident_peak() - idle
    reading = 0.0
    prefill = model.decoder.prefill

    def timed(*given: Any, **named: Any) -> Any:
        nonlocal reading
        start = time.perf_counter()
        logits = prefill(*given, **named)
        reading += time.perf_counter() - start
        return logits

    model.decoder.prefill = timed
    read = sources(args.samples, args.source, tiny=args.tiny)
    footprint.forget_peak()
    start = time.perf_counter()
    ids = model.generate(read, max_new_tokens=args.new_tokens, **options)
    seconds = time.perf_counter() - start
    peak = footprint.resident_peak() - idle
    return CacheRun(loaded, peak, reading, seconds - reading, ids.tolist())


def in_process(folder: Path, kind: str, arguments: list[str]) -> CacheRun:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--measure", kind, "--folder", str(folder)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the run with {kind} failed; see above")
    return CacheRun(*json.loads(done.stdout.splitlines()[-1]))


def compare(args: argparse.Namespace, arguments: list[str]) -> list[dict[str, Any]]:
    """A row for each kind, of medians, and one of how states compare."""
    runs: dict[str, list[CacheRun]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as holder:
        folder = Path(holder)
        checkpoints.write_checkpoint("bart", folder / "measured", tiny=args.tiny)
        checkpoints.write_checkpoint("bart", folder / "tiny", tiny=True)
        for _ in range(args.rounds):
            for kind in KINDS:
                runs[kind].append(in_process(folder, kind, arguments))
    rows = [figures(args, kind, runs[kind]) for kind in KINDS]
    usual, own = rows
    equal = sum(a == b for a, b in zip(runs[KINDS[0]][0].ids, runs[KINDS[1]][0].ids, strict=True))
    named = ("peak MB", "reading s", "step ms", "all s")
    ratios = {f"{name} ratio": round(own[name] / max(usual[name], 1e-9), 3) for name in named}
    rows.append(
        {"workload": workload(args, "states over projected"), **ratios}
        | {"equal answers": f"{equal} of {args.samples}"}
    )
    return rows


def figures(args: argparse.Namespace, kind: str, runs: list[CacheRun]) -> dict[str, Any]:
    """Medians of the runs of one kind, and how far the slowest is from the fastest."""
    seconds = [run.reading + run.writing for run in runs]
    writing = statistics.median(run.writing for run in runs)
    return {
        "workload": workload(args, kind),
        "loaded MB": round(statistics.median(run.loaded for run in runs) / MEGABYTE, 1),
        "peak MB": round(statistics.median(run.peak for run in runs) / MEGABYTE, 1),
        "reading s": round(statistics.median(run.reading for run in runs), 3),
        "step ms": round(1000 * writing / max(1, args.new_tokens - 1), 2),
        "all s": round(statistics.median(seconds), 3),
        "spread": round(max(seconds) / min(seconds), 2),
    }


def workload(args: argparse.Namespace, what: str) -> str:
    tiny = "tiny " if args.tiny else ""
    sizes = f"{args.samples} x {args.beams}, {args.source} to {args.new_tokens}"
    return f"{tiny}source cache of bart, {args.dtype}, {sizes}: {what}"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--source", type=int, default=1024, help="tokens of each")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="of both kinds in turn")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--csv", type=Path, help="append the figures to this file")
    parser.add_argument("--tiny", action="store_true", help="rehearse on a tiny model")
    parser.add_argument("--measure", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if argv is None else argv
    args = parse(arguments)
    if args.measure:
        print(json.dumps(measure(args.folder, args.measure, args)))
        return
    print(f"{timing.machine(CPU)}; torch {torch.__version__}; commit {timing.commit()}")
    rows = compare(args, arguments)
    for row in rows:
        print("  ".join(f"{figure}: {value}" for figure, value in row.items()), flush=True)
    if args.csv:
        append_csv(args.csv, rows, CPU)


if __name__ == "__main__":
    main()
