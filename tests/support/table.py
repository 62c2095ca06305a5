"""A decoder without a network: its logits are a fixed table of the last token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from walk import NoKeys, OfOneTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritonseq.memory.kv_cache import Sizes


class TableDecoder(OfOneTensor):
    """Logits of the next token by the last one; records every call."""

    is_encoder_decoder = False
    is_prefix_lm = False

    def __init__(self, table: Tensor, max_positions: int = 64) -> None:
        self.table = table
        self.vocab_size = table.shape[0]
        self.max_positions = max_positions
        self.caches: list[Sizes] = []
        self.prefills: list[tuple[int, ...]] = []
        self.lineages: list[Tensor | None] = []

    def new_cache(self, sizes: Sizes, device: torch.device | None = None) -> NoKeys:
        if device is None:
            self.caches.append(sizes)
        return NoKeys(sizes)

    def prefill(self, tokens: Tensor, lengths: Tensor, cache: NoKeys) -> Tensor:
        cache.step.zero_()
        self.prefills.append(tuple(tokens.shape))
        last = tokens.gather(1, lengths[:, None] - 1).squeeze(1)
        return self.table[last]

    def step(self, tokens: Tensor, lineage: Tensor | None, cache: NoKeys) -> Tensor:
        self.lineages.append(None if lineage is None else lineage.clone())
        return self.table[tokens]

    def parameters(self) -> Iterator[Tensor]:
        return iter([self.table])


def table(vocab: int, **chances: dict[int, float]) -> Tensor:
    """Log-probabilities from `t3={4: 0.6, 5: 0.4}`: after token 3 come 4 and 5."""
    logits = torch.full((vocab, vocab), -1e4)
    logits[:, 0] = 0.0
    for name, following in chances.items():
        row = logits[int(name[1:])]
        row[0] = -1e4
        for token, chance in following.items():
            row[token] = torch.tensor(chance).log()
    return logits
