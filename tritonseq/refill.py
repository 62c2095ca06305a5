"""Many samples through few slots: who is done leaves, and the next one takes the place."""

from __future__ import annotations

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
        self._free = list(range(count))[::-1]
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
        """Put those who wait into the slots that are free; has anybody come?"""
        came = False
        while self._free and (arrival := next(self._waiting, None)) is not None:
            number, batch = arrival
            slot = self._free.pop()
            self._slots.admit(self._engine, slot, batch)
            self._busy[slot] = _Occupant(number, batch, self._engine.flags.sent)
            came = True
        return came

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
