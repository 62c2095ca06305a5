"""`tritonseq.pipeline`: whatever the stages do side by side, results are those of one by one."""

from __future__ import annotations

import asyncio
import os
import queue
import random
import re
import threading
import time
import warnings
from functools import cache
from itertools import count, islice
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from processes import PATIENCE, children, threads, wait_until
from spans import done_beside

import tritonseq
from tritonseq.demo.run import CHECKPOINTS, EMBEDDED
from tritonseq.engine.request import Request
from tritonseq.stages.graph import CHUNK, QUEUE
from tritonseq.stages.runtime import WorkSpan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tritonseq import Model, Result

pytestmark = pytest.mark.filterwarnings('ignore:with search="unilm", no effect of')

REFILL = pytest.mark.parametrize("refill", [True, False])

PROBLEMS = {checkpoint.name: checkpoint.problems for checkpoint in CHECKPOINTS}
NAMES = pytest.mark.parametrize("name", list(PROBLEMS))
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 4, "length_penalty": 0.8},
    "n-best": {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True},
    "bans": {"num_beams": 2, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
}
# Some are texts and some are not, and which of them a model can answer is for `generate_text` to
# say: too many tokens, half a character, tokens that it may not know.
AWKWARD: list[Any] = [
    "", "  \t", [], ["", " "], 7, None, b"three", ["three", 4], "three " * 90, "\ud800", "é🙂",
    ["three", "plus", "four"],
]  # fmt: skip
CPU = ("cpu", "cpu")


@cache
def load(name: str) -> Model:
    return tritonseq.load(EMBEDDED / name, device="cpu")


def prompts(name: str, number: int, seed: int = 3) -> list[str]:
    """Texts of all lengths that the model has learnt to answer."""
    return [problem.prompt for problem in islice(PROBLEMS[name](seed, unseen=True), number)]


def mixed(name: str, number: int) -> list[Any]:
    """Ragged texts, with awkward ones between them."""
    texts: list[Any] = list(prompts(name, number))
    for place, text in enumerate(AWKWARD):
        texts.insert(place * 5 + 2, text)
    return texts


def is_blank(text: Any) -> bool:
    return isinstance(text, (str, list)) and not any(
        not isinstance(part, str) or part.strip() for part in text
    )


def expected(model: Model, texts: list[Any], **options: Any) -> list[list[str] | None]:
    """What `generate_text` makes of each text; None where it refuses to."""
    copies = options.get("num_return_sequences", 1)
    usual = [text for text in texts if not any(text is other for other in AWKWARD)]
    outputs = iter(model.generate_text(usual, **options) if usual else [])
    wanted: list[list[str] | None] = []
    for text in texts:
        if is_blank(text):
            wanted.append([""] * copies)
        elif any(text is other for other in AWKWARD):
            wanted.append(_alone(model, text, options))
        else:
            wanted.append([next(outputs) for _ in range(copies)])
    return wanted


def _alone(model: Model, text: Any, options: dict[str, Any]) -> list[str] | None:
    try:
        return model.generate_text([text], **options)
    except (ValueError, TypeError):
        return None


def outputs(results: list[Result]) -> list[list[str] | None]:
    """As `expected`, of what a pipeline gave; all that belongs together is checked."""
    for result in results:
        assert str(result) == result.text == (result.texts[0] if result.texts else "")
        assert (result.fault is None) == bool(result.texts)
        assert result.fault is None or (result.tokens, result.scores) == (0, None)
    return [None if result.fault else result.texts for result in results]


def values(results: list[Result]) -> list[tuple[Any, ...]]:
    """All but scores: their last digits depend on who was in a batch."""
    return [(result.texts, result.tokens, result.fault) for result in results]


class TestResults:
    @NAMES
    @pytest.mark.parametrize("search", list(SEARCHES))
    def test_they_are_those_of_generate_text(self, name: str, search: str) -> None:
        model, texts, options = load(name), mixed(name, 70), SEARCHES[search]
        wanted = expected(model, texts, **options)
        assert None in wanted
        results = list(tritonseq.pipeline(model, texts, **options))
        assert outputs(results) == wanted
        for result in results:
            assert (result.scores is None) == ("num_beams" not in options or result.tokens == 0)
            assert result.scores is None or result.scores == sorted(result.scores, reverse=True)

    @pytest.mark.parametrize("name", ["gpt2-words", "t5-dates"])
    @pytest.mark.parametrize("search", [{}, {"num_beams": 3, "num_return_sequences": 2}])
    def test_tokens_come_with_their_scores(self, name: str, search: dict[str, Any]) -> None:
        model, texts = load(name), mixed(name, 20)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            results = list(tritonseq.pipeline(model, texts, output_token_scores=True, **search))
        assert outputs(results) == outputs(list(tritonseq.pipeline(model, texts, **search)))
        for result in results:
            assert result.token_ids is not None and result.token_scores is not None
            assert sum(map(len, result.token_ids)) == result.tokens
            assert list(map(len, result.token_ids)) == list(map(len, result.token_scores))
            told = result.token_ids if result.tokens else []
            assert model.tokenizer.decode(told, skip_special_tokens=True) == result.texts or (
                not result.tokens and set(result.texts) <= {""}
            )
            for score, own in zip(result.scores or (), result.token_scores, strict=False):
                assert score == pytest.approx(sum(own) / len(own), abs=1e-5)

    @NAMES
    def test_tokens_are_counted_without_padding(self, name: str) -> None:
        model, texts = load(name), prompts(name, 9)
        job = model.text_job()
        wanted = [job.complete([ids])[0].tokens for ids in job.encoder.ids(texts)]
        assert [result.tokens for result in tritonseq.pipeline(model, texts)] == wanted

    def test_none_and_one_and_a_list_of_tokens(self) -> None:
        model = load("unilm-clock")
        assert list(tritonseq.pipeline(model, [])) == []
        (prompt,) = prompts("unilm-clock", 1)
        wanted = expected(model, [prompt])
        assert outputs(list(tritonseq.pipeline(model, iter([prompt])))) == wanted
        (one,) = tritonseq.pipeline(model, [["we", "meet", "at", "noon"]])
        assert one.texts == model.generate_text([["we", "meet", "at", "noon"]])

    def test_a_prefix_and_truncation(self) -> None:
        model, texts = load("bart-numbers"), [*prompts("bart-numbers", 9), "It is 7. " * 30]
        options = {"prefix": "There is 1. ", "truncation": True, "max_source_length": 12}
        wanted = [[text] for text in model.generate_text(texts, **options)]
        assert outputs(list(tritonseq.pipeline(model, texts, **options))) == wanted

    def test_a_trie_says_what_is_allowed(self) -> None:
        model, texts = load("t5-dates"), prompts("t5-dates", 30)
        allowed = model.text_job().encoder.ids([f"{year}-02-28" for year in range(1900, 2000, 7)])
        options = {"prefix_allowed_tokens_fn": tritonseq.Trie(allowed), "num_beams": 3}
        wanted = expected(model, texts, **options)
        assert all(text is not None and text[0].endswith("-02-28") for text in wanted)
        for knobs in ({}, {"batch_size": 4, "window": 9, "refill": True}):
            assert outputs(list(tritonseq.pipeline(model, texts, **knobs, **options))) == wanted

    def test_functions_of_the_caller_see_consecutive_texts(self) -> None:
        model, texts = load("gpt2-words"), prompts("gpt2-words", 30)
        seen: list[int] = []

        def forbid(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            seen.append(len(scores))
            return scores.index_fill(1, torch.tensor([17, 40]), -torch.inf)

        wanted = expected(model, texts, logits_processor=forbid)
        seen.clear()
        knobs = {"batch_size": 8, "window": 3, "refill": True}
        results = list(tritonseq.pipeline(model, texts, logits_processor=forbid, **knobs))
        assert outputs(results) == wanted
        assert set(seen) == {8, 6}


def draw_knobs(rng: random.Random) -> dict[str, Any]:
    return {
        "window": rng.choice([None, 1, 7, 1000]),
        "batch_size": rng.choice([None, 1, 3, 64]),
        "batch_tokens": rng.choice([None, 9, 200]),
        "refill": rng.choice([None, True, False]),
    }


class TestKnobs:
    """How the work is done changes no result."""

    @pytest.mark.parametrize("seed", range(10))
    def test_no_batch_or_window_changes_a_result(self, seed: int) -> None:
        self.check_knobs(seed)

    @pytest.mark.long
    @pytest.mark.parametrize("seed", range(10, 200))
    def test_none_at_all_does(self, seed: int) -> None:
        self.check_knobs(seed)

    def check_knobs(self, seed: int) -> None:
        rng = random.Random(seed)
        name, search = rng.choice(list(PROBLEMS)), rng.choice(list(SEARCHES))
        model, texts, knobs = load(name), mixed(name, 80), draw_knobs(rng)
        results = list(tritonseq.pipeline(model, texts, **knobs, **SEARCHES[search]))
        assert outputs(results) == expected(model, texts, **SEARCHES[search]), knobs

    @pytest.mark.parametrize(
        ("name", "search", "knobs"),
        [
            ("t5-dates", "n-best", {"preprocess_workers": 1, "postprocess_workers": 2}),
            ("gpt2-words", "greedy", {"preprocess_workers": 2, "devices": CPU, "window": 7}),
            ("unilm-clock", "bans", {"postprocess_workers": 1, "devices": CPU, "refill": True}),
        ],
    )
    def test_nor_do_processes(self, name: str, search: str, knobs: dict[str, Any]) -> None:
        model, texts, options = load(name), mixed(name, 80), SEARCHES[search]
        source = str(EMBEDDED / name) if "devices" in knobs else model
        with tritonseq.pipeline(source, texts, **knobs, **options) as pipeline:
            results = list(pipeline)
        assert outputs(results) == expected(model, texts, **options)
        assert values(results) == values(list(tritonseq.pipeline(model, texts, **options)))
        assert children(os.getpid()) == []

    DRAWS: ClassVar = {"do_sample": True, "temperature": 4.0, "top_k": 0, "num_return_sequences": 2}

    @pytest.mark.parametrize("batch_size", [8, 1])
    def test_what_is_drawn_depends_on_seed_and_batch_size_alone(self, batch_size: int) -> None:
        model, texts = load("gpt2-words"), mixed("gpt2-words", 70 if batch_size > 1 else 20)

        def drawn(source: Any = model, seed: int = 5, **knobs: Any) -> list[tuple[Any, ...]]:
            pipeline = tritonseq.pipeline(
                source, texts, seed=seed, batch_size=batch_size, **knobs, **self.DRAWS
            )
            return values(list(pipeline))

        wanted = drawn()
        torch.manual_seed(123)
        assert drawn(window=1) == drawn(window=1000, refill=True) == wanted
        assert drawn(refill=False, preprocess_workers=2, postprocess_workers=1) == wanted
        assert drawn(str(EMBEDDED / "gpt2-words"), devices=CPU) == wanted
        assert drawn(seed=6) != wanted

    def test_pipelines_at_once_share_a_model(self) -> None:
        """Each has what it has alone, even where the process has one source of random numbers."""
        model, texts = load("gpt2-words"), prompts("gpt2-words", 120)
        kinds: list[dict[str, Any]] = [
            {"seed": 5, **self.DRAWS}, {"num_beams": 3}, {"seed": 9, **self.DRAWS}, {},
        ]  # fmt: skip
        wanted = [values(list(tritonseq.pipeline(model, texts, **kind))) for kind in kinds]
        found: list[Any] = [None] * len(kinds)

        def run(place: int) -> None:
            found[place] = values(list(tritonseq.pipeline(model, texts, **kinds[place])))

        runs = [threading.Thread(target=run, args=(place,)) for place in range(len(kinds))]
        for each in runs:
            each.start()
        for each in runs:
            each.join(PATIENCE)
        assert found == wanted


class TestIterables:
    """Texts that come slowly, without end, or not at all."""

    def test_one_that_stalls_gets_its_results_meanwhile(self) -> None:
        texts = prompts("gpt2-words", 12)
        feed: queue.Queue[str | None] = queue.Queue()
        results = iter(tritonseq.pipeline(load("gpt2-words"), iter(feed.get, None)))
        wanted = iter(expected(load("gpt2-words"), texts))
        for some in (texts[:1], texts[1:4], texts[4:]):
            for text in some:
                feed.put(text)
            for _ in some:  # it would wait for ever if they were held back
                assert next(results).texts == next(wanted)
        feed.put(None)
        assert list(results) == []

    def test_one_that_trickles_is_not_held_back(self) -> None:
        """The model has nothing else to do, so that it waits for no full window."""
        read = 0

        def trickle() -> Iterator[str]:
            nonlocal read
            while True:
                read += 1
                yield "three plus four ="
                time.sleep(0.01)

        with tritonseq.pipeline(load("gpt2-words"), trickle(), window=1000) as results:
            assert next(iter(results)).text == " seven"
            assert read < 900

    @pytest.mark.parametrize("number", [0, 1, 300])
    def test_one_that_fails_gets_all_results_before(self, number: int) -> None:
        texts = prompts("gpt2-words", number)

        def failing() -> Iterator[str]:
            yield from texts
            raise KeyError("the well is dry")

        found = []
        with pytest.raises(KeyError, match="the well is dry"):
            for result in tritonseq.pipeline(load("gpt2-words"), failing()):
                found.append(result)
        assert outputs(found) == expected(load("gpt2-words"), texts)
        wait_until(lambda: not threads())

    @pytest.mark.parametrize("knobs", [{}, {"window": 40, "batch_size": 16, "refill": True}])
    def test_an_endless_one_is_read_no_further_than_the_horizon(self, knobs: Any) -> None:
        taken = 0
        ahead: list[int] = []

        def endless() -> Iterator[str]:
            texts = prompts("gpt2-words", 50)
            for number in count():
                ahead.append(number - taken)
                yield texts[number % 50]

        window = knobs.get("window", 16 * 64)
        with tritonseq.pipeline(load("gpt2-words"), endless(), **knobs) as pipeline:
            for _ in islice(pipeline, 3 * window):
                taken += 1
            # Nobody takes any more: the stages come to rest.
            horizon = 3 * window + QUEUE + CHUNK
            wait_until(lambda: ahead[-1] >= 3 * window)
        assert max(ahead) <= horizon
        wait_until(lambda: not threads())

    @pytest.mark.parametrize(
        "texts", ["three plus four", None, 7], ids=["text", "nothing", "number"]
    )
    def test_what_is_none(self, texts: Any) -> None:
        with pytest.raises(ValueError, match="texts must be a list"):
            tritonseq.pipeline(load("gpt2-words"), texts)

    def test_a_pipeline_is_iterated_over_once(self) -> None:
        pipeline = tritonseq.pipeline(load("gpt2-words"), prompts("gpt2-words", 2000))
        next(iter(pipeline))
        with pytest.raises(ValueError, match="iterated over once: make another"):
            list(pipeline)
        pipeline.close()
        wait_until(lambda: not threads())


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"streamer": None.__class__}, "streamer"),
            ({"decoder_input_ids": [[0]]}, "decoder_input_ids"),
            ({"prefix_allowed_tokens_fn": lambda sample, ids: [1]}, "prefix_allowed_tokens_fn"),
            (
                {"prefix_allowed_tokens_fn": tritonseq.Trie.per_sample([[[4]], [[5]]])},
                "one Trie for",
            ),
            ({"num_beams": 0}, "num_beams"),
            ({"num_beam": 2}, "num_beams"),
            ({"batch_size": 0}, "batch_size is 0: it must be an integer >= 1"),
            ({"batch_tokens": -1}, "batch_tokens is -1"),
            ({"window": True}, "window is True"),
            ({"preprocess_workers": 10**5}, "preprocess_workers is 100000: the most are 256"),
            ({"postprocess_workers": 10**31}, "the most are 256"),
            ({"window": 10**31}, "the most are 4611686018427387904"),
            ({"devices": ["cpu"] * 257}, "devices are 257, .* the most are 256"),
            ({"preprocess_workers": -1}, "preprocess_workers is -1: it must be an integer >= 0"),
            ({"postprocess_workers": None}, "postprocess_workers is None"),
            ({"devices": ["cpu"]}, "devices are for processes that load the model themselves"),
            ({"task": "summarization"}, "summarization"),
        ],
    )
    def test_options_that_cannot_be(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tritonseq.pipeline(load("t5-dates"), [], **options)
        assert threads() == []

    def test_other_processes_cannot_have_every_function(self) -> None:
        source = str(EMBEDDED / "gpt2-words")
        options = {"logits_processor": lambda ids, scores: scores}
        with pytest.raises(ValueError, match="other processes cannot be handed that"):
            tritonseq.pipeline(source, ["three"], devices=["cpu"], **options)
        assert children(os.getpid()) == []

    def test_what_a_process_refuses_is_told_as_it_is(self) -> None:
        source = str(EMBEDDED / "gpt2-words")
        with pytest.raises(ValueError, match="num_beams"):
            tritonseq.pipeline(source, ["three"], devices=["cpu"], num_beam=2)
        assert children(os.getpid()) == []


class TestEnds:
    """Whoever stops leaves nothing behind."""

    @pytest.mark.parametrize("how", ["close", "with", "drop"])
    def test_stopping_early_ends_threads_and_processes(self, how: str) -> None:
        pipeline = tritonseq.pipeline(
            load("gpt2-words"), iter(lambda: "three plus four =", None), postprocess_workers=2
        )
        assert len(children(os.getpid())) == 2
        results = iter(pipeline)
        assert next(results).text == " seven"
        if how == "with":
            with pipeline:
                assert next(results).text == " seven"
        elif how == "close":
            pipeline.close()
            pipeline.close()
            assert {result.text for result in results} <= {" seven"}
        del pipeline, results
        wait_until(lambda: not threads() and not children(os.getpid()))

    def test_a_model_process_ends_as_well(self) -> None:
        endless = iter(lambda: "three plus four =", None)
        with tritonseq.pipeline(str(EMBEDDED / "gpt2-words"), endless, devices=["cpu"]) as results:
            answers = iter(results)
            assert next(answers).text == " seven"
            assert len(children(os.getpid())) == 1
        wait_until(lambda: not threads() and not children(os.getpid()))

    def test_closing_from_another_thread_ends_the_results(self) -> None:
        stalled = threading.Event()

        def stalling() -> Iterator[str]:
            yield "three plus four ="
            stalled.wait(PATIENCE)

        pipeline = tritonseq.pipeline(load("gpt2-words"), stalling(), postprocess_workers=1)
        results = iter(pipeline)
        assert next(results).text == " seven"
        closing = threading.Timer(0.1, pipeline.close)
        closing.start()
        assert list(results) == []
        closing.join()
        stalled.set()
        wait_until(lambda: not threads() and not children(os.getpid()))
        with pytest.raises(ValueError, match="make another"):
            list(pipeline)

    def test_one_that_nobody_iterates_over_is_closed_as_well(self) -> None:
        with tritonseq.pipeline(load("gpt2-words"), ["three"], preprocess_workers=1):
            assert len(children(os.getpid())) == 1
        assert children(os.getpid()) == []


def collected(texts: Any, **options: Any) -> Any:
    async def collect() -> list[Result]:
        pipeline = tritonseq.pipeline(load("gpt2-words"), texts, **options)
        return [result async for result in pipeline]

    return collect()


async def arriving(texts: list[Any]) -> AsyncIterator[Any]:
    for number, text in enumerate(texts):
        await asyncio.sleep(0.01 if number % 10 == 0 else 0)
        yield text


class TestAsync:
    def test_lists_and_asynchronous_texts(self) -> None:
        texts = mixed("gpt2-words", 300)
        wanted = expected(load("gpt2-words"), texts)
        assert outputs(asyncio.run(collected(texts))) == wanted
        assert outputs(asyncio.run(collected(arriving(texts), window=30))) == wanted
        assert asyncio.run(collected(arriving([]))) == []
        assert threads() == []

    def test_asynchronous_texts_want_an_asynchronous_loop(self) -> None:
        with pytest.raises(ValueError, match="iterate with async for"):
            list(tritonseq.pipeline(load("gpt2-words"), arriving([])))

    def test_results_come_while_texts_are_awaited(self) -> None:
        async def converse() -> list[str]:
            feed: asyncio.Queue[str] = asyncio.Queue()

            async def questions() -> AsyncIterator[str]:
                for _ in range(3):
                    yield await feed.get()

            answers = []
            pipeline = tritonseq.pipeline(load("gpt2-words"), questions())
            await feed.put("three plus four =")
            async for result in pipeline:
                answers.append(result.text)
                await feed.put("three plus five =")
            return answers

        answers = asyncio.run(asyncio.wait_for(converse(), PATIENCE))
        assert answers == [" seven", " eight", " eight"]

    def test_many_at_once_do_not_wait_for_each_other(self) -> None:
        """More than there are threads that an event loop shares."""
        texts = prompts("gpt2-words", 8)

        async def all_of_them() -> list[list[Result]]:
            many = (collected(arriving(texts)) for _ in range(40))
            return await asyncio.wait_for(asyncio.gather(*many), PATIENCE)

        wanted = expected(load("gpt2-words"), texts)
        assert [outputs(each) for each in asyncio.run(all_of_them())] == [wanted] * 40
        assert threads() == []

    @pytest.mark.parametrize("error", [KeyError("dry"), asyncio.CancelledError("gone")])
    def test_texts_that_fail(self, error: BaseException) -> None:
        """That somebody else was cancelled is no end of the texts, either."""
        found: list[Result] = []

        async def failing() -> AsyncIterator[str]:
            for text in prompts("gpt2-words", 9):
                yield text
            raise error

        async def collect() -> None:
            async for result in tritonseq.pipeline(load("gpt2-words"), failing()):
                found.append(result)

        with pytest.raises(type(error)):
            asyncio.run(collect())
        assert len(found) == 9
        assert threads() == []

    @pytest.mark.parametrize("kind", ["list", "asynchronous", "stalled"])
    def test_cancelling_it_ends_it(self, kind: str) -> None:
        begun = threading.Event()

        async def stalled() -> AsyncIterator[str]:
            yield "three plus four ="
            await asyncio.sleep(10 * PATIENCE)

        texts: Any = iter(lambda: "three plus four =", None)
        if kind != "list":
            texts = stalled() if kind == "stalled" else arriving(["three plus four ="] * 10**6)

        async def consume() -> None:
            async for result in tritonseq.pipeline(
                load("gpt2-words"), texts, postprocess_workers=1
            ):
                assert result.text == " seven"
                begun.set()

        async def cancel() -> None:
            task = asyncio.create_task(consume())
            while not begun.is_set():
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert children(os.getpid()) == []

        asyncio.run(asyncio.wait_for(cancel(), PATIENCE))
        wait_until(lambda: not threads())

    def test_one_that_is_cancelled_before_it_begins(self) -> None:
        async def stalled() -> AsyncIterator[str]:
            await asyncio.sleep(10 * PATIENCE)
            yield ""

        async def cancel() -> None:
            for rest in range(6):
                task = asyncio.create_task(collected(stalled()))
                for _ in range(rest):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(asyncio.wait_for(cancel(), PATIENCE))
        wait_until(lambda: not threads())


class TestMemory:
    """Where it ends, fewer samples go on; what does not fit alone is rejected."""

    ERRORS = (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore lines"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    )

    @pytest.fixture
    def small(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Exception], list[int]]:
        """Memory for so many tokens of sources at once; the list tells how many samples had it."""
        run, together = Request.run, Request.together

        def shrink(room: int, error: Exception) -> list[int]:
            sizes: list[int] = []

            def check(rows: int, longest: int) -> None:
                if rows * longest > room:
                    raise error
                sizes.append(rows)

            def small_run(self: Request, ids: Any, mask: Any) -> Any:
                check(*ids.shape)
                return run(self, ids, mask)

            def small_together(self: Request, rows: Any, slots: int, admits: Any) -> Iterator[Any]:
                size = (min(slots, len(rows)), max(map(len, rows)))
                if size[0] == 1 or size[1] > room:
                    check(*size)
                for number, found in enumerate(together(self, rows, slots, admits)):
                    yield found
                    if number == 1:  # in the midst of it
                        check(*size)

            monkeypatch.setattr(Request, "run", small_run)
            monkeypatch.setattr(Request, "together", small_together)
            return sizes

        return shrink

    @REFILL
    @pytest.mark.parametrize("error", ERRORS)
    def test_fewer_go_on_with_the_same_results(
        self, refill: bool, error: Exception, small: Any
    ) -> None:
        model, texts = load("bart-numbers"), mixed("bart-numbers", 200)
        wanted = expected(model, texts, num_beams=2)
        sizes = small(5 * 40, error)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pipeline = tritonseq.pipeline(
                model, texts, num_beams=2, batch_size=64, window=90, refill=refill
            )
            assert outputs(list(pipeline)) == wanted
        (warning,) = caught
        # As many as had been read by then, and up to a batch.
        assert re.match(r"\d+ samples at once do not fit into memory", str(warning.message))
        assert 1 < max(sizes) < 64

    @REFILL
    def test_what_does_not_fit_alone_is_rejected(self, refill: bool, small: Any) -> None:
        model, texts = load("t5-dates"), prompts("t5-dates", 300)
        wanted = expected(model, texts)
        long = "the third of May 1999 " * 9
        sizes = small(60, self.ERRORS[0])
        at = (0, 77, 250)
        for place in at:
            texts.insert(place, long)
            wanted.insert(place, None)
        with pytest.warns(UserWarning, match="do not fit into memory"):
            pipeline = tritonseq.pipeline(model, texts, batch_size=32, window=100, refill=refill)
            results = list(pipeline)
        assert outputs(results) == wanted
        for place in at:
            assert "do not fit into memory, even alone: CUDA" in (results[place].fault or "")
        assert max(sizes) > 1, "the short ones need not be alone because of a long one"

    def test_other_errors_end_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: Any) -> None:
            raise RuntimeError("a screw is loose")

        monkeypatch.setattr(Request, "run", broken)
        with pytest.raises(RuntimeError, match="a screw is loose"):
            list(tritonseq.pipeline(load("t5-dates"), ["3 May 2012"] * 9, refill=False))
        wait_until(lambda: not threads())


def by_hand(*pieces: tuple[str, float, float]) -> list[WorkSpan]:
    return [WorkSpan(stage, 0, start, end, 10) for stage, start, end in pieces]


class TestOverlap:
    """Nobody waits for all others."""

    def test_what_is_done_one_after_the_other_is_none(self) -> None:
        whole = by_hand(("tokenize", 0, 3), ("generate", 3, 9), ("detokenize", 9, 11))
        rounds = [
            span._replace(start=span.start + lap, end=span.end + lap)
            for lap in (0, 11, 22)
            for span in whole
        ]
        for spans in (whole, rounds):
            for stage in ("tokenize", "detokenize"):
                assert done_beside(spans, stage, "generate") == 0
        spans = by_hand(
            ("tokenize", 0, 3), ("generate", 3, 9), ("tokenize", 4, 5), ("tokenize", 9, 10),
            ("detokenize", 8, 11), ("generate", 10, 12),
        )  # fmt: skip
        assert done_beside(spans, "tokenize", "generate") == 10
        assert done_beside(spans, "detokenize", "generate") == 10

    @pytest.mark.parametrize("knobs", [{}, {"preprocess_workers": 1, "postprocess_workers": 1}])
    def test_texts_are_read_and_written_while_the_model_works(self, knobs: dict[str, int]) -> None:
        """More than may be on their way at once, so that most are read after the first is out."""
        texts = prompts("bart-numbers", 2500)
        pipeline = tritonseq.pipeline(
            load("bart-numbers"), texts, window=100, batch_size=50, traced=True, **knobs
        )
        assert sum(result.fault is None for result in pipeline) == len(texts)
        spans = pipeline.clock.spans
        for stage in ("tokenize", "detokenize"):
            assert sum(span.samples for span in spans if span.stage == stage) == len(texts)
            assert done_beside(spans, stage, "generate") > len(texts) / 2
        assert {times.name for times in pipeline.times} == {
            "read", "tokenize", "window", "generate", "detokenize", "write",
        }  # fmt: skip

    def test_nothing_is_traced_unless_it_is_asked_for(self) -> None:
        pipeline = tritonseq.pipeline(load("gpt2-words"), prompts("gpt2-words", 9))
        assert len(list(pipeline)) == 9
        assert pipeline.clock.spans == []
        assert all(times.busy >= 0 for times in pipeline.times)
