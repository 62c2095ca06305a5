"""Scheduler: samples enter the slots of an engine, move on together, and leave as they end.

Continuous batching (Yu et al., "Orca", 2022). A batch is the case without arrivals: its samples
are admitted at once, and leave as one.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import torch

from tritonseq.decoding.search import NotFinite, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from tritonseq.decoding.outputs import GenerateOutput

    from .engine import Engine
    from .pool import EnginePool
    from .spec import Batch, EngineSpec

PATIENCE = 1.0
"""How many steps of all slots may be lost to free ones before they are filled. To read one sample
costs nearly as much as to read several, and about as much as a step: waiting until as much is lost
to it never loses more than twice what was to be lost."""


class Step(NamedTuple):
    """What is known after a step, or after samples were admitted."""

    tokens: Tensor | None
    """`[B, K]` the tokens that were chosen, where the steps are watched."""
    ended: list[tuple[list[int], GenerateOutput]]
    """What was found for batches that have ended: their numbers, and the output for all of them."""


def run(
    pool: EnginePool,
    spec: EngineSpec,
    batches: Iterable[Batch],
    *,
    before_step: Callable[[], object],
    together: bool = False,
) -> Iterator[Step]:
    """Take batches, of as many samples as there are slots or of one each, through an engine.

    They are numbered in their order, and asked for whenever it pays to fill slots that are free.
    What a sample's search finds does not depend on the others. With `together` those that have
    ended come as one output, before others take their places; where there is no encoder, without
    their prompts, which may differ in length.

    `before_step()` is called before every step but the first; what it raises ends the work.
    Raises DoesNotFit and NotFinite.
    """
    with pool.acquire(spec) as engine:
        slots = _Slots(spec, batches, together)
        try:
            while True:
                if slots.is_fill_due():
                    # What has ended is read where it stands, before others take the place.
                    if slots.ended:
                        yield Step(None, slots.outputs(engine))
                    arrivals = slots.fill(engine.flags.sent)
                    if arrivals:
                        engine.admit(arrivals)
                    if not slots.busy:
                        return
                engine.flags.send()
                slots.release(engine)
                tokens = engine.newest if spec.is_watched else None
                yield Step(tokens, [] if together else slots.outputs(engine))
                if slots.busy:
                    before_step()
                    engine.step()
        except NotFinite:
            raise explain(spec.decoder, spec.decoder.dtype) from None


class _Occupant(NamedTuple):
    """A batch in the slots that begin at one of them."""

    number: int
    """Its place among all batches."""
    batch: Batch
    since: int
    """How many copies of the flags had been sent when it came: older ones speak of others."""

    def has_ended(self, slot: int, engine: Engine, number: int, flags: list[bool]) -> bool:
        """Whether its search is over, by copy `number` of the flags or by its length."""
        if engine.flags.sent - self.since >= self.batch.lengths.new_tokens:
            return True
        return number >= self.since and all(flags[slot : slot + self.batch.samples])


class _Slots:
    """Which slots are free, and which batch is in the others."""

    def __init__(self, spec: EngineSpec, batches: Iterable[Batch], together: bool) -> None:
        self._waiting = enumerate(batches)
        self._count = spec.sizes.samples
        self._free = list(range(self._count))
        self._lost = 0.0
        self._together = together
        # Without padding nothing tells the end of a row that is filled up.
        self._is_joined = together and spec.config.fill_token_id is not None
        self._drops_prompts = together and not spec.has_decoder_prompts
        self.busy: dict[int, _Occupant] = {}
        self.ended: dict[int, _Occupant] = {}

    def is_fill_due(self) -> bool:
        """Whether steps enough are lost to free slots; to be asked once a step."""
        self._lost += len(self._free) / self._count
        return not self.busy or self._lost >= PATIENCE

    def fill(self, sent: int) -> dict[int, Batch]:
        """The next batches, by the first of the slots that they are to have."""
        self._lost = 0.0
        self._free.sort()
        arrivals: dict[int, Batch] = {}
        for number, batch in itertools.islice(self._waiting, len(self._free)):
            slot = self._free[0]
            assert batch.samples in (1, self._count), "one sample each, or all slots at once"
            del self._free[: batch.samples]
            self.busy[slot] = _Occupant(number, batch, sent)
            arrivals[slot] = batch
        return arrivals

    def release(self, engine: Engine) -> None:
        """Free the slots of batches that have ended, so far as the host has heard."""
        number, flags = engine.flags.read()
        for slot, occupant in list(self.busy.items()):
            if occupant.has_ended(slot, engine, number, flags):
                self.ended[slot] = self.busy.pop(slot)
                self._free += range(slot, slot + occupant.batch.samples)

    def outputs(self, engine: Engine) -> list[tuple[list[int], GenerateOutput]]:
        """What was found for batches that have ended since the last time."""
        ended, self.ended = self.ended, {}
        found = []
        for part in [list(ended)] if ended and self._is_joined else [[slot] for slot in ended]:
            prompts = [ended[slot].batch.prompts.shown for slot in part]
            if self._drops_prompts:
                prompts = [prompt[:, :0] for prompt in prompts]
            slots = [slot + n for slot in part for n in range(ended[slot].batch.samples)]
            output = engine.output(torch.cat(prompts), slots)
            found.append(([ended[slot].number for slot in part], output))
        return found
