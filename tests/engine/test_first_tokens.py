"""First tokens of single samples: each finds what it finds alone with its own, in any company."""

from __future__ import annotations

import random
from typing import Any

import pytest
import seq2seq
import tiny
import tiny_unilm
import torch
from tiny import EOS

import tritonseq
from tritonseq import Trie

SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 7},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 7},
    "bans": {
        "num_beams": 3,
        "no_repeat_ngram_size": 2,
        "begin_suppress_tokens": [20, 21, 22],
        "forced_eos_token_id": 5,
        "max_new_tokens": 7,
    },
    "groups": {
        **{"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7, "max_new_tokens": 6},
    },
}
OPTIONS = ("forced_bos_token_id", "decoder_start_token_id")


def model_of(kind: str) -> tritonseq.Model:
    return tiny_unilm.tiny(seed=1).model() if kind == "unilm" else seq2seq.pair(kind, seed=1).ours


def drawn(seed: int, count: int, *, holes: bool) -> tuple[list[list[int]], list[int | None]]:
    """Sources of any lengths, and a token for each; with holes, None for some."""
    rng = random.Random(seed)
    sources = [
        [rng.randrange(8, 60) for _ in range(rng.choice([1, 2, 5, 9]))] for _ in range(count)
    ]
    tokens = [None if holes and rng.random() < 0.3 else rng.randrange(8, 60) for _ in range(count)]
    return sources, tokens


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("option", OPTIONS)
def test_each_source_finds_what_it_finds_alone(option: str, search: str) -> None:
    model, options = model_of("mbart"), {**SEARCHES[search], "return_dict_in_generate": True}
    sources, tokens = drawn(3, 5, holes=option == OPTIONS[0])
    if options.get("num_beams", 1) > 1:
        options["output_scores"] = True
    together = model.generate(sources, **{option: tokens}, **options)
    copies = options.get("num_return_sequences", 1)
    for place, (source, token) in enumerate(zip(sources, tokens, strict=True)):
        alone = model.generate([source], **{option: token}, **options)
        rows = slice(place * copies, (place + 1) * copies)
        width = alone.sequences.shape[1]
        assert torch.equal(together.sequences[rows, :width], alone.sequences)
        if together.sequences_scores is not None:
            torch.testing.assert_close(together.sequences_scores[rows], alone.sequences_scores)


@pytest.mark.parametrize("kind", ["mbart", "unilm"])
def test_slots_that_are_refilled_have_the_tokens_of_those_who_come(kind: str) -> None:
    model, options = model_of(kind), {"num_beams": 2, "max_new_tokens": 6}
    sources, tokens = drawn(5, 9, holes=True)
    found = dict(model.generate_each(sources, slots=2, forced_bos_token_id=tokens, **options))
    for place, (source, token) in enumerate(zip(sources, tokens, strict=True)):
        alone = model.generate([source], forced_bos_token_id=token, **options)
        assert torch.equal(found[place], alone)


def test_tensors_and_lists_of_one_are_understood() -> None:
    model, sources = model_of("bart"), [[9, 10], [11, 12, 13]]
    wanted = model.generate(sources, forced_bos_token_id=[20, 30])
    assert wanted[:, 1].tolist() == [20, 30]
    assert torch.equal(model.generate(sources, forced_bos_token_id=torch.tensor([20, 30])), wanted)
    for one in ([20], 20):
        assert model.generate(sources, forced_bos_token_id=one)[:, 1].tolist() == [20, 20]


@pytest.mark.parametrize("within", [True, False], ids=["written", "left-out"])
def test_tries_follow_what_each_sample_is_forced_to(within: bool) -> None:
    model, forced = model_of("bart"), [20, 30]
    ends = [[[40, 41], [42]], [[43]]]
    sequences = [
        [[token, *end] if within else end for end in each]
        for token, each in zip(forced, ends, strict=True)
    ]
    options = {
        "forced_bos_token_id": forced,
        "prefix_allowed_tokens_fn": Trie.per_sample(sequences),
    }
    for rows in (
        model.generate([[9], [8, 9]], num_beams=2, **options),
        [ids[0] for _, ids in sorted(model.generate_each([[9], [8, 9]], slots=1, **options))],
    ):
        for row, token, each in zip(rows, forced, ends, strict=True):
            target = row[1:].tolist()
            end = model.generation_config.eos_token_id
            assert target[0] == token
            assert target[1 : target.index(end)] in each


def test_faults_are_told_before_anything_runs() -> None:
    model, ids = model_of("bart"), [[9], [10], [11]]
    with pytest.raises(ValueError, match="forced_bos_token_id has 2 tokens for 3 samples"):
        model.generate(ids, forced_bos_token_id=[20, 30])
    with pytest.raises(ValueError, match="forced_bos_token_id has 2 rows for 3 texts"):
        model.generate_each(ids, forced_bos_token_id=[20, 30])
    with pytest.raises(ValueError, match="forced_bos_token_id holds token id 99, outside"):
        model.generate(ids, forced_bos_token_id=[20, None, 99])
    with pytest.raises(ValueError, match="is also in suppress_tokens"):
        model.generate(ids, forced_bos_token_id=[20, 30, 40], suppress_tokens=[30])
    trie = Trie([[20, 21], [40, 41]])
    with pytest.raises(ValueError, match="forced_bos_token_id=20 comes first, and some sequences"):
        model.generate(ids, forced_bos_token_id=[20, None, 50], prefix_allowed_tokens_fn=trie)


def test_prompts_of_several_tokens_are_continued_as_they_are() -> None:
    model = tiny.pair(seed=1).ours
    prompts, tokens = [[EOS], [9, 10]], [20, 30]
    found = dict(model.generate_each(prompts, forced_bos_token_id=tokens, max_new_tokens=3))
    assert found[0][0, 1] == 20
    assert torch.equal(found[1], model.generate([[9, 10]], max_new_tokens=3))
