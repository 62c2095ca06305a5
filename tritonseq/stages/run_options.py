"""Run options: how samples are batched, which workers there are, and how results come."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritonseq.options.validation import MOST, MOST_PROCESSES
from tritonseq.shown import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

RANGES = {
    "batch_size": (1, MOST),
    "batch_tokens": (1, MOST),
    "window": (1, MOST),
    "preprocess_workers": (0, MOST_PROCESSES),
    "postprocess_workers": (0, MOST_PROCESSES),
}
"""The least and the most that a number may be. What is at least 1 may be left open, as None."""

FLAGS = (
    "batch_size", "batch_tokens", "window", "refill", "preprocess_workers", "postprocess_workers",
    "devices", "seed",
)  # fmt: skip
"""The fields that are flags of `tritonseq generate`, with dashes."""

_DEVICES = 'pass names such as ("cuda:0", "cuda:1"), or ("cpu", "cpu") for two processes on the CPU'


@dataclass(frozen=True)
class RunOptions:
    """The fields up to `traced` are parameters of `tritonseq.pipeline`, and those up to `seed` are
    flags of `tritonseq generate` as well; a job decides about those behind them.

    None of them changes a result in float32, but for `seed`, and the size of batches that are
    drawn; in half precision and int8 everything that changes the shape of a batch may.
    """

    batch_size: int | None = None
    """The most samples at once; None leaves it to the memory."""
    batch_tokens: int | None = None
    """The most tokens of sources at once, each counted as long as the longest."""
    window: int | None = None
    """Samples that are put in order of length together; by default enough for 16 batches."""
    refill: bool | None = None
    """Fill the slots of samples that have ended; None does so where it is found to be faster."""
    preprocess_workers: int = 0
    """Processes that tokenize; with 0 a thread does."""
    postprocess_workers: int = 0
    """Processes that detokenize; with 0 a thread does."""
    devices: Sequence[str] = ()
    """Where a process of its own generates; with none, this process does."""
    seed: int = 0
    """Of what is drawn at random."""
    ordered: bool = True
    """Give results in the order of the texts."""
    progress: bool = False
    """Show a bar."""
    output_token_scores: bool = False
    """Tell what each token of an output scored."""
    traced: bool = False
    """Keep what each stage did when."""
    by_length: bool = True
    """Put samples of like lengths together."""
    exact_scores: bool = False
    """Let batches be the same whatever the machine does, so that scores are, to the last digit."""
    exact_half: bool = False
    """Likewise where the network computes in half precision or int8: there the last bits of a row,
    and so now and then a token, depend on the shape of its batch."""
    keeps_search: bool = False
    """Keep the whole search of each sample."""

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be."""
        for name in ("ordered", "progress", "output_token_scores", "traced"):
            if not isinstance(flag := getattr(self, name), bool):
                raise ValueError(f"{name} is {flag!r}: it must be True or False")
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is None and least == 1:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {shown(value)}: it must be an integer >= {least}")
            if value > most:
                raise ValueError(f"{name} is {shown(value)}: the most are {most}")
        object.__setattr__(self, "devices", _named(self.devices))


def _named(devices: object) -> tuple[str, ...]:
    """The names of devices, each of which gets a process; ValueError for what is none."""
    names = (devices,) if isinstance(devices, str) else devices
    if not isinstance(names, (list, tuple)):
        raise ValueError(f"devices is {devices!r}: {_DEVICES}")
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", name):
            raise ValueError(f"devices has {name!r}: {_DEVICES}")
    if len(names) > MOST_PROCESSES:
        raise ValueError(
            f"devices are {len(names)}, with a process each: the most are {MOST_PROCESSES}"
        )
    return tuple(names)
