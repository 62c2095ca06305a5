"""The flags of `tritonseq bench`, apart from what it measures: the command line reads them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Time every kernel at the shapes of five workloads beside plain torch, once it has proved right.

  a  GPT-2, greedy, batch 1             b  GPT-2, 64 x 4 beams, 512 to 711
  c  BART-large, 128 x 4, 1024 to 142   d  T5-base, 128 x 4, 64 to 64
  e  UniLM-large, 64 x 5, 512 to 128

GPU: graphs of calls that go through more inputs than its cache holds. CPU: the torch paths, with
smaller batches. The exit status is 1 if a kernel was wrong; such a one is not timed.
"""


def add_bench(commands: Any) -> None:
    """Declare `bench kernels` among the commands of `commands`, without what it runs."""
    bench = commands.add_parser("bench", help="measure this machine", allow_abbrev=False)
    bench.set_defaults(parser=bench)
    subjects = bench.add_subparsers(metavar="what", required=True)
    parser = subjects.add_parser(
        "kernels",
        help="every kernel, beside plain torch and the bandwidth of the memory",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workloads", type=_names, metavar="a,b", help="default: all five")
    parser.add_argument("--kernels", type=_names, metavar="NAME,...", help="default: all")
    parser.add_argument("--repeats", type=int, metavar="N", help="default: 30, on the CPU 9")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1; default: auto")
    parser.add_argument("--dtype", help="default: bfloat16 if the GPU has it, float32 on the CPU")
    parser.add_argument(
        "--scale", type=int, metavar="N", help="divide batches by it; default: 1, on the CPU 16"
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="torch.compile of the plain formulation too; default: on a GPU",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="append the rows to it")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw a chart (needs matplotlib)")
    parser.add_argument("--tiny", action="store_true", help="rehearse on toy sizes")
    parser.set_defaults(command=_run, parser=parser)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _run(parsed: argparse.Namespace) -> int:
    from .command import run

    return run(parsed)
