"""Calls with any argument that is wrong end in an answer, or in an error that names it."""

from __future__ import annotations

import io
import random
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import tritonseq
from tritonseq import Trie
from tritonseq.demo.run import EMBEDDED

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("gpt2-words", "t5-dates", "bart-numbers", "unilm-clock")

ODD: list[Callable[[], Any]] = [
    lambda: None, lambda: True, lambda: -1, lambda: 0, lambda: 2**40, lambda: 2**63, lambda: 1.5,
    lambda: float("nan"), lambda: float("inf"), lambda: 1j, lambda: "a", lambda: "", lambda: b"ab",
    lambda: "\ud800", list, lambda: [None], lambda: [[]], lambda: [[[5]]], lambda: [[5, 6], [7]],
    lambda: [[5.0]], lambda: [["a"]], lambda: ["a", 5], lambda: [-1], lambda: [10**6],
    lambda: [[10**6]], lambda: [[-100]], dict, lambda: {"text": ["a"]}, lambda: [{"text": "a"}],
    lambda: {5}, lambda: frozenset("a"), lambda: (5, 6), lambda: range(3, 6), lambda: iter([[5]]),
    lambda: io.StringIO("a\n"), lambda: Path("a"), object, lambda: int, lambda: len,
    lambda: (lambda *arguments: None), lambda: (lambda ids, scores: scores), lambda: np.int64(3),
    lambda: np.array([[5, 6]]), lambda: np.array(["a", "b"]), lambda: np.array(5),
    lambda: np.array([[5.5]]), lambda: np.array([[None]]), lambda: torch.tensor(5),
    lambda: torch.tensor([[5, 6]]), lambda: torch.tensor([5, 6]), lambda: torch.zeros(0, 3).long(),
    lambda: torch.zeros(2, 0).long(), lambda: torch.tensor([[5.0]]), lambda: torch.ones(1, 2) > 0,
    lambda: torch.ones(1, 2, device="meta").long(), lambda: torch.ones(1, 2).long().to_sparse(),
    lambda: torch.full((1, 2), float("nan")), lambda: torch.ones(1, 2, 3).long(),
    lambda: tritonseq.GenerationConfig(num_beams=2), lambda: Trie([[5, 6]]),
    lambda: torch.nn.Identity(), lambda: slice(3), lambda: NotImplemented, lambda: ...,
]  # fmt: skip

OF_GENERATE = (
    "input_ids", "attention_mask", "inputs", "decoder_input_ids", "decoder_attention_mask",
    "generation_config", "logits_processor", "stopping_criteria",
    "prefix_allowed_tokens_fn", "streamer", "return_dict_in_generate", "max_new_tokens",
    "max_length", "min_length", "num_beams", "do_sample", "no_repeat_ngram_size", "eos_token_id",
    "pad_token_id", "bad_words_ids", "token_type_ids", "output_scores", "num_return_sequences",
    "length_penalty", "early_stopping", "use_cache", "labels", "encoder_outputs", "strange",
)  # fmt: skip
OF_TEXTS = ("texts", "max_source_length", "batch_size", "progress", "max_new_tokens", "num_beams")
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "generate": OF_GENERATE,
    "stream": OF_GENERATE[:9],
    "generate_each": ("inputs", "slots", "decoder_input_ids", "prefix_allowed_tokens_fn",
                      "num_beams", "generation_config", "logits_processor"),
    "generate_text": OF_TEXTS,
    "pipeline": (*OF_TEXTS, "batch_tokens", "window", "preprocess_workers", "devices",
                 "ordered", "traced", "model"),
    "trie": ("sequences",),
}  # fmt: skip

SIMPLE: dict[str, dict[str, Any]] = {
    "generate": {"input_ids": [[5, 6], [7, 8]], "max_new_tokens": 2},
    "stream": {"input_ids": [[5, 6]], "max_new_tokens": 2},
    "generate_each": {"inputs": [[5, 6], [7]], "max_new_tokens": 2},
    "generate_text": {"texts": ["three"], "max_new_tokens": 2},
    "pipeline": {"texts": ["three"], "max_new_tokens": 2},
    "trie": {},
}


@cache
def load(name: str) -> tritonseq.Model:
    return tritonseq.load(EMBEDDED / name, device="cpu")


def call(kind: str, model: tritonseq.Model, arguments: dict[str, Any]) -> None:
    """Ask, and take all of what comes."""
    if kind == "trie":
        Trie(**arguments)
    elif kind == "pipeline":
        given = {"model": model, **arguments}
        with tritonseq.pipeline(given.pop("model"), given.pop("texts"), **given) as running:
            list(running)
    elif kind == "generate_text":
        model.generate_text(**arguments)
    else:
        list(getattr(model, kind)(**arguments))


def check(seed: int) -> None:
    """One call with one argument that may be anything."""
    draw = random.Random(seed)
    kind = draw.choice(list(ARGUMENTS))
    model = load(draw.choice(NAMES))
    name, value = draw.choice(ARGUMENTS[kind]), draw.choice(ODD)()
    arguments = {**SIMPLE[kind], name: value}
    if kind == "generate" and name == "inputs":
        del arguments["input_ids"]
    try:
        call(kind, model, arguments)
    except (ValueError, TypeError) as error:
        message = str(error)
        assert is_named(name, message), f"{kind}({name}={value!r}) says only: {message}"
    except StopIteration:
        raise AssertionError(f"{kind}({name}={value!r}) ends in StopIteration") from None


# What errors say of an argument, instead of its name.
WORDS = {
    "input_ids": ("token id", "prompt", "source", "ids"),
    "inputs": ("input_ids", "token id", "prompt", "source", "ids"),
    "attention_mask": ("prompt", "source"),
    "decoder_input_ids": ("token id", "targets", "prompt", "rows"),
    "decoder_attention_mask": ("targets",),
    "stopping_criteria": ("stopping criterion",),
    "logits_processor": ("functions of yours",),
    "prefix_allowed_tokens_fn": ("trie", "Trie", "functions of yours"),
    "texts": ("text 0",),
    "sequences": ("sequence", "token", "Trie"),
    "devices": ("model",),
    "model": ("",),
    "max_new_tokens": ("positions",),
    "generation_config": ("search", "num_beams", "unknown option"),
    "num_beams": ("streamer", "beams"),
}


def is_named(name: str, message: str) -> bool:
    return name in message or any(word in message for word in WORDS.get(name, ()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(6))
def test_a_wrong_argument_is_named(part: int) -> None:
    for seed in range(25 * part, 25 * (part + 1)):
        check(seed)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(20))
def test_many_wrong_arguments_are_named(part: int) -> None:
    for seed in range(1000 + 100 * part, 1000 + 100 * (part + 1)):
        check(seed)
