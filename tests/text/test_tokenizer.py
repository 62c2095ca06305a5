"""Tokenizer: the ids of transformers, padded batches, and errors that name the remedy."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from pieces import write_byte_pairs
from transformers import GPT2Tokenizer, PreTrainedTokenizerFast

from tritonseq.errors import TextError
from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

CORPUS = [
    "The quick brown fox jumps over the lazy dog, doesn't it? It's 1999 or 2026!",
    "Über den Wölkchen muß die Freiheit   wohl grenzenlos sein.\n\nfoo\tbar\r\n",
    "日本語のテキスト и немного кириллицы 🙂🙃 naïve café",
] * 3
TEXTS = [
    "The dog",
    " The dog",
    "  two  spaces ",
    "line\nbreak\n\n  indented\n",
    "\n",
    "Übermut naïve 日本 🙂 unseen: ☃ \u200b",
    "<|endoftext|>after<|endoftext|>",
    "I'm you'll 12345 ...!?",
]


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vocab.json and merges.txt of a byte-level BPE trained on the spot."""
    folder = tmp_path_factory.mktemp("gpt2")
    return write_byte_pairs(folder, CORPUS, ["<|endoftext|>"], size=400)


def copied(source: Path, target: Path, **files: object) -> Path:
    shutil.copytree(source, target, dirs_exist_ok=True)
    for name, content in files.items():
        (target / f"{name}.json").write_text(json.dumps(content))
    return target


def theirs(folder: Path, **options: object) -> GPT2Tokenizer:
    vocab, merges = str(folder / "vocab.json"), str(folder / "merges.txt")
    return GPT2Tokenizer(vocab=vocab, merges=merges, **options)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode([text], pad_id=0)[0][0].tolist()


@pytest.mark.parametrize("text", TEXTS)
def test_gpt2_ids_and_text_equal_transformers(gpt2_folder: Path, text: str) -> None:
    ours = Tokenizer.from_folder(gpt2_folder)
    reference = theirs(gpt2_folder)
    ids = ids_of(ours, text)
    assert ids == reference(text)["input_ids"]
    assert ours.decode([ids]) == [text.replace("<|endoftext|>", "")]


def test_random_unicode_survives_the_round_trip(gpt2_folder: Path) -> None:
    ours, reference = Tokenizer.from_folder(gpt2_folder), theirs(gpt2_folder)
    draw = random.Random(0)
    alphabet = "abc XYZ\n\t 0'.-éß語🙂\u0301\u00a0"
    for _ in range(200):
        text = "".join(draw.choice(alphabet) for _ in range(draw.randint(1, 30)))
        ids = ids_of(ours, text)
        assert ids == reference(text)["input_ids"], repr(text)
        assert ours.decode([ids]) == [text]


def test_add_prefix_space_is_read(gpt2_folder: Path, tmp_path: Path) -> None:
    folder = copied(gpt2_folder, tmp_path, tokenizer_config={"add_prefix_space": True})
    expected = theirs(folder, add_prefix_space=True)("The dog")["input_ids"]
    assert ids_of(Tokenizer.from_folder(folder), "The dog") == expected
    assert expected != theirs(folder)("The dog")["input_ids"]


@pytest.mark.parametrize(
    "files",
    [
        {"special_tokens_map": {"pad_token": "<pad>"}},
        {"tokenizer_config": {"pad_token": {"content": "<pad>", "lstrip": False}}},
        {"tokenizer_config": {"additional_special_tokens": ["<pad>"]}},
        {"tokenizer_config": {"added_tokens_decoder": {"400": {"content": "<pad>", "special": 1}}}},
    ],
    ids=["map", "config", "additional", "decoder"],
)
def test_special_tokens_of_every_file(
    gpt2_folder: Path, tmp_path: Path, files: dict[str, object]
) -> None:
    ours = Tokenizer.from_folder(copied(gpt2_folder, tmp_path, **files))
    expected = theirs(gpt2_folder, pad_token="<pad>")
    assert ids_of(ours, "The<pad>dog") == expected("The<pad>dog")["input_ids"]
    assert ours.decode([ids_of(ours, "The<pad>dog")]) == ["Thedog"]


def test_tokenizer_json_comes_first_and_equals_transformers(
    gpt2_folder: Path, tmp_path: Path
) -> None:
    theirs(gpt2_folder, pad_token="<pad>").save_pretrained(tmp_path)
    copied(gpt2_folder, tmp_path, vocab={"broken": 0})
    reference = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ours = Tokenizer.from_folder(tmp_path)
    for text in TEXTS:
        assert ids_of(ours, text) == reference(text)["input_ids"]


def test_saved_padding_and_truncation_are_switched_off(gpt2_folder: Path, tmp_path: Path) -> None:
    backend = Tokenizer.from_folder(gpt2_folder).backend
    backend.enable_padding(length=50)
    backend.enable_truncation(max_length=2)
    backend.save(str(tmp_path / "tokenizer.json"))
    plain, reread = Tokenizer.from_folder(gpt2_folder), Tokenizer.from_folder(tmp_path)
    assert ids_of(reread, TEXTS[2]) == ids_of(plain, TEXTS[2])


NO_ROWS = {
    "None": (None, "ids must be a tensor or lists of token ids, not NoneType"),
    "a number": (5, "not int"),
    "text": ("x", "not str"),
    "letters": ([["a"]], r"ids\[0\]\[0\] is 'a'"),
    "a float": ([[1], [1, 1.5]], r"ids\[1\]\[1\] is 1\.5"),
    "nothing": ([[1, None]], r"ids\[0\]\[1\] is None"),
    "a dictionary": ({"input_ids": [[1]]}, "not dict"),
    "one id": (torch.tensor(3), "ids must be"),
    "no values": (torch.zeros(1, 2, dtype=torch.long, device="meta"), "on the meta device"),
}


@pytest.mark.parametrize("kind", NO_ROWS)
def test_what_is_no_rows_of_ids_is_named(gpt2_folder: Path, kind: str) -> None:
    rows, message = NO_ROWS[kind]
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_folder(gpt2_folder).decode(rows)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_padded_and_masked(gpt2_folder: Path, side: str) -> None:
    tokenizer = Tokenizer.from_folder(gpt2_folder)
    ids, mask = tokenizer.encode(TEXTS, pad_id=399, side=side)
    assert ids.dtype == mask.dtype == torch.int64
    assert ids.shape == mask.shape == (len(TEXTS), max(len(ids_of(tokenizer, t)) for t in TEXTS))
    for row, marks, text in zip(ids, mask, TEXTS, strict=True):
        alone = ids_of(tokenizer, text)
        assert row[marks == 1].tolist() == alone
        assert (row[marks == 0] == 399).all()
        edge = marks[-len(alone) :] if side == "left" else marks[: len(alone)]
        assert edge.all()


def test_decode_passes_over_special_negative_and_unknown_ids(gpt2_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(gpt2_folder)
    end = ids_of(tokenizer, "<|endoftext|>")
    rows = torch.tensor([[*end, *ids_of(tokenizer, " dog"), *end, -1, 100_000]])
    assert tokenizer.decode(rows) == [" dog"]
    assert tokenizer.decode([[], end]) == ["", ""]
    for single in ([5, 6], torch.tensor([5, 6])):
        with pytest.raises(ValueError, match=r"wrap a single row as \[ids\]"):
            tokenizer.decode(single)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "texts is empty"),
        ("a single text", r"wrap a single text as \[text\]"),
        (["fine", ""], "text 1 is empty"),
        (["fine", "fine", None], "text 2 is None, not a string"),
        ([b"bytes"], "text 0 is b'bytes'"),
        (["fine", "\ud800"], "text 1 is not valid Unicode"),
        (5, "texts must be a list of strings, not 5"),
        (None, "texts must be a list of strings, not None"),
        ({"text": "fine"}, r"texts is a dict .*mapping\['text'\]"),
    ],
)
def test_bad_texts_are_named(gpt2_folder: Path, texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_folder(gpt2_folder).encode(texts, pad_id=0)


def test_any_iterable_is_a_batch(gpt2_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(gpt2_folder)
    wanted = tokenizer.encode(TEXTS, pad_id=399)
    for batch in (iter(TEXTS), (text for text in TEXTS), tuple(TEXTS), dict.fromkeys(TEXTS).keys()):
        for ours, theirs in zip(tokenizer.encode(batch, pad_id=399), wanted, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config", {"added_tokens_decoder": [{"content": "<pad>"}]}),
        ("tokenizer_config", {"added_tokens_decoder": {"one": {"content": "<pad>"}}}),
        ("tokenizer_config", {"added_tokens_decoder": {"1": "<pad>"}}),
        ("tokenizer_config", {"additional_special_tokens": "<pad>"}),
        ("special_tokens_map", {"pad_token": {"x": 1}}),
        ("special_tokens_map", {"pad_token": 5}),
        ("special_tokens_map", {"pad_token": {"content": 5}}),
        ("special_tokens_map", {"pad_token": {"content": "<pad>", "lstrip": "left"}}),
    ],
)
def test_malformed_special_tokens_name_their_file(
    gpt2_folder: Path, tmp_path: Path, file: str, content: object
) -> None:
    folder = copied(gpt2_folder, tmp_path, **{file: content})
    with pytest.raises(ValueError, match=rf"{file}\.json names special tokens in a form"):
        Tokenizer.from_folder(folder)


def test_unknown_side(gpt2_folder: Path) -> None:
    with pytest.raises(ValueError, match="side is 'middle'"):
        Tokenizer.from_folder(gpt2_folder).encode(["a"], pad_id=0, side="middle")


def test_missing_and_damaged_files(gpt2_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no tokenizer"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "vocab.json").write_bytes((gpt2_folder / "vocab.json").read_bytes())
    with pytest.raises(
        ValueError, match=r"has no tokenizer: neither tokenizer\.json nor merges\.txt"
    ):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "no such type"}}')
    with pytest.raises(ValueError, match="cannot be read"):
        Tokenizer.from_folder(tmp_path)
    copied(gpt2_folder, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is not valid JSON"):
        Tokenizer.from_folder(tmp_path)


def test_without_the_library_the_extra_is_named(
    gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"pip install 'tritonseq\[text\]'"):
        Tokenizer.from_folder(gpt2_folder)


def test_texts_that_are_cut_into_tokens_already(gpt2_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(gpt2_folder)
    ids = ids_of(tokenizer, "the dog<|endoftext|>")
    tokens = [tokenizer.backend.id_to_token(token) for token in ids]
    assert tokenizer.token_rows([tokens, tokens[:1]]) == [ids, ids[:1]]
    assert tokenizer.token_rows([tokens], max_length=2) == [ids[:2]]
    assert tokenizer.token_ids(tokens) == ids
    for ask in (tokenizer.token_ids, lambda names: tokenizer.token_rows([names])):
        with pytest.raises(ValueError, match="' dog' is no token of the vocabulary"):
            ask([tokens[0], " dog"])


def test_a_fault_of_a_text_tells_its_place_wherever_the_text_stands() -> None:
    fault = TextError(3, "is empty")
    assert str(fault) == "text 3 is empty"
    assert str(fault.at(7)) == "text 7 is empty"
    assert fault.of("line 8") == "line 8 is empty"
    assert str(TextError(0, ": no room")) == "text 0: no room"
    twin = pickle.loads(pickle.dumps(fault))
    assert (str(twin), twin.index) == (str(fault), 3)
