"""Samples that come and go: who is beside whom changes no output."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import pytest
import seq2seq
import tiny
import tiny_unilm
import torch
from launches import as_on_gpu

import tritonseq

SLOTS = 4

GREEDY: dict[str, Any] = {"max_new_tokens": 9}
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": GREEDY,
    "beams": {"num_beams": 3, **GREEDY},
    "early": {"num_beams": 3, "early_stopping": True, "num_return_sequences": 2, **GREEDY},
    "never": {"num_beams": 2, "early_stopping": "never", "length_penalty": -1.0, **GREEDY},
    "bans": {
        "num_beams": 3,
        "no_repeat_ngram_size": 2,
        "min_new_tokens": 3,
        "forced_eos_token_id": 5,
        **GREEDY,
    },
    "texts": {
        "num_beams": 2,
        "repetition_penalty": 1.3,
        "encoder_repetition_penalty": 1.2,
        "encoder_no_repeat_ngram_size": 3,
        "bad_words_ids": [[7, 8], [9]],
        "exponential_decay_length_penalty": (3, 1.1),
        **GREEDY,
    },
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7, **GREEDY},
    "long": {"num_beams": 2, "max_length": 17},
}


def model_of(kind: str) -> tritonseq.Model:
    if kind == "gpt2":
        return tiny.pair(seed=1).ours
    if kind == "unilm":
        return tiny_unilm.tiny(seed=1, max_position_embeddings=64).model()
    return seq2seq.pair(kind, seed=1).ours


def inputs_of(model: tritonseq.Model, count: int, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    vocabulary = getattr(model.decoder, "source_vocab_size", model.decoder.vocab_size)
    lengths = [rng.choice([1, 2, 3, 5, 8, 13]) for _ in range(count)]
    return [[rng.randrange(3, vocabulary) for _ in range(length)] for length in lengths]


def ends_of(model: tritonseq.Model) -> dict[str, Any]:
    """Many end tokens, so that samples end at different steps."""
    vocabulary = model.decoder.vocab_size
    return {"eos_token_id": list(range(2, vocabulary, 6)), "pad_token_id": 0}


def assert_alone_and_among_others(
    model: tritonseq.Model, inputs: list[Any], slots: int, **options: Any
) -> None:
    """The stream through few slots finds what every input finds alone."""
    found: dict[int, torch.Tensor] = {}
    for place, ids in model.generate_each(inputs, slots=slots, **options):
        assert place not in found
        found[place] = ids
    assert sorted(found) == list(range(len(inputs)))
    lengths = set()
    for place, ids in enumerate(inputs):
        alone = model.generate([ids], **options)
        assert torch.equal(found[place], alone), place
        lengths.add(alone.shape[1])
    assert len(lengths) > 1, "all end at the same step, and none makes room for another"


@pytest.mark.parametrize(
    ("kind", "search"),
    [*product(["gpt2", "t5", "bart"], SEARCHES), ("prophetnet", "bans")],
)
def test_a_stream_equals_its_samples_alone(kind: str, search: str) -> None:
    model = model_of(kind)
    options = {**ends_of(model), **SEARCHES[search]}
    assert_alone_and_among_others(model, inputs_of(model, 50, seed=2), SLOTS, **options)


@pytest.mark.parametrize("search", ["greedy", "beams", "early", "bans"])
@pytest.mark.parametrize("rules", ["unilm", "transformers"])
def test_a_stream_of_unilm(rules: str, search: str) -> None:
    model = model_of("unilm")
    options = {**ends_of(model), **SEARCHES[search], "search": rules}
    assert_alone_and_among_others(model, inputs_of(model, 50, seed=3), SLOTS, **options)


@pytest.mark.parametrize("slots", [1, 3, 50, 64])
def test_any_number_of_slots(slots: int) -> None:
    model = model_of("gpt2")
    options = {**ends_of(model), **SEARCHES["beams"]}
    assert_alone_and_among_others(model, inputs_of(model, 23, seed=4), slots, **options)


@pytest.mark.parametrize(
    ("kind", "search"),
    [
        pytest.param("t5", "beams", marks=pytest.mark.long),
        ("bart", "groups"),
        ("unilm", "beams"),
        pytest.param("prophetnet", "beams", marks=pytest.mark.long),
    ],
)
def test_a_stream_as_on_a_gpu(kind: str, search: str) -> None:
    """Kernels in Triton, and a host that hears of an end two steps late."""
    model = model_of(kind)
    options = {**ends_of(model), **SEARCHES[search], "max_new_tokens": 4}
    inputs = inputs_of(model, 5, seed=5)
    with as_on_gpu():
        found = dict(model.generate_each(inputs, slots=3, **options))
    for place, ids in enumerate(inputs):
        assert torch.equal(found[place], model.generate([ids], **options))


def test_every_sample_follows_its_own_trie() -> None:
    model = model_of("gpt2")
    inputs = inputs_of(model, 9, seed=6)
    answers = [[[n + 3, n + 4], [n + 5]] for n in range(len(inputs))]
    trie = tritonseq.Trie.per_sample(answers)
    options = {"eos_token_id": 2, "pad_token_id": 0, "num_beams": 2, "max_new_tokens": 4}
    found = dict(model.generate_each(inputs, slots=3, prefix_allowed_tokens_fn=trie, **options))
    for place, ids in enumerate(inputs):
        written = found[place][0, len(ids) :].tolist()
        assert written in ([*answer, 2] for answer in answers[place])


def test_decoder_prompts_of_their_own() -> None:
    model = model_of("bart")
    inputs = inputs_of(model, 9, seed=7)
    starts = [[2, 5 + n] for n in range(len(inputs))]
    options = {**ends_of(model), **GREEDY}
    found = dict(model.generate_each(inputs, slots=3, decoder_input_ids=starts, **options))
    for place, ids in enumerate(inputs):
        alone = model.generate([ids], decoder_input_ids=[starts[place]], **options)
        assert torch.equal(found[place], alone)


def test_nothing_to_do() -> None:
    assert list(model_of("gpt2").generate_each([], max_new_tokens=3)) == []


def test_tensors_are_inputs_too() -> None:
    model = model_of("gpt2")
    inputs = [torch.tensor(ids) for ids in inputs_of(model, 3, seed=8)]
    found = dict(model.generate_each(inputs, slots=2, **ends_of(model), **GREEDY))
    for place, ids in enumerate(inputs):
        alone = model.generate(ids[None], **ends_of(model), **GREEDY)
        assert torch.equal(found[place], alone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slots": 0}, "slots is 0"),
        ({"slots": True}, "slots is True"),
        ({"prefix_allowed_tokens_fn": lambda sample, ids: [3]}, "work with generate only"),
        ({"output_scores": True}, "work with generate only"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"num_beam": 3}, "num_beam"),
    ],
)
def test_what_cannot_be_is_refused_at_the_call(arguments: dict[str, Any], message: str) -> None:
    model = model_of("gpt2")
    with pytest.raises(ValueError, match=message):
        model.generate_each([[5, 6], [7]], **{**GREEDY, **ends_of(model), **arguments})


def test_a_bad_input_is_named_before_anything_runs() -> None:
    model = model_of("gpt2")
    with pytest.raises(ValueError, match="999"):
        model.generate_each([[5], [999], [6]], **GREEDY)
    with pytest.raises(ValueError, match="same number for every input"):
        model_of("bart").generate_each([[5], [6]], decoder_input_ids=[[2, 3], [2]], **GREEDY)
    with pytest.raises(ValueError, match=r"inputs\[1\] holds 2 rows: pass the ids \[L\]"):
        model.generate_each([torch.tensor([5]), torch.tensor([[5, 6], [7, 8]])], **GREEDY)
    with pytest.raises(tritonseq.DoesNotFit, match="pass fewer samples or beams"):
        model_of("t5").generate_each([[5, 6]] * 500, slots=500, num_beams=20, max_new_tokens=2**22)


def test_inputs_may_change_meanwhile() -> None:
    model = model_of("gpt2")
    first, second = torch.tensor([9, 8]), torch.tensor([5, 6])
    wanted = model.generate(second[None], **GREEDY)
    found = model.generate_each([first, second], slots=1, **GREEDY)
    next(found)
    second.fill_(20)
    assert torch.equal(next(found)[1], wanted)


def test_no_more_slots_than_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    model = model_of("gpt2")
    new_cache = model.decoder.new_cache

    def noted(wanted: Any, device: Any = None) -> Any:
        sizes.append(wanted.samples)
        return new_cache(wanted, device)

    monkeypatch.setattr(model.decoder, "new_cache", noted)
    list(model.generate_each([[5], [6, 7]], slots=64, **GREEDY))
    assert set(sizes) == {2}


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_a_stream_outlives_the_mode_that_it_began_in(kind: str) -> None:
    """Slots here and there are filled by way of buffers that are made when first needed."""
    model = model_of(kind)
    inputs = inputs_of(model, 12, seed=8)
    options = {**ends_of(model), **GREEDY}
    found: dict[int, torch.Tensor] = {}
    stream = model.generate_each(inputs, slots=3, **options)
    for turn in range(len(inputs)):
        with torch.inference_mode(turn % 2 == 0):
            place, ids = next(stream)
        found[place] = ids
    for place, ids in enumerate(inputs):
        assert torch.equal(found[place], model.generate([ids], **options))
