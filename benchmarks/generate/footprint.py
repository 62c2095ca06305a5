"""Peak resident memory of loading and of generating, against what must be held.

    python -m generate.footprint ENGINE WORKLOAD FOLDER TINY_FOLDER [tiny]

prints the peak bytes of each phase of one engine, in a process of its own. A tiny run comes first,
so that libraries and threads do not count as the model's.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from generate import checkpoints, engines
from generate.conversion import converted
from generate.workloads import WORKLOADS

if TYPE_CHECKING:
    from generate.workloads import Workload

MEASURED = ("beams", "greedy", "bart", "t5", "unilm")
CPU = torch.device("cpu")


def bench_memory(name: str, *, tiny: bool = False) -> dict[str, Any]:
    """One workload's peaks, above what the imported engine takes, as shares of what is needed."""
    workload = workload_of(name, tiny)
    row: dict[str, Any] = {"workload": f"memory of {name}"}
    with tempfile.TemporaryDirectory() as holder:
        folder, small = Path(holder, "measured"), Path(holder, "tiny")
        weights = checkpoints.write_checkpoint(workload.model, folder, tiny=tiny)
        checkpoints.write_checkpoint(workload.model, small, tiny=True)
        must = needed(workload, weights, tiny)
        for engine in engines.able(workload, CPU, int8=False):
            if engine == "ctranslate2":
                converted(folder)
                converted(small)
            idle, load, peak = probe(engine, name, folder, small, tiny)
            figures = {
                "load/weights": round((load - idle) / weights, 3),
                "generate/needed": round((peak - idle) / must, 3),
                "idle MB": idle // 10**6,
            }
            prefix = "" if engine == "tritonseq" else f"{engine} "
            row |= {f"{prefix}{figure}": value for figure, value in figures.items()}
    return row | {"weights MB": weights // 10**6, "weights+caches+logits MB": must // 10**6}


def workload_of(name: str, tiny: bool) -> Workload:
    """The workload by name, shrunk for a rehearsal."""
    return WORKLOADS[name].shrunk() if tiny else WORKLOADS[name]


def needed(workload: Workload, weights: int, tiny: bool) -> int:
    """Float32 weights, keys and values, and one step's logits, in bytes.

    What the beams share counts once per sample: the prompt, or the source, and the start token of
    those that have one. The last token is never fed back.
    """
    shape = checkpoints.shape_of(workload.model, tiny)
    positions = workload.given + (workload.new_tokens - 1) * workload.beams
    if workload.has_source:
        positions += workload.source
    caches = 2 * shape.layers * workload.batch * shape.width * positions * 4
    return weights + caches + workload.batch * workload.beams * shape.vocabulary * 4


def probe(engine: str, name: str, folder: Path, small: Path, tiny: bool) -> tuple[int, int, int]:
    """Run this module for one engine: bytes idle, at the peak of loading and of generating."""
    command = [sys.executable, "-m", "generate.footprint", engine, name, str(folder), str(small)]
    command += ["tiny"] if tiny else []
    here = Path(__file__).parents[1]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, cwd=here)
    if done.returncode:
        raise SystemExit(f"the memory of {engine} could not be measured; see above")
    idle, load, peak = done.stdout.split()[-3:]
    return int(idle), int(load), int(peak)


def resident_peak() -> int:
    """The most that this process has held since `forget_peak`."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")


def start(engine: str, workload: Workload, folder: Path) -> engines.MeasuredEngine:
    """Load a checkpoint whose vocabulary its config.json tells."""
    vocabulary: int = json.loads((folder / "config.json").read_text())["vocab_size"]
    job = engines.Job(folder, workload, workload.inputs(vocabulary, CPU))
    # What is measured is this process.
    here = {"apart": False} if engine == "ctranslate2" else {}
    return engines.ENGINES[engine](job, **here)


def main(engine: str, name: str, folder: str, small: str, *tiny: str) -> None:
    start(engine, workload_of(name, True), Path(small)).generate()
    gc.collect()
    forget_peak()
    idle = resident_peak()
    loaded = start(engine, workload_of(name, bool(tiny)), Path(folder))
    load = resident_peak()
    forget_peak()
    loaded.generate()
    print(idle, load, resident_peak())


if __name__ == "__main__":
    main(*sys.argv[1:])
