"""`Model.generate` against transformers 5.24: the same ids, option by option."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import pytest
import tiny
import torch
import transformers

MODELS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_word_embeddings": False, "n_layer": 3},
    "two-ends": {"eos_token_id": [tiny.EOS, 11], "n_head": 2},
}

# Options that both engines understand; every one runs on every model, with and without padding.
GREEDY: dict[str, dict[str, Any]] = {
    "plain": {},
    "default-length": {"max_new_tokens": None},
    "one-token": {"max_new_tokens": 1},
    "max-length": {"max_new_tokens": None, "max_length": 15},
    "min-length": {"min_length": 14},
    "min-new": {"min_new_tokens": 9},
    "ngram-1": {"no_repeat_ngram_size": 1},
    "ngram-2": {"no_repeat_ngram_size": 2},
    "ngram-3": {"no_repeat_ngram_size": 3},
    "source-ngram": {"encoder_no_repeat_ngram_size": 2},
    "repetition": {"repetition_penalty": 1.7},
    "source-repetition": {"encoder_repetition_penalty": 1.4},
    "bad-words": {"bad_words_ids": [[9], [12, 13], [20, 21, 22], [tiny.EOS]]},
    "bias": {"sequence_bias": {(9,): 3.0, (14, 15): -4.0, (30,): 2.5}},
    "forced-eos": {"forced_eos_token_id": tiny.EOS},
    "forced-bos": {"forced_bos_token_id": 9},
    "suppress": {"suppress_tokens": [8, 9, 10, 30]},
    "suppress-first": {"begin_suppress_tokens": [tiny.EOS, 20, 40]},
    "decay": {"exponential_decay_length_penalty": (4, 1.3)},
    "renormalize": {"renormalize_logits": True, "no_repeat_ngram_size": 2},
    "clean": {"remove_invalid_values": True},
    "no-end": {"eos_token_id": None},
    "mixture": {
        "no_repeat_ngram_size": 2,
        "repetition_penalty": 1.3,
        "min_new_tokens": 3,
        "bad_words_ids": [[9], [12, 13]],
        "suppress_tokens": [30],
        "forced_eos_token_id": tiny.EOS,
    },
}
BEAMS: dict[str, dict[str, Any]] = {
    f"beams-{beams}-{stop}-{penalty}": {
        "num_beams": beams,
        "early_stopping": stop,
        "length_penalty": penalty,
    }
    for beams, stop, penalty in product((2, 4), (True, False, "never"), (0.0, 1.0, 2.0, -1.0))
}
SAMPLING: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.6, "top_k": 0},
    "top-k": {"top_k": 5},
    "top-p": {"top_p": 0.7, "top_k": 0},
    "min-p": {"min_p": 0.1},
    "typical": {"typical_p": 0.6},
    "epsilon": {"epsilon_cutoff": 0.01, "top_k": 0},
    "three": {"num_return_sequences": 3},
    "mixture": {"temperature": 1.4, "top_k": 20, "top_p": 0.9, "no_repeat_ngram_size": 2},
    "beams": {"num_beams": 3},
    "beams-mixture": {
        "num_beams": 4,
        "num_return_sequences": 2,
        "temperature": 0.8,
        "top_k": 20,
        "length_penalty": 0.5,
    },
}


@cache
def models(name: str) -> tiny.Pair:
    return tiny.pair(seed=11, **MODELS[name])


def compare(name: str, ragged: bool, options: dict[str, Any], seed: int | None = None) -> Any:
    pair = models(name)
    ids, mask = tiny.prompts(4, 6, seed=12, ragged=ragged)
    options = {"max_new_tokens": 12, "hf_exact": ragged} | options
    hf_options = {k: v for k, v in options.items() if k != "hf_exact"}
    if seed is not None:
        torch.manual_seed(seed)
    other = tiny.theirs(pair.theirs, ids, mask, **hf_options)
    if seed is not None:
        torch.manual_seed(seed)
    mine = tiny.ours(pair.ours, ids, mask, **options)
    tiny.assert_same(mine, other)
    return mine


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("options", GREEDY)
def test_greedy(name: str, ragged: bool, options: str) -> None:
    compare(name, ragged, GREEDY[options])


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("options", GREEDY)
def test_processors_under_beams(name: str, ragged: bool, options: str) -> None:
    compare(name, ragged, {"num_beams": 3, "num_return_sequences": 2} | GREEDY[options])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("options", BEAMS)
def test_beam_rules(name: str, options: str) -> None:
    beams = BEAMS[options]["num_beams"]
    compare(name, True, {"num_return_sequences": beams, "max_new_tokens": 20} | BEAMS[options])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("options", SAMPLING)
def test_sampling_draws_the_same_tokens(name: str, options: str) -> None:
    compare(name, True, {"do_sample": True} | SAMPLING[options], seed=13)


def test_the_grid_is_not_trivial() -> None:
    """Hypotheses of the grid do end early, at different lengths, and differ from each other."""
    options = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 20}
    output = compare("tied", True, options)
    lengths = (output.beam_indices >= 0).sum(1)
    assert lengths.min() < lengths.max()
    assert len({tuple(row) for row in output.sequences.tolist()}) == output.sequences.shape[0]


def test_a_forced_first_token_needs_a_prompt_of_one() -> None:
    pair = models("tied")
    ids, mask = tiny.prompts(3, 1, seed=14)
    for beams in (1, 3):
        options = {"forced_bos_token_id": 9, "num_beams": beams, "max_new_tokens": 5}
        mine = tiny.ours(pair.ours, ids, mask, **options)
        tiny.assert_same(mine, tiny.theirs(pair.theirs, ids, mask, **options))
        assert (mine.sequences[:, 1] == 9).all()


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 4, "length_penalty": 2.0}])
def test_a_batch_equals_its_samples_one_by_one(options: dict[str, Any]) -> None:
    ours = models("two-ends").ours
    ids, mask = tiny.prompts(6, 7, seed=15, ragged=True)
    batch = ours.generate(ids, mask, max_new_tokens=14, no_repeat_ngram_size=2, **options)
    for row in range(6):
        alone = ids[row, mask[row] == 1][None]
        single = ours.generate(alone, max_new_tokens=14, no_repeat_ngram_size=2, **options)
        generated = single[0, alone.shape[1] :]
        in_batch = batch[row, 7:]
        assert torch.equal(in_batch[: len(generated)], generated)
        assert (in_batch[len(generated) :] == tiny.PAD).all()


def test_padding_does_not_change_what_is_banned() -> None:
    """transformers counts pads as tokens that may not come again; here they are no tokens."""
    ours = models("tied").ours
    ids, _ = tiny.prompts(1, 5, seed=16)
    padded = torch.cat((torch.full((1, 4), tiny.PAD), ids), dim=1)
    mask = (torch.arange(9) >= 4).long()[None]
    plain = ours.generate(ids, max_new_tokens=25, no_repeat_ngram_size=1)
    moved = ours.generate(padded, mask, max_new_tokens=25, no_repeat_ngram_size=1)
    assert torch.equal(plain[0, 5:], moved[0, 9:])


def test_a_mask_is_inferred_from_pads() -> None:
    pair = models("tied")
    ids, mask = tiny.prompts(4, 6, seed=17, ragged=True)
    assert torch.equal(pair.ours.generate(ids), pair.ours.generate(ids, mask))
    assert torch.equal(pair.ours.generate(ids), pair.theirs.generate(ids, do_sample=False))


def test_lists_of_any_lengths_are_padded() -> None:
    ours = models("tied").ours
    ids, mask = tiny.prompts(4, 6, seed=18, ragged=True)
    rows = [row[m == 1].tolist() for row, m in zip(ids, mask, strict=True)]
    assert torch.equal(ours.generate(rows), ours.generate(ids, mask))


def test_no_prompt_starts_from_bos() -> None:
    pair = models("tied")
    mine = pair.ours.generate(max_new_tokens=5)
    assert mine[0, 0] == tiny.EOS
    assert torch.equal(mine, pair.theirs.generate(max_new_tokens=5, do_sample=False))


def test_pad_zero_fills_shorter_beams_unless_hf_exact() -> None:
    pair = models("two-ends")
    ids, mask = tiny.prompts(4, 6, seed=12)
    options = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 12, "pad_token_id": 0}
    other = pair.theirs.generate(ids, attention_mask=mask, **options)
    exact = pair.ours.generate(ids, mask, hf_exact=True, **options)
    assert torch.equal(exact, other)
    mine = pair.ours.generate(ids, mask, **options)
    differs = mine != other
    assert differs.any()
    assert (mine[differs] == 0).all()
    assert (other[differs] == tiny.EOS).all()


def test_output_without_scores_has_transformers_fields() -> None:
    ours = models("tied").ours
    ids, mask = tiny.prompts(2, 4)
    greedy = ours.generate(ids, mask, return_dict_in_generate=True)
    assert set(greedy.keys()) == {"sequences"}
    beams = ours.generate(ids, mask, return_dict_in_generate=True, num_beams=2)
    assert set(beams.keys()) == {"sequences", "beam_indices"}
    assert "scores" not in beams
    assert torch.equal(beams["sequences"], beams.sequences)
    with pytest.raises(KeyError, match="this output has sequences, beam_indices"):
        beams["scores"]


@pytest.mark.parametrize("beams", [1, 3])
def test_results_are_ordinary_tensors(beams: int) -> None:
    ids, mask = tiny.prompts(2, 4)
    output = tiny.ours(models("tied").ours, ids.int(), mask, num_beams=beams)
    assert output.sequences.dtype == torch.int64
    tensors = [output.sequences, *output.scores, *output.logits]
    tensors += [] if beams == 1 else [output.sequences_scores, output.beam_indices]
    assert not any(tensor.is_inference() for tensor in tensors)
    weight = torch.ones(tiny.VOCAB, requires_grad=True)
    (output.logits[0] * weight).sum().backward()
    assert weight.grad is not None


def test_ambient_state_changes_nothing() -> None:
    """An autocast or a default dtype around the call, as in an evaluation within training."""
    ours = models("tied").ours
    ids, mask = tiny.prompts(3, 6, seed=27, ragged=True)
    options = {"max_new_tokens": 6, "num_beams": 2, "no_repeat_ngram_size": 2}
    wanted = ours.generate(ids, mask, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours.generate(ids, mask, **options), wanted)
    default = torch.get_default_dtype()
    for dtype in (torch.bfloat16, torch.float64):
        try:
            torch.set_default_dtype(dtype)
            assert torch.equal(ours.generate(ids, mask, **options), wanted)
        finally:
            torch.set_default_dtype(default)


def test_output_reads_like_transformers() -> None:
    ids, mask = tiny.prompts(2, 4)
    pair = models("tied")
    for beams in (1, 2):
        mine = tiny.ours(pair.ours, ids, mask, num_beams=beams)
        other = tiny.theirs(pair.theirs, ids, mask, num_beams=beams)
        assert set(mine) == set(other.keys()) - {"cache", "past_key_values"}
        assert torch.equal(mine[0], other[0])
        assert mine.cache is mine.past_key_values is None and mine.attentions is None


def test_diverse_groups_choose_different_tokens() -> None:
    ours = models("tied").ours
    ids, mask = tiny.prompts(3, 5, seed=19)
    # An end token is not held against later groups: the beams of a group go on without it.
    plain = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 8, "min_new_tokens": 8}
    together = ours.generate(ids, mask, **plain)
    diverse = ours.generate(ids, mask, num_beam_groups=4, diversity_penalty=50.0, **plain)
    for sample in range(3):
        first = diverse[4 * sample : 4 * sample + 4, 5]
        assert len(set(first.tolist())) == 4
    assert not torch.equal(diverse, together)


def test_one_group_without_penalty_is_plain_beam_search_of_each_group() -> None:
    """Groups that are not held apart all find what a search of their own size finds."""
    ours = models("tied").ours
    ids, mask = tiny.prompts(3, 5, seed=20)
    small = tiny.ours(ours, ids, mask, num_beams=2, num_return_sequences=2)
    groups = tiny.ours(
        ours, ids, mask, num_beams=6, num_beam_groups=3, diversity_penalty=1e-30,
        num_return_sequences=6,
    )  # fmt: skip
    for sample in range(3):
        wanted = {tuple(row) for row in small.sequences[2 * sample : 2 * sample + 2].tolist()}
        found = {tuple(row) for row in groups.sequences[6 * sample : 6 * sample + 6].tolist()}
        assert found == wanted


def test_user_processors_and_criteria_see_what_transformers_shows_them() -> None:
    pair = models("tied")
    ids, mask = tiny.prompts(3, 5, seed=21, ragged=True)

    def run(generate: Any, **options: Any) -> tuple[Any, list[Any]]:
        seen: list[Any] = []

        def prefer(prefix: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            seen.append(prefix.clone())
            return scores + torch.arange(scores.shape[1]) * 0.05

        def stop(prefix: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            seen.append(prefix.clone())
            seen.append(torch.tensor(-1 if scores is None else len(scores)))
            return prefix[:, -1] > 50

        result = generate(
            ids,
            attention_mask=mask,
            logits_processor=transformers.LogitsProcessorList([prefer]),
            stopping_criteria=transformers.StoppingCriteriaList([stop]),
            max_new_tokens=8,
            **options,
        )
        return result, seen

    recorded = {"return_dict_in_generate": True, "output_scores": True}
    for options in ({}, {"num_beams": 3}, recorded, {"num_beams": 3} | recorded):
        mine, my_views = run(pair.ours.generate, **options)
        other, their_views = run(pair.theirs.generate, **options)
        assert torch.equal(getattr(mine, "sequences", mine), getattr(other, "sequences", other))
        assert len(my_views) == len(their_views)
        assert all(torch.equal(a, b) for a, b in zip(my_views, their_views, strict=True))


def test_a_user_processor_replaces_the_built_in_of_its_type() -> None:
    pair = models("tied")
    ids, mask = tiny.prompts(3, 5, seed=22)
    custom = transformers.TemperatureLogitsWarper(0.1)
    custom_min = transformers.MinLengthLogitsProcessor(9, tiny.EOS)
    options = {"min_length": 14, "max_new_tokens": 8, "do_sample": True, "temperature": 3.0}
    results = []
    for generate in (pair.ours.generate, pair.theirs.generate):
        torch.manual_seed(5)
        results.append(
            generate(ids, attention_mask=mask, logits_processor=[custom, custom_min], **options)
        )
    assert torch.equal(*results)


def test_a_user_criterion_replaces_the_built_in_of_its_type() -> None:
    pair = models("tied")
    ids, mask = tiny.prompts(4, 5, seed=28)
    criterion = transformers.EosTokenCriteria([30, 40])
    for beams in (1, 3):
        options = {"stopping_criteria": [criterion], "num_beams": beams, "max_new_tokens": 12}
        mine = pair.ours.generate(ids, mask, **options)
        criteria = transformers.StoppingCriteriaList([criterion])
        other = pair.theirs.generate(
            ids, attention_mask=mask, **options | {"stopping_criteria": criteria}
        )
        assert torch.equal(mine, other)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("limit", [3, 6, 9, 17])
def test_a_length_that_is_a_criterion(beams: int, limit: int) -> None:
    pair = models("tied")
    ids, mask = tiny.prompts(4, 5, seed=28)
    criterion = transformers.MaxLengthCriteria(limit)
    options = {"num_beams": beams, "max_new_tokens": 12}
    mine = pair.ours.generate(ids, mask, stopping_criteria=criterion, **options)
    criteria = transformers.StoppingCriteriaList([criterion])
    other = pair.theirs.generate(ids, attention_mask=mask, stopping_criteria=criteria, **options)
    assert torch.equal(mine, other)
    with pytest.raises(ValueError, match=r"MaxLengthCriteria\(18\) .* pass max_length=18, or"):
        pair.ours.generate(
            ids, mask, stopping_criteria=[transformers.MaxLengthCriteria(18)], **options
        )


@pytest.mark.parametrize("answer", [None, 1, torch.zeros(5, dtype=torch.bool)])
def test_a_criterion_that_answers_nonsense(answer: Any) -> None:
    def puzzled(ids: torch.Tensor, scores: Any) -> Any:
        return answer

    ids, mask = tiny.prompts(2, 5)
    with pytest.raises(ValueError, match="stopping criterion puzzled returned"):
        models("tied").ours.generate(ids, mask, stopping_criteria=puzzled)


def test_diverse_groups_stop_where_a_criterion_says() -> None:
    """A criterion that ends one group leaves the others, and the batch, as they are."""
    ours = models("tied").ours
    options = {
        "num_beams": 2,
        "num_beam_groups": 2,
        "diversity_penalty": 0.5,
        "num_return_sequences": 2,
        "length_penalty": 2.0,
        "early_stopping": "never",
        "max_new_tokens": 12,
        "min_new_tokens": 12,
    }
    for seed in range(10):
        ids, mask = tiny.prompts(2, 5, seed=seed)
        first = int(ours.generate(ids[:1], mask[:1], max_new_tokens=1, min_new_tokens=1)[0, -1])

        def stop(prefix: torch.Tensor, scores: Any, first: int = first) -> torch.Tensor:
            return (prefix[:, 5] == first) & (prefix.shape[1] >= 8)

        together = ours.generate(ids, mask, stopping_criteria=stop, **options)
        for row in range(2):
            alone = ours.generate(
                ids[row : row + 1], mask[row : row + 1], stopping_criteria=stop, **options
            )
            in_batch = together[2 * row : 2 * row + 2, : alone.shape[1]]
            assert torch.equal(in_batch, alone)
        for sequence in together:
            text = sequence[sequence != tiny.PAD]
            assert sequence[5] != first or len(text) <= 8


def test_prefix_allowed_tokens() -> None:
    pair = models("tied")
    ids, mask = tiny.prompts(3, 5, seed=23)

    def allowed(sample: int, prefix: torch.Tensor) -> list[int]:
        return [8 + sample, 9 + int(prefix[-1]) % 7, tiny.EOS]

    for beams in (1, 3):
        options = {"prefix_allowed_tokens_fn": allowed, "num_beams": beams, "max_new_tokens": 6}
        mine = pair.ours.generate(ids, mask, **options)
        other = pair.theirs.generate(ids, attention_mask=mask, **options)
        assert torch.equal(mine, other)


def test_max_time_finalises_what_there_is() -> None:
    ours = models("tied").ours
    ids, mask = tiny.prompts(2, 5)
    for beams in (1, 3):
        result = ours.generate(ids, mask, max_new_tokens=40, num_beams=beams, max_time=1e-9)
        assert result.shape[1] == 6


def test_streaming_yields_what_generate_returns() -> None:
    pair = models("two-ends")
    ids, _ = tiny.prompts(1, 5, seed=24)
    whole = pair.ours.generate(ids, max_new_tokens=10)
    assert list(pair.ours.stream(ids, max_new_tokens=10)) == whole[0, 5:].tolist()
    torch.manual_seed(3)
    sampled = pair.ours.generate(ids, max_new_tokens=10, do_sample=True)
    torch.manual_seed(3)
    assert list(pair.ours.stream(ids, max_new_tokens=10, do_sample=True)) == sampled[0, 5:].tolist()

    def stop(prefix: torch.Tensor, scores: Any) -> bool:
        return prefix.shape[1] >= 7

    assert len(list(pair.ours.stream(ids, stopping_criteria=stop, eos_token_id=None))) == 2


def test_a_stream_can_be_left_early() -> None:
    ours = models("tied").ours
    ids, _ = tiny.prompts(1, 5)
    stream = ours.stream(ids, max_new_tokens=30, eos_token_id=None)
    first = next(stream)
    assert not torch.is_inference_mode_enabled()
    stream.close()
    assert first == ours.generate(ids, max_new_tokens=1)[0, -1]


def test_streamer_gets_prompt_and_tokens_as_in_transformers() -> None:
    class Log:
        def __init__(self) -> None:
            self.events: list[Any] = []

        def put(self, value: torch.Tensor) -> None:
            self.events.append(value)

        def end(self) -> None:
            # What a streamer was handed is its own, and stays.
            self.events = [value.tolist() for value in self.events] + ["end"]

    pair = models("two-ends")
    ids, mask = tiny.prompts(2, 4, seed=25)
    mine, other = Log(), Log()
    pair.ours.generate(ids, mask, streamer=mine, max_new_tokens=6)
    pair.theirs.generate(ids, attention_mask=mask, streamer=other, max_new_tokens=6)
    assert mine.events == other.events
    with pytest.raises(ValueError, match="streamer works with num_beams=1 only"):
        pair.ours.generate(ids, mask, streamer=Log(), num_beams=2)


def test_a_generation_config_object_of_transformers() -> None:
    pair = models("tied")
    ids, mask = tiny.prompts(3, 5, seed=26)
    config = transformers.GenerationConfig(num_beams=3, max_new_tokens=7, length_penalty=2.0)
    other = pair.theirs.generate(ids, attention_mask=mask, generation_config=config)
    assert torch.equal(pair.ours.generate(ids, mask, generation_config=config), other)
