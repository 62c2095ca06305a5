"""The fewest bytes and operations of a decode step, and the rates that they allow.

Weights, keys, values and logits are in half precision. The encoder and the projections of its
states are not read at a step. `t` positions have been generated on average, half of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .cases import SuiteCase

HALF = 2
"""Bytes of an element."""
SMALL_PRODUCTS = 600 / 788
"""What is left of the rate of a large matrix product at a few hundred rows."""
EXTRA_SLOTS = {1: 0.0, 4: 25.0, 5: 37.0}
"""By beams: slots per sample that live beams descend from, beyond one per position. Simulated
lineages merge after some steps; this is between neutral ones (9 of 4 beams) and very sticky ones
(45)."""
PASSES = 12
"""transformers' passes over float32 logits at a step of beam search: log-softmax, processors,
top-k."""


class Ceilings(NamedTuple):
    """What a device was seen to do."""

    read: float
    """Bytes per second."""
    matmul: float
    """Operations per second of a large product in half precision."""


H200 = Ceilings(4.3e12, 788e12)


@dataclass(frozen=True)
class Demand:
    """What one step of a workload cannot do without; bytes, but for operations."""

    weights: float
    operations: float
    generated_live: float
    """Keys and values of generated positions that some beam descends from."""
    generated_all: float
    """Those of all slots, and what per-beam caches hold."""
    shared: float
    """Keys and values of prompt or source, once per sample."""
    per_beam: float
    """The same once per beam."""
    logits: float
    append: float
    prefill: float
    """Operations of reading the sources or prompts of a batch."""
    one_cache: bool
    """Whether prompt and generated part are one cache, which transformers copies to lengthen it."""

    def bytes(self, *, live: bool) -> float:
        generated = self.generated_live if live else self.generated_all
        return self.weights + generated + self.shared + self.logits + self.append

    def seconds(self, ceilings: Ceilings, *, live: bool, share: float = 1.0) -> float:
        """Of a step: products read weights or compute, whichever takes longer; the rest reads.

        `share`: the part of the rate of large products that its products reach.
        """
        products = max(self.weights / ceilings.read, self.operations / (share * ceilings.matmul))
        return products + (self.bytes(live=live) - self.weights) / ceilings.read

    def transformers_bytes(self) -> float:
        """Of a step of transformers' beam search: caches per beam are read and reordered, which
        reads and writes all of them, and those that grow are copied once more.
        """
        caches = self.generated_all + self.per_beam
        growing = caches if self.one_cache else self.generated_all
        # A pass over float32 moves what writing and reading half precision does.
        return self.weights + 3 * caches + 2 * growing + PASSES * self.logits


def demand(case: SuiteCase) -> Demand:
    """What a step of the workload needs."""
    workload, (layers, width, vocabulary) = case.workload, case.shape
    samples, beams = workload.batch, workload.beams
    rows = samples * beams
    layer = (14 if workload.is_encoder_decoder else 12) * width**2
    head = vocabulary * width
    asking = 1
    if workload.model == "unilm":
        # The newest token and [MASK] go through the layers, [MASK] alone through the head.
        asking, head = 2, head + width**2
    position = 2 * layers * width * HALF
    past = workload.new_tokens / 2
    read = samples * workload.source
    return Demand(
        weights=HALF * (layers * layer + head),
        operations=2.0 * rows * (asking * layers * layer + head),
        generated_live=samples * min(past + EXTRA_SLOTS[beams], past * beams) * position,
        generated_all=rows * past * position,
        shared=read * position,
        per_beam=read * beams * position,
        logits=0.0 if rows == 1 else 2.0 * HALF * rows * vocabulary,
        append=rows * position,
        prefill=prefill_operations(case),
        one_cache=not workload.is_encoder_decoder,
    )


def prefill_operations(case: SuiteCase) -> float:
    """Products and attention of reading all sources, and projecting them for the decoder."""
    workload, (layers, width, _) = case.workload, case.shape
    tokens = workload.batch * workload.source
    parameters = (14 if workload.is_encoder_decoder else 12) * layers * width**2
    pairs = tokens * workload.source * (1 if workload.has_source else 0.5)
    return 2.0 * tokens * parameters + 4.0 * pairs * width * layers


def rate(case: SuiteCase, ceilings: Ceilings, *, live: bool) -> float:
    """The most per second that bytes and operations allow, in the unit of the case."""
    need = demand(case)
    step = need.seconds(ceilings, live=live, share=SMALL_PRODUCTS)
    prefill = need.prefill / (SMALL_PRODUCTS * ceilings.matmul)
    if case.unit == "tokens/s":
        # Latency is told of the steps alone.
        return 1.0 / step
    return case.count / (case.workload.new_tokens * step + prefill)


def transformers_cap(case: SuiteCase, ceilings: Ceilings) -> float:
    """The most per second that transformers' own traffic allows."""
    seconds = case.workload.new_tokens * demand(case).transformers_bytes() / ceilings.read
    return case.count / seconds
