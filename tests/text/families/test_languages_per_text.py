"""Languages of single texts: each is answered as it is alone, whatever it is generated beside."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import seq2seq
import torch
import transformers
from multilingual import write_m2m100, write_nllb, write_plbart
from pieces import train, write_checkpoint

import tritonseq
from tritonseq.cli.main import main
from tritonseq.stages.batching import Batcher
from tritonseq.stages.run_options import RunOptions

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses"),
    pytest.mark.filterwarnings("ignore:this checkpoint writes"),
]

WORDS = ["the", "quick", "brown", "fox", "jumps", "lazy", "dogs", "and", "cats", "rain", "falls"]
BEAMS: dict[str, Any] = {"num_beams": 2, "max_new_tokens": 5}


class Many(NamedTuple):
    """A checkpoint with languages, some of which texts name."""

    folder: Path
    model: tritonseq.Model
    sources: list[str | None]
    targets: list[str | None]


def checkpoint(folder: Path, kind: str) -> Many:
    """A random network beside the tokenizer of a kind that has languages."""
    sources: list[str | None] = [None, "en_XX", "fr_XX"]
    targets: list[str | None] = [None, "de_DE", "ro_RO", "cs_CZ"]
    network, size = "mbart", 330
    config: dict[str, Any] = {}
    if kind in ("mbart", "mbart50"):
        write_checkpoint(folder, kind)
    elif kind == "marian":
        write_checkpoint(folder, kind)
        network, sources, targets = "marian", [None], [None, "fra", "deu"]
        size = len(json.loads((folder / "vocab.json").read_text()))
        config = {"pad_token_id": size - 1, "decoder_start_token_id": size - 1, "eos_token_id": 0}
        config |= {"bad_words_ids": [[size - 1]], "forced_eos_token_id": 0}
    else:
        symbols = ["<2en>", "<2de>", "<2fr>"]
        layout = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
        folder.mkdir()
        model = train(folder / "spiece.model", user_defined_symbols=symbols, **layout)
        told = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "pad_token": "<s>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(told))
        network, sources, targets = "t5", [None], [None, "de", "fr"]
        size = model.get_piece_size()
        config = {"pad_token_id": 1, "eos_token_id": 2}
    seq2seq.hf_model(network, seed=3, vocab_size=size, **config).save_pretrained(folder)
    return Many(folder, tritonseq.load(folder, device="cpu"), sources, targets)


KINDS = ("mbart", "mbart50", "marian", "madlad")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Many]:
    root = tmp_path_factory.mktemp("many")
    return {kind: checkpoint(root / kind, kind) for kind in KINDS}


def drawn(many: Many, count: int, seed: int = 0) -> tuple[list[str], list[Any], list[Any]]:
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.choice([1, 2, 4, 9]))) for _ in range(count)]
    texts[2] = "  "
    languages = [[rng.choice(codes) for _ in texts] for codes in (many.sources, many.targets)]
    return texts, *languages


def alone(many: Many, texts: list[str], sources: list[Any], targets: list[Any]) -> list[str]:
    return [
        many.model.generate_text([text], src_lang=source, tgt_lang=target, **BEAMS)[0]
        for text, source, target in zip(texts, sources, targets, strict=True)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_each_text_is_answered_as_it_is_alone(checkpoints: dict[str, Many], kind: str) -> None:
    many = checkpoints[kind]
    texts, sources, targets = drawn(many, 5)
    wanted = alone(many, texts, sources, targets)
    named = {"src_lang": sources, "tgt_lang": targets}
    assert many.model.generate_text(texts, batch_size=3, **named, **BEAMS) == wanted
    for refill in (True, False):
        found = tritonseq.pipeline(
            many.model, texts, src_lang=iter(sources), tgt_lang=targets, refill=refill,
            batch_size=2, **BEAMS,
        )  # fmt: skip
        assert [result.text for result in found] == wanted
    # Without languages of their own they would be other texts.
    assert many.model.generate_text(texts, **BEAMS) != wanted


# kind -> network, languages, and the option that names one
OF_TRANSFORMERS = {
    "nllb": ("m2m_100", ["eng_Latn", "fra_Latn", "zul_Latn"], "forced_bos_token_id"),
    "m2m100": ("m2m_100", ["en", "de", "zu"], "forced_bos_token_id"),
    "plbart": ("plbart", ["java", "python", "en_XX"], "decoder_start_token_id"),
}
WRITE = {"nllb": write_nllb, "m2m100": write_m2m100, "plbart": write_plbart}


@pytest.mark.parametrize("kind", OF_TRANSFORMERS)
def test_a_batch_of_languages_equals_transformers_text_by_text(tmp_path: Path, kind: str) -> None:
    network, codes, option = OF_TRANSFORMERS[kind]
    texts = [" ".join(WORDS), "the fox", "lazy dogs and cats", "rain"]
    WRITE[kind](tmp_path, *([texts] if kind == "nllb" else []))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokens = tokenizer.convert_tokens_to_ids([code_of(tokenizer, code) for code in codes])
    theirs = seq2seq.hf_model(network, seed=3, vocab_size=max(*tokens, len(tokenizer)) + 1)
    theirs.save_pretrained(tmp_path)
    sources, targets = [*codes, codes[0]], [*codes[1:], codes[0], codes[1]]
    wanted = []
    for text, source, target in zip(texts, sources, targets, strict=True):
        tokenizer.src_lang = source
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        found = theirs.generate(ids, **{option: tokens[codes.index(target)]}, **BEAMS)
        wanted.append(tokenizer.decode(found[0], skip_special_tokens=True))
    ours = tritonseq.load(tmp_path, device="cpu")
    assert ours.generate_text(texts, src_lang=sources, tgt_lang=targets, **BEAMS) == wanted
    assert len(set(wanted)) > 1


def code_of(tokenizer: Any, code: str) -> str:
    """The token of a language."""
    return code if isinstance(tokenizer, transformers.NllbTokenizer) else f"__{code}__"


def test_small100_reads_its_target_in_its_source(tmp_path: Path) -> None:
    write_m2m100(tmp_path, tokenizer_class="SMALL100Tokenizer")
    model = seq2seq.hf_model("m2m_100", seed=2, vocab_size=330)
    model.save_pretrained(tmp_path)
    many = Many(tmp_path, tritonseq.load(tmp_path, device="cpu"), [None], ["de", "zu", None])
    texts, sources, targets = drawn(many, 6)
    wanted = alone(many, texts, sources, targets)
    assert many.model.generate_text(texts, tgt_lang=targets, **BEAMS) == wanted
    ids = many.model.tokenizer.rows(["the fox"], tgt_lang="zu")
    found = model.generate(torch.tensor(ids), **BEAMS)
    text = many.model.generate_text(["the fox"], tgt_lang="zu", **BEAMS)
    assert text == many.model.tokenizer.decode(found)


@pytest.mark.parametrize("kind", ["mbart", "mbart50"])
def test_scores_are_those_of_a_text_alone(checkpoints: dict[str, Many], kind: str) -> None:
    many = checkpoints[kind]
    texts, sources, targets = drawn(many, 6)
    named = {"src_lang": sources, "tgt_lang": targets}
    found = list(tritonseq.pipeline(many.model, texts, **named, **BEAMS))
    for result, text, source, target in zip(found, texts, sources, targets, strict=True):
        own = {"src_lang": source, "tgt_lang": target}
        (single,) = tritonseq.pipeline(many.model, [text], **own, **BEAMS)
        assert result.text == single.text
        assert result.scores == pytest.approx(single.scores, abs=1e-5)


def test_languages_of_all_are_those_of_texts_that_name_none(checkpoints: dict[str, Many]) -> None:
    many = checkpoints["mbart50"]
    texts = ["the fox", "lazy dogs"]
    german = many.model.generate_text(texts, tgt_lang="de_DE", **BEAMS)
    czech = many.model.generate_text(texts, tgt_lang="cs_CZ", **BEAMS)
    assert many.model.generate_text(texts, tgt_lang=["de_DE", "cs_CZ"], **BEAMS) == [
        german[0],
        czech[1],
    ]
    # An option that says the token itself counts before languages, in lists as for all.
    forced = {"forced_bos_token_id": many.model.tokenizer.language_id("cs_CZ"), **BEAMS}
    assert many.model.generate_text(texts, tgt_lang=["de_DE", None], **forced) == czech
    ids, _ = many.model.tokenize(texts, src_lang=["fr_XX", "ro_RO"])
    assert ids[:, 0].tolist() == [many.model.tokenizer.language_id(c) for c in ("fr_XX", "ro_RO")]


def test_faulty_lists_are_refused_before_anything_runs(
    checkpoints: dict[str, Many], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checkpoints["mbart50"].model
    monkeypatch.setattr(model.decoder, "prefill", lambda *_, **__: pytest.fail("it ran"))
    texts = ["a fox", "a dog", "rain"]
    for languages, message in (
        (["de_DE"] * 2, "tgt_lang lists 2 languages for 3 texts: pass one, or one for each"),
        (["de_DE", "fr", None], "text 1: 'fr' is no language of this checkpoint.*fr_XX"),
        (["de_DE", 3, None], r"tgt_lang\[1\] is 3: it must be a string, or None"),
        ({"de_DE"}, "tgt_lang is .*: it must be a string, or a list of strings"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate_text(texts, tgt_lang=languages, **BEAMS)
    with pytest.raises(ValueError, match="src_lang lists 4 languages for 3 texts"):
        tritonseq.pipeline(model, texts, src_lang=["en_XX"] * 4)
    with pytest.raises(ValueError, match="tgt_lang is 5: it must be a string, or one for each"):
        tritonseq.pipeline(model, texts, tgt_lang=5)


@pytest.mark.parametrize(("count", "message"), [(2, "2 languages for more"), (4, "for 3 texts")])
def test_streams_of_unequal_lengths_end_in_an_error(
    checkpoints: dict[str, Many], count: int, message: str
) -> None:
    texts, codes = iter(["a fox", "a dog", "rain"]), iter(["de_DE"] * count)
    with pytest.raises(ValueError, match=message):
        list(tritonseq.pipeline(checkpoints["mbart50"].model, texts, tgt_lang=codes, **BEAMS))


def test_a_pipeline_rejects_texts_of_unknown_languages(checkpoints: dict[str, Many]) -> None:
    model, codes = checkpoints["mbart50"].model, ["de_DE", "xx", None, 7]
    found = list(tritonseq.pipeline(model, ["a fox"] * 4, tgt_lang=codes, **BEAMS))
    assert [bool(result.fault) for result in found] == [False, True, False, True]
    assert str(found[1].fault).startswith("'xx' is no language of this checkpoint")
    assert found[3].fault == "tgt_lang is 7: it must be a string, or None"


def test_batches_of_one_language_ask_for_one_token(checkpoints: dict[str, Many]) -> None:
    job = Batcher(checkpoints["mbart50"].model.text_job(), RunOptions()).job
    german = checkpoints["mbart50"].model.tokenizer.language_id("de_DE")
    assert job.to([None, None]) is job
    assert job.to(["de_DE"] * 2).request.config.forced_bos_token_id == german
    assert job.to([None, "de_DE"]).request.config.forced_bos_token_id == (None, german)


@pytest.mark.parametrize("kind", ["mbart", "madlad"])
def test_lines_name_their_languages(
    checkpoints: dict[str, Many], tmp_path: Path, kind: str
) -> None:
    many = checkpoints[kind]
    texts, sources, targets = drawn(many, 7, seed=4)
    usual = many.targets[1]
    wanted = alone(many, texts, sources, [target or usual for target in targets])
    lines = [
        {"source": text, "src_lang": source, "to": target, "n": number}
        for number, (text, source, target) in enumerate(zip(texts, sources, targets, strict=True))
    ]
    lines[4]["to"] = "xx"
    lines[5]["to"] = ["de"]
    del lines[6]["src_lang"]
    lines[6]["to"] = targets[6]
    wanted[6] = alone(many, texts[6:7], [None], [targets[6] or usual])[0]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [
        "generate", str(many.folder), str(source), str(target), "--num-beams", "2",
        "--max-new-tokens", "5", "--preprocess-workers", "1", "--quiet",
        "--tgt-lang", str(usual), "--tgt-lang-field", "to",
    ]  # fmt: skip
    assert main([*command, "--limit", "5"]) == 3
    assert main([*command, "--overwrite"]) == 3
    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["output"] for line in found] == [
        "" if place in (4, 5) else text for place, text in enumerate(wanted)
    ]
    assert [line["to"] for line in found] == [line["to"] for line in lines]
    rejected = (tmp_path / "out.jsonl.rejected.jsonl").read_text().splitlines()
    reasons = [json.loads(line)["reason"] for line in rejected]
    assert reasons[0].startswith("'xx' is no language of this checkpoint")
    assert reasons[1] == "the field 'to' holds a list: it must be the code of a language"


def test_a_job_goes_on_by_the_same_fields_only(
    checkpoints: dict[str, Many], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many, source = checkpoints["mbart50"], tmp_path / "in.jsonl"
    source.write_text('{"source": "the fox", "tgt_lang": "de_DE", "to": "cs_CZ"}\n' * 3)
    command = ["generate", str(many.folder), str(source), str(tmp_path / "out.jsonl"), "--quiet"]
    command += ["--max-new-tokens", "4"]
    assert main(command) == 0
    german = (tmp_path / "out.jsonl").read_text()
    assert main([*command, "--overwrite", "--tgt-lang-field", "to"]) == 0
    assert (tmp_path / "out.jsonl").read_text() != german
    lines = tmp_path / "in.txt"
    lines.write_text("the fox\n")
    command[2] = str(lines)
    more = ["--overwrite", "--input-format", "lines", "--tgt-lang-field", "to"]
    assert main([*command, *more]) == 2
    assert "lines of text have no field 'to' (tgt_lang)" in capsys.readouterr().err
