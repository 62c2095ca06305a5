"""The parts of the pipeline, one by one: queues, windows, sizes, the choice of a way, clocks."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

import tritonseq
from tritonseq.demo.run import EMBEDDED
from tritonseq.engine.pool import DoesNotFit
from tritonseq.jobs.job import write_timeline
from tritonseq.stages import batch_size
from tritonseq.stages.batch_size import Sizing, is_out_of_memory
from tritonseq.stages.batching import RETRIAL, Batcher, BatchingPolicy, BatchRow, _alike
from tritonseq.stages.graph import Windows
from tritonseq.stages.run_options import RunOptions
from tritonseq.stages.runtime import (
    Aborted,
    BoundedQueue,
    Clock,
    Ended,
    InFlightLimit,
    StageRuntime,
)
from tritonseq.stages.sample import InOrder, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tritonseq.decoding.completion import Completion

LONG = 60.0
"""Seconds after which a thread that does not end is taken for one that never will."""


def in_thread(act: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Start `act` in a thread; what it returned or raised will be in the list."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(act())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def outcome_of(thread: threading.Thread, outcome: list[Any]) -> Any:
    thread.join(LONG)
    assert not thread.is_alive()
    return outcome[0]


class TestBoundedQueue:
    def test_what_goes_in_comes_out_in_order(self) -> None:
        queue: BoundedQueue[int] = BoundedQueue(10)
        queue.put_all(range(5))
        assert queue.take(3) == [0, 1, 2]
        assert queue.take(3) == [3, 4]
        queue.put(9)
        queue.close()
        assert queue.take(3) == [9]
        with pytest.raises(Ended):
            queue.take(1)

    def test_a_full_one_makes_its_feeder_wait(self) -> None:
        queue: BoundedQueue[int] = BoundedQueue(2)
        thread, outcome = in_thread(lambda: queue.put_all(range(5)))
        taken: list[int] = []
        while len(taken) < 5:
            some = queue.take(1)
            assert len(some) == 1
            taken += some
        assert taken == list(range(5))
        outcome_of(thread, outcome)

    def test_it_holds_no_more_than_its_capacity(self) -> None:
        queue: BoundedQueue[int] = BoundedQueue(2)
        queue.put_all([1, 2])
        thread, outcome = in_thread(lambda: queue.put(3))
        thread.join(0.1)
        assert thread.is_alive() and not outcome
        assert queue.take(9) == [1, 2]
        outcome_of(thread, outcome)
        assert queue.take(9) == [3]

    def test_it_ends_with_the_last_of_its_feeders(self) -> None:
        queue: BoundedQueue[int] = BoundedQueue(2, producers=2)
        queue.close()
        assert queue.take(1, timeout=0.01) == []
        queue.close()
        with pytest.raises(Ended):
            queue.take(1)

    @pytest.mark.parametrize("act", ["put", "take"])
    def test_an_abort_wakes_who_waits(self, act: str) -> None:
        queue: BoundedQueue[int] = BoundedQueue(1)
        if act == "put":
            queue.put(1)
        thread, outcome = in_thread(
            lambda: queue.put(2) if act == "put" else queue.take(1)  # type: ignore[func-returns-value]
        )
        queue.abort()
        assert isinstance(outcome_of(thread, outcome), Aborted)
        for call in (lambda: queue.put(3), lambda: queue.take(1)):
            with pytest.raises(Aborted):
                call()

    def test_a_cut_stops_its_feeder_and_ends_for_its_taker(self) -> None:
        queue: BoundedQueue[int] = BoundedQueue(1)
        queue.put(1)
        thread, outcome = in_thread(lambda: queue.put(2))
        queue.cut()
        assert isinstance(outcome_of(thread, outcome), Aborted)
        with pytest.raises(Ended):
            queue.take(1)
        queue.close()

    def test_it_knows_whether_somebody_waits(self) -> None:
        queue: BoundedQueue[int] = BoundedQueue(3)
        assert not queue.is_awaited
        thread, outcome = in_thread(lambda: queue.take(1))
        deadline = time.monotonic() + LONG
        while not queue.is_awaited:
            assert time.monotonic() < deadline
        queue.put(1)
        assert outcome_of(thread, outcome) == [1]
        assert not queue.is_awaited

    def test_many_feeders_and_takers_lose_nothing(self) -> None:
        queue: BoundedQueue[int] = BoundedQueue(3, producers=4)

        def feed(first: int) -> None:
            queue.put_all(range(first, first + 100))
            queue.close()

        def take() -> list[int]:
            taken: list[int] = []
            while True:
                try:
                    taken += queue.take(7)
                except Ended:
                    return taken

        takers = [in_thread(take) for _ in range(3)]
        for first in range(0, 400, 100):
            in_thread(lambda first=first: feed(first))  # type: ignore[misc]
        found = [number for taker in takers for number in outcome_of(*taker)]
        assert sorted(found) == list(range(400))


def test_the_order_of_the_input_is_found_again() -> None:
    rng = random.Random(3)
    numbers = list(range(7, 60))
    rng.shuffle(numbers)
    order, found = InOrder(7), []
    for number in numbers:
        found += [sample.number for sample in order.add([Sample(number, 0, "")])]
        assert {sample.number for sample in order.held} == {
            n for n in numbers[: numbers.index(number) + 1] if n not in found
        }
    assert found == list(range(7, 60))


def test_no_more_are_in_flight_than_may_be() -> None:
    limit = InFlightLimit(3)
    for _ in range(3):
        limit.acquire()
    thread, outcome = in_thread(limit.acquire)
    thread.join(0.1)
    assert thread.is_alive()
    limit.release(0)
    limit.release(1)
    assert outcome_of(thread, outcome) is None
    thread, outcome = in_thread(limit.acquire)
    limit.abort()
    assert isinstance(outcome_of(thread, outcome), Aborted)
    with pytest.raises(Aborted):
        limit.acquire()


def giving(script: list[list[int] | None]) -> Callable[..., list[Sample]]:
    """Gives what a list says: samples by number; None for a time without any."""
    left = iter(script)

    def take(limit: int, timeout: float | None = None) -> list[Sample]:
        numbers = next(left, "end")
        if numbers is None and timeout is None:  # so long it waits
            numbers = next(left, "end")
        if numbers == "end":
            raise Ended
        return [Sample(number, 0, "") for number in numbers or ()]  # type: ignore[misc]

    return take


def windows_of(
    script: list[list[int] | None],
    size: int,
    *,
    unit: int = 1,
    awaited: bool = False,
    is_cut: bool = False,
) -> list[list[int]]:
    windows = Windows(size, unit, lambda: awaited, is_cut_short=lambda: is_cut)
    gathered: list[list[int]] = []
    with pytest.raises(Ended):
        for each in windows.gather(giving(script)):
            gathered += [[sample.number for sample in window] for window in each]
    return gathered


class TestWindows:
    def test_they_are_full_but_the_last(self) -> None:
        assert windows_of([[0, 1, 2], [3], [4, 5, 6]], 3) == [[0, 1, 2], [3, 4, 5], [6]]

    def test_late_samples_are_waited_for_only_if_the_model_works(self) -> None:
        script: list[list[int] | None] = [[0], None, [1], None, [2, 3]]
        assert windows_of(script, 3) == [[0, 1, 2], [3]]
        assert windows_of(script, 3, awaited=True) == [[0], [1], [2, 3]]

    def test_units_stay_whole_whatever_the_order(self) -> None:
        script: list[list[int] | None] = [[1, 0, 3], None, [2], None, [7, 5, 4], [6, 8]]
        assert windows_of(script, 4, unit=2) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
        early = [[0, 1], [2, 3], [4, 5, 6, 7], [8]]
        assert windows_of(script, 4, unit=2, awaited=True) == early

    def test_an_input_that_fails_cuts_no_unit(self) -> None:
        """What it was to hold is answered beside the others when it is read again."""
        script: list[list[int] | None] = [[0, 1, 2, 3, 4]]
        assert windows_of(script, 9, unit=2, is_cut=True) == [[0, 1, 2, 3]]
        assert windows_of([[0]], 9, unit=2, is_cut=True) == []
        assert windows_of(script, 9, is_cut=True) == windows_of(script, 9) == [[0, 1, 2, 3, 4]]

    def test_a_unit_is_not_cut_for_a_model_that_waits(self) -> None:
        script: list[list[int] | None] = [[0, 1], None, [2, 3], None]
        assert windows_of(script, 6, unit=3, awaited=True) == [[0, 1, 2], [3]]


def runtime_of(first: Any, work: Any) -> tuple[StageRuntime, BoundedQueue[Any]]:
    runtime = StageRuntime(Clock())
    source, sink = runtime.queue(2), runtime.queue(2)
    runtime.first_stage("read", first, source, InFlightLimit(1000))
    runtime.stage("work", [work], source, sink)
    runtime.start()
    return runtime, sink


class TestStageRuntime:
    def test_a_stage_that_fails_ends_all(self) -> None:
        def work(take: Any) -> Iterator[list[Any]]:
            yield take(1)
            raise KeyError("spoon")

        endless = ([number] for number in iter(int, 1))
        runtime, sink = runtime_of(endless, work)
        with pytest.raises(Aborted):
            while True:
                sink.take(1)
        with pytest.raises(KeyError, match="spoon"):
            runtime.check()
        runtime.join()

    def test_what_was_read_before_the_reader_failed_is_not_lost(self) -> None:
        def read() -> Iterator[list[int]]:
            yield from ([number] for number in range(9))
            raise OSError("torn")

        def work(take: Any) -> Iterator[list[Any]]:
            while True:
                yield take(1)

        runtime, sink = runtime_of(read(), work)
        found: list[int] = []
        with pytest.raises(Ended):
            while True:
                found += sink.take(1)
        assert found == list(range(9))
        with pytest.raises(OSError, match="torn"):
            runtime.check()


def test_a_clock_tells_work_from_waiting(tmp_path: Path) -> None:
    clock = Clock(traced=True)
    first, second = clock.thread("cook"), clock.thread("cook", 1)
    for seat in (first, second):
        seat.start()
        seat.stop(3)
    first.waited_for_input += 2.0
    second.waited_for_input += 3.0
    second.waited_for_output += 0.5
    (cook,) = clock.times()
    assert (cook.name, cook.seats) == ("cook", 2)
    assert (cook.waited_for_input, cook.waited_for_output) == (5.0, 0.5)
    assert cook.busy == first.busy + second.busy > 0
    assert [(span.thread, span.samples) for span in clock.spans] == [(0, 3), (1, 3)]
    assert all(0 <= span.start <= span.end for span in clock.spans)
    write_timeline(clock.spans, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [event["tid"] for event in events] == ["cook 0", "cook 1"]
    assert not Clock().thread("cook").spans


@pytest.fixture(scope="module")
def model() -> tritonseq.Model:
    return tritonseq.load(EMBEDDED / "bart-numbers", device="cpu")


def warned() -> tuple[list[str], Callable[[str], None]]:
    warnings: list[str] = []
    return warnings, warnings.append


class TestSizing:
    def test_the_caller_and_the_tokens_limit_it(self, model: tritonseq.Model) -> None:
        request = model.text_job(num_beams=4).request
        assert Sizing(request, RunOptions(7), print).count(10) == 7
        assert Sizing(request, RunOptions(7, batch_tokens=30), print).count(10) == 3
        assert Sizing(request, RunOptions(7, batch_tokens=30), print).count(99) == 1
        greedy = model.text_job().request
        assert Sizing(greedy, RunOptions(), print).count(10) == batch_size.SAMPLES["cpu"]
        many = model.text_job(num_beams=16).request
        assert Sizing(many, RunOptions(), print).count(10) == batch_size.ROWS["cpu"] // 16

    def test_what_is_planned_fits(
        self, model: tritonseq.Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        request = model.text_job(num_beams=4).request
        free = request.plan(9, 60, refilled=True).total / batch_size.SHARE
        monkeypatch.setattr(batch_size, "free_memory", lambda device: int(free))
        count = Sizing(request, RunOptions(), print).count(60)
        assert 7 <= count <= 9
        assert request.plan(count, 60, refilled=True).total <= batch_size.SHARE * free
        monkeypatch.setattr(batch_size, "free_memory", lambda device: 1)
        assert Sizing(request, RunOptions(), print).count(60) == 1

    def test_half_as_many_and_one_warning(self, model: tritonseq.Model) -> None:
        warnings, warn = warned()
        sizes = Sizing(model.text_job().request, RunOptions(24), warn)
        sizes.shrink(24, 10, MemoryError("no more"))
        assert sizes.count(10) == 12
        sizes.shrink(12, 10, MemoryError("no more"))
        assert sizes.count(10) == 6
        assert (sizes.count(5), sizes.count(1), sizes.count(20), sizes.count(99)) == (12, 24, 3, 1)
        assert len(warnings) == 1 and "24 samples" in warnings[0] and "no more" in warnings[0]

    def test_the_plan_in_words(self, model: tritonseq.Model) -> None:
        told = Sizing(model.text_job().request, RunOptions(5), print).describe(40)
        for words in ("5 samples", "40 tokens", "weights", "source cache", "target cache"):
            assert words in told
        assert "workspace" in told

    @pytest.mark.parametrize(
        ("error", "is_so"),
        [
            (torch.OutOfMemoryError("CUDA out of memory"), True),
            (MemoryError(), True),
            (DoesNotFit("needs more"), True),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
            (RuntimeError("shapes do not fit"), False),
            (ValueError("can't allocate memory"), False),
        ],
    )
    def test_what_counts_as_out_of_memory(self, error: Exception, is_so: bool) -> None:
        assert is_out_of_memory(error) is is_so

    def test_the_allocator_of_this_torch_says_what_is_looked_for(self) -> None:
        with pytest.raises(RuntimeError) as caught:
            torch.empty(2**60, dtype=torch.uint8)
        assert is_out_of_memory(caught.value)


def rows_of(lengths: list[int]) -> list[BatchRow]:
    return [BatchRow(number, [5] * length) for number, length in enumerate(lengths)]


class TestBatchingPolicy:
    def test_both_are_tried_on_like_rows_and_the_faster_gets_the_rest(self) -> None:
        policy = BatchingPolicy(None)
        rows = rows_of([9, 8, 7, 6, 5, 4, 3, 2])
        costs = {False: 2.0, True: 1.0}
        shared = []
        for window in range(3 * RETRIAL):
            if window == 2 * RETRIAL - 1:
                costs = {False: 1.0, True: 9.0}
            parts = []
            for way, part in policy.share_out(rows, 2):
                parts.append((way, part))
                policy.learn(way, costs[way])
            shared.append(parts)
            assert sorted(row.number for _, part in parts for row in part) == list(range(8))
        trial = [(False, rows[::4]), (True, rows[1::4])]
        rest = [rows[2], rows[3], rows[6], rows[7]]
        assert shared[0] == [*trial, (True, rest)]
        assert [n for n, parts in enumerate(shared, 1) if len(parts) > 1] == [1, 32, 64, 96]
        assert shared[1] == shared[2 * RETRIAL - 2] == [(True, rows)]
        assert shared[2 * RETRIAL - 1] == [*trial, (False, rest)]
        assert shared[2 * RETRIAL] == [(False, rows)]

    def test_nothing_is_learnt_from_too_few(self) -> None:
        policy = BatchingPolicy(None)
        for count in (1, 2, 3):
            rows = rows_of([4] * count)
            assert list(policy.share_out(rows, 2)) == [(False, rows)]
        assert list(policy.share_out([], 2)) == []
        assert len(list(policy.share_out(rows_of([4] * 4), 2))) == 2

    @pytest.mark.parametrize("refill", [True, False])
    def test_the_caller_decides(self, refill: bool) -> None:
        policy = BatchingPolicy(refill)
        rows = rows_of([3, 2, 1])
        assert list(policy.share_out(rows, 1)) == [(refill, rows)]
        policy.learn(refill, 100.0)
        assert list(policy.share_out(rows, 1)) == [(refill, rows)]


@pytest.mark.parametrize(
    ("lengths", "least", "count"),
    [
        ([10] * 5, 8, 5),
        ([10, 9, 8, 7, 2, 2, 2], 2, 3),
        ([10, 9, 8, 7, 2], 2, 3),
        ([10, 2, 2, 2], 2, 2),
        ([10, 2, 2], 2, 3),
    ],
)
def test_who_shares_slots(lengths: list[int], least: int, count: int) -> None:
    """Those of like lengths; but no group is so small that its slots stand empty at the end."""
    assert _alike(rows_of(lengths), least) == count


class TestBatcher:
    @pytest.mark.parametrize("refill", [True, False, None])
    @pytest.mark.parametrize("size", [1, 3, 64])
    def test_every_row_is_done_as_alone(
        self, model: tritonseq.Model, refill: bool | None, size: int
    ) -> None:
        job = model.text_job(num_beams=2, num_return_sequences=2)
        texts = ["It is 7 miles from here to Oslo.", "40", "The bill is 123,456 euros."] * 5
        rows = [BatchRow(number, ids) for number, ids in enumerate(job.encoder.ids(texts))]
        batcher = Batcher(job, RunOptions(size, refill=refill))
        found = dict(itertools.chain(*batcher.run(rows, lambda: True)))
        for row in rows:
            (alone,) = job.complete([row.ids])
            assert found[row.key].sequences == alone.sequences
            assert found[row.key].tokens == alone.tokens
            assert alone.scores is not None
            assert found[row.key].scores == pytest.approx(alone.scores)

    @pytest.mark.parametrize("refill", [True, False])
    @pytest.mark.parametrize(
        "error", [torch.OutOfMemoryError("CUDA out of memory"), DoesNotFit("needs more")]
    )
    def test_where_memory_ends_fewer_go_on(
        self,
        model: tritonseq.Model,
        refill: bool,
        error: Exception,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Room for 3 short ones at once, and none for the long one."""
        job = model.text_job()
        rows = rows_of([4, 30, 4, 5, 4, 6, 4, 4, 5])
        wanted = {row.key: job.complete([row.ids])[0].sequences for row in rows}
        prefill = model.decoder.prefill

        def small(tokens: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
            if tokens.numel() > 18:
                raise error
            return prefill(tokens, *args, **options)

        monkeypatch.setattr(model.decoder, "prefill", small)
        warnings, warn = warned()
        batcher = Batcher(job, RunOptions(8, refill=refill), warn)
        found = dict(itertools.chain(*batcher.run(rows, lambda: True)))
        assert found.keys() == wanted.keys()
        fault = found.pop((1, 0)).fault
        assert fault is not None and "30 tokens do not fit into memory" in fault
        assert all(a.fault is None for a in found.values())
        assert {key: a.sequences for key, a in found.items()} == {key: wanted[key] for key in found}
        assert len(warnings) == 1

    def test_other_errors_are_not_hidden(
        self, model: tritonseq.Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*args: Any, **options: Any) -> None:
            raise RuntimeError("shapes do not fit")

        monkeypatch.setattr(model.decoder, "prefill", broken)
        for refill in (True, False):
            batcher = Batcher(model.text_job(), RunOptions(refill=refill))
            with pytest.raises(RuntimeError, match="shapes do not fit"):
                list(batcher.run(rows_of([3, 4]), lambda: True))

    @pytest.mark.parametrize("refill", [True, False])
    def test_a_drain_finishes_what_is_begun_only(
        self, model: tritonseq.Model, refill: bool
    ) -> None:
        rows = rows_of([5] * 12)
        batcher = Batcher(model.text_job(), RunOptions(3, refill=refill))
        found: list[tuple[Any, Completion]] = []
        parts = batcher.run(rows, lambda: not found)
        for part in parts:
            found.extend(part)
        assert 3 <= len(found) <= 6

    def test_what_is_drawn_depends_on_seed_and_batch_alone(self, model: tritonseq.Model) -> None:
        job = model.text_job(do_sample=True, temperature=3.0, top_k=0)
        rows = rows_of([3, 9, 4, 5, 6, 3, 8])

        def drawn(seed: int, *windows: list[BatchRow], size: int = 2) -> dict[int, Any]:
            batcher = Batcher(job, RunOptions(size, seed=seed))
            assert batcher.unit == size
            parts = (part for window in windows for part in batcher.run(window, lambda: True))
            return {number: done.sequences for part in parts for number, done in part}

        state = torch.get_rng_state()
        whole = drawn(1, rows)
        assert torch.equal(torch.get_rng_state(), state), "the caller's numbers are untouched"
        torch.manual_seed(99)
        assert drawn(1, rows[:4], rows[4:]) == whole
        assert drawn(1, rows[4:], rows[:4]) == whole
        assert drawn(2, rows) != whole

    def test_who_draws_meanwhile_disturbs_nothing(self, model: tritonseq.Model) -> None:
        job = model.text_job(do_sample=True, temperature=3.0, top_k=0)
        prefill = model.decoder.prefill

        def drawn(disturb: bool) -> list[Any]:
            def prefilled(*args: Any, **options: Any) -> torch.Tensor:
                torch.rand(7 * disturb)
                return prefill(*args, **options)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(model.decoder, "prefill", prefilled)
                batcher = Batcher(job, RunOptions(2, seed=4))
                parts = batcher.run(rows_of([3, 9, 4, 5]), lambda: True)
                return [done.sequences for part in parts for _, done in part]

        assert drawn(disturb=True) == drawn(disturb=False)

    def test_who_gives_up_is_heard_between_two_steps(
        self, model: tritonseq.Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = []
        step = model.decoder.step

        def counted(*args: Any) -> torch.Tensor:
            steps.append(1)
            return step(*args)

        def admits() -> bool:
            if len(steps) == 2:
                raise Aborted
            return True

        monkeypatch.setattr(model.decoder, "step", counted)
        for refill in (True, False):
            steps.clear()
            with pytest.raises(Aborted):
                list(
                    Batcher(model.text_job(), RunOptions(refill=refill)).run(
                        rows_of([9, 9]), admits
                    )
                )
            assert len(steps) == 2

    def test_scores_that_must_be_exact_come_from_the_same_batches(
        self, model: tritonseq.Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However much of the input is there: batches hold the same samples."""
        batches: list[list[int]] = []
        prefill = model.decoder.prefill

        def noted(tokens: torch.Tensor, lengths: torch.Tensor, *args: Any, **rest: Any) -> Any:
            batches.append(sorted(lengths.tolist()))
            return prefill(tokens, lengths, *args, **rest)

        monkeypatch.setattr(model.decoder, "prefill", noted)
        rows = rows_of([3, 9, 4, 5, 6, 3, 8, 7, 5, 5, 4, 6, 9, 9, 3, 4, 8])
        job = model.text_job(num_beams=2)
        seen = []
        for windows in ([rows], [rows[:8], rows[8:]], [rows[:16], rows[16:]]):
            batches.clear()
            batcher = Batcher(job, RunOptions(2, exact_scores=True))
            assert batcher.unit == 8
            for window in windows:
                assert list(batcher.run(window, lambda: True))
            seen.append(list(batches))
        assert seen[0] == seen[1] == seen[2]
        assert seen[0][0] == [8, 9], "like lengths together, within a unit"

    @pytest.mark.parametrize("is_drawn", [True, False])
    def test_rows_that_are_done_are_there_for_the_others_alone(
        self, model: tritonseq.Model, is_drawn: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The others get what they got beside them; a batch without any others is left out."""
        drawn = {"do_sample": True, "temperature": 3.0, "top_k": 0}
        job = model.text_job(**(drawn if is_drawn else {"num_beams": 2}))
        rows = rows_of([3, 9, 4, 5, 6, 3, 8, 7, 5, 5, 4])
        batches: list[int] = []
        prefill = model.decoder.prefill

        def noted(tokens: torch.Tensor, *args: Any, **rest: Any) -> Any:
            batches.append(len(tokens))
            return prefill(tokens, *args, **rest)

        monkeypatch.setattr(model.decoder, "prefill", noted)

        def answers(rows: list[BatchRow]) -> dict[Any, Completion]:
            batches.clear()
            found = Batcher(job, RunOptions(2, exact_scores=True)).run(rows, lambda: True)
            return dict(itertools.chain(*found))

        whole = answers(rows)
        for known in ({0, 1}, {1, 6, 2, 8}, {7, 8, 9}, set(range(10)), set(range(11))):
            new = answers([row._replace(is_done=row.number in known) for row in rows])
            assert new == {key: each for key, each in whole.items() if key[0] not in known}
            assert len(batches) == 1 or len(known) < 10 or not new
        assert batches == []

    @pytest.mark.parametrize(
        ("options", "name"),
        [
            ({"decoder_input_ids": [[2], [2]]}, "decoder_input_ids"),
            ({"prefix_allowed_tokens_fn": lambda sample, ids: [2]}, "prefix_allowed_tokens_fn"),
            ({"streamer": SimpleNamespace(put=print, end=print)}, "streamer"),
            ({"decoder_start_token_id": [2, 2]}, "decoder_start_token_id"),
        ],
    )
    def test_options_by_place_are_refused(
        self, model: tritonseq.Model, options: dict[str, Any], name: str
    ) -> None:
        with pytest.raises(ValueError, match=f"{name} speaks of samples by their place"):
            Batcher(model.text_job(**options), RunOptions())


class TestPrompts:
    """Models without an encoder count their prompts, as transformers does: each its own."""

    @pytest.mark.parametrize("refill", [True, False])
    @pytest.mark.parametrize(
        "options",
        [
            {"max_length": 14, "max_new_tokens": None},
            {"min_length": 12, "max_new_tokens": 16},
            {"max_length": 16, "max_new_tokens": None, "num_beams": 2},
            {"max_length": 14, "max_new_tokens": None, "eos_token_id": None, "pad_token_id": None},
        ],
    )
    def test_a_neighbour_changes_no_length(self, options: dict[str, Any], refill: bool) -> None:
        model = tritonseq.load(EMBEDDED / "gpt2-words", device="cpu")
        job = model.text_job(**options)
        rows = rows_of([3, 11, 4, 9, 3])
        batcher = Batcher(job, RunOptions(3, refill=refill))
        found = dict(itertools.chain(*batcher.run(rows, lambda: True)))
        counts = set()
        for row in rows:
            (alone,) = job.complete([row.ids])
            assert found[row.key].sequences == alone.sequences
            assert found[row.key].tokens == alone.tokens
            counts.add(found[row.key].tokens)
        assert len(counts) > 1


AT_THE_END = """
import tritonseq
from tritonseq.decoding.completion import Completion
from tritonseq.demo.run import EMBEDDED
model = tritonseq.load(EMBEDDED / "bart-numbers", device="cpu")
running = iter(tritonseq.pipeline(model, ["40 miles"] * 5000, num_beams=4))
print(next(running))
"""


def test_the_interpreter_may_end_while_a_pipeline_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END], capture_output=True, text=True, timeout=LONG
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "forty miles\n", "")
