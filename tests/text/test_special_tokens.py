"""Special tokens kept or left off, prompts cut to what the model reads: from text to text."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

import tritonseq
from tritonseq.cli.main import main

EMBEDDED = Path(tritonseq.__file__).parent / "embedded"
WORDS, DATES, NUMBERS = (EMBEDDED / name for name in ("gpt2-words", "t5-dates", "bart-numbers"))
PROMPT = "two plus three is"
TEXTS = {WORDS: PROMPT, DATES: "the third of may 1984", NUMBERS: "there are twelve dogs"}
LONG = " ".join([PROMPT] * 30)


def theirs(
    folder: Path, text: str, *, adds: bool = True, skips: bool = True, **options: Any
) -> str:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    kind = "AutoModelForCausalLM" if folder == WORDS else "AutoModelForSeq2SeqLM"
    model = getattr(transformers, kind).from_pretrained(folder).float().eval()
    batch = tokenizer([text], return_tensors="pt", add_special_tokens=adds)
    batch.pop("token_type_ids", None)
    (row,) = model.generate(**batch, **options)
    if folder == WORDS:
        row = row[batch["input_ids"].shape[1] :]
    found: str = tokenizer.decode(row, skip_special_tokens=skips)
    return found


@pytest.mark.parametrize("folder", TEXTS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("skips", [True, False])
def test_texts_have_the_special_tokens_that_are_asked_for(
    folder: Path, adds: bool, skips: bool, tmp_path: Path
) -> None:
    wanted = theirs(folder, TEXTS[folder], adds=adds, skips=skips, max_new_tokens=12)
    how = {"add_special_tokens": adds, "skip_special_tokens": skips, "max_new_tokens": 12}
    model = tritonseq.load(folder, device="cpu", dtype="float32")
    assert model.generate_text([TEXTS[folder]], **how) == [wanted]
    (result,) = tritonseq.pipeline(model, [TEXTS[folder]], **how)
    assert result.text == wanted
    # With a process for the tokenizer, too.
    (result,) = tritonseq.pipeline(model, [TEXTS[folder]], postprocess_workers=1, **how)
    assert result.text == wanted
    (tmp_path / "in.txt").write_text(f"{TEXTS[folder]}\n")
    flags = [f"--{'' if adds else 'no-'}add-special-tokens"]
    # That of FastSeq makes it cut texts, too, unless it is told not to.
    flags += [] if skips else ["--include_special_tokens", "--no-truncation"]
    flags += ["--max-new-tokens", "12", "--device", "cpu", "--dtype", "float32", "--quiet"]
    out = tmp_path / "out.txt"
    assert main(["generate", str(folder), str(tmp_path / "in.txt"), str(out), *flags]) == 0
    start = TEXTS[folder] if folder == WORDS else ""
    assert out.read_text() == f"{start}{wanted}\n"
    if folder != WORDS:
        assert ("</s>" in wanted) is not skips


@pytest.mark.parametrize("flag", ["--include-special-tokens", "--no-skip-special-tokens"])
def test_prompts_on_the_command_line_may_keep_them(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", str(DATES), "--prompt", TEXTS[DATES], "--device", "cpu", flag]
    assert main(command) == 0
    assert capsys.readouterr().out.strip().endswith("</s>")


def test_prompts_that_are_too_long_keep_their_end(tmp_path: Path) -> None:
    """What is continued is continued from there; room is left for what is generated."""
    model = tritonseq.load(WORDS, device="cpu", dtype="float32")
    with pytest.raises(ValueError, match=r"text 0 has \d+ tokens.*truncation=True"):
        model.generate_text([LONG], max_new_tokens=8)
    tokenizer = model.tokenizer
    (ids,) = tokenizer.rows([LONG])
    room = model.decoder.max_positions - 8 + 1
    end = [ids[-room:]]
    wanted = tokenizer.decode(model.generate(end, max_new_tokens=8)[:, room:])
    assert model.generate_text([LONG], truncation=True, max_new_tokens=8) == wanted
    few = tokenizer.decode(model.generate([ids[-9:]], max_new_tokens=8)[:, 9:])
    assert model.generate_text([LONG], max_source_length=9, max_new_tokens=8) == few
    (result,) = tritonseq.pipeline(model, [LONG], truncation=True, max_new_tokens=8)
    assert [result.text] == wanted
    (tmp_path / "in.txt").write_text(f"{LONG}\n{PROMPT}\n")
    command = ["generate", str(WORDS), str(tmp_path / "in.txt"), str(tmp_path / "out.txt")]
    command += ["--truncation", "--max-new-tokens", "8", "--no-full-text", "--quiet"]
    assert main([*command, "--device", "cpu", "--dtype", "float32"]) == 0
    (short,) = model.generate_text([PROMPT], max_new_tokens=8)
    assert (tmp_path / "out.txt").read_text() == f"{wanted[0]}\n{short}\n"


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("folder", [WORDS, NUMBERS], ids=lambda folder: folder.name)
def test_the_side_that_the_checkpoint_says_goes_before(
    folder: Path, side: str, tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation_side": side}))
    model = tritonseq.load(copy, device="cpu", dtype="float32")
    ids, _ = model.tokenize([LONG], max_source_length=9)
    reference = transformers.AutoTokenizer.from_pretrained(copy)
    assert reference.truncation_side == side
    assert ids.tolist() == [reference(LONG, truncation=True, max_length=9)["input_ids"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix": 0}, "prefix is 0: it must be a string"),
        ({"prefix": []}, r"prefix is \[\]"),
        ({"prefix": "\udc80"}, "prefix is not valid Unicode"),
        ({"task": ["summarization"]}, r"task \['summarization'\] is not among"),
        ({"src_lang": 0}, "src_lang is 0"),
        ({"tgt_lang": {}}, "tgt_lang is {}"),
        ({"truncation": "left"}, "truncation is 'left': it must be True or False"),
        ({"skip_special_tokens": None}, "skip_special_tokens is None"),
        ({"add_special_tokens": "no"}, "add_special_tokens is 'no'"),
        ({"clean_up_tokenization_spaces": 1}, "clean_up_tokenization_spaces is 1"),
        ({"max_source_length": True}, "max_source_length is True"),
    ],
)
def test_arguments_of_texts_are_checked_before_anything_runs(
    options: dict[str, Any], message: str
) -> None:
    model = tritonseq.load(DATES, device="cpu")
    with pytest.raises(ValueError, match=message):
        model.generate_text(["the third of may"], **options)
    with pytest.raises(ValueError, match=message):
        list(tritonseq.pipeline(model, ["the third of may"], **options))


def test_a_token_beyond_the_network_is_a_fault_of_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A token was added, and the embedding has no row for it: other texts are answered."""
    copy = tmp_path / "model"
    shutil.copytree(WORDS, copy)
    path = copy / "tokenizer_config.json"
    said = json.loads(path.read_text()) | {"extra_special_tokens": ["<new>"]}
    path.write_text(json.dumps(said))
    model = tritonseq.load(copy, device="cpu")
    size = model.decoder.vocab_size
    assert model.tokenizer.token_ids(["<new>"])[0] >= size
    with pytest.raises(ValueError, match=f"text 1 .*{size}"):
        model.generate_text([PROMPT, f"{PROMPT}<new>"], max_new_tokens=3)
    good, bad = tritonseq.pipeline(model, [PROMPT, f"{PROMPT}<new>"], max_new_tokens=3)
    assert (good.fault, good.text != "") == (None, True)
    assert str(size) in str(bad.fault)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PROMPT}<new>\n"))
    assert main(["generate", str(copy), "--prompt-file", "-", "--device", "cpu"]) == 3
    assert str(size) in capsys.readouterr().err
