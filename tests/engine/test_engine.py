"""The engine: a step is a fixed program on fixed buffers, planned, shared and let go of."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import threading
import weakref
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import seq2seq
import tiny
import tiny_unilm
import torch
from launches import as_on_gpu, counted
from torch.utils._python_dispatch import TorchDispatchMode

import tritonseq
from tritonseq.decoding import beam_search, search
from tritonseq.engine import pool as engines
from tritonseq.engine.engine import Engine, Flags
from tritonseq.engine.pool import DoesNotFit, EnginePool, MemoryPlan, free_memory
from tritonseq.engine.spec import bucket
from tritonseq.kernels import launch as _launch
from tritonseq.memory.kv_cache import Sizes, nbytes, of_samples

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = torch.device("cpu")
# Operators that wait for the device, or whose result has a shape that depends on values.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "equal")


class Program(TorchDispatchMode):
    """The operators of a step with the shapes of their results; some are forbidden."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[str, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        assert not any(word in name for word in WAITING), f"{name} waits for the device"
        if name in ("index", "index_put_", "index_put"):
            masks = [x for x in args[1] if x is not None and x.dtype == torch.bool]
            assert not masks, f"{name} by a mask has a shape that depends on values"
        result = func(*args, **(kwargs or {}))
        shape = tuple(result.shape) if isinstance(result, torch.Tensor) else None
        self.operators.append((name, shape))
        return result


def watch_steps(model: tritonseq.Model, monkeypatch: Any, *args: Any, **options: Any) -> list[Any]:
    """The programs of all steps of a call, as they would be on a GPU."""
    programs: list[Any] = []
    step = Engine.step

    def watched(self: Engine) -> None:
        with Program() as program:
            step(self)
        programs.append(program.operators)

    def left_out(launch: _launch.Launch) -> None:
        # What the interpreter does to run a kernel is no part of the program, and the program is
        # the same whatever kernels find.
        pass

    def never_ended(flags: Flags) -> tuple[int, list[bool]]:
        # Without kernels it is chance what memory says of the end.
        return flags.sent - 1, [False] * len(SOURCES)

    monkeypatch.setattr(Engine, "step", watched)

    def finite(scores: torch.Tensor, *, infinite: bool = False) -> None:
        # And what it says of scores.
        pass

    monkeypatch.setattr(Flags, "read", never_ended)
    for module in (search, beam_search):
        monkeypatch.setattr(module, "refuse", finite)
    monkeypatch.setattr(_launch.Launch, "run", left_out)
    with as_on_gpu():
        model.generate(*args, **options)
    return programs


EVERYTHING: dict[str, Any] = {
    "sequence_bias": [[[7, 8], 0.5]],
    "repetition_penalty": 1.2,
    "encoder_repetition_penalty": 1.1,
    "encoder_no_repeat_ngram_size": 3,
    "no_repeat_ngram_size": 2,
    "no_repeat_ngram_ignore_ids": [9],
    "bad_words_ids": [[11, 12]],
    "min_new_tokens": 2,
    "forced_eos_token_id": 2,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": (3, 1.1),
    "suppress_tokens": [13],
    "begin_suppress_tokens": [14],
    "renormalize_logits": True,
}
WARPED: dict[str, Any] = {
    "do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.01,
    "typical_p": 0.95, "epsilon_cutoff": 1e-4,
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy-everything": EVERYTHING,
    "beams": {"num_beams": 3},
    "beams-bans": {"num_beams": 3, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
    "beams-everything": {"num_beams": 3, **EVERYTHING},
    "beams-early": {"num_beams": 2, "early_stopping": True},
    "beams-never": {"num_beams": 2, "early_stopping": "never"},
    "beams-timed": {"num_beams": 2, "max_time": 1e6},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "trie": {"num_beams": 2, "prefix_allowed_tokens_fn": tritonseq.Trie([[5, 6, 7, 8], [5, 9]])},
    "sampling": WARPED,
    "beam-sampling": {"num_beams": 2, **WARPED},
    "three-rows": {"do_sample": True, "num_return_sequences": 3},
}
ENDS: dict[str, Any] = {"eos_token_id": [2, 3], "pad_token_id": 0, "max_new_tokens": 7}


def model_of(kind: str) -> tritonseq.Model:
    if kind == "gpt2":
        return tiny.pair(seed=1).ours
    if kind == "unilm":
        return tiny_unilm.tiny(seed=1).model()
    if kind == "bart over states":
        return tritonseq.from_transformers(seq2seq.hf_model("bart", 1), source_cache="states")
    return seq2seq.pair(kind, seed=1).ours


SOURCES = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "name"),
    [*itertools.product(("gpt2", "bart", "unilm"), OPTIONS), ("bart over states", "beams")],
)
def test_a_step_is_the_same_program_every_time(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No wait, no shape that follows values, nothing that changes from step to step."""
    options = {**ENDS, **OPTIONS[name]}
    if kind == "unilm" and name in ("groups", "beam-sampling"):
        options["search"] = "transformers"
    first, *others = watch_steps(model_of(kind), monkeypatch, SOURCES, **options)
    # The first step may make constants that the others find.
    assert len(others) == ENDS["max_new_tokens"] - 2
    for other in others[1:]:
        assert other == others[0]
    del first


def test_the_program_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of the caller's waits for the device, and is seen to."""

    def look(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[0, 0].item()
        return scores

    with pytest.raises(AssertionError, match="waits for the device"):
        watch_steps(model_of("gpt2"), monkeypatch, SOURCES, **ENDS, logits_processor=[look])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "name", "samples"),
    [
        ("gpt2", "greedy", 1),
        ("gpt2", "greedy", 9),
        ("gpt2", "beams-bans", 3),
        ("gpt2", "trie", 5),
        ("t5", "beams", 3),
        pytest.param("bart", "greedy", 9, marks=pytest.mark.long),
        ("bart", "beams-everything", 3),
        ("unilm", "beams", 3),
    ],
)
def test_the_path_of_a_gpu_finds_the_same(kind: str, name: str, samples: int) -> None:
    """Triton's kernels, buffers in buckets, and a host that hears of an end late."""
    model, options = model_of(kind), {**ENDS, **OPTIONS[name]}
    sources = (SOURCES * 3)[:samples]
    if samples == 1:
        # Products of one row take the interpreter long.
        options["max_new_tokens"] = 3
    wanted = model.generate(sources, **options)
    with as_on_gpu():
        assert torch.equal(model.generate(sources, **options), wanted)


def launches_of_a_step(
    model: tritonseq.Model, monkeypatch: pytest.MonkeyPatch, *args: Any, **options: Any
) -> list[str]:
    """The names of all launches of one step; kernels are left out, memory is as it happens."""
    found: list[list[str]] = []
    step = Engine.step

    def noted(self: Engine) -> None:
        with counted(dry=True) as names:
            step(self)
        found.append(names)

    monkeypatch.setattr(Engine, "step", noted)
    with as_on_gpu():
        model.generate(*args, **options)
    monkeypatch.undo()
    return found[-1]


def test_launches_of_a_greedy_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five for each layer of GPT-2, and beside them embedding, head, choice, and two that note
    whether the choice was made by a number."""
    one, two = (
        len(
            launches_of_a_step(
                tiny.pair(seed=1, n_layer=layers).ours, monkeypatch, [[5, 6]],
                max_new_tokens=3, eos_token_id=2, pad_token_id=0,
            )
        )
        for layers in (1, 2)
    )  # fmt: skip
    assert two - one <= 5
    assert one - 5 <= 5


@pytest.mark.parametrize("source", [5, 50])
def test_launches_of_a_layer_of_bart(source: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most twelve, however long the source; and little beside the layers."""
    counts = []
    for layers in (1, 3):
        model = seq2seq.pair("bart", seed=1, decoder_layers=layers).ours
        monkeypatch.setattr(_launch, "SPLIT_LENGTH", 16)
        inputs = [list(range(5, 5 + source)), [5, 6, 7]]
        names = launches_of_a_step(model, monkeypatch, inputs, num_beams=3, **ENDS)
        counts.append(len(names))
    assert (counts[1] - counts[0]) / 2 <= 12
    assert counts[0] - 12 <= 12, names


def test_buckets_are_few_and_wide_enough() -> None:
    with as_on_gpu():
        assert [bucket(n, CPU) for n in (1, 64, 65, 200)] == [64, 64, 128, 256]
    assert [bucket(n, CPU) for n in (1, 65)] == [1, 65]


@pytest.mark.parametrize("kind", ["gpt2", "t5", "unilm", "bart over states"])
@pytest.mark.parametrize("name", ["greedy", "beams", "groups"])
def test_what_was_planned_is_what_is_taken(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[MemoryPlan] = []
    taken: list[tuple[int, int]] = []
    of, admit = MemoryPlan.of, Engine.admit

    def planned(*args: Any) -> MemoryPlan:
        plans.append(of(*args))
        return plans[-1]

    def admitted(self: Engine, *args: Any) -> None:
        taken.append((self.cache.nbytes, nbytes(self.state)))
        admit(self, *args)

    monkeypatch.setattr(MemoryPlan, "of", planned)
    monkeypatch.setattr(Engine, "admit", admitted)
    options = {**ENDS, **OPTIONS[name]}
    if kind == "unilm" and options.get("num_beam_groups"):
        options["search"] = "transformers"
    model_of(kind).generate(SOURCES, **options)
    assert [(p.source_cache + p.target_cache, p.state) for p in plans] == taken


@pytest.mark.parametrize("kind", ["gpt2", "bart", "unilm", "bart over states"])
def test_so_it_is_with_slots_that_are_refilled(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[MemoryPlan] = []
    taken: set[tuple[int, int]] = set()
    of, admit = MemoryPlan.of, Engine.admit

    def planned(*args: Any) -> MemoryPlan:
        plans.append(of(*args))
        return plans[-1]

    def admitted(self: Engine, *args: Any) -> None:
        taken.add((self.cache.nbytes + self._stage.nbytes, nbytes(self.state)))
        admit(self, *args)

    monkeypatch.setattr(MemoryPlan, "of", planned)
    monkeypatch.setattr(Engine, "admit", admitted)
    assert len(list(model_of(kind).generate_each(SOURCES * 3, slots=3, num_beams=2, **ENDS))) == 9
    assert [(p.source_cache + p.target_cache, p.state) for p in plans] == [*taken]


def test_what_does_not_fit_is_refused_with_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("gpt2")
    wanted = model.generate(SOURCES, **ENDS)
    monkeypatch.setattr(engines, "free_memory", lambda device: 5000)
    monkeypatch.setattr(model.decoder, "new_cache", refuse_but_to_plan(model.decoder.new_cache))
    with pytest.raises(DoesNotFit, match=r"needs .* \(source cache .*, target cache .*, state"):
        model.generate(SOURCES, **ENDS)
    assert issubclass(DoesNotFit, ValueError)
    monkeypatch.undo()
    assert torch.equal(model.generate(SOURCES, **ENDS), wanted)


def refuse_but_to_plan(new_cache: Any) -> Any:
    """Caches without memory are for planning; nothing else may be made."""

    def planned(sizes: Any, device: torch.device | None = None) -> Any:
        assert device == torch.device("meta"), "made before it was refused"
        return new_cache(sizes, device)

    return planned


def test_the_free_memory_of_this_machine() -> None:
    free = free_memory(CPU)
    assert free is None or 2**20 < free < 2**50
    assert free_memory(torch.device("meta")) is None


def test_the_room_that_a_container_leaves(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "memory.max": "1000\n",
        "memory.current": "700\n",
        "memory.stat": "anon 5\ninactive_file 200\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(engines, "GROUP", tmp_path)
    assert free_memory(CPU) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(CPU) != 500


def test_two_threads_on_one_model() -> None:
    model = model_of("gpt2")
    options = [{**ENDS, **OPTIONS[name]} for name in ("greedy", "beams", "beams-bans", "groups")]
    wanted = [model.generate(SOURCES, **one) for one in options]
    wrong: list[str] = []

    def work(offset: int) -> None:
        for turn in range(12):
            place = (turn + offset) % len(options)
            if not torch.equal(model.generate(SOURCES, **options[place]), wanted[place]):
                wrong.append(f"thread {offset}, turn {turn}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("name", ["greedy", "beams"])
def test_a_model_that_is_dropped_takes_its_buffers_along(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By counting references alone, so that nothing waits for the garbage collector."""
    made: list[weakref.ref[Any]] = []
    init = Engine.__init__

    def noted(self: Engine, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        made.extend((weakref.ref(self), weakref.ref(self.hypotheses.written.tokens)))
        made.append(weakref.ref(self.decoder))

    monkeypatch.setattr(Engine, "__init__", noted)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            model = model_of("gpt2")
            model.generate(SOURCES, **ENDS, **OPTIONS[name])
            del model
            assert [ref for ref in made if ref() is not None] == []
    finally:
        gc.enable()
    assert len(made) == 60


class FakeEngine:
    """An engine to look at, captured if it can be."""

    can_be_captured = True

    def __init__(self, spec: Any, search: Any, *, graphs: bool) -> None:
        self.is_captured = False
        self.graphs = graphs
        self.bound = 0

    def capture(self) -> None:
        self.is_captured = self.can_be_captured

    def bind(self, spec: Any, search: Any) -> None:
        self.bound += 1

    def release(self) -> None:
        pass


class FakeSpec(NamedTuple):
    """What a pool asks of a spec."""

    key: Any
    size: int = 10
    device: torch.device = CPU
    sizes: Any = Sizes(1, 1, 1, 1)
    buffers: Any = MappingProxyType({"new_tokens": 1})

    def build_search(self) -> None:
        pass


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """A GPU of a thousand bytes, `free` of which can be had."""
    memory = {"free": 1000}
    monkeypatch.setattr(engines, "free_memory", lambda device: memory["free"])
    with as_on_gpu():
        yield memory


def used(pool: EnginePool, key: Any, size: int = 10) -> Any:
    """An engine that a request has used."""
    with pool.acquire(FakeSpec(key, size)) as engine:  # type: ignore[arg-type]
        return engine


class TestEnginePool:
    @pytest.fixture(autouse=True)
    def fake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engines, "Engine", FakeEngine)
        monkeypatch.setattr(MemoryPlan, "of", lambda spec, search: MemoryPlan(spec.size, 0, 0, 0))

    def test_the_same_key_gets_the_same_engine(self, on_gpu: Any) -> None:
        pool = EnginePool()
        first = used(pool, "a")
        assert used(pool, "a") is first
        assert first.bound == 2
        assert used(pool, "b") is not first

    def test_an_engine_is_used_by_one_at_a_time(self, on_gpu: Any) -> None:
        pool = EnginePool()
        with pool.acquire(FakeSpec("a")) as first:  # type: ignore[arg-type]
            assert used(pool, "a") is not first
        assert len(pool) == 2

    def test_their_number_is_bounded_and_the_oldest_go(self, on_gpu: Any) -> None:
        pool = EnginePool()
        made = [used(pool, n) for n in range(engines.KEPT + 3)]
        assert len(pool) == engines.KEPT
        assert used(pool, engines.KEPT + 2) is made[-1]
        assert used(pool, 0) is not made[0]

    def test_their_memory_is_bounded(self, on_gpu: Any) -> None:
        pool = EnginePool()
        for n in range(4):
            used(pool, n, size=200)
            on_gpu["free"] = 800 - 200 * len(pool)
        # Half of what is free if none is kept.
        assert len(pool) == 2

    def test_a_large_one_has_no_graph_and_says_so(self, on_gpu: Any, caplog: Any) -> None:
        pool = EnginePool()
        assert not used(pool, "a", size=600).is_captured
        assert len(pool) == 0
        assert len(caplog.records) == 1
        assert "no graph" in caplog.text

    def test_idle_ones_make_room(self, on_gpu: Any) -> None:
        pool = EnginePool()
        used(pool, "a", size=400)
        on_gpu["free"] = 300
        with pytest.raises(DoesNotFit):
            used(pool, "b", size=900)
        assert len(pool) == 0

    def test_one_that_failed_is_not_used_again(self, on_gpu: Any) -> None:
        pool = EnginePool()
        with pytest.raises(RuntimeError, match="broken"):  # noqa: SIM117
            with pool.acquire(FakeSpec("a")):  # type: ignore[arg-type]
                raise RuntimeError("broken")
        assert len(pool) == 0

    def test_without_graphs_nothing_is_kept(self, on_gpu: Any) -> None:
        pool = EnginePool()
        pool.graphs = False
        assert not used(pool, "a").is_captured
        assert len(pool) == 0

    def test_nothing_is_kept_on_the_cpu(self) -> None:
        pool = EnginePool()
        used(pool, "a")
        assert len(pool) == 0

    def test_one_that_cannot_be_captured_is_tried_once(
        self, on_gpu: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FakeEngine, "can_be_captured", False)
        pool = EnginePool()
        assert [used(pool, "a").graphs for _ in range(3)] == [True, False, False]

    def test_turning_graphs_off_lets_go_of_them(self, on_gpu: Any) -> None:
        pool = EnginePool()
        used(pool, "a")
        pool.graphs = False
        assert len(pool) == 0


def test_an_engine_serves_calls_in_and_out_of_inference_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that is kept on a GPU does: made in one mode, used in the other."""
    model = model_of("gpt2")
    monkeypatch.setattr(Engine, "is_captured", True)
    for name in ("greedy", "beams", "groups"):
        options = {**ENDS, **OPTIONS[name]}
        with torch.inference_mode():
            first = model.generate(SOURCES, **options)
        assert len(model.engines) > 0
        assert torch.equal(model.generate(SOURCES, **options), first)
        with torch.inference_mode():
            assert torch.equal(model.generate(SOURCES, **options), first)


def test_copies_of_a_model_have_engines_of_their_own() -> None:
    model = model_of("gpt2")
    wanted = model.generate(SOURCES, **ENDS)
    model.engines.graphs = False
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.generate(SOURCES, **ENDS), wanted)
        assert twin.engines is not model.engines
        assert twin.engines.graphs is False


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["gpt2", "t5", "unilm"])
def test_the_default_dtype_changes_nothing(kind: str) -> None:
    model = model_of(kind)
    for name in ("beams", "beams-everything", "groups", "sampling"):
        options = {**ENDS, **OPTIONS[name]}
        if kind == "unilm" and name == "groups":
            options["search"] = "transformers"
        torch.manual_seed(1)
        wanted = model.generate(SOURCES, **options)
        torch.set_default_dtype(torch.float64)
        try:
            torch.manual_seed(1)
            assert torch.equal(model.generate(SOURCES, **options), wanted)
        finally:
            torch.set_default_dtype(torch.float32)


def test_even_the_plan_of_the_impossible_takes_no_memory() -> None:
    with pytest.raises(DoesNotFit, match="pass fewer samples or beams"):
        model_of("gpt2").generate(SOURCES * 10**5, num_beams=2**16, **ENDS)


def test_one_that_is_left_half_way_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("gpt2")
    monkeypatch.setattr(Engine, "is_captured", True)
    wanted = model.generate(SOURCES, **ENDS)
    for _ in model.generate_each(SOURCES, slots=3, **ENDS):
        break
    gc.collect()
    assert len(model.engines) > 0
    assert torch.equal(model.generate(SOURCES, **ENDS), wanted)


@pytest.mark.parametrize("kind", ["gpt2", "unilm"])
def test_a_result_stays_when_its_engine_goes_on(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(kind)
    monkeypatch.setattr(Engine, "is_captured", True)
    how = {"num_beams": 3, "output_scores": True, "return_dict_in_generate": True, **ENDS}
    how["num_return_sequences"] = 3
    first = model.generate(SOURCES, **how)
    wanted = copy.deepcopy(first)
    model.generate(SOURCES[::-1], **how)
    assert len(model.engines) == 1
    for name in ("sequences", "sequences_scores", "beam_indices"):
        assert torch.equal(getattr(first, name), getattr(wanted, name))
    for frame, other in zip(first.beam_trace or (), wanted.beam_trace or (), strict=True):
        assert torch.equal(frame, other)
    assert (first.beam_trace is not None) == (kind == "unilm")


def test_a_kept_engine_forgets_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its functions nor what it recorded; and the next request with the key is right."""
    model = model_of("gpt2")
    monkeypatch.setattr(Engine, "is_captured", True)

    class Watch:
        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return scores

    watch = Watch()
    gone = weakref.ref(watch)
    wanted = model.generate(SOURCES, **ENDS)
    assert torch.equal(model.generate(SOURCES, logits_processor=watch, **ENDS), wanted)
    del watch
    gc.collect()
    assert gone() is None
    again = model.generate(SOURCES, stopping_criteria=lambda ids, scores: False, **ENDS)
    assert torch.equal(again, wanted)


def test_a_kept_engine_is_not_taken_for_a_search_that_ends_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A trace goes on to the very end where every token ends; a mere result does not."""
    monkeypatch.setattr(Engine, "is_captured", True)
    model = model_of("unilm")
    ends = {"eos_token_id": list(range(model.decoder.vocab_size)), "pad_token_id": 0}
    options = {**ends, "search": "unilm", "num_beams": 2, "early_stopping": "never"}
    steps = []
    for is_traced in (False, True, False):
        request = model._request(**options, max_new_tokens=5, return_dict_in_generate=is_traced)
        trace = request.run(SOURCES, None).beam_trace
        assert trace is not None
        steps.append(trace.tokens.shape[1])
    assert steps == [1, 5, 1]


def test_a_kept_engine_serves_other_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits, minima and prompts are in its buffers; one engine does for all of them."""
    monkeypatch.setattr(Engine, "is_captured", True)
    monkeypatch.setattr(
        "tritonseq.engine.spec.bucket", lambda length, device: -(-length // 16) * 16
    )
    kept, fresh = model_of("gpt2"), model_of("gpt2")
    ends = {"eos_token_id": [2, 3], "pad_token_id": 0, "num_beams": 3, "no_repeat_ngram_size": 2}
    cases: list[tuple[Any, dict[str, Any]]] = [
        (SOURCES, {"max_new_tokens": 9, "min_new_tokens": 2}),
        ([[9], [8, 7], [6, 5, 4, 3]], {"max_new_tokens": 3, "min_new_tokens": 3}),
        (SOURCES[::-1], {"max_new_tokens": 12, "min_new_tokens": 1}),
    ]
    for inputs, lengths in cases:
        found = kept.generate(inputs, **ends, **lengths)
        fresh.engines.clear()
        assert torch.equal(found, fresh.generate(inputs, **ends, **lengths))
    assert len(kept.engines) == 1


class TestFlags:
    def test_they_are_read_at_once_where_memory_is_shared(self) -> None:
        ended = torch.tensor([False, True])
        flags = Flags(ended, lag=0)
        flags.send()
        assert flags.read() == (0, [False, True])

    def test_they_come_late_where_the_device_runs_ahead(self) -> None:
        ended = torch.tensor([False, False])
        flags = Flags(ended, lag=2)
        for step in range(5):
            ended[0] = step >= 1
            flags.send()
            number, seen = flags.read()
            assert number == step - 2
            assert seen == [number >= 1, False]
        flags.restart()
        flags.send()
        assert flags.read() == (-2, [False, False])


class TestBuffers:
    def test_views_share_memory_and_leave_the_rest(self) -> None:
        record = [(torch.arange(4), None), {"kept": 1}]
        view = of_samples(record, 1, 2)
        view[0][0][0] = 9
        assert record[0][0].tolist() == [0, 9, 2, 3]
        assert view[0][1] is None
        assert nbytes(record[0]) == 32


@pytest.mark.gpu
class TestGraphs:
    """On a real GPU: what is captured, what waits, and what is left behind."""

    def model(self) -> tritonseq.Model:
        model = model_of("gpt2")
        model.decoder.cuda()
        return model

    @pytest.mark.parametrize("name", ["greedy", "beams", "beams-bans", "beams-everything", "trie"])
    def test_replays_equal_calls(self, name: str) -> None:
        model, options = self.model(), {**ENDS, **OPTIONS[name]}
        model.engines.graphs = False
        wanted = model.generate(SOURCES, **options)
        model.engines.graphs = True
        for _ in range(3):
            assert torch.equal(model.generate(SOURCES, **options), wanted)
        assert len(model.engines) == 1

    def test_a_step_never_waits(self) -> None:
        model, options = self.model(), {**ENDS, **OPTIONS["beams-everything"]}
        model.generate(SOURCES, **options)
        step = Engine.step

        def watched(self: Engine) -> None:
            before = torch.cuda.memory_stats()["allocation.all.allocated"]
            torch.cuda.set_sync_debug_mode("error")
            try:
                step(self)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            assert torch.cuda.memory_stats()["allocation.all.allocated"] == before

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Engine, "step", watched)
            model.generate(SOURCES, **options)

    def test_memory_is_flat_over_twenty_models(self) -> None:
        used = []
        for _ in range(20):
            model = self.model()
            model.generate(SOURCES, **ENDS, num_beams=3)
            del model
            gc.collect()
            torch.cuda.empty_cache()
            used.append(torch.cuda.memory_reserved())
        assert max(used[3:]) == min(used[3:])
