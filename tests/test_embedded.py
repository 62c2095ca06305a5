"""The embedded checkpoint: small, readable by transformers, and right about sums it never saw."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

import tritonseq
from tritonseq.demo import FOLDER, MODES, answer, run
from tritonseq.words import Problem, is_unseen, problems, spell

if TYPE_CHECKING:
    from tritonseq.model import Model

COUNT = 200


@pytest.fixture(scope="module")
def model() -> Model:
    return tritonseq.load(FOLDER, device="cpu")


def unseen(count: int) -> list[Problem]:
    return list(islice(problems(seed=99, unseen=True), count))


def test_it_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    needed = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert needed <= files.keys()
    assert sum(files.values()) <= 2_000_000


def test_every_number_has_words_of_its_own() -> None:
    assert len({spell(number) for number in range(200)}) == 200


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "zero"), (17, "seventeen"), (40, "forty"), (41, "forty-one"), (100, "one hundred"),
     (101, "one hundred one"), (112, "one hundred twelve"), (199, "one hundred ninety-nine")],
)  # fmt: skip
def test_spelling(number: int, words: str) -> None:
    assert spell(number) == words


@pytest.mark.parametrize("number", [-1, 200])
def test_numbers_out_of_range(number: int) -> None:
    with pytest.raises(ValueError, match=f"{number} is outside"):
        spell(number)


def test_the_split_holds_whatever_the_wording_or_order() -> None:
    for a in range(1, 100):
        for b in range(1, a):
            assert is_unseen(a, b, "+") == is_unseen(b, a, "+")
    trained = {problem.prompt for problem in islice(problems(seed=1, unseen=False), 50_000)}
    assert not trained & {problem.prompt for problem in unseen(5_000)}
    share = sum(is_unseen(a, b, "-") for a in range(1, 100) for b in range(1, a + 1)) / 4950
    assert 0.08 < share < 0.12


def test_problems_are_the_same_for_the_same_seed() -> None:
    assert unseen(50) == unseen(50)
    other = list(islice(problems(seed=98, unseen=True), 50))
    assert unseen(50) != other


@pytest.mark.parametrize("side", [True, False], ids=["unseen", "trained"])
def test_no_right_answer_repeats_three_tokens(model: Model, side: bool) -> None:
    """Else a ban on repeated 3-grams would forbid the truth."""
    encode = model.tokenizer.backend.encode
    for problem in islice(problems(seed=3, unseen=side), 10_000):
        answer_ids = [*encode(problem.answer).ids, *model.generation_config.eos_token_ids]
        ids = encode(problem.prompt).ids + answer_ids
        grams = list(zip(ids, ids[1:], ids[2:], strict=False))
        before, spoken = grams[: -len(answer_ids)], grams[-len(answer_ids) :]
        assert not set(spoken) & set(before), problem
        assert len(set(spoken)) == len(spoken), problem


def test_text_survives_the_tokenizer(model: Model) -> None:
    theirs = AutoTokenizer.from_pretrained(FOLDER)
    for text in [p.prompt + p.answer for p in unseen(100)] + ["Ünseen: 語 42\n\n\tforty-xyz 🙂"]:
        ids, _ = model.tokenizer.encode([text], pad_id=1)
        assert ids[0].tolist() == theirs(text)["input_ids"]
        assert model.tokenizer.decode(ids) == [text]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 4, "no_repeat_ngram_size": 3},
        {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.3},
        {"do_sample": True, "temperature": 0.7},
    ],
    ids=["greedy", "beams", "best of beams", "sampling"],
)
def test_ids_equal_transformers(model: Model, options: dict[str, Any]) -> None:
    theirs = GPT2LMHeadModel.from_pretrained(FOLDER).eval()
    ids, mask = model.tokenizer.encode([p.prompt for p in unseen(17)], pad_id=1)
    torch.manual_seed(0)
    expected = theirs.generate(ids, attention_mask=mask, **options)
    torch.manual_seed(0)
    assert torch.equal(model.generate(ids, mask, **options), expected)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_unseen_sums_are_right(model: Model, mode: Any) -> None:
    outcome = answer(model, unseen(COUNT), mode.options)
    # Sampling draws wrong words as often as the model doubts; its doubts must be small.
    assert outcome.accuracy >= max(mode.required, 0.95)


def test_a_wrong_answer_is_counted_and_fails_the_demo(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = unseen(10)
    batch[3] = Problem(batch[3].prompt, " no such number")
    assert answer(model, batch, {}).right == [index != 3 for index in range(10)]
    monkeypatch.setattr("tritonseq.demo.problems", lambda seed, *, unseen: iter(batch))
    assert run(device="cpu", count=10) == 1
    assert capsys.readouterr().out.count("WRONG") == len(MODES)


def test_the_demo_reports_every_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(device="cpu", count=30) == 0
    out = capsys.readouterr().out
    for mode in MODES:
        assert out.count(mode.name) == 2  # its examples and its row of the table
    assert "30/30" in out
