"""Batching: rows of ids through the model, in batches by length or in slots that are refilled."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch

from tritonseq import callers
from tritonseq.decoding.completion import Completion
from tritonseq.decoding.search import NotFinite
from tritonseq.model import BATCH_SIZE
from tritonseq.options.config import GenerationConfig
from tritonseq.text_task import by_length

from .batch_size import Sizing, is_out_of_memory, paying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tritonseq.engine.request import Request
    from tritonseq.text_task import TextJob

    from .run_options import RunOptions

    Key = tuple[int, int]
    """The number of a sample, and that of a sentence in it."""
    Keyed = tuple[Key, Completion]
    """The key of a row, and what became of it."""
    Generate = Callable[[Sequence["BatchRow"], Callable[[], bool]], Iterator[list[Keyed]]]
    """`Batcher.run`, in this process or another."""
    Way = Callable[[list["BatchRow"], int], Iterator[list[Keyed]]]


T = TypeVar("T")

# After so many windows both ways are tried again.
RETRIAL = 32
# A group of rows that share slots: from the longest to those that would leave a quarter of the
# caches empty, but several times as many as there are slots, lest they stand empty at its end.
SHORTEST = 0.75
FILLINGS = 8
# The length of sources that the memory plan is told for, if there is room for it.
USUAL_LENGTH = 1024
# Generators of GPUs belong to the whole process: two pipelines in it take turns.
_DRAWING = threading.Lock()
# The ways to generate a window are compared on so many batches each.
TRIAL = 4
# Batches that samples are put in order of length for, where batches must always be the same.
SCORED = 4


class BatchingPolicy:
    """Whether to fill the slots of samples that have ended, or to run whole batches: what is
    faster here.

    Refilling wastes no step on rows that have ended, but reads sources more often, a few at a
    time. What that costs depends on the machine, the model and how much lengths differ, so both
    ways are tried on parts of the first window, and again now and then.
    """

    def __init__(self, refill: bool | None) -> None:
        """`refill`: None to find out; else that is the way."""
        self._refill = refill
        self._cost: dict[bool, float] = {}
        self._windows = 0

    def share_out(self, rows: Sequence[T], enough: int) -> Iterator[tuple[bool, Sequence[T]]]:
        """Which rows of a window are refilled, and which are not.

        Where it is time to compare, each way first gets `enough` rows of all lengths to judge by,
        and the faster one the rest: `learn` is to be called before the next part is asked for.
        """
        if self._refill is not None:
            yield self._refill, rows
            return
        self._windows += 1
        if len(rows) >= 2 * enough and (len(self._cost) < 2 or self._windows % RETRIAL == 0):
            step = len(rows) // enough
            yield False, rows[::step]
            yield True, rows[1::step]
            rows = [row for place, row in enumerate(rows) if place % step > 1]
        if rows:
            yield len(self._cost) == 2 and self._cost[True] < self._cost[False], rows

    def learn(self, refilled: bool, cost: float) -> None:
        """So many seconds a token were taken."""
        before = self._cost.get(refilled, cost)
        self._cost[refilled] = (before + cost) / 2


class BatchRow(NamedTuple):
    """A source on its way into the model."""

    number: int
    """Of its sample."""
    ids: list[int]
    is_done: bool = False
    """Whether its completion is known, and it is here for the others of its batch."""
    tgt_lang: str | None = None
    """What it is to be written in, where it says so itself."""
    part: int = 0
    """Which of the sentences of its sample."""

    @property
    def key(self) -> Key:
        """What its completion is known by."""
        return self.number, self.part


class Batcher:
    """Generates windows of rows with one model; a window comes back in pieces, in any order."""

    def __init__(
        self, job: TextJob, options: RunOptions, warn: Callable[[str], None] = callers.warn
    ) -> None:
        """Raises ValueError for options that speak of single samples by their place."""
        _refuse_places(job.request)
        # An abort is noticed between two steps.
        request = replace(job.request, before_step=lambda: self._admits())
        if options.keeps_search:
            # The search is part of a result, and then goes on after its hypotheses have ended.
            request = replace(request, config=request.config.merged(return_dict_in_generate=True))
        if options.output_token_scores:
            # Of what is said here nothing is idle, and so nobody is to be warned.
            asked = GenerationConfig(output_token_scores=True)
            request = replace(request, config=asked.over(request.config))
        self._admits: Callable[[], bool] = _always
        self.job = replace(job, request=request)
        self._options = options
        self.unit = _unit(request, options)
        """So many consecutive samples are generated together in any case."""
        self.is_drawn = _is_drawn(request)
        """Whether a unit is generated as a whole or not at all, as what is drawn at random is."""
        self._batch = _batch(request, options)
        self._has_units = self.unit > 1 or self.is_drawn
        # What memory there is must not decide about a batch that is always the same.
        fixed = replace(options, batch_size=self._batch) if self._has_units else options
        self.sizing = Sizing(request, fixed, warn)
        self._policy = BatchingPolicy(options.refill if request.can_refill else False)
        # Where batches are kept no clock decides, but the option alone.
        self._refills_units = (
            options.refill is True and request.can_refill and not options.keeps_search
        )

    @property
    def batches(self) -> dict[str, Any]:
        """What decides which samples are generated together, where that matters, as JSON values."""
        if not self._has_units:
            return {}
        last = {"seed": self._options.seed} if self.is_drawn else {"refill": self._refills_units}
        return {"batch_size": self._batch, "batch_tokens": self._options.batch_tokens, **last}

    @property
    def plan(self) -> str:
        """The memory that the longest sources take, in words."""
        encoding = self.job.encoder.encoding
        room = encoding.max_length or encoding.room
        return self.sizing.describe(min(room or USUAL_LENGTH, USUAL_LENGTH))

    def run(self, rows: Sequence[BatchRow], admits: Callable[[], bool]) -> Iterator[list[Keyed]]:
        """Complete the rows that are not done; those that have not begun when `admits()` says
        no are left out.

        It is asked before every step as well: what it raises ends the work at once.
        """
        self._admits = admits
        if self._has_units:
            for number, unit in itertools.groupby(rows, lambda row: row.number // self.unit):
                yield from self._rest_of_unit(number, list(unit))
            return
        rows = self._in_order([row for row in rows if not row.is_done])
        enough = TRIAL * self.sizing.count(max((len(row.ids) for row in rows), default=1))
        for refills, part in self._policy.share_out(rows, enough):
            yield from self._one_way(refills, part, enough)

    def _rest_of_unit(self, number: int, rows: Sequence[BatchRow]) -> Iterator[list[Keyed]]:
        """What is new among the completions of a unit."""
        new = {row.key for row in rows if not row.is_done}
        for found in self._one_unit(number, rows) if new else ():
            yield [(key, completion) for key, completion in found if key in new]

    def _one_unit(self, number: int, rows: Sequence[BatchRow]) -> Iterator[list[Keyed]]:
        """Batches that are the same whatever else there is; what is drawn has a seed per unit."""
        if not self.is_drawn:
            rows = self._in_order(rows)
            yield from self._all(rows, self._refilled if self._refills_units else self._batched)
            return
        # torch's generator on the CPU heeds 32 bits of a seed.
        with self._seeded(zlib.crc32(f"{self._options.seed} {number}".encode())):
            found = list(self._all(rows, self._batched))
        yield from found

    @contextlib.contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """Draw from this seed meanwhile, and disturb no other draws."""
        job = self.job
        device = job.request.decoder.device
        if device.type == "cuda":
            # A graph draws from the generator that the device has.
            with _DRAWING, torch.random.fork_rng([device]):
                torch.manual_seed(seed)
                yield
            return
        hooks = replace(job.request.hooks, generator=torch.Generator().manual_seed(seed))
        self.job = replace(job, request=replace(job.request, hooks=hooks))
        try:
            yield
        finally:
            self.job = job

    def _in_order(self, rows: Sequence[BatchRow]) -> Sequence[BatchRow]:
        """The longest first: if something does not fit into memory, it is found out early."""
        return by_length(rows, lambda row: len(row.ids)) if self._options.by_length else rows

    def _one_way(
        self, refills: bool, rows: Sequence[BatchRow], enough: int
    ) -> Iterator[list[Keyed]]:
        """All rows in one way, whose cost is noted if they are `enough` to judge by."""
        seconds, work = 0.0, sum(len(row.ids) for row in rows)
        start = time.perf_counter()
        for found in self._all(rows, self._refilled if refills else self._batched):
            seconds += time.perf_counter() - start
            work += sum(completion.tokens for _, completion in found)
            yield found
            start = time.perf_counter()
        if len(rows) >= enough:
            self._policy.learn(refills, seconds / work)

    def _all(self, rows: Sequence[BatchRow], way: Way) -> Iterator[list[Keyed]]:
        """All rows, as many at once as there is memory for."""
        waiting = {row.key: row for row in rows}
        while waiting and self._admits():
            rest = list(waiting.values())
            longest = max(len(row.ids) for row in rest)
            count = min(len(rest), self.sizing.count(longest))
            failure: Exception | None = None
            try:
                # One alone makes room for no other.
                for found in (way if count > 1 else self._batched)(rest, count):
                    for key, _ in found:
                        del waiting[key]
                    yield found
            except NotFinite:
                # One row is the cause; were it the weights, each would be.
                if self.job.request.decoder.broken_weights():
                    raise
                yield from self._one_by_one([waiting.pop(row.key) for row in rest[:count]])
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                # What the traceback holds is what has to go.
                failure = error.with_traceback(None)
            if failure is not None and count > 1:
                self.sizing.shrink(count, longest, failure)
            elif failure is not None:
                # Rows are begun in their order.
                key = next(iter(waiting))
                fault = _too_large(waiting.pop(key), failure)
                yield [(key, Completion(fault=fault))]

    def _one_by_one(self, rows: Sequence[BatchRow]) -> Iterator[list[Keyed]]:
        """Each row alone, where one has scores that are no numbers; that one gets a fault."""
        for row in rows:
            try:
                yield list(itertools.chain(*self._batched([row], 1)))
            except NotFinite as error:
                yield [(row.key, Completion(fault=str(error)))]

    def _batched(self, rows: list[BatchRow], count: int) -> Iterator[list[Keyed]]:
        """The first of the rows, in one batch until its last one has ended."""
        batch = rows[:count]
        # What is drawn depends on what was drawn before it, too.
        if all(row.is_done for row in batch) and not self.is_drawn:
            yield [(row.key, Completion()) for row in batch]
            return
        request = self.job.request
        longest = max(len(row.ids) for row in batch)
        if (request.is_width_dependent or request.is_cut_short_by(longest)) and request.can_refill:
            # In slots each has the lengths that it has alone.
            yield from self._through_slots(batch, count)
            return
        found = self._job_of(batch).complete([row.ids for row in batch])
        yield [(row.key, each) for row, each in zip(batch, found, strict=True)]

    def _job_of(self, rows: Sequence[BatchRow]) -> TextJob:
        """The job that has each of the rows written in its language."""
        return self.job.to([row.tgt_lang for row in rows])

    def _refilled(self, rows: list[BatchRow], count: int) -> Iterator[list[Keyed]]:
        """The first of the rows, through slots: one that has ended makes room for the next."""
        yield from self._through_slots(rows[: _alike(rows, FILLINGS * count)], count)

    def _through_slots(self, rows: list[BatchRow], count: int) -> Iterator[list[Keyed]]:
        for done in self._job_of(rows).refill([row.ids for row in rows], count, self._admits):
            yield [(rows[place].key, completion) for place, completion in done]


def _unit(request: Request, options: RunOptions) -> int:
    """So many consecutive samples, from the first, must be generated together; 1 for any number.

    What is drawn at random depends on all rows of a batch, functions of the caller's see all of
    it, and the last digits of scores depend on its shape, as all does in half precision and int8.
    """
    if _is_drawn(request):
        return _batch(request, options)
    # What float32 leaves in the last bits, quantizing a row may round to another int8.
    dtype = getattr(request.decoder, "weights_dtype", request.decoder.dtype)
    is_half = dtype in (torch.float16, torch.bfloat16, torch.int8)
    if options.exact_scores or (options.exact_half and is_half):
        return SCORED * _batch(request, options)
    return 1


def _batch(request: Request, options: RunOptions) -> int:
    """The samples in a batch that must always be the same."""
    if options.batch_size is not None:
        return options.batch_size
    return BATCH_SIZE if _is_drawn(request) else paying(request)


def _is_drawn(request: Request) -> bool:
    """Whether a result depends on the batch that it is found in."""
    return request.is_order_dependent or request.config.max_time is not None


def _always() -> bool:
    return True


def _refuse_places(request: Request) -> None:
    names = request.per_sample_arguments + (("streamer",) if request.streamer is not None else ())
    if names:
        raise ValueError(
            f"{names[0]} speaks of samples by their place in a batch, and a pipeline forms batches "
            "as it likes: use generate, or one Trie for what is allowed"
        )


def _alike(rows: Sequence[BatchRow], least: int) -> int:
    """How many of the rows, the longest first, share slots well."""
    bound = SHORTEST * max(len(row.ids) for row in rows[:least])
    count = least
    while count < len(rows) and len(rows[count].ids) >= bound:
        count += 1
    return count if len(rows) - count >= least else len(rows)


def _too_large(row: BatchRow, error: Exception) -> str:
    return f"its {len(row.ids)} tokens do not fit into memory, even alone: {error}"
