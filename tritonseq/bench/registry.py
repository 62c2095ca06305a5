"""Which cases there are: a new kernel adds a function that yields some, and its name here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cases import advance, attention, linear, ngrams, rows, sampling, topk
from .shapes import SHAPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .case import Case

SUBJECTS = (
    attention,
    ngrams,
    rows,
    linear,
    topk,
    advance,
    sampling,
)


def all_cases(
    workloads: Sequence[str], kernels: Sequence[str], *, scale: int = 1, tiny: bool = False
) -> Iterator[Case]:
    """Those of the workloads and kernels that are named, batches divided by `scale`."""
    for letter in workloads:
        shape = SHAPES[letter]
        shape = shape.shrunk() if tiny else shape.divided(scale)
        for subject in SUBJECTS:
            yield from (case for case in subject.cases(shape) if case.kernel in kernels)
