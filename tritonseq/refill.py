"""Many samples through few slots: who is done leaves, and the next one takes the place."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .engine import Engine
    from .engines import Engines
    from .outputs import GenerateOutput
    from .slots import Batch, Slots


PATIENCE = 1.0
"""How many steps of all slots may be lost to free ones before they are filled. To read one sample
costs nearly as much as to read several, and about as much as a step: who waits until as much is
lost to waiting never loses more than twice what was to be lost."""


class _Occupant(NamedTuple):
    """Who is in a slot."""

    number: int
    """Its place among all samples."""
    batch: Batch
    since: int
    """How many copies of the flags had been sent when it came: older ones speak of another."""


def refill(
    slots: Slots, engines: Engines, batches: Iterable[Batch], count: int, *, together: bool = False
) -> Iterator[tuple[list[int], GenerateOutput]]:
    """Take samples, one to a batch, through `count` slots; yield them as they are done.

    With each comes its number in the order of `batches`, which are asked for more whenever it
    pays to fill slots that are free. What a sample's search finds does not depend on who is beside
    it. With `together` those that have ended come as one output, before others take their places;
    where there is no encoder, without their prompts, which may differ in length.
    """
    with slots.lend(engines, watched=False) as engine:
        yield from _Refill(slots, engine, batches, count, together)


class _Refill:
    """The slots of an engine, and who is in them."""

    def __init__(
        self, slots: Slots, engine: Engine, batches: Iterable[Batch], count: int, together: bool
    ) -> None:
        self._slots = slots
        self._together = together
        self._engine = engine
        self._waiting = enumerate(batches)
        self._count = count
        self._free = list(range(count))
        self._idle = 0.0
        self._busy: dict[int, _Occupant] = {}
        self._ended: dict[int, _Occupant] = {}

    def __iter__(self) -> Iterator[tuple[list[int], GenerateOutput]]:
        engine = self._engine
        engine.empty()
        engine.flags.restart()
        while True:
            self._idle += len(self._free) / self._count
            if not self._busy or self._idle >= PATIENCE:
                # What has ended is read where it stands, before others take the place.
                yield from self._outputs()
                self._fill()
                if not self._busy:
                    return
            engine.flags.send()
            self._look()
            if not self._together:
                yield from self._outputs()
            if self._busy:
                engine.step()

    def _fill(self) -> None:
        """Put those who wait into the slots that are free."""
        self._idle = 0.0
        arrivals = list(itertools.islice(self._waiting, len(self._free)))
        if not arrivals:
            return
        self._free.sort()
        taken, self._free = self._free[: len(arrivals)], self._free[len(arrivals) :]
        since = self._engine.flags.sent
        for slot, (number, batch) in zip(taken, arrivals, strict=True):
            self._busy[slot] = _Occupant(number, batch, since)
        self._slots.admit_each(self._engine, {slot: self._busy[slot].batch for slot in taken})

    def _look(self) -> None:
        """Note whose search has ended, so far as the host has heard; their slots are free."""
        number, ended = self._engine.flags.read()
        done = [
            slot
            for slot, occupant in self._busy.items()
            if ended[slot] and number >= occupant.since
        ]
        self._ended.update((slot, self._busy.pop(slot)) for slot in done)
        self._free += done

    def _outputs(self) -> Iterator[tuple[list[int], GenerateOutput]]:
        """What those have found who have ended since the last time."""
        ended, self._ended = self._ended, {}
        prompts = [occupant.batch.prompts.ids for occupant in ended.values()]
        if not self._together:
            for (slot, occupant), prompt in zip(ended.items(), prompts, strict=True):
                yield [occupant.number], self._engine.output(prompt, [slot])
        elif ended:
            if not self._slots.has_encoder:
                prompts = [prompt[:, :0] for prompt in prompts]
            numbers = [occupant.number for occupant in ended.values()]
            yield numbers, self._engine.output(torch.cat(prompts), list(ended))
