"""States of another encoder in the place of sources: what transformers makes of the same states."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import seq2seq
import tiny
import tiny_unilm
import torch
from transformers.modeling_outputs import BaseModelOutput

import tritonseq

WIDTH, LONGEST = 32, 70
"""Longer than the 64 positions that the models have."""
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "no_repeat_ngram_size": 2},
    "sampling": {"do_sample": True, "top_k": 20},
}


@cache
def models(family: str) -> tiny.Pair:
    return seq2seq.pair(family, seed=1)


def states(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(seed))


def mask_of(side: str) -> torch.Tensor:
    places = torch.arange(LONGEST)
    lengths = torch.tensor([[LONGEST], [3], [41]])
    if side == "left":
        return (places >= LONGEST - lengths).long()
    if side == "right":
        return (places < lengths).long()
    mask = (torch.rand(3, LONGEST, generator=torch.Generator().manual_seed(5)) < 0.4).long()
    mask[:, 20] = 1
    return mask


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(
    ("family", "side"),
    [
        ("t5", "none"), ("t5", "right"), ("t5", "holes"), ("umt5", "left"), ("bart", "none"),
        ("bart", "right"), ("bart", "left"), ("marian", "holes"),
    ],
)  # fmt: skip
def test_ids_are_those_of_transformers(family: str, side: str, search: str) -> None:
    """Of foreign states, more of them than there are positions; nothing counts that is masked."""
    pair, foreign = models(family), 3 * states(3, LONGEST)
    options = {"max_new_tokens": 8, "min_new_tokens": 5, **SEARCHES[search]}
    if side != "none":
        options["attention_mask"] = mask_of(side)
    torch.manual_seed(3)
    # It overwrites what it is handed.
    theirs = pair.theirs.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=foreign.clone()), **options
    )
    torch.manual_seed(3)
    ours = pair.ours.generate(encoder_outputs=foreign, hf_exact=True, **options)
    assert torch.equal(ours, theirs)
    assert len({tuple(row) for row in ours.tolist()}) > 1


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_every_form_of_the_models_own_states_gives_what_its_sources_give(family: str) -> None:
    pair = models(family)
    ids, mask = seq2seq.sources(3, 9, pad=pair.theirs.config.pad_token_id, seed=2, ragged=True)
    options = {"num_beams": 2, "max_new_tokens": 7}
    wanted = pair.ours.generate(ids, mask, **options)
    encoded = pair.theirs.get_encoder()(ids, attention_mask=mask)
    own = encoded.last_hidden_state
    for form in (encoded, own, (own,), {"last_hidden_state": own}, own.detach().numpy()):
        if isinstance(form, (torch.Tensor, tuple, dict)):
            found = pair.ours.generate(encoder_outputs=form, attention_mask=mask, **options)
            assert torch.equal(found, wanted)
        else:
            with pytest.raises(ValueError, match=r"encoder_outputs is .*: it must be a tensor"):
                pair.ours.generate(encoder_outputs=form)
    prompt = torch.full((3, 2), 9)
    assert torch.equal(
        pair.ours.generate(encoder_outputs=own, attention_mask=mask, decoder_input_ids=prompt),
        pair.ours.generate(ids, mask, decoder_input_ids=prompt),
    )


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_they_go_through_slots_and_streams(family: str) -> None:
    model = models(family).ours
    each = [states(1, length, seed=length)[0] for length in (4, 66, 1, 9, 30, 2)]
    options = {"max_new_tokens": 9, "eos_token_id": list(range(2, 61, 6)), "pad_token_id": 0}
    found = {}
    for place, ids in model.generate_each(encoder_outputs=each, slots=2, **options):
        each[place].fill_(0.0)  # nobody reads it any more
        found[place] = ids
    each = [states(1, length, seed=length)[0] for length in (4, 66, 1, 9, 30, 2)]
    for place, own in enumerate(each):
        alone = model.generate(encoder_outputs=own[None], **options)
        assert torch.equal(found[place], alone)
        assert list(model.stream(encoder_outputs=own[None], **options)) == alone[0, 1:].tolist()


def test_an_encoder_of_half_precision_and_real_width() -> None:
    config = {"d_model": 1024, "d_kv": 64, "num_heads": 16, "num_layers": 1, "d_ff": 64}
    theirs = seq2seq.hf_model("t5", seed=3, **config)
    model = tritonseq.from_transformers(theirs, dtype="bfloat16")
    ids = torch.tensor([[7, 8, 9, 1], [30, 31, 1, 0]])
    mask = (ids != 0).long()
    own = theirs.bfloat16().get_encoder()(ids, attention_mask=mask).last_hidden_state
    found = model.generate(encoder_outputs=own, attention_mask=mask, num_beams=2, max_new_tokens=5)
    assert found.shape[0] == 2
    with pytest.raises(ValueError, match=r"torch.float32, the model torch.bfloat16: pass states"):
        model.generate(encoder_outputs=own.float())


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "width": ({"encoder_outputs": torch.zeros(2, 3, 31)}, r"width 32, so pass \[B, S, 32\]"),
    "one alone": ({"encoder_outputs": torch.zeros(3, 32)}, r"shape \[3, 32\]"),
    "none": ({"encoder_outputs": torch.zeros(2, 0, 32)}, "is empty"),
    "integers": ({"encoder_outputs": torch.zeros(2, 3, 32).long()}, "torch.int64, the model"),
    "meta": ({"encoder_outputs": torch.zeros(2, 3, 32, device="meta")}, "meta device"),
    "a number": ({"encoder_outputs": 3}, "encoder_outputs is 3: it must be a tensor"),
    "nothing in it": ({"encoder_outputs": BaseModelOutput()}, "it must be a tensor"),
    "ids as well": (
        {"encoder_outputs": torch.zeros(1, 3, 32), "input_ids": [[5]]}, "pass one of them",
    ),
    "another mask": (
        {"encoder_outputs": torch.zeros(2, 3, 32), "attention_mask": [[1, 1]]}, r"of \[2, 3\]",
    ),
    "a mask of 2": (
        {"encoder_outputs": torch.zeros(1, 2, 32), "attention_mask": [[1, 2]]}, "0 and 1 only",
    ),
    "all padding": (
        {"encoder_outputs": torch.zeros(2, 2, 32), "attention_mask": [[1, 1], [0, 0]]},
        "source 1 is all padding",
    ),
    "no numbers": (
        {"encoder_outputs": torch.full((2, 2, 32), torch.nan), "attention_mask": [[0, 1], [1, 1]]},
        "NaN or infinity in source 0, state 1",
    ),
    "n-grams of ids": (
        {"encoder_outputs": torch.zeros(1, 2, 32), "encoder_no_repeat_ngram_size": 2},
        "encoder_no_repeat_ngram_size=2 speaks of the ids of sources",
    ),
    "repetition of ids": (
        {"encoder_outputs": torch.zeros(1, 2, 32), "encoder_repetition_penalty": 1.2},
        "pass encoder_repetition_penalty=None",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_before_anything_runs(fault: str) -> None:
    arguments, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        models("t5").ours.generate(**arguments)


def test_padding_may_be_anything() -> None:
    model = models("t5").ours
    states = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1))
    mask = [[1, 0, 1], [1, 1, 1]]
    wanted = model.generate(encoder_outputs=states, attention_mask=mask, max_new_tokens=5)
    states[0, 1] = torch.nan
    found = model.generate(encoder_outputs=states, attention_mask=mask, max_new_tokens=5)
    assert torch.equal(found, wanted)


def test_only_encoder_decoder_models_take_them() -> None:
    unilm, gpt2 = tiny_unilm.tiny(seed=1).model(), tiny.pair(seed=1).ours
    for model in (unilm, gpt2):
        with pytest.raises(ValueError, match="attend to the states of an encoder: pass input_ids"):
            model.generate(encoder_outputs=torch.zeros(1, 3, 32))
    model = models("bart").ours
    with pytest.raises(ValueError, match=r"encoder_outputs\[1\] is \[2, 3, 32\]"):
        model.generate_each(encoder_outputs=[torch.zeros(3, 32), torch.zeros(2, 3, 32)])
    with pytest.raises(ValueError, match="must be a list of tensors"):
        model.generate_each(encoder_outputs=torch.zeros(3, 32))
    with pytest.raises(ValueError, match="encoder_outputs is for generate"):
        model.text_job(encoder_outputs=torch.zeros(1, 3, 32))
