"""What is measured: a model's shape, a batch, and how it is generated from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from generate.s2s_folder import END, MASK, START

SEED = 20211
# Ids below it are special tokens (padding, start and end) in the checkpoints without a [MASK].
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
        return self.model not in ("gpt2", "unilm")

    @property
    def has_source(self) -> bool:
        """Whether the input is answered, rather than continued."""
        return self.model != "gpt2"

    @property
    def first_word(self) -> int:
        """No special token is as large as this or larger."""
        return MASK + 1 if self.model == "unilm" else FIRST_WORD

    @property
    def given(self) -> int:
        """Tokens of the output that are there before the first step."""
        return {"gpt2": self.source, "unilm": 0}.get(self.model, 1)

    @property
    def unit(self) -> tuple[str, int]:
        """What a rate counts, and how many of them one run makes."""
        if self.has_source:
            return "samples/s", self.batch
        return "tokens/s", self.batch * self.new_tokens

    def inputs(
        self, vocabulary: int, device: torch.device, *, seed: int = SEED + 1
    ) -> torch.Tensor:
        """The ids `[batch, source]`, the same for every engine.

        No padding, and no special tokens but the frame that UniLM's sources stand in.
        """
        generator = torch.Generator().manual_seed(seed)
        shape = (self.batch, self.source)
        # The last token of Marian is its padding.
        end = vocabulary - 1 if self.model == "opus-mt" else vocabulary
        ids = torch.randint(self.first_word, end, shape, generator=generator)
        if self.model == "unilm":
            ids[:, 0], ids[:, -1] = START, END
        return ids.to(device)

    def shrunk(self) -> Workload:
        """The same kind of work, over in a moment."""
        return replace(self, batch=2, source=12, new_tokens=5)


BEAMS = {"num_beams": 4}
BART = Workload("bart", 4, 512, 32, options=BEAMS)
T5 = Workload("t5", 16, 64, 32, options=BEAMS)
UNILM = Workload(
    "unilm", 8, 512, 32, options={"num_beams": 5, "search": "unilm", "length_penalty": 0.0}
)
WORKLOADS = {
    "beams": Workload("gpt2", 8, 512, 32, options=BEAMS),
    "beams-ngram": Workload("gpt2", 8, 512, 32, options=BEAMS | {"no_repeat_ngram_size": 3}),
    "greedy": Workload("gpt2", 1, 128, 64),
    "greedy-bf16": Workload("gpt2", 1, 128, 64, dtype=torch.bfloat16),
    "bart": BART,
    "bart-bf16": replace(BART, dtype=torch.bfloat16),
    "bart-greedy": Workload("bart", 1, 512, 64),
    "t5": T5,
    "t5-bf16": replace(T5, dtype=torch.bfloat16),
    "t5-greedy": Workload("t5", 1, 64, 64),
    "opus-mt": Workload("opus-mt", 16, 32, 32, options=BEAMS),
    "nllb": Workload("nllb", 8, 32, 32, options=BEAMS),
    "nllb-bf16": Workload("nllb", 8, 32, 32, dtype=torch.bfloat16, options=BEAMS),
    "prophetnet": Workload("prophetnet", 8, 256, 32, options=BEAMS),
    "unilm": UNILM,
    "unilm-bf16": replace(UNILM, dtype=torch.bfloat16),
}
