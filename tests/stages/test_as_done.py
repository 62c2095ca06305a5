"""Results as they are done: out of order, soon, with a bar, and whatever stops who takes them."""

from __future__ import annotations

import _thread
import asyncio
import gc
import os
import random
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from processes import children, threads, wait_until

import tritonseq
from tritonseq.demo.run import CHECKPOINTS, EMBEDDED
from tritonseq.stages.graph import Windows
from tritonseq.stages.runtime import Ended
from tritonseq.stages.sample import Sample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tritonseq import Model, Result

PROBLEMS = {checkpoint.name: checkpoint.problems for checkpoint in CHECKPOINTS}


@cache
def load(name: str = "t5-dates") -> Model:
    return tritonseq.load(EMBEDDED / name, device="cpu")


def prompts(number: int, name: str = "t5-dates") -> list[str]:
    texts = [problem.prompt for problem in islice(PROBLEMS[name](3, unseen=True), number)]
    random.Random(0).shuffle(texts)
    return texts


class TestOrder:
    @pytest.mark.parametrize(
        "options",
        [
            {}, {"refill": True}, {"refill": False, "batch_size": 3}, {"window": 7},
            {"num_beams": 2, "num_return_sequences": 2}, {"do_sample": True, "seed": 4},
            {"preprocess_workers": 1, "postprocess_workers": 1},
        ],
    )  # fmt: skip
    def test_the_results_are_the_same_in_any(self, options: dict[str, Any]) -> None:
        texts: list[Any] = ["", *prompts(60), None, "x " * 5]
        inside = list(tritonseq.pipeline(load(), texts, **options))
        outside = list(tritonseq.pipeline(load(), texts, ordered=False, **options))
        assert [result.index for result in inside] == list(range(len(texts)))
        found = sorted(outside, key=lambda result: result.index)
        assert [(r.index, r.texts, r.tokens, r.fault) for r in found] == [
            (r.index, r.texts, r.tokens, r.fault) for r in inside
        ]

    def test_devices_may_finish_in_any(self) -> None:
        texts = prompts(12)
        wanted = load().generate_text(texts)
        devices: dict[str, Any] = {"devices": ("cpu", "cpu"), "window": 3}
        running = tritonseq.pipeline(EMBEDDED / "t5-dates", texts, ordered=False, **devices)
        found = sorted(running, key=lambda result: result.index)
        assert [result.text for result in found] == wanted

    def test_a_sample_that_is_done_does_not_wait_for_one_before_it(self) -> None:
        """Through one slot the longest text of a window comes first: here it is the last."""
        texts = ["may", "may first", "may first nineteen ninety nine"]
        options: dict[str, Any] = {"window": 3, "batch_size": 1, "refill": False}
        found = list(tritonseq.pipeline(load(), texts, ordered=False, **options))
        assert [result.index for result in found] == [2, 1, 0]

    def test_memory_is_bounded_all_the_same(self) -> None:
        """The texts have no end, and are read so far ahead only."""
        read = 0

        def endless() -> Iterator[str]:
            nonlocal read
            while True:
                read += 1
                yield "may first"

        running = tritonseq.pipeline(load(), endless(), ordered=False, batch_size=2, window=4)
        with running:
            assert len(list(islice(running, 30))) == 30
        assert read < 2000


def windows(size: int, count: int, **how: Any) -> list[int]:
    """The sizes of the windows that `count` samples come in."""
    samples = [Sample(number, 0, "") for number in range(count)]

    def take(limit: int, timeout: float | None = None) -> list[Sample]:
        if not samples:
            raise Ended
        taken, samples[:] = samples[:limit], samples[limit:]
        return taken

    found: list[int] = []
    with pytest.raises(Ended):
        for some in Windows(size, how.pop("unit", 1), lambda: False, **how).gather(take):
            found += [len(window) for window in some]
    return found


def test_the_first_windows_are_small_and_the_next_ones_grow() -> None:
    assert windows(100, 320, smallest=10) == [10, 40, 100, 100, 70]
    assert windows(100, 250) == [100, 100, 50]
    assert windows(4, 9, smallest=10) == [4, 4, 1]
    assert windows(32, 64, unit=8, smallest=3) == [8, 16, 32, 8]


def test_the_first_results_come_before_most_texts_are_answered() -> None:
    """The first window is a part of a batch, whatever there is to read."""
    model, texts = load("bart-numbers"), prompts(200, "bart-numbers")
    begun: list[int] = []
    pool = model.engines
    acquire = pool.acquire

    def watched(spec: Any) -> Any:
        begun.append(1)
        return acquire(spec)

    pool.acquire = watched  # type: ignore[method-assign]
    try:
        with tritonseq.pipeline(model, texts, refill=False) as running:
            first = next(iter(running))
        assert first.text
    finally:
        pool.acquire = acquire  # type: ignore[method-assign]
    assert len(begun) <= 3


class TestBar:
    def test_it_is_shown_where_it_is_asked_for(self, capsys: pytest.CaptureFixture[str]) -> None:
        texts: list[Any] = [*prompts(20), "", None]
        list(tritonseq.pipeline(load(), texts, progress=True))
        shown = capsys.readouterr()
        assert "100%|" in shown.err.replace(" ", "")
        assert "22/22" in shown.err
        assert "1 rejected" in shown.err
        assert shown.out == ""
        list(tritonseq.pipeline(load(), iter(texts), progress=True, ordered=False))
        assert "22 samples [" in capsys.readouterr().err
        list(tritonseq.pipeline(load(), texts))
        assert capsys.readouterr().err == ""

    def test_generate_text_has_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        texts = [*prompts(7), ""]
        wanted = load().generate_text(texts)
        assert load().generate_text(texts, progress=True, batch_size=2) == wanted
        shown = capsys.readouterr()
        assert "8/8" in shown.err
        assert shown.out == ""
        assert load().generate_text([], progress=True) == []

    @pytest.mark.parametrize("value", [1, None, "yes"])
    def test_it_is_on_or_off(self, value: Any) -> None:
        with pytest.raises(ValueError, match="progress is "):
            load().generate_text(["may"], progress=value)
        for name in ("progress", "ordered", "traced"):
            with pytest.raises(ValueError, match=f"{name} is "):
                tritonseq.pipeline(load(), ["may"], **{name: value})

    def test_without_a_stderr_there_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stderr", None)
        assert load().generate_text(["may first"], progress=True)
        assert list(tritonseq.pipeline(load(), ["may first"], progress=True))


class Stop(BaseException):
    """What a user's own code ends with: as Ctrl-C, no Exception."""


def by_break(running: Any) -> list[Result]:
    kept = []
    for result in running:
        kept.append(result)
        if len(kept) == 2:
            break
    return kept


def by_error(running: Any) -> list[Result]:
    kept = []
    with pytest.raises(Stop):
        for result in running:
            kept.append(result)
            if len(kept) == 2:
                raise Stop
    return kept


def by_close(running: Any) -> list[Result]:
    results = iter(running)
    kept = [next(results), next(results)]
    running.close()
    return kept


def by_garbage(running: Any) -> list[Result]:
    results = iter(running)
    kept = [next(results), next(results)]
    del results, running
    gc.collect()
    return kept


def by_interrupt(running: Any) -> list[Result]:
    """Ctrl-C while the next result is waited for."""
    kept: list[Result] = []
    with pytest.raises(KeyboardInterrupt):
        for result in running:
            kept.append(result)
            if len(kept) == 2:
                _thread.interrupt_main()
    return kept


STOPS: list[Callable[[Any], list[Result]]] = [
    by_break, by_error, by_close, by_garbage, by_interrupt,
]  # fmt: skip


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("stop", STOPS)
def test_what_was_yielded_is_there_and_nothing_goes_on(
    stop: Callable[[Any], list[Result]], ordered: bool
) -> None:
    texts = prompts(8) * 200
    wanted = load().generate_text(texts[:8])
    kept = stop(tritonseq.pipeline(load(), texts, ordered=ordered, window=4))
    assert len(kept) >= 2
    assert all(result.text == wanted[result.index % 8] for result in kept)
    wait_until(lambda: not threads())
    assert load().generate_text(texts[:8]) == wanted
    assert [r.text for r in tritonseq.pipeline(load(), texts[:8])] == wanted


def test_children_end_with_a_loop_that_is_interrupted() -> None:
    before = children(os.getpid())
    running = tritonseq.pipeline(load(), prompts(8) * 100, preprocess_workers=1, window=4)
    by_interrupt(running)
    wait_until(lambda: not threads() and children(os.getpid()) == before)


@pytest.mark.parametrize("stop", ["break", "raise", "cancel"])
def test_so_it_is_with_async_for(stop: str) -> None:
    texts = prompts(8) * 100
    kept: list[Result] = []

    async def source() -> AsyncIterator[str]:
        for text in texts:
            yield text

    async def take() -> None:
        async for result in tritonseq.pipeline(load(), source(), window=4, ordered=False):
            kept.append(result)
            if len(kept) == 2 and stop == "break":
                break
            if len(kept) == 2 and stop == "raise":
                raise Stop
            if len(kept) == 2:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()

    if stop == "break":
        asyncio.run(take())
    else:
        with pytest.raises(Stop if stop == "raise" else asyncio.CancelledError):
            asyncio.run(take())
    assert len(kept) >= 2
    wait_until(lambda: not threads())
    assert load().generate_text(texts[:1])


def test_generate_text_is_interrupted_between_two_steps() -> None:
    steps = 0

    def interrupting(ids: Any, scores: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 2:
            _thread.interrupt_main()
        return scores

    texts, wanted = prompts(40), load().generate_text(prompts(4))
    with pytest.raises(KeyboardInterrupt):
        load().generate_text(texts, logits_processor=interrupting, progress=True)
    assert steps <= 3
    assert load().generate_text(prompts(4)) == wanted
