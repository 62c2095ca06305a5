"""Bad words as texts: the ids by which a model could write them, banned wherever texts are made."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from pieces import FAMILIES, write_byte_pairs, write_checkpoint, write_fsmt

import tritonseq
from tritonseq.cli.main import main
from tritonseq.text.encoding import banned_ids
from tritonseq.text.tokenizer import Tokenizer

EMBEDDED = Path(tritonseq.__file__).parent / "embedded"
WORDS, DATES = EMBEDDED / "gpt2-words", EMBEDDED / "t5-dates"
PROMPT = "two plus three is"

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")


def test_tokens_with_spaces_have_two_forms(tmp_path: Path) -> None:
    """The first is what the documentation of transformers asks for, by add_prefix_space."""
    write_byte_pairs(tmp_path, ["the quick brown fox"] * 5, ["<|endoftext|>"], model_type="gpt2")
    ours = Tokenizer.from_folder(tmp_path)
    files = {"vocab": str(tmp_path / "vocab.json"), "merges": str(tmp_path / "merges.txt")}
    spaced = transformers.GPT2Tokenizer(**files, add_prefix_space=True)
    plain = transformers.GPT2Tokenizer(**files)
    for word in ("fox", "the quick", "☃"):
        ids = [kind(word, add_special_tokens=False)["input_ids"] for kind in (spaced, plain)]
        assert banned_ids(ours, [word, word]) == ids
        assert banned_ids(ours, [f" {word}"]) == ids[:1]


@pytest.mark.parametrize("family", FAMILIES)
def test_words_are_banned_as_targets_have_them(tmp_path: Path, family: str) -> None:
    folder = write_checkpoint(tmp_path, family)
    ours = Tokenizer.from_folder(folder)
    found = banned_ids(ours, ["brown fox"])
    if family == "marian":
        reference = FAMILIES[family].from_pretrained(folder)
        ids = reference(text_target="brown fox", add_special_tokens=False)["input_ids"]
        assert found == [ids]
        assert ids != ours.rows(["brown fox"], add_special_tokens=False)[0]
    else:
        assert found[-1:] == ours.rows(["brown fox"], add_special_tokens=False)
        assert len(found) == 1 + (family == "byt5")


def test_of_two_vocabularies_it_is_that_of_the_target(tmp_path: Path) -> None:
    ours = Tokenizer.from_folder(write_fsmt(tmp_path, langs=("en", "de")))
    twin = tmp_path / "twin"
    write_fsmt(twin, langs=("de", "de"))
    (twin / "vocab-src.json").write_bytes((tmp_path / "vocab-tgt.json").read_bytes())
    reference = transformers.FSMTTokenizer.from_pretrained(twin)
    words = [" the", "rain", "e-mail", "can't", "go home again", "Über"]
    ids = [reference(word, add_special_tokens=False)["input_ids"] for word in words]
    said = [word for word, row in zip(words, ids, strict=True) if 3 not in row]
    assert banned_ids(ours, said) == [row for row in ids if 3 not in row]
    assert 0 < len(said) < len(words)
    for word in set(words) - set(said):
        with pytest.raises(ValueError, match=f"{word}.*the vocabulary has no tokens for"):
            banned_ids(ours, [word])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fox", "bad_words is 'fox': it must be a list of texts"),
        ({"fox": 1}, r"bad_words is \{'fox': 1\}: it must be a list"),
        ([5], "bad_words has 5: each must be a text"),
        (["fox", " "], "bad_words has ' ': each must be a text that is not blank"),
        (["\ud800"], "bad_words has .*, which is not valid Unicode"),
        (["☃"], "bad_words has '☃', which the vocabulary has no tokens for"),
    ],
)
def test_what_is_no_word_is_refused(tmp_path: Path, words: Any, message: str) -> None:
    ours = Tokenizer.from_folder(write_checkpoint(tmp_path, "t5"))
    with pytest.raises(ValueError, match=message):
        banned_ids(ours, words)
    assert banned_ids(ours, ["<unk>"])[0] == [2], "the token for all of them can be banned"


def test_the_end_is_no_bad_word() -> None:
    model = tritonseq.load(DATES, device="cpu")
    with pytest.raises(ValueError, match=r"bad_words has the end token.*min_new_tokens"):
        model.generate_text(["the third of may 1984"], bad_words=["</s>"])


@pytest.mark.parametrize("folder", [WORDS, DATES], ids=lambda folder: folder.name)
def test_no_bad_word_is_written_wherever_texts_are_made(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = PROMPT if folder == WORDS else "the third of may 1984"
    model = tritonseq.load(folder, device="cpu", dtype="float32")
    how: dict[str, Any] = {"max_new_tokens": 8}
    (free,) = model.generate_text([text], **how)
    word = free.split()[0]
    ids = banned_ids(model.tokenizer, [word])
    wanted = model.generate_text([text], bad_words_ids=ids, **how)
    assert wanted != [free]
    assert word not in wanted[0].split()
    assert model.generate_text([text], bad_words=[word], **how) == wanted
    # Those that are given as ids count too.
    assert model.generate_text([text], bad_words=[], bad_words_ids=ids, **how) == wanted
    both = model.generate_text([text], bad_words=[wanted[0].split()[0]], bad_words_ids=ids, **how)
    assert both != wanted
    (result,) = tritonseq.pipeline(model, [text], bad_words=(word,), **how)
    assert [result.text] == wanted
    (tmp_path / "words.txt").write_text(f"\n{word}\n")
    flags = ["--bad-words", str(tmp_path / "words.txt"), "--max-new-tokens", "8"]
    flags += ["--device", "cpu", "--dtype", "float32"]
    start = text if folder == WORDS else ""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{text}\n"))
    assert main(["generate", str(folder), "-", "--quiet", *flags]) == 0
    assert main(["generate", str(folder), "--prompt", text, *flags]) == 0
    assert capsys.readouterr().out == f"{start}{wanted[0]}\n" * 2


def test_a_file_of_bad_words_that_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["generate", str(DATES), "--prompt", "may", "--device", "cpu", "--bad-words"]
    assert main([*command, str(tmp_path / "none.txt")]) == 2
    assert "none.txt" in capsys.readouterr().err
    assert main([*command, ""]) == 2
    assert "--bad-words is an empty text" in capsys.readouterr().err


def test_what_a_checkpoint_bans_stays_banned() -> None:
    """As Marian's pad token, which starts its targets."""
    model = tritonseq.load(DATES, device="cpu")
    model.generation_config = model.generation_config.merged(bad_words_ids=[[0], [7, 8]])
    job = model.text_job(bad_words=["may"])
    ids = banned_ids(model.tokenizer, ["may"])
    found = [list(word) for word in job.request.config.bad_words_ids or ()]
    assert found == [[0], [7, 8], *ids]
