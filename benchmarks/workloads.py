"""What is measured: a model's shape, a batch, and how it is generated from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

SEED = 20211
# Ids below it are special tokens (padding, start and end) in every checkpoint here.
FIRST_WORD = 4


@dataclass(frozen=True)
class Workload:
    """A batch of prompts or sources and how they are continued; no hypothesis ends early."""

    model: str
    batch: int
    source: int
    new_tokens: int
    dtype: torch.dtype = torch.float32
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def beams(self) -> int:
        beams: int = self.options.get("num_beams", 1)
        return beams

    @property
    def is_encoder_decoder(self) -> bool:
        return self.model != "gpt2"

    @property
    def given(self) -> int:
        """Tokens of the decoder that are there before the first step."""
        return 1 if self.is_encoder_decoder else self.source

    @property
    def unit(self) -> tuple[str, int]:
        """What a rate counts, and how many of them one run makes."""
        if self.is_encoder_decoder:
            return "samples/s", self.batch
        return "tokens/s", self.batch * self.new_tokens

    def inputs(self, vocabulary: int, device: torch.device) -> torch.Tensor:
        """The ids `[batch, source]`, the same for every engine; no special tokens, no padding."""
        generator = torch.Generator().manual_seed(SEED + 1)
        shape = (self.batch, self.source)
        return torch.randint(FIRST_WORD, vocabulary, shape, generator=generator).to(device)

    def shrunk(self) -> Workload:
        """The same kind of work, over in a moment."""
        return replace(self, batch=2, source=12, new_tokens=5)


BEAMS = {"num_beams": 4}
BART = Workload("bart", 4, 512, 32, options=BEAMS)
T5 = Workload("t5", 16, 64, 32, options=BEAMS)
WORKLOADS = {
    "beams": Workload("gpt2", 8, 512, 32, options=BEAMS),
    "beams-ngram": Workload("gpt2", 8, 512, 32, options=BEAMS | {"no_repeat_ngram_size": 3}),
    "greedy": Workload("gpt2", 1, 128, 64),
    "greedy-bf16": Workload("gpt2", 1, 128, 64, dtype=torch.bfloat16),
    "bart": BART,
    "bart-bf16": replace(BART, dtype=torch.bfloat16),
    "t5": T5,
    "t5-bf16": replace(T5, dtype=torch.bfloat16),
}
