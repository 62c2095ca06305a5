"""Registry of the benchmark cases, and of the launches that are compiled without a GPU.

A new operation adds a module that yields cases to `cases/`, one that yields launches to
`launches/`, and both names here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .shapes import SHAPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tritonseq.kernels.launch import Launch

    from .case import Case

CASES = ("attention", "ngrams", "rows", "linear", "topk", "advance")
LAUNCHES = (
    "activation", "advance", "attention", "embedding", "linear", "ngrams", "norm", "topk",
)  # fmt: skip


def all_cases(
    workloads: Sequence[str], kernels: Sequence[str], *, scale: int = 1, tiny: bool = False
) -> Iterator[Case]:
    """Those of the workloads and kernels that are named, batches divided by `scale`."""
    for letter in workloads:
        shape = SHAPES[letter]
        shape = shape.shrunk() if tiny else shape.divided(scale)
        for name in CASES:
            cases = import_module(f"tritonseq.bench.cases.{name}").cases(shape)
            yield from (case for case in cases if case.kernel in kernels)


def all_launches(target: str, every: bool) -> Iterator[tuple[str, Launch]]:
    """All that is compiled for a target, with the name of each case. Imports Triton."""
    for name in LAUNCHES:
        yield from import_module(f"tritonseq.bench.launches.{name}").cases(target, every)
