"""The embedded checkpoints: small, as transformers reads them, right about the unseen.

transformers has no UniLM: there, the definition of the network and of its search is the witness.
"""

from __future__ import annotations

import json
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
import torch
import unilm
import unilm_search
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import tritonseq
from tritonseq.demo import diary, sums
from tritonseq.demo.run import CHECKPOINTS, EmbeddedCheckpoint, answer, one_thread, run
from tritonseq.demo.tasks import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritonseq.model import Model

COUNT = 200
GPT2, T5, BART, UNILM, M2M100 = CHECKPOINTS
EVERY = pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda checkpoint: checkpoint.name)
KNOWN = pytest.mark.parametrize("checkpoint", [GPT2, T5, BART], ids=["GPT-2", "T5", "BART"])
ENCODER_DECODER = pytest.mark.parametrize("checkpoint", [T5, BART], ids=["T5", "BART"])
READERS = pytest.mark.parametrize("checkpoint", [T5, BART, UNILM], ids=["T5", "BART", "UniLM"])


@pytest.fixture(autouse=True)
def on_one_thread() -> Iterator[None]:
    with one_thread():
        yield


@cache
def load(checkpoint: EmbeddedCheckpoint) -> Model:
    return tritonseq.load(checkpoint.folder, device="cpu")


@cache
def load_theirs(checkpoint: EmbeddedCheckpoint) -> tuple[Any, Any]:
    kind = AutoModelForCausalLM if checkpoint is GPT2 else AutoModelForSeq2SeqLM
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    return kind.from_pretrained(checkpoint.folder).eval(), tokenizer


def unseen(checkpoint: EmbeddedCheckpoint, count: int) -> list[Problem]:
    return list(islice(checkpoint.problems(seed=99, unseen=True), count))


def padded(tokenizer: Any, checkpoint: EmbeddedCheckpoint, count: int) -> Any:
    prompts = [problem.prompt for problem in unseen(checkpoint, count)]
    return tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)


@EVERY
def test_it_is_small_and_complete(checkpoint: EmbeddedCheckpoint) -> None:
    files = {path.name: path.stat().st_size for path in checkpoint.folder.iterdir()}
    assert files.keys() == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "vocab.txt" if checkpoint is UNILM else "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) <= 2_000_000


def test_the_t5_has_the_awkward_shape_of_its_successors() -> None:
    """What T5 v1.1 allows and 1.0 has not: else nothing here would notice it."""
    network, _ = load_theirs(T5)
    config = network.config
    assert config.feed_forward_proj == "gated-gelu"
    assert config.num_heads * config.d_kv != config.d_model
    assert config.num_decoder_layers < config.num_layers
    assert not torch.equal(network.lm_head.weight, network.shared.weight)


@pytest.mark.parametrize("side", [True, False], ids=["unseen", "trained"])
def test_no_right_sum_repeats_three_tokens(side: bool) -> None:
    """Else a ban on repeated 3-grams would forbid the truth."""
    model = load(GPT2)
    encode = model.tokenizer.backend.encode
    for problem in islice(sums.problems(seed=3, unseen=side), 10_000):
        answer_ids = [*encode(problem.answer).ids, *model.generation_config.eos_token_ids]
        ids = encode(problem.prompt).ids + answer_ids
        grams = list(zip(ids, ids[1:], ids[2:], strict=False))
        before, spoken = grams[: -len(answer_ids)], grams[-len(answer_ids) :]
        assert not set(spoken) & set(before), problem
        assert len(set(spoken)) == len(spoken), problem


@pytest.mark.parametrize("checkpoint", [GPT2, BART], ids=["GPT-2", "BART"])
def test_text_survives_the_tokenizer(checkpoint: EmbeddedCheckpoint) -> None:
    model, (_, theirs) = load(checkpoint), load_theirs(checkpoint)
    strange = "Ünseen: 語 42\n\n\tforty-xyz 🙂"
    for text in [p.prompt + p.answer for p in unseen(checkpoint, 100)] + [strange]:
        ids, _ = model.tokenizer.encode([text], pad_id=1)
        assert ids[0].tolist() == theirs(text)["input_ids"]
        assert model.tokenizer.decode(ids) == [text]


def test_sentences_reach_the_unilm_as_they_reach_a_bert() -> None:
    model, theirs = load(UNILM), AutoTokenizer.from_pretrained(UNILM.folder)
    strange = "Ünseen: 語 42\n\n\tAt noon, o'clock-xyz 🙂 [MASK]"
    for text in [problem.prompt for problem in unseen(UNILM, 100)] + [strange]:
        ids, _ = model.tokenizer.encode([text], pad_id=0)
        assert ids[0].tolist() == theirs(text)["input_ids"]


def test_dates_survive_the_tokenizer() -> None:
    model, (_, theirs) = load(T5), load_theirs(T5)
    for problem in unseen(T5, 100):
        ids, _ = model.tokenizer.encode([problem.answer], pad_id=0)
        assert model.tokenizer.decode(ids) == [problem.answer]
        for text in (problem.prompt, problem.prompt.upper(), problem.prompt + " ö 語"):
            ids, _ = model.tokenizer.encode([text], pad_id=0)
            assert ids[0].tolist() == theirs(text)["input_ids"]


@KNOWN
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
def test_ids_equal_transformers(checkpoint: EmbeddedCheckpoint, options: dict[str, Any]) -> None:
    theirs, tokenizer = load_theirs(checkpoint)
    inputs = padded(tokenizer, checkpoint, 17)
    torch.manual_seed(0)
    expected = theirs.generate(**inputs, **options)
    torch.manual_seed(0)
    ids = load(checkpoint).generate(
        inputs["input_ids"], inputs["attention_mask"], hf_exact=True, **options
    )
    assert torch.equal(ids, expected)


@ENCODER_DECODER
def test_texts_equal_transformers(checkpoint: EmbeddedCheckpoint) -> None:
    theirs, tokenizer = load_theirs(checkpoint)
    ids = theirs.generate(**padded(tokenizer, checkpoint, 40), num_beams=4)
    prompts = [problem.prompt for problem in unseen(checkpoint, 40)]
    texts = load(checkpoint).generate_text(prompts, num_beams=4)
    assert texts == tokenizer.batch_decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    "rules",
    [
        unilm_search.Rules(1, steps=12, eos=3),
        unilm_search.Rules(4, steps=12, eos=3, min_len=1, ngram_size=3, length_penalty=0.9),
        unilm_search.Rules(3, steps=4, eos=3, min_len=1),
    ],
    ids=["greedy", "beams", "cut short"],
)
def test_ids_equal_the_definition_of_unilm(rules: unilm_search.Rules) -> None:
    tokenizer = AutoTokenizer.from_pretrained(UNILM.folder)
    sources = tokenizer([problem.prompt for problem in unseen(UNILM, 17)])["input_ids"]
    ids = {"mask_token_id": tokenizer.mask_token_id}
    config = json.loads((UNILM.folder / "config.json").read_text())
    network = unilm.Network(load_file(UNILM.folder / "model.safetensors"), config | ids)

    def ask(rows: Any) -> torch.Tensor:
        return network.rows(sources, rows)

    if rules.beams == 1:
        options = {"max_new_tokens": rules.steps}
        targets, _ = unilm_search.greedy(ask, len(sources), rules.steps)
    else:
        options = rules.options
        traces = unilm_search.beam_search(ask, len(sources), rules)
        targets = [unilm_search.choose(trace, rules).tokens for trace in traces]
    inputs = tokenizer.pad({"input_ids": sources}, return_tensors="pt")
    found = load(UNILM).generate(inputs["input_ids"], inputs["attention_mask"], **options)
    assert [until(row, rules.eos) for row in found.tolist()] == [
        until(row, rules.eos) for row in targets
    ]


def until(ids: list[int], end: int) -> list[int]:
    """The ids up to and with the end token, if they hold one."""
    return ids[: ids.index(end) + 1] if end in ids else ids


def test_the_unilm_must_be_recognised() -> None:
    """Its configuration says BERT, as do those of s2s-ft; no more has to be said."""
    config = json.loads((UNILM.folder / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert load(UNILM).generation_config.search == "unilm"


def test_every_time_is_two_pieces_and_survives() -> None:
    """The hour and the minutes, so that no time needs a piece that training has not seen."""
    model, theirs = load(UNILM), AutoTokenizer.from_pretrained(UNILM.folder)
    lines = [diary.figures(time) + " call from Lurod" for time in range(diary.DAY)]
    for line in lines:
        assert theirs.tokenize(line)[:2] == [line[:2], f"##{line[2:4]}"]
        ids = torch.tensor([theirs(line, add_special_tokens=False)["input_ids"]])
        assert model.tokenizer.decode(ids) == [line]


def test_amounts_reach_the_m2m100_as_they_reach_an_nllb() -> None:
    model, (_, theirs) = load(M2M100), load_theirs(M2M100)
    assert type(theirs).__name__ == "NllbTokenizer"
    for problem in unseen(M2M100, 20):
        theirs.src_lang = problem.src_lang
        for text in (problem.prompt, problem.answer, problem.prompt.upper() + " ö 語  eng_Latn 4"):
            ids, _ = model.tokenizer.encode([text], pad_id=1, src_lang=problem.src_lang)
            assert ids[0].tolist() == theirs(text)["input_ids"]
            assert model.tokenizer.decode(ids) == theirs.batch_decode(ids, skip_special_tokens=True)


def by_languages(batch: list[Problem]) -> dict[tuple[Any, Any], list[Problem]]:
    """What transformers can translate in one call: from one language to one other."""
    groups: dict[tuple[Any, Any], list[Problem]] = {}
    for problem in batch:
        groups.setdefault((problem.src_lang, problem.tgt_lang), []).append(problem)
    return groups


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("eng_Latn", {}),
        ("rus_Cyrl", {"num_beams": 4}),
        ("deu_Latn", {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.3}),
    ],
    ids=["greedy", "beams", "best of beams"],
)
def test_translations_equal_transformers(source: str, options: dict[str, Any]) -> None:
    theirs, tokenizer = load_theirs(M2M100)
    model = load(M2M100)
    batch = [problem for problem in unseen(M2M100, 60) if problem.src_lang == source]
    for (_, target), group in by_languages(batch).items():
        tokenizer.src_lang = source
        prompts = [problem.prompt for problem in group]
        inputs = tokenizer(prompts, padding=True, return_tensors="pt")
        first = {"forced_bos_token_id": tokenizer.convert_tokens_to_ids(target)}
        expected = theirs.generate(**inputs, **first, **options)
        ids = model.generate(inputs["input_ids"], inputs["attention_mask"], **first, **options)
        assert torch.equal(ids, expected)
        texts = model.generate_text(prompts, src_lang=source, tgt_lang=target, **options)
        assert texts == tokenizer.batch_decode(expected, skip_special_tokens=True)


def test_one_batch_mixes_languages() -> None:
    """Every text is that of a call of its own."""
    model, batch = load(M2M100), unseen(M2M100, 12)
    assert len(by_languages(batch)) >= 7
    prompts = [problem.prompt for problem in batch]
    sources, targets = [p.src_lang for p in batch], [p.tgt_lang for p in batch]
    together = model.generate_text(prompts, src_lang=sources, tgt_lang=targets, num_beams=4)
    alone = [
        model.generate_text([prompt], src_lang=source, tgt_lang=target, num_beams=4)[0]
        for prompt, source, target in zip(prompts, sources, targets, strict=True)
    ]
    assert together == alone


@READERS
def test_a_batch_gives_the_texts_of_one_by_one(checkpoint: EmbeddedCheckpoint) -> None:
    model, prompts = load(checkpoint), [problem.prompt for problem in unseen(checkpoint, 12)]
    alone = [model.generate_text([prompt], num_beams=4)[0] for prompt in prompts]
    assert model.generate_text(prompts, num_beams=4) == alone


@pytest.mark.parametrize(
    ("checkpoint", "mode"),
    [
        pytest.param(checkpoint, mode, id=f"{checkpoint.name}, {mode.name}")
        for checkpoint in CHECKPOINTS
        for mode in checkpoint.modes
    ],
)
def test_unseen_problems_are_solved(checkpoint: EmbeddedCheckpoint, mode: Any) -> None:
    outcome = answer(load(checkpoint), unseen(checkpoint, COUNT), mode.options)
    # Sampling draws wrong words as often as the model doubts; its doubts must be small.
    assert outcome.accuracy >= max(mode.required, 0.95)


@EVERY
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_right_too(checkpoint: EmbeddedCheckpoint, dtype: str) -> None:
    model = tritonseq.load(checkpoint.folder, device="cpu", dtype=dtype)
    assert answer(model, unseen(checkpoint, 100), {"num_beams": 4}).accuracy >= 0.97


@EVERY
def test_the_prompt_to_try_has_a_right_answer(checkpoint: EmbeddedCheckpoint) -> None:
    right = {
        GPT2: " forty-one",
        T5: "1984-03-03",
        BART: "The bill is forty thousand three hundred and seventeen euros.",
        UNILM: "2045 train to Oslo",
        M2M100: "quatre-vingt-dix-sept heures",
    }
    texts = load(checkpoint).generate_text([checkpoint.try_it], **checkpoint.try_with)
    assert texts == [right[checkpoint]]


def test_a_wrong_answer_is_counted_and_fails_the_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = unseen(T5, 10)
    batch[3] = Problem(batch[3].prompt, "no such date")
    assert answer(load(T5), batch, {}).right == [index != 3 for index in range(10)]
    faulty = EmbeddedCheckpoint(
        T5.name, T5.kind, T5.task, lambda seed, *, unseen: iter(batch), T5.modes, T5.try_it
    )
    monkeypatch.setattr("tritonseq.demo.run.CHECKPOINTS", (GPT2, faulty))
    assert run(device="cpu", count=10) == 1
    assert capsys.readouterr().out.count("WRONG") == len(T5.modes)


def test_the_demo_reports_every_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(device="cpu", count=30) == 0
    out = capsys.readouterr().out
    for checkpoint in CHECKPOINTS:
        rows = [line for line in out.splitlines() if line.startswith(f"{checkpoint.name} ")]
        assert len(rows) == len(checkpoint.modes)
        for mode, row in zip(checkpoint.modes, rows, strict=True):
            assert mode.name in row
            assert "30/30" in row or mode.required == 0
