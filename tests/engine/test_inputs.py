"""Bad input: every fault is named before anything runs."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import table
import torch
from torch import Tensor

import tritonseq


class SourceTable(table.TableDecoder):
    """A model with an encoder, whose targets are by their last token alone."""

    is_encoder_decoder = True
    source_vocab_size = 30
    max_source_positions = 5
    longest_exact_prompt = None

    def prefill(self, tokens: Tensor, lengths: Tensor, cache: Any, *, prompt: Tensor) -> Tensor:
        return super().prefill(prompt, lengths.new_full(lengths.shape, prompt.shape[1]), cache)


@pytest.fixture
def reader() -> tritonseq.Model:
    config = tritonseq.GenerationConfig(eos_token_id=1, pad_token_id=0, decoder_start_token_id=2)
    decoder = SourceTable(torch.zeros(20, 20), max_positions=16)
    return tritonseq.Model(decoder, config, None, {"summarization": {"num_beams": 2}})


@pytest.fixture
def model() -> tritonseq.Model:
    decoder = table.TableDecoder(torch.zeros(20, 20), max_positions=16)
    config = tritonseq.GenerationConfig(eos_token_id=1, pad_token_id=0, bos_token_id=2)
    return tritonseq.Model(decoder, config, None)


IDS = torch.tensor([[0, 0, 5, 6], [3, 4, 5, 6]])
MANY = torch.ones(2, 20, dtype=torch.int64)
MASK = (IDS != 0).long()

FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "too-high": ({"input_ids": torch.tensor([[3, 20]])}, "token id 20 is outside the vocabulary"),
    "negative": ({"input_ids": [[3, -100]]}, "holds -100, which marks what a loss ignores"),
    "no-batch": ({"input_ids": torch.zeros(0, 4).long()}, "is empty"),
    "no-tokens": ({"input_ids": torch.zeros(2, 0).long()}, "is empty"),
    "no-list": ({"input_ids": []}, "is empty: pass at least one prompt"),
    "empty-row": ({"input_ids": [[3, 4], []]}, "prompt 1 is empty: pass at least one token"),
    "one-dimension": ({"input_ids": torch.tensor([3, 4])}, r"ids\[None\]"),
    "flat-list": ({"input_ids": [3, 4]}, r"wrap a single prompt as \[prompt\]"),
    "float": ({"input_ids": torch.tensor([[3.0, 4.0]])}, "must be integers, not torch.float32"),
    "float-list": ({"input_ids": [[3.5, 4.0]]}, r"input_ids\[0\]\[0\] is 3.5: .* integers"),
    "bool": ({"input_ids": torch.tensor([[True]])}, "must be integers, not torch.bool"),
    "text": ({"input_ids": ["hello"]}, "not text: pass text to generate_text"),
    "bare-text": ({"input_ids": "hello"}, "not str: pass text to generate_text"),
    "encoding": ({"input_ids": {"input_ids": [[3]]}}, r"generate\(\*\*encoding\)"),
    "ragged-mask": (
        {"input_ids": [[3, 4], [5]], "attention_mask": [[1, 1], [0, 1]]},
        "leave attention_mask out",
    ),
    "long-prompt": (
        {"input_ids": torch.full((1, 17), 5), "max_new_tokens": 3},
        "the prompt alone has 17 tokens, the model 16 positions",
    ),
    "processor": ({"input_ids": IDS, "logits_processor": [5]}, "must hold callables, not 5"),
    "criterion": ({"input_ids": IDS, "stopping_criteria": 5}, "must hold callables, not 5"),
    "streamer": ({"input_ids": IDS, "streamer": 5}, "streamer must have put and end"),
    "prefix-fn": ({"input_ids": IDS, "prefix_allowed_tokens_fn": 5}, "must be callable, not 5"),
    "mask-shape": (
        {"input_ids": IDS, "attention_mask": MASK[:, :3]},
        r"shape \[2, 3\], input_ids \[2, 4\]",
    ),
    "mask-values": ({"input_ids": IDS, "attention_mask": MASK * 2}, "0 and 1 only"),
    "mask-empty": (
        {"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])},
        "prompt 1 is all padding",
    ),
    "right-padded": ({"input_ids": IDS.flip(1)}, "prompt 0 is not padded on the left only"),
    "mask-hole": (
        {"input_ids": IDS, "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 0, 1, 1]])},
        "prompt 1 is not padded on the left only: .* 1011",
    ),
    "too-long": (
        {"input_ids": IDS.repeat(1, 5), "attention_mask": MANY, "max_new_tokens": 1},
        "the prompt alone has 20 tokens, the model 16 positions",
    ),
    "max-length": ({"input_ids": IDS, "max_length": 4}, "has 4 tokens and max_length is 4"),
    "n-best": (
        {"input_ids": IDS, "num_beams": 2, "num_return_sequences": 3},
        "num_return_sequences",
    ),
    "n-greedy": ({"input_ids": IDS, "num_return_sequences": 3}, "num_return_sequences"),
    "unknown": ({"input_ids": IDS, "num_beam": 3}, "num_beams"),
    "temperature": ({"input_ids": IDS, "do_sample": True, "temperature": 0.0}, "temperature"),
    "rejected": ({"input_ids": IDS, "guidance_scale": 2.0}, "guidance_scale"),
    "later": ({"input_ids": IDS, "penalty_alpha": 0.6}, "not yet supported"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_before_anything_runs(model: tritonseq.Model, fault: str) -> None:
    arguments, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        model.generate(**arguments)
    assert model.decoder.prefills == []


def test_the_last_position_can_be_used(model: tritonseq.Model) -> None:
    assert model.generate(IDS, max_new_tokens=13, eos_token_id=None).shape == (2, 17)


def test_streaming_takes_one_prompt(model: tritonseq.Model) -> None:
    with pytest.raises(ValueError, match="stream yields the tokens of one hypothesis"):
        model.stream(IDS)
    with pytest.raises(ValueError, match="num_beams=1"):
        model.stream(IDS[1:], num_beams=2)


def test_no_prompt_needs_a_bos_token(model: tritonseq.Model) -> None:
    assert model.generate(max_new_tokens=2)[0, 0] == 2
    with pytest.raises(ValueError, match="no bos_token_id"):
        model.generate(bos_token_id=None)


def test_pads_of_an_end_token_are_text_without_a_mask(model: tritonseq.Model) -> None:
    """As in transformers: a pad token that is also an end token cannot be told from text."""
    model.generate(torch.tensor([[1, 1, 5]]), pad_token_id=1)
    assert model.decoder.prefills[0][:2] == (1, 3)


SOURCES = torch.tensor([[5, 6, 0, 0], [3, 4, 5, 6]])
SOURCE_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({"input_ids": None}, "input_ids is None: this model needs sources"),
    "no-batch": ({"input_ids": torch.zeros(0, 4).long()}, "is empty"),
    "no-tokens": ({"input_ids": torch.zeros(2, 0).long()}, "is empty"),
    "no-list": ({"input_ids": []}, "is empty"),
    "empty-row": ({"input_ids": [[3, 4], []]}, "source 1 is empty: pass at least one token"),
    "all-pads": ({"input_ids": SOURCES * (SOURCES == 3)[:, :1]}, "source 0 is all padding"),
    "masked-row": (
        {"input_ids": SOURCES, "attention_mask": torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])},
        "source 1 is all padding",
    ),
    "long": (
        {"input_ids": [[3], [4] * 6]},
        r"source 1 has 6 tokens, the model has 5 positions: truncate it, input_ids\[:, :5\]",
    ),
    "mask-shape": (
        {"input_ids": SOURCES, "attention_mask": torch.ones(2, 3)},
        r"shape \[2, 3\], input_ids \[2, 4\]",
    ),
    "mask-rows": (
        {"input_ids": SOURCES, "attention_mask": torch.ones(1, 4)},
        r"shape \[1, 4\], input_ids \[2, 4\]",
    ),
    "mask-values": ({"input_ids": SOURCES, "attention_mask": SOURCES}, "0 and 1 only"),
    "mask-hole": (
        {"input_ids": SOURCES, "attention_mask": torch.tensor([[1, 1, 0, 0], [1, 0, 1, 1]])},
        "attention_mask of source 1 has holes: 1011; padding must stand before or behind",
    ),
    "labels": ({"input_ids": [[3, -100]]}, "holds -100, .* these are labels, not ids"),
    "too-high": ({"input_ids": [[3, 30]]}, "token id 30 is outside the vocabulary of 30 tokens"),
    "float": ({"input_ids": SOURCES.float()}, "must be integers, not torch.float32"),
    "text": ({"input_ids": ["hello"]}, "pass text to generate_text"),
    "one-dimension": ({"input_ids": SOURCES[0]}, r"ids\[None\]"),
    "begun-rows": (
        {"input_ids": SOURCES, "decoder_input_ids": [[2, 3]]},
        "decoder_input_ids has 1 rows for 2 sources: pass one each",
    ),
    "begun-ragged": (
        {"input_ids": SOURCES, "decoder_input_ids": [[2, 3], [2]]},
        "decoder_input_ids must all have one length",
    ),
    "begun-empty-row": (
        {"input_ids": SOURCES, "decoder_input_ids": [[2], []]},
        "row 1 of decoder_input_ids is empty",
    ),
    "begun-masked": (
        {
            "input_ids": SOURCES,
            "decoder_input_ids": [[2, 3], [2, 4]],
            "decoder_attention_mask": [[1, 1], [0, 1]],
        },
        "decoder_attention_mask must be all ones",
    ),
    "two-names": ({"input_ids": SOURCES, "inputs": SOURCES}, "another name of input_ids"),
    "begun-empty": (
        {"input_ids": SOURCES, "decoder_input_ids": torch.zeros(2, 0).long()},
        "decoder_input_ids is empty",
    ),
    "begun-labels": (
        {"input_ids": SOURCES, "decoder_input_ids": [[2, 3], [2, -100]]},
        "decoder_input_ids holds -100",
    ),
    "begun-too-high": (
        {"input_ids": SOURCES, "decoder_input_ids": [[2, 3], [2, 25]]},
        "token id 25 is outside the vocabulary of 20 tokens",
    ),
    "begun-float": (
        {"input_ids": SOURCES, "decoder_input_ids": [[2.0], [3.0]]},
        r"decoder_input_ids\[0\]\[0\] is 2.0: token ids must be integers",
    ),
    "begun-text": (
        {"input_ids": SOURCES, "decoder_input_ids": ["en", "de"]},
        "decoder_input_ids must be token ids, not text",
    ),
    "begun-long": (
        {"input_ids": SOURCES, "decoder_input_ids": [[2] * 17] * 2, "max_new_tokens": 1},
        "the prompt alone has 17 tokens, the model 16 positions",
    ),
    "begun-max-length": (
        {"input_ids": SOURCES, "decoder_input_ids": [[2] * 4] * 2, "max_length": 4},
        "has 4 tokens and max_length is 4",
    ),
    "too-long": (
        {"input_ids": SOURCES, "decoder_input_ids": MANY, "max_new_tokens": 1},
        "the prompt alone has 2[01] tokens, the model 16 positions",
    ),
    "starts": (
        {"input_ids": SOURCES, "decoder_start_token_id": [2, 3, 4]},
        "decoder_start_token_id has 3 tokens for 2 sources: pass one, or one for each",
    ),
    "no-start": (
        {"input_ids": SOURCES, "decoder_start_token_id": None},
        "neither decoder_start_token_id nor bos_token_id is known",
    ),
    "high-start": (
        {"input_ids": SOURCES, "decoder_start_token_id": [2, 20]},
        "decoder_start_token_id holds token id 20, outside the vocabulary of 20",
    ),
    "task": (
        {"input_ids": SOURCES, "task": "translation"},
        "task 'translation' is not among those of the checkpoint: it has summarization",
    ),
}


@pytest.mark.parametrize("fault", SOURCE_FAULTS)
def test_faults_of_sources_are_named_before_anything_runs(
    reader: tritonseq.Model, fault: str
) -> None:
    arguments, message = SOURCE_FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        reader.generate(**arguments)
    assert reader.decoder.prefills == []


def test_what_a_model_without_an_encoder_does_not_take(model: tritonseq.Model) -> None:
    with pytest.raises(ValueError, match="decoder_input_ids is for models with an encoder"):
        model.generate(IDS, decoder_input_ids=[[2], [2]])
    with pytest.raises(ValueError, match="decoder_attention_mask is for models with an encoder"):
        model.generate(IDS, decoder_attention_mask=[[1], [1]])
    with pytest.raises(ValueError, match="checkpoint: it has none"):
        model.generate(IDS, task="summarization")
    assert model.decoder.prefills == []


def test_inputs_is_another_name(reader: tritonseq.Model) -> None:
    wanted = reader.generate(SOURCES)
    assert torch.equal(reader.generate(inputs=SOURCES), wanted)
    assert list(reader.stream(inputs=SOURCES[1:])) == wanted[1, 1:].tolist()


def test_a_mask_of_ones_for_what_targets_start_with(reader: tritonseq.Model) -> None:
    begun = torch.tensor([[2, 3], [2, 4]])
    wanted = reader.generate(SOURCES, decoder_input_ids=begun)
    for mask in (torch.ones(2, 2), torch.ones(2, 2).bool(), [[1, 1], [1, 1]], None):
        options: dict[str, Any] = {"decoder_input_ids": begun, "decoder_attention_mask": mask}
        assert torch.equal(reader.generate(SOURCES, **options), wanted)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"max_new_tokens": 3, "min_new_tokens": 4},
            "min_new_tokens=4 asks for more than max_new_tokens=3",
        ),
        ({"max_length": 5, "min_length": 6}, "min_length=6 asks for more than max_length=5"),
        ({"max_length": 5, "min_new_tokens": 5}, "min_new_tokens=5 .* max_length=5"),
        ({"max_new_tokens": 3, "min_length": 5}, "min_length=5 .* max_new_tokens=3"),
        ({"min_length": 30}, "min_length=30 .* the default of 20 new tokens"),
    ],
    ids=str,
)
def test_a_minimum_above_the_maximum_is_said_to(
    reader: tritonseq.Model, options: dict[str, Any], told: str
) -> None:
    """And the maximum ends what the minimum keeps going."""
    with pytest.warns(UserWarning, match=f"unfeasible lengths: {told}"):
        ids = reader.generate(SOURCES, **options)
    limit = options.get("max_length") or 1 + options.get("max_new_tokens", 15)
    assert ids.shape[1] == limit
    assert not (ids == 1).any()


def test_a_minimum_that_fits_is_not(reader: tritonseq.Model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader.generate(SOURCES, max_new_tokens=3, min_new_tokens=3)
        reader.generate(SOURCES, max_length=5, min_length=5)


def test_padding_does_not_count_as_positions(reader: tritonseq.Model) -> None:
    """Only text needs positions: a wide batch of short sources fits."""
    wide = torch.nn.functional.pad(SOURCES, (3, 2))
    for mask in (None, (wide != 0).long()):
        assert reader.generate(wide, mask, max_new_tokens=16, eos_token_id=None).shape == (2, 17)


def test_with_hf_exact_pads_are_text_without_a_mask(reader: tritonseq.Model) -> None:
    reader.generate(torch.zeros(1, 5).long(), hf_exact=True)
    with pytest.raises(ValueError, match="source 0 has 6 tokens"):
        reader.generate(torch.zeros(1, 6).long(), hf_exact=True)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], r"allows no token for sample 1 after \[2, \d+\]: return at least one token id"),
        (None, "returned None, which is no list of token ids, for sample 1"),
        ([3, 20], "allows token id 20, outside the vocabulary of 20 tokens, for sample 1"),
    ],
)
def test_a_function_that_allows_nothing(
    reader: tritonseq.Model, beams: int, answer: Any, message: str
) -> None:
    """It is found at the step; the next request knows nothing of it."""

    def allowed(sample: int, prefix: Tensor) -> Any:
        return answer if sample == 1 and len(prefix) == 2 else [7, 8, 9]

    wanted = reader.generate(SOURCES, num_beams=beams)
    with pytest.raises(ValueError, match=f"prefix_allowed_tokens_fn {message}"):
        reader.generate(SOURCES, prefix_allowed_tokens_fn=allowed, num_beams=beams)
    assert torch.equal(reader.generate(SOURCES, num_beams=beams), wanted)
