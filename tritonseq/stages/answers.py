"""Rows of ids to what the model makes of them: in batches, or through slots that are refilled."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tritonseq.found import found
from tritonseq.model import BATCH_SIZE, load

from .facts import Facts, settings_of
from .sizing import Limits, Sizing, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tritonseq.found import Found
    from tritonseq.model import Model
    from tritonseq.text_job import TextJob

    from .worker import Handler

    Way = Callable[[list["Row"], int, Callable[[], bool]], Iterator[list["Answer"]]]

# A group of rows that share slots: from the longest to those that would leave a quarter of the
# caches empty, but several times as many as there are slots, lest they stand empty at its end.
SHORTEST = 0.75
FILLINGS = 8

# The length of sources that the memory plan is told for, if there is room for it.
USUAL_LENGTH = 1024

# The generators belong to the whole process: two pipelines in it take turns.
_DRAWING = threading.Lock()

# After so many windows both ways are tried again.
RETRIAL = 32


class Row(NamedTuple):
    """A source on its way into the model."""

    number: int
    """Of its sample."""
    ids: list[int]


class Answer(NamedTuple):
    """What the model makes of a row, or why it makes nothing of it."""

    number: int
    sequences: list[list[int]]
    scores: list[float] | None
    tokens: int
    fault: str | None = None


@dataclass(frozen=True)
class Manner:
    """How rows are answered. None of it changes an answer, but where rows are drawn at random."""

    limits: Limits = field(default_factory=Limits)
    refill: bool | None = None
    """Fill the slots of samples that have ended; None does so where it is found to be faster."""
    by_length: bool = True
    """Put rows of like lengths together."""
    seed: int = 0
    """Of what is drawn at random."""


class Answers:
    """Answers windows of rows with one model; a window comes back in pieces, in any order."""

    def __init__(
        self, job: TextJob, manner: Manner, warn: Callable[[str], None] = warnings.warn
    ) -> None:
        """Raises ValueError for options that speak of single samples by their place."""
        _refuse_places(job)
        self._job = job
        self._manner = manner
        self.unit = unit_of(job, manner.limits)
        """So many consecutive samples are answered together in any case."""
        limits = manner.limits if self.unit == 1 else Limits(self.unit)
        self.sizing = Sizing(job.request, limits, warn)
        self._ways = Ways(manner.refill if job.request.fits_slots else False)

    def facts(self, model: Model) -> Facts:
        """What others have to know of the model that answers."""
        job, config = self._job, self._job.request.config
        folder, tokenizer_config = model.tokenizer_source
        return Facts(
            folder=folder,
            tokenizer_config=tokenizer_config,
            encoding=job.encoding,
            has_encoder=model.is_encoder_decoder,
            copies=config.num_return_sequences,
            has_scores=config.num_beams > 1,
            unit=self.unit,
            batch=self.sizing.count(1),
            settings=settings_of(config, dtype=str(model.dtype), device=model.device.type),
            plan=self._plan(),
            asks_for_language=job.asks_for_language,
        )

    def _plan(self) -> str:
        """The plan of the memory for the longest sources."""
        room = self._job.encoding.max_length or self._job.encoding.room
        return self.sizing.describe(min(room or USUAL_LENGTH, USUAL_LENGTH))

    def run(self, rows: Sequence[Row], admits: Callable[[], bool]) -> Iterator[list[Answer]]:
        """Answer the rows; those that have not begun when `admits()` says no are left out."""
        if self.unit > 1:
            yield from self._in_order(rows, admits)
            return
        if self._manner.by_length:
            # The longest first: if something does not fit into memory, it is found out early.
            rows = sorted(rows, key=lambda row: -len(row.ids))
        for refills, part in self._ways.share_out(rows):
            yield from self._timed(refills, part, admits)

    def _timed(
        self, refills: bool, rows: Sequence[Row], admits: Callable[[], bool]
    ) -> Iterator[list[Answer]]:
        """All rows in one way, whose cost is noted if they are enough to judge by."""
        way = self._refilled if refills else self._batched
        seconds, work = 0.0, sum(len(row.ids) for row in rows)
        start = time.perf_counter()
        for answers in self._all(rows, way, admits):
            seconds += time.perf_counter() - start
            work += sum(answer.tokens for answer in answers)
            yield answers
            start = time.perf_counter()
        if len(rows) >= FILLINGS * self.sizing.count(len(rows[0].ids)):
            self._ways.learn(refills, seconds / work)

    def _in_order(self, rows: Sequence[Row], admits: Callable[[], bool]) -> Iterator[list[Answer]]:
        """Batches of `unit` samples, each drawn with a seed of its own."""
        units = itertools.groupby(rows, lambda row: row.number // self.unit)
        for number, batch in units:
            with _seeded(self._manner.seed + number, self._job.request.decoder):
                answers = list(self._all(list(batch), self._batched, admits))
            yield from answers

    def _all(
        self, rows: Sequence[Row], way: Way, admits: Callable[[], bool]
    ) -> Iterator[list[Answer]]:
        """All rows, as many at once as there is memory for."""
        waiting = {row.number: row for row in rows}
        while waiting and admits():
            rest = list(waiting.values())
            longest = max(len(row.ids) for row in rest)
            count = min(len(rest), self.sizing.count(longest))
            try:
                for answers in way(rest, count, admits):
                    for answer in answers:
                        del waiting[answer.number]
                    yield answers
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if count > 1:
                    self.sizing.shrink(count, longest, error)
                    continue
                # Rows are begun in their order.
                number = next(iter(waiting))
                yield [Answer(number, [], None, 0, _too_large(waiting.pop(number), error))]

    def _batched(
        self, rows: list[Row], count: int, admits: Callable[[], bool]
    ) -> Iterator[list[Answer]]:
        """The first of the rows, in one batch until its last one has ended."""
        batch = rows[:count]
        found = self._job.found([row.ids for row in batch])
        yield [_answer(row, each) for row, each in zip(batch, found, strict=True)]

    def _refilled(
        self, rows: list[Row], count: int, admits: Callable[[], bool]
    ) -> Iterator[list[Answer]]:
        """The first of the rows, through slots: who has ended makes room for the next."""
        group = rows[: _alike(rows, FILLINGS * count)]
        request = self._job.request
        together = request.together([row.ids for row in group], count, admits)
        for places, output in together:
            each = found(
                output, request.config, samples=len(places), start=0, given=self._job.given
            )
            yield [_answer(group[at], one) for at, one in zip(places, each, strict=True)]


class Ways:
    """Which way is faster here: to fill the slots of those who have ended, or whole batches?

    Refilling wastes no step on rows that have ended, but reads sources more often, a few at a
    time. What that costs depends on the machine, the model and how much lengths differ, so both
    ways are tried on halves of the first window, and again now and then.
    """

    def __init__(self, refill: bool | None) -> None:
        self._refill = refill
        self._cost: dict[bool, float] = {}
        self._windows = 0

    def share_out(self, rows: Sequence[Row]) -> list[tuple[bool, Sequence[Row]]]:
        """Which rows of a window are refilled, and which are not; all of them one way, or by
        halves of the same lengths to compare the two."""
        if self._refill is not None:
            return [(self._refill, rows)]
        self._windows += 1
        if len(self._cost) < 2 or self._windows % RETRIAL == 0:
            return [(False, rows[::2]), (True, rows[1::2])]
        return [(self._cost[True] < self._cost[False], rows)]

    def learn(self, refilled: bool, cost: float) -> None:
        """So many seconds a token were taken."""
        before = self._cost.get(refilled, cost)
        self._cost[refilled] = (before + cost) / 2


class Setup(NamedTuple):
    """What `serve` makes `Answers` of."""

    load: Mapping[str, Any]
    """Arguments of `tritonseq.load`."""
    options: Mapping[str, Any]
    """Arguments of `Model.text_job`."""
    manner: Manner
    threads: int | None
    """Of torch, where several processes share the CPU."""


def serve(setup: Setup) -> Handler:
    """For `Remote`: requests are lists of rows, replies lists of answers; None asks for facts."""
    if setup.threads is not None:
        torch.set_num_threads(setup.threads)
    model = load(**setup.load)
    answers = Answers(model.text_job(**setup.options), setup.manner)

    def handle(rows: list[Row] | None, stopped: Callable[[], bool]) -> Iterator[Any]:
        if rows is None:
            return iter([answers.facts(model)])
        return answers.run(rows, lambda: not stopped())

    return handle


def unit_of(job: TextJob, limits: Limits) -> int:
    """So many consecutive samples, from the first, must be answered together.

    1 unless somebody would notice: what is drawn at random depends on all rows of a batch, and
    functions of the caller's see all of it.
    """
    minds = job.request.counts_rows or job.request.config.max_time is not None
    return (limits.samples or BATCH_SIZE) if minds else 1


def _refuse_places(job: TextJob) -> None:
    request = job.request
    allowed = request.callables.prefix_allowed_tokens_fn
    by_place = {
        "decoder_input_ids": request.decoder_input_ids is not None,
        "streamer": request.streamer is not None,
        "prefix_allowed_tokens_fn": allowed is not None and request.callables.trie is None,
        "decoder_start_token_id": len(request.config.decoder_start_token_ids) > 1,
    }
    for name, given in by_place.items():
        if given:
            raise ValueError(
                f"{name} speaks of samples by their place in a batch, and a pipeline forms batches "
                "as it likes: use generate, or a Trie for what is allowed"
            )


def _alike(rows: Sequence[Row], least: int) -> int:
    """How many of the rows, the longest first, share slots well."""
    bound = SHORTEST * max(len(row.ids) for row in rows[:least])
    count = least
    while count < len(rows) and len(rows[count].ids) >= bound:
        count += 1
    return count if len(rows) - count >= least else len(rows)


def _answer(row: Row, found: Found) -> Answer:
    return Answer(row.number, found.sequences, found.scores, sum(found.tokens))


def _too_large(row: Row, error: Exception) -> str:
    return f"its {len(row.ids)} tokens do not fit into memory, even alone: {error}"


@contextlib.contextmanager
def _seeded(seed: int, decoder: torch.nn.Module) -> Iterator[None]:
    """Draw from this seed meanwhile, and leave torch's generators as they were."""
    device = next(decoder.parameters()).device
    with _DRAWING, torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed % 2**63)
        yield
