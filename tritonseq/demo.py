"""The main job on the embedded checkpoint: sums in words that it has never seen, checked."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .model import load
from .words import problems

if TYPE_CHECKING:
    from .model import Model
    from .words import Problem

FOLDER = Path(__file__).parent / "embedded" / "gpt2-words"
"""The embedded checkpoint, a folder that `load` takes."""

REQUIRED = 0.99
SEED = 7
BATCH = 25
SHOWN = 4


@dataclass(frozen=True)
class Mode:
    """A way of decoding, and the share of right answers below which the demo fails."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    required: float = REQUIRED


@dataclass(frozen=True)
class Outcome:
    """What a mode made of the problems: its continuations, and the time that they took."""

    texts: list[str]
    right: list[bool]
    tokens: int
    seconds: float

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.right)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


# Sampling may err: it draws from the model's doubts, which is what sampling is for.
MODES = (
    Mode("greedy"),
    Mode("sampling, temperature 0.7", {"do_sample": True, "temperature": 0.7}, required=0.0),
    Mode("4 beams, no repeated 3-gram", {"num_beams": 4, "no_repeat_ngram_size": 3}),
)


def run(*, device: str = "auto", dtype: str = "auto", count: int = 200) -> int:
    """Run every mode over `count` unseen problems and print a report; 0 if enough is right."""
    if count < 1:
        raise ValueError(f"the demo needs at least 1 problem, not {count}")
    model = load(FOLDER, device=device, dtype=dtype)
    weights = sum(weight.numel() for weight in model.decoder.parameters())
    where = f"{str(model.dtype).removeprefix('torch.')} on {model.device}"
    print(f"{FOLDER.name}: a GPT-2 of {weights:,} weights, {where}")
    print("It does sums in words. It has seen none of these pairs of numbers in training.")
    batch = list(islice(problems(SEED, unseen=True), count))
    answer(model, batch[:BATCH], MODES[0].options)  # warm up: the first call pays for set-up
    outcomes = [answer(model, batch, mode.options) for mode in MODES]
    for mode, outcome in zip(MODES, outcomes, strict=True):
        _print_examples(mode, batch, outcome)
    _print_table(outcomes)
    print(f'\nAsk it yourself: tritonseq generate {FOLDER} --prompt "four dozen minus seven ="')
    pairs = zip(MODES, outcomes, strict=True)
    return 0 if all(outcome.accuracy >= mode.required for mode, outcome in pairs) else 1


def answer(model: Model, batch: list[Problem], options: dict[str, Any]) -> Outcome:
    """Continue every prompt and compare with the right answer, letter by letter."""
    torch.manual_seed(SEED)
    pad = model.generation_config.pad_token_id
    assert pad is not None, "the embedded checkpoint has a pad token"
    texts, tokens, seconds = [], 0, 0.0
    for first in range(0, len(batch), BATCH):
        prompts = [problem.prompt for problem in batch[first : first + BATCH]]
        start = time.perf_counter()
        ids, mask = model.tokenizer.encode(prompts, pad_id=pad)
        sequences = model.generate(ids, mask, **options)
        assert isinstance(sequences, torch.Tensor), "no result object was asked for"
        new = sequences[:, ids.shape[1] :]
        texts += model.tokenizer.decode(new)
        seconds += time.perf_counter() - start
        tokens += int((new != pad).sum())
    right = [text == problem.answer for text, problem in zip(texts, batch, strict=True)]
    return Outcome(texts, right, tokens, seconds)


def _print_examples(mode: Mode, batch: list[Problem], outcome: Outcome) -> None:
    """The first few problems, and whatever went wrong after them."""
    print(f"\n{mode.name}")
    for index, (problem, text) in enumerate(zip(batch, outcome.texts, strict=True)):
        if outcome.right[index]:
            if index < SHOWN:
                print(f"  right  {problem.prompt}{text}")
        else:
            print(f"  WRONG  {problem.prompt}{text}  (the answer is{problem.answer})")


def _print_table(outcomes: list[Outcome]) -> None:
    print(f"\n{'mode':<30}{'right':>12}{'accuracy':>12}{'tokens/s':>12}")
    for mode, outcome in zip(MODES, outcomes, strict=True):
        right = f"{sum(outcome.right)}/{len(outcome.right)}"
        speed = f"{outcome.tokens_per_second:,.0f}"
        print(f"{mode.name:<30}{right:>12}{outcome.accuracy:>12.1%}{speed:>12}")
