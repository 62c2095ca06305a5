"""What a checkpoint says wrongly of generation counts when it is used; pads, ends, positions."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import seq2seq
import tiny
import torch
import transformers

import tritonseq

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = [[8, 9, 10, 11]]


def stored(folder: Path, **options: Any) -> tritonseq.Model:
    """A GPT-2 whose generation_config.json says this."""
    tiny.hf_gpt2().save_pretrained(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": tiny.EOS, "pad_token_id": tiny.PAD, **options}))
    return tritonseq.load(folder)


TOGETHER = [
    ({"do_sample": True, "temperature": 0.0}, {"do_sample": False}, "temperature=0.0"),
    ({"do_sample": True, "temperature": 0.0}, {"temperature": 0.5}, "do_sample=True"),
    ({"num_beams": 4, "num_beam_groups": 2}, {"num_beam_groups": 1}, "num_beam_groups=2"),
    ({"num_beams": 4, "num_beam_groups": 2}, {"diversity_penalty": 0.5}, "num_beam_groups=2"),
    ({"num_return_sequences": 3}, {"num_beams": 3}, "num_return_sequences=3"),
    ({"num_beams": 3, "num_beam_groups": 2, "diversity_penalty": 1.0}, {"num_beams": 4},
     "num_beams=3"),
    ({"forced_bos_token_id": 5, "suppress_tokens": [5]}, {"suppress_tokens": None},
     "forced_bos_token_id=5"),
    ({"temperature": -1, "do_sample": True}, {"temperature": 1.0}, "generation_config.json"),
    ({"num_beams": 0}, {"num_beams": 2}, "generation_config.json"),
    ({"num_beams": "x"}, {"num_beams": None}, "generation_config.json"),
    ({"repetition_penalty": 10**400}, {"repetition_penalty": 1.2}, "generation_config.json"),
    ({"max_length": 3.5}, {"max_length": None}, "generation_config.json"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "remedy", "shown"), TOGETHER)
def test_it_bars_no_loading_and_the_call_may_say_otherwise(
    tmp_path: Path, options: dict[str, Any], remedy: dict[str, Any], shown: str
) -> None:
    model = stored(tmp_path, **options)
    with pytest.raises(ValueError, match=shown):
        model.generate(SOURCE, max_new_tokens=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert model.generate(SOURCE, max_new_tokens=3, **remedy).shape[1] <= 7
    # A configuration of the caller's wins over it like a call.
    if None not in remedy.values():
        config = tritonseq.GenerationConfig(max_new_tokens=3, **remedy)
        assert model.generate(SOURCE, generation_config=config) is not None


def test_nonsense_about_what_is_not_asked_for_does_no_harm(tmp_path: Path) -> None:
    model = stored(tmp_path, top_p=7, temperature="hot")
    assert model.generate(SOURCE, max_new_tokens=3).shape == (1, 7)
    with pytest.raises(ValueError, match=r"top_p must be .*generation_config\.json says so\)"):
        model.generate(SOURCE, max_new_tokens=3, do_sample=True, temperature=1.0)


FOREIGN = [
    ({"guidance_scale": 2.0}, 1.0),
    ({"watermarking_config": {"greenlist_ratio": 0.3}}, None),
    ({"penalty_alpha": 0.6}, 0.0),
    ({"force_words_ids": [[9]]}, None),
    ({"constraints": [1]}, None),
    ({"dola_layers": "low"}, None),
    ({"token_healing": True}, False),
    ({"top_h": 0.4, "do_sample": True}, None),
    ({"eta_cutoff": 0.1, "do_sample": True}, 0.0),
]


@pytest.mark.parametrize(("options", "neutral"), FOREIGN)
def test_what_would_find_other_tokens_bars_the_call(
    tmp_path: Path, options: dict[str, Any], neutral: Any
) -> None:
    name = next(iter(options))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = stored(tmp_path, **options)
        refused = rf"^{name}=.*generation_config\.json says so\): take it out.* pass {name}=None"
        with pytest.raises(ValueError, match=refused):
            model.generate(SOURCE, max_new_tokens=3)
        with pytest.raises(ValueError, match=refused):
            model.generate(SOURCE, generation_config={"max_new_tokens": 3, name: None})
        plain = stored(tmp_path, **{k: v for k, v in options.items() if k != name})
        torch.manual_seed(0)
        wanted = plain.generate(SOURCE, max_new_tokens=3)
        for value in (None, neutral):
            torch.manual_seed(0)
            found = model.generate(SOURCE, max_new_tokens=3, **{name: value})
            assert torch.equal(found, wanted)
        if neutral is not None:
            config = {"max_new_tokens": 3, name: neutral}
            torch.manual_seed(0)
            assert torch.equal(model.generate(SOURCE, generation_config=config), wanted)
            plain = stored(tmp_path, **{**options, name: neutral})
            torch.manual_seed(0)
            assert torch.equal(plain.generate(SOURCE, max_new_tokens=3), wanted)


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ({"top_h": 0.4, "eta_cutoff": 0.1}, {}),
        ({"penalty_alpha": 0.6}, {"num_beams": 2}),
        ({"penalty_alpha": 0.6}, {"top_k": 1, "do_sample": True}),
        ({"dola_layers": "low"}, {"num_beams": 2}),
    ],
)
def test_what_would_change_nothing_bars_none(
    tmp_path: Path, options: dict[str, Any], how: dict[str, Any]
) -> None:
    """In transformers they belong to another search than the one that is asked for."""
    found = stored(tmp_path, **options).generate(SOURCE, max_new_tokens=3, **how)
    assert torch.equal(found, stored(tmp_path).generate(SOURCE, max_new_tokens=3, **how))


def test_a_live_model_and_a_task_may_say_so_too(tmp_path: Path) -> None:
    theirs = tiny.hf_gpt2()
    theirs.generation_config.guidance_scale = 2.0
    model = tritonseq.from_transformers(theirs)
    with pytest.raises(ValueError, match=r"guidance_scale=2\.0.*the model's generation_config"):
        model.generate(SOURCE, max_new_tokens=3)
    other = tiny.hf_gpt2(task_specific_params={"tell": {"token_healing": True}})
    model = tritonseq.from_transformers(other)
    with pytest.raises(ValueError, match=r"token_healing=.*task_specific_params.*'tell'"):
        model.generate(SOURCE, task="tell", max_new_tokens=3)
    assert model.generate(SOURCE, task="tell", max_new_tokens=3, token_healing=None) is not None


@pytest.mark.parametrize("options", [{"temperature": 10**400}, {"max_new_tokens": 10**400},
                                     {"sequence_bias": [[[1], 10**400]]},
                                     {"num_beams": 2**40}, {"max_new_tokens": 2**40}])  # fmt: skip
def test_numbers_beyond_all_measure_are_refused_by_the_option(options: dict[str, Any]) -> None:
    model = seq2seq.pair("t5").ours
    with pytest.raises(ValueError, match=next(iter(options))):
        model.generate(SOURCE, **options)


@pytest.mark.parametrize("search", [{}, {"num_beams": 3}])
@pytest.mark.parametrize("ends", [-1, [-1, tiny.EOS], [999, tiny.EOS]])
def test_ends_that_are_no_tokens_end_nothing_as_in_transformers(
    search: dict[str, Any], ends: Any
) -> None:
    theirs, ours = tiny.pair(seed=2)
    ids, mask = tiny.prompts(3, 6, ragged=True)
    options = {"eos_token_id": ends, "pad_token_id": tiny.PAD, "max_new_tokens": 14, **search}
    wanted = theirs.generate(ids, attention_mask=mask, min_length=8, **options)
    assert torch.equal(ours.generate(ids, mask, min_length=8, **options), wanted)


@pytest.mark.parametrize("pad", [-1, tiny.VOCAB, 10**6])
@pytest.mark.parametrize("search", [{}, {"num_beams": 3}, {"repetition_penalty": 1.3}])
def test_a_pad_that_is_no_token_is_only_written(search: dict[str, Any], pad: int) -> None:
    """Results are those of any other pad, with this one in its place."""
    ours = seq2seq.pair("bart", seed=1).ours
    source = torch.randint(5, 60, (4, 7), generator=torch.Generator().manual_seed(3))
    options = {"max_new_tokens": 24, "eos_token_id": [2, 56, 9], **search}
    wanted = ours.generate(source, pad_token_id=1, **options)
    found = ours.generate(source, pad_token_id=pad, **options)
    strange = found == pad
    assert bool(strange.any()) and bool((wanted[strange] == 1).all())
    assert torch.equal(found[~strange], wanted[~strange])


@pytest.mark.parametrize("given", [True, False])
def test_prompts_may_be_padded_with_what_is_no_token(given: bool) -> None:
    ours = tiny.pair().ours
    ids, mask = tiny.prompts(3, 6, ragged=True)
    strange = ids.masked_fill(mask == 0, tiny.VOCAB)
    wanted = ours.generate(ids, mask, max_new_tokens=5, eos_token_id=-1)
    how = {"max_new_tokens": 5, "eos_token_id": -1, "pad_token_id": tiny.VOCAB}
    found = ours.generate(strange, mask if given else None, **how)
    assert torch.equal(found[:, :6], strange) and torch.equal(found[:, 6:], wanted[:, 6:])
    with pytest.raises(ValueError, match="outside the vocabulary"):
        ours.generate(strange, torch.ones_like(mask), **how)


@pytest.mark.parametrize(
    "options",
    [
        {"decoder_start_token_id": -1},
        {"decoder_start_token_id": 999},
        {"decoder_start_token_id": [[2], [5]]},
        {"suppress_tokens": [-1]},
        {"suppress_tokens": [-1, 21, 56]},
        {"begin_suppress_tokens": [-1, 14]},
        {"top_p": 0.0, "do_sample": True},
    ],
    ids=str,
)
def test_what_is_strange_and_harmless_is_as_in_transformers(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    ours = stored(tmp_path, **options)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).float().eval()
    ids, mask = tiny.prompts(3, 6, ragged=True)
    wanted = theirs.generate(ids, attention_mask=mask, max_new_tokens=8)
    assert torch.equal(ours.generate(ids, mask, max_new_tokens=8), wanted)


@pytest.mark.parametrize("start", [[[5], [9]], torch.tensor([[5], [9]]), [5, 9]])
def test_starts_may_stand_in_rows_of_one(start: Any) -> None:
    theirs, ours = seq2seq.pair("bart", seed=1)
    source = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(3))
    wanted = theirs.generate(source, decoder_start_token_id=start, max_new_tokens=6)
    assert torch.equal(
        ours.generate(source, decoder_start_token_id=start, max_new_tokens=6), wanted
    )


@pytest.mark.parametrize("search", [{}, {"num_beams": 2}])
def test_generation_goes_on_to_the_last_position(search: dict[str, Any]) -> None:
    """More tokens than there are positions is a warning; no position at all is an error."""
    ours = tiny.pair(seed=3).ours
    ids = tiny.prompts(1, 50)[0]
    exact = ours.generate(ids, max_new_tokens=15, eos_token_id=-1, **search)
    for options in ({"max_new_tokens": 500}, {"max_length": 900}):
        with pytest.warns(UserWarning, match="than the 64 positions of the model"):
            found = ours.generate(ids, eos_token_id=-1, **options, **search)
        assert torch.equal(found, exact)
    with pytest.raises(ValueError, match="the prompt alone has 65 tokens"):
        ours.generate(tiny.prompts(1, 65)[0], max_new_tokens=1)
    marian = seq2seq.pair("marian").ours
    with pytest.warns(UserWarning, match="positions of the model"):
        found = marian.generate(SOURCE, max_new_tokens=500, eos_token_id=-1, **search)
    assert found.shape == (1, 65)
