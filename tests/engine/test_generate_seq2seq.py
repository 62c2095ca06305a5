"""`Model.generate` of the T5 and BART families against transformers 5.24, option by option."""

from __future__ import annotations

from functools import cache, partial
from itertools import product
from typing import Any

import pytest
import seq2seq
import tiny
import torch

import tritonseq

# Every one runs on every family, greedily and with beams, on a padded batch.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "default-length": {"max_new_tokens": None},
    "one-token": {"max_new_tokens": 1},
    "max-length": {"max_new_tokens": None, "max_length": 9},
    "min-length": {"min_length": 8},
    "min-new": {"min_new_tokens": 7},
    "ngram-1": {"no_repeat_ngram_size": 1},
    "ngram-3": {"no_repeat_ngram_size": 3},
    "source-ngram-1": {"encoder_no_repeat_ngram_size": 1},
    "source-ngram-2": {"encoder_no_repeat_ngram_size": 2},
    "repetition": {"repetition_penalty": 1.7},
    "source-repetition": {"encoder_repetition_penalty": 1.4},
    "source-avoidance": {"encoder_repetition_penalty": 0.6},
    "bad-words": {"bad_words_ids": [[9], [12, 13], [20, 21, 22]]},
    "bias": {"sequence_bias": {(9,): 3.0, (14, 15): -4.0, (30,): 2.5}},
    "forced-bos": {"forced_bos_token_id": 9},
    "forced-eos": {"forced_eos_token_id": 11},
    "forced-both": {"forced_bos_token_id": 9, "forced_eos_token_id": [11, 12]},
    "suppress": {"suppress_tokens": [8, 9, 10, 30]},
    "suppress-first": {"begin_suppress_tokens": [20, 40, 8]},
    "suppress-behind-forced": {"begin_suppress_tokens": [20, 40], "forced_bos_token_id": 9},
    "decay": {"exponential_decay_length_penalty": (4, 1.3)},
    "renormalize": {"renormalize_logits": True, "no_repeat_ngram_size": 2},
    "two-ends": {"eos_token_id": [11, 12]},
    "no-end": {"eos_token_id": None},
    "summary": {
        "length_penalty": 2.0,
        "max_new_tokens": None,
        "max_length": 14,
        "min_length": 5,
        "no_repeat_ngram_size": 3,
        "forced_bos_token_id": 6,
        "early_stopping": True,
    },
}
RULES = list(product((4, 8), (True, False, "never"), (0.0, 1.0, 2.0, -1.0)))
SAMPLING: dict[str, dict[str, Any]] = {
    "plain": {},
    "mixture": {"temperature": 1.4, "top_k": 20, "top_p": 0.9, "no_repeat_ngram_size": 2},
    "three": {"num_return_sequences": 3, "encoder_no_repeat_ngram_size": 1},
    "beams": {"num_beams": 4, "num_return_sequences": 2, "temperature": 0.8, "top_k": 20},
}

# Models whose hypotheses are no trivial ones; a test below holds them to it.
SEEDS = {
    "t5": 1,
    "t5-v1.1": 8,
    "mt5": 3,
    "umt5": 3,
    "bart": 3,
    "mbart": 2,
    "pegasus": 4,
    "marian": 1,
    "prophetnet": 16,
    "m2m_100": 4,
    "fsmt": 2,
    "mvp": 1,
    "plbart": 7,
    "blenderbot": 2,
}

pytestmark = pytest.mark.filterwarnings("ignore:without num_beams")


@cache
def models(family: str) -> tiny.Pair:
    return seq2seq.pair(family, seed=SEEDS[family])


def special(family: str, name: str) -> int:
    return int(getattr(models(family).theirs.generation_config, f"{name}_token_id"))


def batch(family: str, **shape: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources of 1 to 7 tokens, and their mask."""
    shape = {"batch": 4, "length": 7, "seed": 12, "ragged": True} | shape
    return seq2seq.sources(pad=special(family, "pad"), **shape)


def compare(pair: tiny.Pair, ids: torch.Tensor, mask: Any, **options: Any) -> Any:
    """Our output with `hf_exact`, which is that of transformers."""
    options = {"max_new_tokens": 12} | options
    seed = options.pop("seed", None)

    def run(engine: Any, model: Any, **more: Any) -> Any:
        if seed is not None:
            torch.manual_seed(seed)
        return engine(model, ids, mask, **options, **more)

    other = run(tiny.theirs, pair.theirs)
    mine = run(tiny.ours, pair.ours, hf_exact=True)
    seq2seq.assert_same(mine, other, partial(run, tiny.theirs, pair.theirs))
    return mine


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", seq2seq.EVERY)
@pytest.mark.parametrize("options", OPTIONS)
def test_options(family: str, beams: int, options: str) -> None:
    count = min(beams, 2)
    compare(
        models(family), *batch(family), num_beams=beams, num_return_sequences=count,
        **OPTIONS[options],
    )  # fmt: skip


@pytest.mark.parametrize("options", ["plain", "summary"])
@pytest.mark.parametrize("family", seq2seq.SPARED)
def test_families_of_blocks_that_others_have(family: str, options: str) -> None:
    for beams in (1, 4):
        compare(models(family), *batch(family), num_beams=beams, **OPTIONS[options])


@pytest.mark.parametrize("family", seq2seq.EVERY)
@pytest.mark.parametrize(("beams", "stop", "penalty"), RULES)
def test_beam_rules(family: str, beams: int, stop: Any, penalty: float) -> None:
    compare(
        models(family), *batch(family), num_beams=beams, early_stopping=stop,
        length_penalty=penalty, num_return_sequences=beams, max_new_tokens=16,
        no_repeat_ngram_size=3,
    )  # fmt: skip


@pytest.mark.parametrize("family", seq2seq.EVERY)
@pytest.mark.parametrize("options", SAMPLING)
def test_sampling_draws_the_same_tokens(family: str, options: str) -> None:
    compare(models(family), *batch(family), do_sample=True, seed=13, **SAMPLING[options])


@pytest.mark.parametrize("family", seq2seq.EVERY)
def test_the_grid_is_not_trivial(family: str) -> None:
    """Sources matter, hypotheses end at different lengths, and differ from each other."""
    ids, mask = batch(family)
    output = compare(
        models(family), ids, mask, num_beams=4, num_return_sequences=4, max_new_tokens=16
    )
    lengths = (output.beam_indices >= 0).sum(1)
    assert lengths.min() < lengths.max()
    assert len({tuple(row) for row in output.sequences.tolist()}) >= 15
    greedy = models(family).ours.generate(ids, mask, max_new_tokens=16)
    assert len({tuple(row) for row in greedy.tolist()}) == 4
    assert len(set(greedy[:, 1:].flatten().tolist())) >= 9


def test_only_a_near_tie_excuses_another_answer() -> None:
    ids, mask = batch("t5")
    model = seq2seq.hf_model("t5", seed=1)
    run = partial(tiny.theirs, model, ids, mask, max_new_tokens=1)
    best = int(run().sequences[0, 1])
    twin = 30 if best != 30 else 31
    model.shared.weight.data[twin] = model.shared.weight.data[best]
    for push in (1e-6, 1e-3):
        first, second = (partial(run, sequence_bias={(token,): push}) for token in (best, twin))
        assert first().sequences[0, 1] == best
        assert second().sequences[0, 1] == twin
        assert seq2seq.assert_same(first(), first(), first)
        if push < seq2seq.ROUNDING:
            assert not seq2seq.assert_same(first(), second(), second)
        else:
            with pytest.raises(AssertionError):
                seq2seq.assert_same(first(), second(), second)


@pytest.mark.parametrize("family", seq2seq.BEGUN)
@pytest.mark.parametrize("beams", [1, 3])
def test_targets_can_be_begun(family: str, beams: int) -> None:
    """The start token is put before what is given, unless a row has it already."""
    pair, (ids, mask) = models(family), batch(family)
    start = pair.ours.generation_config.decoder_start_token_ids[0]
    plain = torch.randint(seq2seq.TEXT, 50, (4, 3), generator=torch.Generator().manual_seed(3))
    marked, mixed = plain.clone(), plain.clone()
    marked[:, 0] = mixed[2, 0] = start
    for begun, prompt in ((plain, 4), (marked, 3), (mixed, 3), (plain[:, :1], 2)):
        options = {"num_beams": beams, "decoder_input_ids": begun, "no_repeat_ngram_size": 2}
        mine = compare(
            pair, ids, mask, forced_bos_token_id=9, repetition_penalty=1.2, min_new_tokens=3,
            begin_suppress_tokens=[8, 20, 30], **options,
        )  # fmt: skip
        assert torch.equal(mine.sequences[:, prompt - begun.shape[1] : prompt], begun)
        # These two count what is given.
        lengths = {"max_new_tokens": None, "max_length": prompt + 5, "min_length": prompt + 4}
        assert compare(pair, ids, mask, **lengths, **options).sequences.shape[1] <= prompt + 5


@pytest.mark.parametrize("family", ["bart", "m2m_100", "fsmt", "prophetnet"])
def test_prompts_continue_as_the_targets_that_they_repeat(family: str) -> None:
    """Wherever they are cut, and whatever positions pads have that were generated."""
    pair, (ids, mask) = models(family), batch(family)
    pad = pair.theirs.generation_config.pad_token_id
    options = {"eos_token_id": [], "sequence_bias": {(pad,): 3.0}, "max_length": 11}
    whole = pair.ours.generate(ids, mask, **options)
    assert bool((whole == pad).any())
    for cut in (2, 5, 10):
        again = pair.ours.generate(ids, mask, decoder_input_ids=whole[:, :cut], **options)
        assert torch.equal(again, whole)


def test_prompts_that_transformers_reads_wrong_are_refused_under_its_name() -> None:
    for family in ("fsmt", "prophetnet"):
        model = models(family).ours
        with pytest.raises(ValueError, match="transformers reads more than 1 of"):
            model.generate([[8, 9]], decoder_input_ids=[[9, 10]], hf_exact=True)


@pytest.mark.parametrize("family", ["t5", "mbart", "prophetnet"])
def test_a_start_token_for_each_sample(family: str) -> None:
    pair, (ids, mask) = models(family), batch(family)
    for beams in (1, 3):
        options = {"num_beams": beams, "decoder_start_token_id": [5, 6, 7, 8]}
        mine = compare(pair, ids, mask, **options)
        assert mine.sequences[:, 0].tolist() == [5, 6, 7, 8]
        if family != "prophetnet":
            for begun in (torch.tensor([[9], [9], [7], [9]]), torch.full((4, 2), 9)):
                compare(pair, ids, mask, decoder_input_ids=begun, **options)


@pytest.mark.parametrize("family", seq2seq.EVERY)
@pytest.mark.parametrize("beams", [1, 4])
def test_padding_changes_nothing(family: str, beams: int) -> None:
    """In any batch, padded on any side, a source has the answer that it has alone.

    transformers counts pads as text of the source; alone there are none.
    """
    pair = models(family)
    options = {
        "num_beams": beams,
        "max_new_tokens": 12,
        "encoder_no_repeat_ngram_size": 2,
        "encoder_repetition_penalty": 1.5,
        "no_repeat_ngram_size": 3,
    }
    ids, mask = batch(family, batch=6)
    alone = [row[m == 1][None] for row, m in zip(ids, mask, strict=True)]
    rows = [pair.theirs.generate(source, **options)[0] for source in alone]
    width = max(map(len, rows))
    fill = special(family, "pad")
    wanted = torch.tensor([row.tolist() + [fill] * (width - len(row)) for row in rows])
    pads = 7 - mask.sum(1)
    moved = [torch.cat((ids[i, 7 - n :], ids[i, : 7 - n])) for i, n in enumerate(pads.tolist())]
    left, left_mask = torch.stack(moved), mask.flip(1)
    assert not torch.equal(left, ids)
    for sources in ((ids, mask), (left, left_mask), (ids,), (left,)):
        found = pair.ours.generate(*sources, **options)
        assert torch.equal(found, wanted)
    assert torch.equal(pair.ours.generate([row[0].tolist() for row in alone], **options), wanted)


@pytest.mark.parametrize("family", seq2seq.EVERY)
def test_pads_without_a_mask(family: str) -> None:
    """They are padding here, and text in transformers, which `hf_exact` reproduces."""
    pair, (ids, mask) = models(family), batch(family)
    for beams in (1, 3):
        options = {"num_beams": beams, "no_repeat_ngram_size": 2, "max_new_tokens": 12}
        exact = compare(pair, ids, None, **options)
        ours = tiny.ours(pair.ours, ids, None, **options)
        assert torch.equal(ours.sequences, tiny.ours(pair.ours, ids, mask, **options).sequences)
        assert not torch.equal(ours.sequences, exact.sequences)


def test_pads_are_no_text_of_the_source_unless_hf_exact() -> None:
    """With a mask, too, transformers bans and favours the pad token as part of the source."""
    pair, (ids, mask) = models("bart"), batch("bart")
    pad = special("bart", "pad")
    for options in ({"encoder_repetition_penalty": 50.0}, {"encoder_no_repeat_ngram_size": 1}):
        exact = compare(pair, ids, mask, min_new_tokens=6, **options)
        mine = tiny.ours(pair.ours, ids, mask, min_new_tokens=6, max_new_tokens=12, **options)
        padded = int((mask.sum(1) < 7).nonzero()[0])
        assert mine.scores[0][padded, pad] != exact.scores[0][padded, pad]
        whole = int((mask.sum(1) == 7).nonzero()[0])
        torch.testing.assert_close(mine.scores[0][whole], exact.scores[0][whole])


@pytest.mark.parametrize("family", seq2seq.T5_FAMILY)
def test_left_padding_as_in_transformers(family: str) -> None:
    """Where positions are relative; tables of positions are counted from the pads there."""
    for beams in (1, 4):
        compare(models(family), *batch(family, side="left"), num_beams=beams)


@pytest.mark.parametrize("family", seq2seq.EVERY)
def test_shorter_beams_are_filled_with_pads_unless_hf_exact(family: str) -> None:
    """transformers fills with the end token where the pad token is 0."""
    pair, (ids, mask) = models(family), batch(family)
    options = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 14}
    options |= {"pad_token_id": 0, "length_penalty": -1.0}
    end = special(family, "eos")
    exact = compare(pair, ids, mask, **options)
    mine = tiny.ours(pair.ours, ids, mask, **options)
    behind = torch.nn.functional.pad(mine.beam_indices < 0, (1, 0), value=False)
    assert torch.equal(mine.beam_indices, exact.beam_indices)
    assert behind.any()
    assert (mine.sequences[behind] == 0).all()
    assert (exact.sequences[behind] == end).all()
    assert torch.equal(mine.sequences[~behind], exact.sequences[~behind])


@pytest.mark.parametrize("family", ["t5", "umt5", "bart", "pegasus"])
@pytest.mark.parametrize("beams", [20, 128])
def test_wide_beams(family: str, beams: int) -> None:
    """Of hundreds of candidates some lie closer than float32 tells: what is returned is compared,
    not the order of all beams."""
    pair = seq2seq.pair(family, seed=5, vocab_size=400)
    ids, mask = seq2seq.sources(3, 8, pad=1, vocab=400, seed=5, ragged=True)
    options = {"num_beams": beams, "num_return_sequences": 10, "max_new_tokens": 8}
    options |= {"no_repeat_ngram_size": 2, "length_penalty": 0.5}
    other = tiny.theirs(pair.theirs, ids, mask, **options)
    mine = tiny.ours(pair.ours, ids, mask, hf_exact=True, **options)
    assert torch.equal(mine.sequences, other.sequences)
    torch.testing.assert_close(mine.sequences_scores, other.sequences_scores)


@pytest.mark.parametrize("family", ["t5", "marian"])
def test_several_ends_widen_the_choice(family: str) -> None:
    """With n ends, n + 1 continuations of every beam are considered."""
    pair, (ids, mask) = models(family), batch(family)
    ends = [special(family, "eos"), 8, 17, 30, 44]
    for beams in (1, 2, 5):
        compare(
            pair, ids, mask, num_beams=beams, num_return_sequences=beams, eos_token_id=ends,
            forced_eos_token_id=None, length_penalty=-1.0,
        )  # fmt: skip


@pytest.mark.parametrize("family", seq2seq.EVERY)
def test_more_sources_than_are_read_at_once(family: str) -> None:
    ids, mask = batch(family, batch=75, length=40)
    assert mask.sum(1).unique().numel() > 30
    compare(models(family), ids, mask, num_beams=2, max_new_tokens=5)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_long_sources(family: str) -> None:
    """Beyond the distances that have buckets of their own, and up to the last position."""
    pair = models(family)
    ids, mask = batch(family, length=64, batch=3)
    for beams in (1, 4):
        options = {"max_new_tokens": None, "max_length": 64, "eos_token_id": None}
        output = compare(pair, ids, mask, num_beams=beams, **options)
        assert output.sequences.shape[1] == 64


@pytest.mark.parametrize(("encoder", "decoder"), [(1, 3), (3, 1), (2, 4)])
@pytest.mark.parametrize("family", seq2seq.T5_FAMILY)
def test_depths_differ(family: str, encoder: int, decoder: int) -> None:
    """transformers' cache has as many layers as its encoder: it needs none for this."""
    pair = seq2seq.pair(family, seed=6, num_layers=encoder, num_decoder_layers=decoder)
    ids, mask = batch(family)
    for beams in (1, 3):
        options = {"num_beams": beams, "max_new_tokens": 10}
        other = tiny.theirs(pair.theirs, ids, mask, use_cache=False, **options)
        tiny.assert_same(tiny.ours(pair.ours, ids, mask, hf_exact=True, **options), other)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_prefix_allowed_tokens(family: str) -> None:
    pair, (ids, mask) = models(family), batch(family)
    end = special(family, "eos")

    def allowed(sample: int, prefix: torch.Tensor) -> list[int]:
        return [8 + sample, 9 + int(prefix[-1]) % 7, end]

    for beams in (1, 3):
        compare(pair, ids, mask, num_beams=beams, prefix_allowed_tokens_fn=allowed)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_diverse_groups(family: str) -> None:
    ours, (ids, mask) = models(family).ours, batch(family)
    plain = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 8, "min_new_tokens": 8}
    diverse = ours.generate(ids, mask, num_beam_groups=4, diversity_penalty=50.0, **plain)
    for first in diverse[:, 1].view(4, 4).tolist():
        assert len(set(first)) == 4
    # Groups that are not held apart all find what a search of their own size finds.
    groups = ours.generate(ids, mask, num_beam_groups=2, diversity_penalty=1e-30, **plain)
    small = ours.generate(ids, mask, **plain | {"num_beams": 2, "num_return_sequences": 2})
    for both, alone in zip(groups.view(4, 4, -1), small.view(4, 2, -1), strict=True):
        assert {tuple(row) for row in both.tolist()} == {tuple(row) for row in alone.tolist()}


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_streaming_yields_what_generate_returns(family: str) -> None:
    ours, (ids, mask) = models(family).ours, batch(family)
    row = ids[:1, : int(mask[0].sum())]
    begun = torch.tensor([[9, 10]])
    for options in ({}, {"decoder_input_ids": begun}, {"do_sample": True}):
        torch.manual_seed(3)
        whole = ours.generate(row, max_new_tokens=10, **options)
        prompt = 3 if "decoder_input_ids" in options else 1
        torch.manual_seed(3)
        assert list(ours.stream(row, max_new_tokens=10, **options)) == whole[0, prompt:].tolist()


def test_a_live_model_gives_what_its_files_give() -> None:
    for family in seq2seq.FAMILIES:
        pair, (ids, mask) = models(family), batch(family)
        live = tritonseq.from_transformers(pair.theirs)
        options = {"num_beams": 3, "max_new_tokens": 10}
        assert torch.equal(
            live.generate(ids, mask, **options), pair.ours.generate(ids, mask, **options)
        )


def test_two_vocabularies_cannot_be_compared() -> None:
    special = {"pad_token_id": 40, "decoder_start_token_id": 40}
    sizes = {"vocab_size": 61, "decoder_vocab_size": 41}
    model = seq2seq.pair("marian", share_encoder_decoder_embeddings=False, **sizes, **special).ours
    ids = torch.tensor([[5, 60, 7]])
    for option in ({"encoder_repetition_penalty": 1.5}, {"encoder_no_repeat_ngram_size": 2}):
        with pytest.raises(ValueError, match="this model has a vocabulary for each"):
            model.generate(ids, **option)


def test_an_end_token_that_also_pads_is_text() -> None:
    model = seq2seq.pair("bart").ours
    end = model.generation_config.eos_token_ids[0]
    ids = torch.tensor([[10, 11, 12, end]])
    ones = torch.ones_like(ids)
    options = {"pad_token_id": end, "max_new_tokens": 6, "return_dict_in_generate": True}
    guessed = model.generate(ids, output_logits=True, **options)
    told = model.generate(ids, ones, output_logits=True, **options)
    assert torch.equal(guessed.logits[0], told.logits[0])


def test_a_start_token_beyond_the_vocabulary_is_named() -> None:
    model = seq2seq.pair("bart").ours
    plain = tritonseq.GenerationConfig(bos_token_id=9999)
    model = tritonseq.Model(model.decoder, plain, None)
    with pytest.raises(ValueError, match="the start token 9999"):
        model.generate([[10, 11]])
