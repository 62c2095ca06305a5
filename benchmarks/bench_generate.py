"""tritonseq beside transformers: the same ids, the seconds of both, the memory of ours.

    python benchmarks/bench_generate.py                    # all workloads, then memory
    python benchmarks/bench_generate.py greedy --repeats 9
    python benchmarks/bench_generate.py memory
    python benchmarks/bench_generate.py --device cuda --csv benchmarks/results/gpt2.csv

Weights are random and of real shapes (GPT-2 124M). Both engines get the same weights and prompts
and run in turn in one process; no figure is printed whose output has not been checked.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timing
import torch

SEED = 20211


@dataclass(frozen=True)
class Workload:
    """A batch of prompts and how they are continued; no hypothesis ends early."""

    batch: int
    prompt: int
    new_tokens: int
    dtype: torch.dtype = torch.float32
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def beams(self) -> int:
        beams: int = self.options.get("num_beams", 1)
        return beams


BEAMS = {"num_beams": 4}
WORKLOADS = {
    "beams": Workload(8, 512, 32, options=BEAMS),
    "beams-ngram": Workload(8, 512, 32, options=BEAMS | {"no_repeat_ngram_size": 3}),
    "greedy": Workload(1, 128, 64),
    "greedy-bf16": Workload(1, 128, 64, dtype=torch.bfloat16),
}


def build_transformers(dtype: torch.dtype, device: torch.device) -> Any:
    """GPT-2 124M with random weights, as transformers initialises it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(SEED)
    # Without an end token every run takes all its steps.
    config = GPT2Config(eos_token_id=None, bos_token_id=None)
    return GPT2LMHeadModel(config).to(device=device, dtype=dtype).eval()


def build_tritonseq(reference: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """The same weights through a checkpoint on disk, as a user would load them."""
    import tritonseq

    with tempfile.TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        return tritonseq.load(folder, dtype=dtype, device=device)


def compare_ids(mine: torch.Tensor, other: torch.Tensor) -> str:
    """Raise unless the ids agree."""
    if not torch.equal(mine, other):
        share = (mine == other).float().mean()
        raise SystemExit(f"ids differ from transformers': only {share:.1%} agree; no figures")
    return "ids equal"


def compare_error(ours: Any, theirs: Any, prompts: torch.Tensor) -> str:
    """Raise unless our logits in half precision are as close to float32 as transformers'."""
    exact = build_transformers(torch.float32, prompts.device)
    with torch.inference_mode():
        wanted = exact(prompts).logits[:, -1]
        their_error = (theirs(prompts).logits[:, -1].float() - wanted).abs().max()
    lengths = torch.full((prompts.shape[0],), prompts.shape[1], device=prompts.device)
    logits = ours.decoder.prefill(prompts, lengths, beams=1, target_length=1)[1]
    ratio = float((logits.float() - wanted).abs().max() / their_error)
    if not ratio <= 2.0:
        raise SystemExit(f"error {ratio:.2f} times that of transformers in this dtype; no figures")
    return f"error {ratio:.2f} of transformers'"


def run_ours(model: Any, prompts: torch.Tensor, workload: Workload) -> torch.Tensor:
    ids: torch.Tensor = model.generate(
        prompts, max_new_tokens=workload.new_tokens, **workload.options
    )
    return ids


def run_theirs(model: Any, prompts: torch.Tensor, workload: Workload) -> torch.Tensor:
    ids: torch.Tensor = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=workload.new_tokens,
        do_sample=False,
        pad_token_id=0,
        **workload.options,
    )
    return ids


def bench(name: str, workload: Workload, device: torch.device, repeats: int) -> dict[str, Any]:
    """Check and time one workload; a row of the table."""
    theirs = build_transformers(workload.dtype, device)
    ours = build_tritonseq(theirs, workload.dtype, device)
    torch.manual_seed(SEED + 1)
    prompts = torch.randint(0, 50257, (workload.batch, workload.prompt), device=device)
    ids: dict[str, torch.Tensor] = {}

    def mine_once() -> None:
        ids["tritonseq"] = run_ours(ours, prompts, workload)

    def theirs_once() -> None:
        ids["transformers"] = run_theirs(theirs, prompts, workload)

    mine_once()
    times = timing.time_in_turn(
        {"tritonseq": mine_once, "transformers": theirs_once}, device, repeats=repeats
    )
    if workload.dtype == torch.float32:
        verdict = compare_ids(ids["tritonseq"], ids["transformers"])
    else:
        verdict = compare_error(ours, theirs, prompts)
    mine, other = times["tritonseq"], times["transformers"]
    tokens = workload.batch * workload.new_tokens
    return {
        "workload": name,
        "tritonseq s": round(mine.median, 3),
        "transformers s": round(other.median, 3),
        "ratio": round(other.median / mine.median, 2),
        "tokens/s": round(tokens / mine.median, 1),
        "transformers tokens/s": round(tokens / other.median, 1),
        "spread": f"{mine.spread:.2f}/{other.spread:.2f}",
        "discarded": mine.discarded + other.discarded,
        "unsteady": mine.unsteady + other.unsteady,
        "check": verdict,
    }


def bench_ngram_cost(device: torch.device, repeats: int) -> dict[str, Any]:
    """What n-gram blocking adds to beam search, measured against ourselves."""
    import transformers

    transformers.logging.set_verbosity_error()
    plain, blocked = WORKLOADS["beams"], WORKLOADS["beams-ngram"]
    model = build_tritonseq(build_transformers(torch.float32, device), torch.float32, device)
    torch.manual_seed(SEED + 1)
    prompts = torch.randint(0, 50257, (plain.batch, plain.prompt), device=device)
    times = timing.time_in_turn(
        {
            "plain": lambda: run_ours(model, prompts, plain),
            "blocked": lambda: run_ours(model, prompts, blocked),
        },
        device,
        repeats=repeats,
    )
    # Pairs stand next to each other in time, so their ratios see the same machine.
    ratios = sorted(
        b / a for a, b in zip(times["plain"].seconds, times["blocked"].seconds, strict=True)
    )
    return {
        "workload": "beams-ngram over beams, tritonseq",
        "plain s": round(times["plain"].median, 3),
        "blocked s": round(times["blocked"].median, 3),
        "ratio": round(ratios[len(ratios) // 2], 3),
        "discarded": times["plain"].discarded + times["blocked"].discarded,
        "unsteady": times["plain"].unsteady + times["blocked"].unsteady,
    }


# Runs in a process of its own; prints peak resident bytes of each phase.
MEMORY_PROBE = """
import sys, torch

def peak():
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) * 1024 for l in status if l.startswith("VmHWM"))

def reset():
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")

torch.ones(8, 8) @ torch.ones(8, 8)
idle = peak()
import tritonseq
folder, batch, prompt, new, beams = sys.argv[1], *map(int, sys.argv[2:])
model = tritonseq.load(folder, device="cpu")
load = peak()
reset()
ids = torch.randint(0, model.decoder.vocab_size, (batch, prompt))
model.generate(ids, max_new_tokens=new, num_beams=beams)
weights = sum(p.nbytes for p in model.decoder.parameters())
print(idle, load, peak(), weights)
"""


def bench_memory() -> list[dict[str, Any]]:
    """Peak resident memory of loading and of generating, against what must be held."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        build_transformers(torch.float32, torch.device("cpu")).save_pretrained(folder)
        for name in ("beams", "greedy"):
            w = WORKLOADS[name]
            numbers = [w.batch, w.prompt, w.new_tokens, w.beams]
            command = [sys.executable, "-c", MEMORY_PROBE, folder, *map(str, numbers)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            idle, load, peak, weights = (int(word) for word in out.split())
            positions = w.prompt + (w.new_tokens - 1) * w.beams
            caches = 2 * 12 * w.batch * 768 * positions * 4
            needed = weights + caches + w.batch * w.beams * 50257 * 4
            rows.append(
                {
                    "workload": f"memory of {name}",
                    "weights MB": weights // 10**6,
                    "load/weights": round((load - idle) / weights, 3),
                    "weights+caches+logits MB": needed // 10**6,
                    "generate/needed": round((peak - idle) / needed, 3),
                    "idle MB": idle // 10**6,
                }
            )
    return rows


def print_row(row: dict[str, Any]) -> None:
    print("  ".join(f"{key}: {value}" for key, value in row.items()), flush=True)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*WORKLOADS, "ngram-cost", "memory"]
    parser.add_argument("what", nargs="*", metavar="|".join(names), help="default: all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--csv", type=Path, help="append the figures to this file")
    args = parser.parse_args()
    chosen = args.what or names
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(names)}")
    device = torch.device(args.device)
    print(f"{timing.machine(device)}; torch {torch.__version__}; commit {timing.commit()}")
    rows: list[dict[str, Any]] = []
    for name in chosen:
        if name == "memory":
            new = bench_memory() if device.type == "cpu" else []
        elif name == "ngram-cost":
            new = [bench_ngram_cost(device, max(5, args.repeats))]
        else:
            new = [bench(name, WORKLOADS[name], device, args.repeats)]
        for row in new:
            print_row(row)
        rows += new
    if args.csv:
        append_csv(args.csv, rows, device)


if __name__ == "__main__":
    main()
