"""Decoders without caches, whose answers the definition of UniLM's search can read as well."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import tiny_unilm
import torch
from torch import Tensor
from walk import NoKeys, OfOneTensor

import tritonseq

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import unilm_search

    from tritonseq.memory.kv_cache import Sizes


class Tables(OfOneTensor):
    """A prefix language model without a network: a table per step, logits by the last token.

    The last token of the source decides about the first one.
    """

    is_encoder_decoder = True
    is_prefix_lm = True
    shares_vocabulary = True
    max_positions = 64
    max_source_positions = 63

    def __init__(self, tables: Tensor) -> None:
        """`tables [T, V, V]`; the last one serves all later steps."""
        self.tables = tables
        self.vocab_size = self.source_vocab_size = tables.shape[1]
        self.steps = 0

    def new_cache(self, sizes: Sizes, device: torch.device | None = None) -> NoKeys:
        return NoKeys(sizes)

    def prefill(self, tokens: Tensor, lengths: Tensor, cache: NoKeys) -> Tensor:
        cache.step.zero_()
        self.steps = 0
        return self.tables[0, tokens.gather(1, lengths[:, None] - 1).squeeze(1)]

    def step(self, tokens: Tensor, lineage: Tensor | None, cache: NoKeys) -> Tensor:
        self.steps += 1
        return self.tables[(cache.step + 1).clamp(max=len(self.tables) - 1)[:, None], tokens]

    def ask(self, sources: Sequence[Sequence[int]]) -> unilm_search.Ask:
        """What the definition of search reads."""

        def ask(rows: Sequence[tuple[int, Sequence[int]]]) -> Tensor:
            step = min(len(rows[0][1]), len(self.tables) - 1)
            return self.tables[step, [[*sources[b], *target][-1] for b, target in rows]]

        return ask

    def parameters(self) -> Iterator[Tensor]:
        return iter([self.tables])

    def model(self, **defaults: Any) -> tritonseq.Model:
        options = {"search": "unilm", "length_penalty": 0.0, **tiny_unilm.ENDS, **defaults}
        return tritonseq.Model(self, tritonseq.GenerationConfig(**options), None)


def chances(*steps: dict[int, dict[int, float]]) -> Tables:
    """`{A: {B: 0.9, C: 0.1}}` per step: after A, whatever came before, comes B, or C."""
    tables = torch.full((len(steps), 9, 9), -40.0)
    for step, rows in enumerate(steps):
        for last, following in rows.items():
            for token, chance in following.items():
                tables[step, last, token] = math.log(chance)
    return Tables(tables)


class Replay(OfOneTensor):
    """A decoder without caches: the definition read for every beam's whole history.

    The prompt names the source: token V + b for sample b, which never comes again.
    """

    is_encoder_decoder = False
    is_prefix_lm = False
    max_positions = 64

    def __init__(self, network: Any, sources: list[list[int]]) -> None:
        self._network = network
        self._sources = sources
        self._words = network.config["vocab_size"]
        self.vocab_size = self._words + len(sources)

    def new_cache(self, sizes: Sizes, device: torch.device | None = None) -> NoKeys:
        return NoKeys(sizes)

    def prefill(self, tokens: Tensor, lengths: Tensor, cache: NoKeys) -> Tensor:
        cache.step.zero_()
        cache.sources.copy_(tokens[:, 0] - self._words)
        return self._logits([(source, []) for source in cache.sources.tolist()])

    def step(self, tokens: Tensor, lineage: Tensor | None, cache: NoKeys) -> Tensor:
        rows: list[tuple[int, list[int]]] = []
        # All that do not rest are equally far, and what the others are asked means nothing.
        end = int(cache.step.max()) + 1
        for b, source in enumerate(cache.sources.tolist()):
            if cache.step[b] >= 0:
                cache.tokens[b, end - 1] = tokens[b]
            written = cache.tokens[b, :end]
            if lineage is not None:
                slots = lineage[b, :end].clone()
                slots[end - 1] = torch.arange(tokens.shape[1])
                written = written.gather(1, slots)
            rows += [(source, row) for row in written.mT.tolist()]
        return self._logits(rows).view(*tokens.shape, -1)

    def _logits(self, rows: list[tuple[int, list[int]]]) -> Tensor:
        logits = self._network.rows(self._sources, rows).float()
        return torch.nn.functional.pad(logits, (0, len(self._sources)), value=-math.inf)

    def parameters(self) -> Iterator[Tensor]:
        return iter([torch.zeros(())])
