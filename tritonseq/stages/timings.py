"""What the stages did when: how long each worked and waited, and, if it is traced, at what."""

from __future__ import annotations

import time
from typing import NamedTuple


class StageTimes(NamedTuple):
    """Seconds of a stage, summed over its seats."""

    name: str
    seats: int
    """How many worked at it side by side."""
    busy: float
    waited_for_input: float
    waited_for_output: float
    """For room in the queue behind it."""


# Pieces of work with less than so many seconds between them are one in a trace.
GAP = 0.001


class Span(NamedTuple):
    """A piece of work without a wait of more than a millisecond in it."""

    stage: str
    seat: int
    start: float
    """Seconds since the job began; so for the end."""
    end: float
    samples: int
    """How many came out of it."""


class SeatClock:
    """The times of one seat. It is read by others only when the seat is done or they do not mind
    figures that are a moment old."""

    def __init__(self, stage: str, seat: int, begin: float, *, traced: bool) -> None:
        self.stage = stage
        self.busy = self.waited_for_input = self.waited_for_output = 0.0
        self._seat = seat
        self._begin = begin
        self._spans: list[Span] | None = [] if traced else None
        self._since = time.perf_counter()

    @property
    def spans(self) -> list[Span]:
        """The pieces of work so far, if they are traced."""
        return list(self._spans or ())

    def start(self) -> None:
        """Work begins, or goes on."""
        self._since = time.perf_counter()

    def stop(self, samples: int = 0) -> None:
        """Work ends, or is about to wait; so many samples come out of it."""
        now = time.perf_counter()
        self.busy += now - self._since
        if self._spans is not None:
            span = Span(
                self.stage, self._seat, self._since - self._begin, now - self._begin, samples
            )
            last = self._spans[-1] if self._spans else None
            if last is not None and span.start - last.end < GAP:
                span = span._replace(start=last.start, samples=last.samples + samples)
                self._spans.pop()
            self._spans.append(span)


class Clock:
    """Hands a clock to every seat, and sums them up."""

    def __init__(self, *, traced: bool = False) -> None:
        self._begin = time.perf_counter()
        self._traced = traced
        self._seats: list[SeatClock] = []

    def seat(self, stage: str, number: int = 0) -> SeatClock:
        """A clock for a seat of a stage."""
        self._seats.append(SeatClock(stage, number, self._begin, traced=self._traced))
        return self._seats[-1]

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return time.perf_counter() - self._begin

    @property
    def spans(self) -> list[Span]:
        """What was done when, if it is traced, seat by seat."""
        return [span for seat in self._seats for span in seat.spans]

    def times(self) -> list[StageTimes]:
        """Of every stage, in the order in which they were made."""
        stages: dict[str, list[SeatClock]] = {}
        for seat in self._seats:
            stages.setdefault(seat.stage, []).append(seat)
        return [
            StageTimes(
                name,
                len(seats),
                sum(seat.busy for seat in seats),
                sum(seat.waited_for_input for seat in seats),
                sum(seat.waited_for_output for seat in seats),
            )
            for name, seats in stages.items()
        ]
