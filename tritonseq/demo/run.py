"""The demo: the embedded checkpoints at problems that they have never seen, checked."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tritonseq.model import load

from . import amounts, dates, diary, numbers, sums

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritonseq.model import Model

    from .tasks import Problem, Problems

EMBEDDED = Path(__file__).parents[1] / "embedded"
"""Where the checkpoints lie, in folders that `load` takes."""

REQUIRED = 0.99
SEED = 7
BATCH = 25
SHOWN = 3

_MOST = 100_000
"""Problems that are made before the first one is answered."""


@dataclass(frozen=True)
class Mode:
    """A way of decoding, and the share of right answers below which the demo fails."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    required: float = REQUIRED


@dataclass(frozen=True, eq=False)  # compared by identity: the options of its modes have no hash
class EmbeddedCheckpoint:
    """What an embedded checkpoint is and does, and how the demo runs it."""

    name: str
    kind: str
    task: str
    problems: Problems
    modes: tuple[Mode, ...]
    try_it: str
    """A prompt to go on from here with."""
    try_with: dict[str, str] = field(default_factory=dict)
    """Options of `generate_text` for it."""

    @property
    def folder(self) -> Path:
        return EMBEDDED / self.name


@dataclass(frozen=True)
class Outcome:
    """What a mode made of the problems: its answers, and the time that they took."""

    texts: list[str]
    right: list[bool]
    seconds: float

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.right)

    @property
    def answers_per_second(self) -> float:
        return len(self.texts) / self.seconds


GREEDY = Mode("greedy")
BEAMS = Mode("4 beams", {"num_beams": 4})
# Sampling may err: it draws from the model's doubts, which is what sampling is for.
SAMPLING = Mode("sampling, temperature 0.7", {"do_sample": True, "temperature": 0.7}, required=0.0)
BLOCKED = Mode("4 beams, no repeated 3-gram", {"num_beams": 4, "no_repeat_ngram_size": 3})
# What UniLM's authors decode headlines with, and a penalty, which they leave at 0.
HEADLINES = Mode(
    "5 beams, penalty 0.9",
    {"num_beams": 5, "length_penalty": 0.9, "no_repeat_ngram_size": 3},
)

CHECKPOINTS = (
    EmbeddedCheckpoint(
        "gpt2-words",
        kind="GPT-2",
        task="does sums in words",
        problems=sums.problems,
        modes=(GREEDY, SAMPLING, BLOCKED),
        try_it="four dozen minus seven =",
    ),
    EmbeddedCheckpoint(
        "t5-dates",
        kind="T5",
        task="turns spoken dates into ISO dates",
        problems=dates.problems,
        modes=(GREEDY, BEAMS),
        try_it="the third of March nineteen eighty-four",
    ),
    EmbeddedCheckpoint(
        "bart-numbers",
        kind="BART",
        task="puts the number of a sentence into words",
        problems=numbers.problems,
        modes=(GREEDY, BEAMS),
        try_it="The bill is 40,317 euros.",
    ),
    EmbeddedCheckpoint(
        "unilm-clock",
        kind="UniLM",
        task="makes a line of a diary from a sentence with a time",
        problems=diary.problems,
        modes=(GREEDY, BEAMS, HEADLINES),
        try_it="The train to Oslo leaves at a quarter to nine in the evening.",
    ),
    EmbeddedCheckpoint(
        "m2m100-amounts",
        kind="multilingual M2M100",
        task="says amounts of one language in any of four others, which it is told as NLLB is",
        problems=amounts.problems,
        modes=(GREEDY, BEAMS),
        try_it="siebenundneunzig Stunden",
        try_with={"src_lang": "deu_Latn", "tgt_lang": "fra_Latn"},
    ),
)


def run(*, device: str = "auto", dtype: str = "auto", count: int = 200) -> int:
    """Run every mode of every checkpoint over `count` unseen problems and print a report.

    Returns 0 if enough answers are right, else 1.
    """
    if not 1 <= count <= _MOST:
        raise ValueError(f"the demo takes from 1 to {_MOST} problems, not {count}")
    with one_thread():
        rows = [row for checkpoint in CHECKPOINTS for row in _run(checkpoint, device, dtype, count)]
    _print_table(rows)
    return 0 if all(outcome.accuracy >= mode.required for _, mode, outcome in rows) else 1


def _run(
    checkpoint: EmbeddedCheckpoint, device: str, dtype: str, count: int
) -> list[tuple[EmbeddedCheckpoint, Mode, Outcome]]:
    """Run and report every mode of a checkpoint."""
    model = load(checkpoint.folder, device=device, dtype=dtype)
    _print_heading(checkpoint, model)
    batch = list(islice(checkpoint.problems(SEED, unseen=True), count))
    answer(model, batch[:BATCH], {})  # warm up: the first call pays for set-up
    rows = []
    for mode in checkpoint.modes:
        outcome = answer(model, batch, mode.options)
        _print_examples(mode, batch, outcome)
        rows.append((checkpoint, mode, outcome))
    flags = "".join(f" --{n.replace('_', '-')} {code}" for n, code in checkpoint.try_with.items())
    print(
        f'\nTry it: tritonseq generate {checkpoint.folder} --prompt "{checkpoint.try_it}"{flags}\n'
    )
    return rows


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: so small a network gains nothing from more, and waits if cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def answer(model: Model, batch: list[Problem], options: dict[str, Any]) -> Outcome:
    """Answer every prompt and compare with the right answer, letter by letter."""
    torch.manual_seed(SEED)
    start = time.perf_counter()
    prompts = [problem.prompt for problem in batch]
    texts = model.generate_text(prompts, batch_size=BATCH, **_languages(batch), **options)
    seconds = time.perf_counter() - start
    right = [text == problem.answer for text, problem in zip(texts, batch, strict=True)]
    return Outcome(texts, right, seconds)


def _languages(batch: list[Problem]) -> dict[str, Any]:
    """The languages of every problem, where problems have some: a batch may mix them."""
    if batch[0].tgt_lang is None:
        return {}
    return {
        name: [getattr(problem, name) for problem in batch] for name in ("src_lang", "tgt_lang")
    }


def _print_heading(checkpoint: EmbeddedCheckpoint, model: Model) -> None:
    where = f"{str(model.dtype).removeprefix('torch.')} on {model.device}"
    print(f"{checkpoint.name}: a {checkpoint.kind} of {model.decoder.size:,} weights, {where}")
    print(f"It {checkpoint.task}. It has seen none of these in training.")


def _print_examples(mode: Mode, batch: list[Problem], outcome: Outcome) -> None:
    """The first few problems, and whatever went wrong after them."""
    print(f"\n{mode.name}")
    for index, (problem, text) in enumerate(zip(batch, outcome.texts, strict=True)):
        if not outcome.right[index]:
            print(f"  WRONG  {_shown(problem, text)}  (the answer is {problem.answer.strip()})")
        elif index < SHOWN:
            print(f"  right  {_shown(problem, text)}")


def _shown(problem: Problem, text: str) -> str:
    """A text that goes on after the prompt stands there, any other behind an arrow."""
    if problem.src_lang is not None:
        return f"{problem.src_lang}: {problem.prompt} -> {problem.tgt_lang}: {text}"
    return problem.prompt + ("" if problem.answer.startswith(" ") else " -> ") + text


def _print_table(rows: list[tuple[EmbeddedCheckpoint, Mode, Outcome]]) -> None:
    print(f"{'checkpoint':<16}{'mode':<28}{'right':>10}{'accuracy':>10}{'answers/s':>11}")
    for checkpoint, mode, outcome in rows:
        right = f"{sum(outcome.right)}/{len(outcome.right)}"
        print(
            f"{checkpoint.name:<16}{mode.name:<28}{right:>10}{outcome.accuracy:>10.1%}"
            f"{outcome.answers_per_second:>11,.0f}"
        )
