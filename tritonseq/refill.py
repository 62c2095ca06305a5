"""Many samples through few slots: who is done leaves, and the next one takes the place."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .engine import Engine
    from .engines import Engines
    from .outputs import GenerateOutput
    from .slots import Batch, Slots


class _Occupant(NamedTuple):
    """Who is in a slot."""

    number: int
    """Its place among all samples."""
    batch: Batch
    since: int
    """How many copies of the flags had been sent when it came: older ones speak of another."""


def refill(
    slots: Slots, engines: Engines, batches: Iterable[Batch], count: int
) -> Iterator[tuple[int, GenerateOutput]]:
    """Take samples, one to a batch, through `count` slots; yield them as they are done.

    With each comes its number in the order of `batches`, which are asked for one more whenever a
    slot is free. What a sample's search finds does not depend on who is beside it.
    """
    with slots.lend(engines, watched=False) as engine:
        yield from _Refill(slots, engine, batches, count)


class _Refill:
    """The slots of an engine, and who is in them."""

    def __init__(self, slots: Slots, engine: Engine, batches: Iterable[Batch], count: int) -> None:
        self._slots = slots
        self._engine = engine
        self._waiting = enumerate(batches)
        self._free = list(range(count))
        self._busy: dict[int, _Occupant] = {}

    def __iter__(self) -> Iterator[tuple[int, GenerateOutput]]:
        engine = self._engine
        engine.empty()
        engine.flags.restart()
        while self._fill() or self._busy:
            engine.flags.send()
            yield from self._finished()
            engine.step()

    def _fill(self) -> bool:
        """Put those who wait into the slots that are free; has anybody come?

        Neighbouring slots are filled together: one prefill for several samples.
        """
        arrivals = list(itertools.islice(self._waiting, len(self._free)))
        self._free.sort()
        taken, self._free = self._free[: len(arrivals)], self._free[len(arrivals) :]
        since = self._engine.flags.sent
        for slot, (number, batch) in zip(taken, arrivals, strict=True):
            self._busy[slot] = _Occupant(number, batch, since)
        for first, count in _runs(taken):
            batches = [self._busy[slot].batch for slot in range(first, first + count)]
            self._slots.admit(self._engine, first, batches)
        return bool(arrivals)

    def _finished(self) -> Iterator[tuple[int, GenerateOutput]]:
        """Those whose search has ended, so far as the host has heard; their slots are free."""
        number, ended = self._engine.flags.read()
        done = [
            slot
            for slot, occupant in self._busy.items()
            if ended[slot] and number >= occupant.since
        ]
        for slot in done:
            occupant = self._busy.pop(slot)
            self._free.append(slot)
            yield occupant.number, self._engine.output(occupant.batch.prompts.ids, slot)


def _runs(slots: list[int]) -> Iterator[tuple[int, int]]:
    """Neighbours among ascending slots: the first of each run, and how many."""
    for _, run in itertools.groupby(enumerate(slots), lambda pair: pair[1] - pair[0]):
        own = [slot for _, slot in run]
        yield own[0], len(own)
