"""The log-probability of each chosen token: that of all scores, where those are kept as well."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import pytest
import seq2seq
import tiny
import tiny_unilm
import torch
from launches import as_on_gpu

import tritonseq
from tritonseq.decoding.beam_search import _own_scores
from tritonseq.kernels import beam_topk

ASKED = {"return_dict_in_generate": True, "output_token_scores": True}
EVERYTHING = {**ASKED, "output_scores": True}

OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy-forced": {"forced_eos_token_id": 11, "no_repeat_ngram_size": 1},
    "greedy-begin": {"forced_bos_token_id": 9, "min_new_tokens": 4, "repetition_penalty": 1.5},
    "sampling": {"do_sample": True, "top_k": 20, "temperature": 1.4},
    "three": {"do_sample": True, "num_return_sequences": 3, "top_p": 0.9},
    "beams": {"num_beams": 3},
    "n-best": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5},
    "early": {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True},
    "two-ends": {"num_beams": 3, "eos_token_id": [11, 12]},
    "fused": {"num_beams": 3, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
    "forced": {"num_beams": 3, "forced_bos_token_id": 9, "forced_eos_token_id": 11},
    "forced-two": {"num_beams": 3, "forced_eos_token_id": [11, 12]},
    "processed": {
        "num_beams": 3,
        "repetition_penalty": 1.3,
        "bad_words_ids": [[9], [12, 13]],
        "exponential_decay_length_penalty": (4, 1.3),
        "renormalize_logits": True,
    },
    "beam-sampling": {"do_sample": True, "num_beams": 3, "num_return_sequences": 2, "top_k": 20},
}
GROUPS = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7, "num_return_sequences": 4}


@cache
def models(kind: str) -> tiny.Pair:
    return tiny.pair(seed=1) if kind == "gpt2" else seq2seq.pair(kind, seed=1)


def batch_of(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    if kind == "gpt2":
        return tiny.prompts(4, 6, seed=3, ragged=True)
    pad = models(kind).theirs.generation_config.pad_token_id
    return seq2seq.sources(4, 7, pad=pad, seed=12, ragged=True)


def gathered(output: Any, ends: Any) -> torch.Tensor:
    """What transformers' `compute_transition_scores` computes, of the scores of all tokens.

    It knows no end of rows without beams, and shows what their padding scored.
    """
    scores, sequences = torch.stack(tuple(output.scores), dim=1), output.sequences
    rows = getattr(output, "beam_indices", None)
    if rows is None:
        new = sequences[:, -scores.shape[1] :]
        is_end = torch.isin(new, torch.tensor([ends] if isinstance(ends, int) else ends))
        behind = is_end.cumsum(1) - is_end.long() > 0
        found = scores.log_softmax(-1).gather(2, new[:, :, None])[:, :, 0]
        return found.masked_fill(behind, 0.0)
    rows = rows[:, : int((rows >= 0).sum(1).max())]
    new = sequences[:, -rows.shape[1] :].clamp(min=0)
    steps = torch.arange(rows.shape[1]).expand_as(rows)
    return scores[rows.clamp(min=0), steps, new].masked_fill(rows < 0, 0.0)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["gpt2", "t5", "bart"])
def test_they_are_what_transformers_computes_of_all_scores(kind: str, options: str) -> None:
    pair, (ids, mask) = models(kind), batch_of(kind)
    wanted = {"max_new_tokens": 9, **OPTIONS[options]}
    ends = wanted.get("eos_token_id", pair.theirs.generation_config.eos_token_id)
    torch.manual_seed(5)
    theirs = tiny.theirs(pair.theirs, ids, mask, **wanted)
    torch.manual_seed(5)
    ours = pair.ours.generate(ids, mask, hf_exact=True, **ASKED, **wanted)
    assert torch.equal(ours.sequences, theirs.sequences)
    has_beams = "num_beams" in wanted
    rows = theirs.beam_indices if has_beams else None
    found = pair.theirs.compute_transition_scores(
        theirs.sequences, theirs.scores, rows, normalize_logits=not has_beams
    )
    expected = gathered(theirs, ends)
    if has_beams:
        torch.testing.assert_close(expected, found)
    else:
        live = expected != 0
        torch.testing.assert_close(expected[live], found[live])
    assert ours.token_scores.dtype == torch.float32
    torch.testing.assert_close(ours.token_scores, expected, rtol=1e-4, atol=1e-4)
    assert set(ours.keys()) == {"sequences", "token_scores"} | ({"beam_indices"} & set(ours))


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_groups_and_functions_of_the_caller_count(kind: str) -> None:
    model, (ids, mask) = models(kind).ours, batch_of(kind)

    def shifted(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores - torch.arange(scores.shape[1]) * 0.01

    for options in (GROUPS, {"num_beams": 2, "logits_processor": [shifted]}):
        output = model.generate(ids, mask, max_new_tokens=8, **EVERYTHING, **options)
        torch.testing.assert_close(output.token_scores, gathered(output, []))
        alone = model.generate(ids, mask, max_new_tokens=8, **ASKED, **options)
        torch.testing.assert_close(alone.token_scores, output.token_scores)


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 3, "length_penalty": 0.5}])
def test_those_of_unilm_are_what_its_search_added_up(options: dict[str, Any]) -> None:
    """Of log-probabilities after the processors, as with transformers' beams."""
    model = tiny_unilm.tiny(seed=1, max_position_embeddings=64).model()
    ids = torch.randint(4, 30, (3, 7), generator=torch.Generator().manual_seed(2))
    ends = {"eos_token_id": list(range(2, model.decoder.vocab_size, 6)), "pad_token_id": 0}
    more = (
        {"no_repeat_ngram_size": 2, "num_return_sequences": 2} if options["num_beams"] > 1 else {}
    )
    output = model.generate(
        ids, search="unilm", max_new_tokens=9, **EVERYTHING, **ends, **options, **more
    )
    torch.testing.assert_close(output.token_scores, gathered(output, ends["eos_token_id"]))
    if options["num_beams"] > 1:
        lengths = (output.beam_indices >= 0).sum(1)
        sums = output.token_scores.double().sum(1) / ((5 + lengths) / 6) ** 0.5
        torch.testing.assert_close(output.sequences_scores.double(), sums, rtol=1e-5, atol=1e-5)


SLOTS = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "no_repeat_ngram_size": 2},
    "unfused": {"num_beams": 3, "repetition_penalty": 1.2},
    "groups": GROUPS,
}


@pytest.mark.parametrize(
    ("kind", "search"),
    [
        ("gpt2", "beams"),
        ("gpt2", "groups"),
        ("t5", "greedy"),
        ("t5", "unfused"),
        ("unilm", "beams"),
    ],
)
def test_samples_that_come_and_go_have_the_scores_that_they_have_alone(
    kind: str, search: str
) -> None:
    model = tiny_unilm.tiny(seed=1).model() if kind == "unilm" else models(kind).ours
    ends = {"eos_token_id": list(range(2, model.decoder.vocab_size, 6)), "pad_token_id": 0}
    options = {**ASKED, **ends, **SLOTS[search], "max_new_tokens": 7}
    lengths = torch.randint(1, 9, (9,), generator=torch.Generator().manual_seed(3)).tolist()
    inputs = [list(range(5, 5 + length)) for length in lengths]
    seen = 0
    for place, output in model.generate_each(inputs, slots=3, **options):
        alone = model.generate([inputs[place]], **options)
        assert torch.equal(output.sequences, alone.sequences)
        torch.testing.assert_close(output.token_scores, alone.token_scores)
        seen += 1
    assert seen == len(inputs)


@pytest.mark.long
@pytest.mark.parametrize("search", ["greedy", "beams"])
def test_as_on_a_gpu(search: str) -> None:
    """Kernels in Triton, and samples that rest while the device runs ahead."""
    model = models("t5").ours
    options = {**ASKED, **SLOTS[search], "max_new_tokens": 4, "eos_token_id": [1, 20, 31]}
    inputs = [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14]]
    with as_on_gpu():
        found = dict(model.generate_each(inputs, slots=2, **options))
    for place, ids in enumerate(inputs):
        alone = model.generate([ids], **options)
        assert torch.equal(found[place].sequences, alone.sequences)
        torch.testing.assert_close(found[place].token_scores, alone.token_scores)


def test_bfloat16_is_summed_in_float32() -> None:
    model = tritonseq.from_transformers(models("bart").theirs, dtype="bfloat16")
    ids, mask = batch_of("bart")
    for options in ({}, {"num_beams": 3}):
        output = model.generate(ids, mask, max_new_tokens=8, **EVERYTHING, **options)
        end = model.generation_config.eos_token_id
        torch.testing.assert_close(output.token_scores, gathered(output, end))
        alone = model.generate(ids, mask, max_new_tokens=8, **ASKED, **options)
        assert torch.equal(alone.sequences, output.sequences)
        torch.testing.assert_close(alone.token_scores, output.token_scores)


def test_no_digit_is_lost_to_the_sum_of_a_long_hypothesis() -> None:
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(2, 3, 11, generator=generator)
    logits[0, 0, 4] = 12.0  # whose probability is nearly one
    running = torch.tensor([[-3.0e5, -3.0e5 - 1, -3.0e5 - 2], [-1.0, -2.0, -9.0]])
    banned = torch.arange(8).expand(2, 3, 8)[:, :, 5:]
    found = beam_topk(logits, 29, running=running, banned=banned)
    own = _own_scores(logits, *found, forced=None)
    exact = logits.double().log_softmax(-1)
    for b in range(2):
        for score, token, parent in zip(own[b], found[1][b], found[2][b], strict=True):
            wanted = -torch.inf if 5 <= token < 8 else float(exact[b, parent, token])
            assert float(score) == pytest.approx(wanted, rel=1e-5, abs=1e-7)
    forced = torch.tensor([4, -1])
    scores, tokens, parents = beam_topk(logits, 5, running=running, forced=forced)
    own = _own_scores(logits, scores, tokens, parents, forced)
    assert torch.equal(own[0] == 0, (tokens[0] == 4) & (scores[0] > -torch.inf))
    assert bool((own[1] < 0).all())


def test_they_cost_nothing_where_nobody_asks() -> None:
    model = models("t5").ours

    def state(**options: Any) -> int:
        request = model._request(max_new_tokens=6, **options)
        return request.plan(3, 9, refilled=False).state

    assert state(**ASKED) - state() == 3 * 6 * 4
    beams = {"num_beams": 4}
    assert state(**ASKED, **beams) - state(**beams) == 3 * 6 * 2 * 4 * (4 + 8 + 8)


def test_without_a_result_to_hold_them_there_is_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"return_dict_in_generate=True.*output_token_scores"):
        models("gpt2").ours.generate([[9, 10]], output_token_scores=True, max_new_tokens=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models("gpt2").ours.generate([[9, 10]], **ASKED, max_new_tokens=2)
    with pytest.raises(ValueError, match="output_token_scores"):
        models("gpt2").ours.generate([[9, 10]], output_token_scores=2)
