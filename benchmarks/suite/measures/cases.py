"""The five workloads: what FastSeq made its name with, and one of pure latency.

Random weights of real shapes; every hypothesis takes all steps, on all sides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from generate.checkpoints import TINY, ModelShape
from generate.workloads import Workload

if TYPE_CHECKING:
    import torch

BEAMS = {"num_beams": 4}
TRANSFORMERS = "transformers"
REPROJECTION = "a plain torch decoder by upstream's method"


@dataclass(frozen=True)
class SuiteCase:
    """One workload, and the rate that it must reach on an H200."""

    title: str
    workload: Workload
    shape: ModelShape
    checkpoint: str
    """Its name in the store."""
    unit: str
    required: float
    reference: str
    """What it is compared with."""

    @property
    def count(self) -> int:
        """How many of the unit one run makes."""
        steps = self.workload.new_tokens if self.unit == "tokens/s" else 1
        return self.workload.batch * steps

    def of(self, dtype: torch.dtype, *, rehearse: bool) -> SuiteCase:
        """The same in another dtype, or in toy sizes."""
        workload = replace(self.workload, dtype=dtype)
        if not rehearse:
            return replace(self, workload=workload)
        return replace(self, workload=workload.shrunk(), shape=TINY[workload.model])


CASES = {
    "gpt2-greedy": SuiteCase(
        "GPT-2 124M, batch 1, greedy, 32 to 160",
        Workload("gpt2", 1, 32, 128),
        ModelShape(12, 768, 50257),
        "gpt2",
        "tokens/s",
        5000,
        TRANSFORMERS,
    ),
    "gpt2-beams": SuiteCase(
        "GPT-2 124M, 64 x 4 beams, 512 to 711",
        Workload("gpt2", 64, 512, 199, options=BEAMS),
        ModelShape(12, 768, 50257),
        "gpt2",
        "samples/s",
        300,
        TRANSFORMERS,
    ),
    "bart": SuiteCase(
        "BART-large, 128 x 4 beams, source 1024, 142",
        # The start token is the first of the 142.
        Workload("bart", 128, 1024, 141, options=BEAMS),
        ModelShape(12, 1024, 50265),
        "bart",
        "samples/s",
        240,
        TRANSFORMERS,
    ),
    "t5": SuiteCase(
        "T5-base, 128 x 4 beams, 64 to 64",
        Workload("t5", 128, 64, 64, options=BEAMS),
        ModelShape(12, 768, 32128),
        "t5",
        "samples/s",
        2000,
        TRANSFORMERS,
    ),
    "unilm": SuiteCase(
        "UniLM-large, 64 x 5 beams, 512 to 128",
        Workload(
            "unilm",
            64,
            512,
            128,
            options={"num_beams": 5, "search": "unilm", "length_penalty": 0.0},
        ),
        ModelShape(24, 1024, 28996),
        "unilm-large",
        "samples/s",
        170,
        REPROJECTION,
    ),
}
