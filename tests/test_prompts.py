"""Bad input: every fault is named before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
import table
import torch

import tritonseq


@pytest.fixture
def model() -> tritonseq.Model:
    decoder = table.TableDecoder(torch.zeros(20, 20), max_positions=16)
    config = tritonseq.GenerationConfig(eos_token_id=1, pad_token_id=0, bos_token_id=2)
    return tritonseq.Model(decoder, config, None)


IDS = torch.tensor([[0, 0, 5, 6], [3, 4, 5, 6]])
MASK = (IDS != 0).long()

FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "too-high": ({"input_ids": torch.tensor([[3, 20]])}, "token id 20 is outside the vocabulary"),
    "negative": ({"input_ids": [[3, -100]]}, "holds -100, which marks what a loss ignores"),
    "no-batch": ({"input_ids": torch.zeros(0, 4).long()}, "is empty"),
    "no-tokens": ({"input_ids": torch.zeros(2, 0).long()}, "is empty"),
    "no-list": ({"input_ids": []}, "is empty: pass at least one prompt"),
    "empty-row": ({"input_ids": [[3, 4], []]}, "prompt 1 is all padding"),
    "one-dimension": ({"input_ids": torch.tensor([3, 4])}, r"ids\[None\]"),
    "flat-list": ({"input_ids": [3, 4]}, r"wrap a single prompt as \[prompt\]"),
    "float": ({"input_ids": torch.tensor([[3.0, 4.0]])}, "must be integers, not torch.float32"),
    "float-list": ({"input_ids": [[3.5, 4.0]]}, "must be integers, not torch.float32"),
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
        {"input_ids": IDS, "max_new_tokens": 14},
        "need 17 positions, the model has 16: shorten the prompt or pass max_new_tokens <= 13",
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
