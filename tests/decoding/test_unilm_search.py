"""UniLM's rules of beam search, each where it decides: on tables that can be worked out by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import tiny_unilm
import torch
from tiny_unilm import SEP as EOS
from tiny_unilm import tiny, unpadded
from unilm_decoders import chances

import tritonseq
from tritonseq.decoding.processor_list import build_processors
from tritonseq.decoding.unilm_search import NEVER_RAISING

if TYPE_CHECKING:
    from torch import Tensor

START = 2
A, B, C, D = range(5, 9)


def test_what_the_length_cuts_off_competes() -> None:
    """On equal terms with what ended: 0.81 and 0.1, whatever the length."""
    tables = chances({START: {A: 0.9, EOS: 0.1}}, {A: {B: 0.9, EOS: 0.1}})
    for penalty in (0.0, 1.0):
        options = {"num_beams": 3, "max_new_tokens": 2, "length_penalty": penalty}
        assert tables.model().generate([[START]], **options).tolist() == [[A, B]]


def test_an_ended_hypothesis_takes_a_beam_for_one_step() -> None:
    """Of two beams one ends at once, and C finds no place; transformers keeps two that go on."""
    tables = chances(
        {START: {EOS: 0.4, A: 0.35, C: 0.25}},
        {A: {B: 0.3, D: 0.7}, C: {EOS: 1.0}},
        {B: {EOS: 1.0}, D: {EOS: 1.0}},
    )

    def best(beams: int, **options: Any) -> list[list[int]]:
        asked = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": 3}
        return unpadded(tables.model().generate([[START]], length_penalty=1.0, **asked, **options))

    assert best(2) == [[EOS], [A, D, EOS]]
    assert best(2, search="transformers") == [[A, D, EOS], [C, EOS]]
    assert best(3) == [[EOS], [A, D, EOS], [C, EOS]]


@pytest.mark.filterwarnings("ignore:with search")
@pytest.mark.parametrize("early_stopping", [False, "never"])
def test_of_equals_the_first_wins(early_stopping: bool | str) -> None:
    tables = chances({START: {EOS: 0.5, A: 0.5}}, {A: {EOS: 1.0}})
    result = tables.model().generate(
        [[START]],
        num_beams=2,
        num_return_sequences=2,
        max_new_tokens=2,
        early_stopping=early_stopping,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert result.sequences_scores[0] == result.sequences_scores[1]
    assert unpadded(result.sequences) == [[EOS], [A, EOS]]


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_the_penalty_of_length_counts_the_end_token(penalty: float) -> None:
    tables = chances({START: {A: 1.0}}, {A: {B: 0.5, C: 0.3}}, {B: {EOS: 1.0}, C: {EOS: 1.0}})
    result = tables.model().generate(
        [[START]],
        num_beams=2,
        max_new_tokens=5,
        length_penalty=penalty,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert result.sequences.tolist() == [[A, B, EOS]]
    value = math.log(0.5 / 0.8) / ((5 + 3) / 6) ** penalty
    assert result.sequences_scores.item() == pytest.approx(value, abs=1e-5)


def test_search_stops_when_nothing_can_change() -> None:
    """An end of 0.6 is better than all that follows 0.4; a penalty of length can change that."""
    certain = {token: {token: 1.0} for token in (A, B)}
    tables = chances({START: {EOS: 0.6, A: 0.4}}, certain)
    model, options = tables.model(), {"num_beams": 2, "max_new_tokens": 20}
    assert model.generate([[START]], **options).tolist() == [[EOS]]
    assert tables.steps == 0
    # A goes on for ever: log 0.4 / ((5 + 20) / 6) > log 0.6 / ((5 + 1) / 6).
    assert model.generate([[START]], length_penalty=1.0, **options).tolist() == [[A] * 20]
    assert tables.steps == 19
    assert model.generate([[START]], length_penalty=0.1, **options).tolist() == [[EOS]]
    assert tables.steps == 0


def test_a_step_of_ends_alone_is_the_last() -> None:
    """Even where nothing else stops early; another sample may go on."""
    tables = chances(
        {START: {A: 0.6, B: 0.4}, D: {C: 0.6, B: 0.4}},
        {A: {EOS: 1.0}, B: {EOS: 1.0}, C: {A: 0.9, B: 0.1}},
        {A: {EOS: 0.9, B: 0.1}, B: {EOS: 1.0}, EOS: {A: 1.0}},
        {A: {A: 1.0}, B: {EOS: 1.0}, EOS: {A: 1.0}},
    )
    options = {"num_beams": 2, "max_new_tokens": 20, "early_stopping": "never"}
    assert tables.model().generate([[START]], **options).tolist() == [[A, EOS]]
    assert tables.steps == 1
    found = tables.model().generate([[START], [D]], **options)
    assert unpadded(found) == [[A, EOS], [C, A, EOS]]
    assert tables.steps > 1


def test_scores_that_rise_forbid_an_early_stop() -> None:
    """A caller's processor may give bonuses: only the end tells what is best."""
    tables = chances({START: {EOS: 0.9, A: 0.1}}, {A: {B: 1.0}}, {B: {EOS: 1.0}})

    def bonus(ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, B] += 9.0
        return scores

    found = tables.model().generate(
        [[START]], num_beams=2, max_new_tokens=5, logits_processor=bonus
    )
    assert found.tolist() == [[A, B, EOS]]


@pytest.mark.parametrize("samples", [1, 2, 17])
def test_awkward_batches(samples: int) -> None:
    """A sample gets the same answer alone, and among others of any lengths."""
    model = tiny(seed=50).model()
    sources = tiny_unilm.sources([2 + (7 * i) % 23 for i in range(samples)], seed=51)
    options = {"num_beams": 3, "max_new_tokens": 8, "length_penalty": 1.0}
    together = unpadded(model.generate(*tiny_unilm.pad(sources), **options))
    assert together == [unpadded(model.generate([source], **options))[0] for source in sources]


def test_what_is_forced_first_comes_first() -> None:
    """Targets start empty; and what a trie leaves out of its sequences is the same token."""
    model = tiny(1).model()
    sources = tiny_unilm.sources([5, 9])
    for search in ("unilm", "transformers"):
        for beams in (1, 3):
            options = {"search": search, "num_beams": beams, "max_new_tokens": 4}
            found = model.generate(sources, forced_bos_token_id=7, **options)
            assert found[:, 0].tolist() == [7, 7]
            begun = model.generate(
                sources, forced_bos_token_id=7, begin_suppress_tokens=[9], **options
            )
            assert begun[:, 1].ne(9).all()


def test_the_length_of_a_target_is_its_own() -> None:
    """A quarter of the positions, if nobody says more; never less for a longer neighbour."""
    model = tiny(2).model(min_new_tokens=16, num_beams=2)
    short, long = tiny_unilm.sources([4, 48])
    alone = model.generate([short])
    assert alone.shape[1] == model.decoder.max_positions // 4 == 16
    assert torch.equal(model.generate([short, long])[:1], alone)
    (longer,) = tiny_unilm.sources([49])
    message = "source plus new tokens need 65 positions, the model has 64: .* max_new_tokens <= 15"
    with pytest.raises(ValueError, match=message):
        model.generate([short, longer])
    assert model.generate([short, longer], max_new_tokens=15, min_new_tokens=0).shape[1] <= 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": tiny_unilm.VOCAB + 1}, "exceeds the vocabulary of 61 tokens"),
        ({"decoder_input_ids": [[5]]}, "decoder_input_ids: the targets of this model start empty"),
        ({"decoder_start_token_id": 5}, "decoder_start_token_id: the targets of this model"),
        ({"beam_size": 4}, "unknown option 'beam_size': here it is 'num_beams'"),
        ({"forbid_duplicate_ngrams": True}, "here it is 'no_repeat_ngram_size'"),
    ],
)
def test_faults(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny().model().generate(tiny_unilm.sources([5]), **options)


def test_the_processors_that_search_knows_exist() -> None:
    """A new name of one would turn off early stopping, or the order of what is banned."""
    config = tritonseq.GenerationConfig(
        no_repeat_ngram_size=2,
        encoder_no_repeat_ngram_size=2,
        encoder_repetition_penalty=1.5,
        repetition_penalty=1.5,
        forced_bos_token_id=5,
        forced_eos_token_id=5,
        min_new_tokens=2,
        bad_words_ids=[[5]],
        suppress_tokens=[6],
        begin_suppress_tokens=[6],
        eos_token_id=EOS,
    )
    built = build_processors(
        config,
        most_new_tokens=9,
        prefix_allowed_tokens_fn=lambda sample, ids: [5],
        device=torch.device("cpu"),
    )
    assert {processor.name for processor in built} == NEVER_RAISING


def test_a_trie_holds_where_everything_is_banned() -> None:
    """Its only sequence is suppressed, and comes all the same; nothing outside of it does."""
    tables = chances({START: {A: 0.5, B: 0.3, C: 0.2}}, {A: {B: 0.6, C: 0.4}}, {B: {EOS: 1.0}})
    for banned in ([A], [B], [A, B]):
        found = tables.model().generate(
            [[START]],
            num_beams=3,
            max_new_tokens=4,
            suppress_tokens=banned,
            prefix_allowed_tokens_fn=tritonseq.Trie([[A, B]]),
        )
        assert found.tolist() == [[A, B, EOS]]
