"""FSMT: words of Moses and fastBPE, with the ids and texts of transformers' FSMTTokenizer."""

# ruff: noqa: RUF001 (characters that look like others are what this is about)

from __future__ import annotations

import json
import random
import sys
import unicodedata
from typing import TYPE_CHECKING, Any

import pytest
import seq2seq
import transformers
from pieces import write_fsmt

import tritonseq
from tritonseq.text.fsmt import Merges
from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [
    "The quick brown fox, isn't it? Mr. Fox went home. he said.",
    "well-known e-mail -- a-b- -c ... .. . and/or 3.14 1,000,000 $5 5% (really?) [a|b] <x> & 'y'",
    "“Quotes” ‘single’ „low“ «french» ´x´ ``penn'' \"plain,\" he said.",
    "，。 、∶：？《》）！（；１２３４５６７８９０「」．  ～’…━〈〉【】％",
    "line\nbreak\ttab\r\x00\x07\u200b\u00ad\ufeff\u2028end\u00a0hard",
    "a\u0301 e\u0308 ﬁ ½ ² 日本語 한국어 हिन्दी нет 🙂🙃 \U0010fffe \ue000 \u0378",
    "the</s>fox <s> <pad>dogs<unk> </w> fox</w>",
    "5 °C 10\u00a0000 20\u00a0% nº\u00a05 a\u00a0: b\u00a0? c\u00a0!",
    "houses" * 50,
]
LANGUAGES = [("en", "de"), ("de", "en"), ("ru", "en"), ("en", "fr"), ("cs", "cs"), ("fi", "xx")]
PIECES = [
    *"abcdefxyzABÜß 0123456789.,;:!?'`\"()[]{}<>|&@#$€%-–—/\\+=*~^_\t\n",
    *"\u00a0\u200b\u3000\u0301\u0000語日한нŸ🙂½¿¡«»„“”‘’…。．，",
    *(
        "the ",
        " fox",
        "n't",
        "'s ",
        "...",
        "--",
        " Mr. ",
        "e-mail",
        "</s>",
        "<unk>",
        "&amp;",
        " l'",
    ),
]


def drawn(count: int, seed: int = 0) -> list[str]:
    """Texts of the worst that there is, and of anything at all."""
    draw = random.Random(seed)
    texts = ["".join(draw.choices(PIECES, k=draw.randint(1, 40))) for _ in range(count)]
    points = (draw.choices(range(0x3000), k=12) for _ in range(count // 4))
    return texts + ["".join(map(chr, chosen)) for chosen in points]


def same(folder: Path, texts: list[str]) -> None:
    """Ids, and texts of these and of any ids."""
    ours, theirs = Tokenizer.from_folder(folder), transformers.FSMTTokenizer.from_pretrained(folder)
    draw = random.Random(0)
    for text in texts:
        ids = theirs(text)["input_ids"]
        if len(ids) == 1:  # nothing but what is dropped
            with pytest.raises(ValueError, match="text 0 is empty"):
                ours.rows([text])
            continue
        assert ours.rows([text]) == [ids], repr(text)
        for row in (ids, draw.choices(range(theirs.tgt_vocab_size), k=len(ids))):
            for skips in (True, False):
                wanted = theirs.decode(row, skip_special_tokens=skips)
                assert ours.decode([row], skip_special_tokens=skips) == [wanted], row


@pytest.mark.parametrize("langs", LANGUAGES, ids="-".join)
def test_ids_and_texts_equal_transformers(tmp_path: Path, langs: tuple[str, str]) -> None:
    same(write_fsmt(tmp_path, langs=langs), TEXTS + drawn(40))


@pytest.mark.long
@pytest.mark.parametrize("langs", [*LANGUAGES, ("zh", "ja")], ids="-".join)
@pytest.mark.parametrize("lowers", [True, False])
def test_many_texts_equal_transformers(
    tmp_path: Path, langs: tuple[str, str], lowers: bool
) -> None:
    same(write_fsmt(tmp_path, langs=langs, do_lower_case=lowers), drawn(3000, seed=1))


def test_every_character_is_as_in_transformers(tmp_path: Path) -> None:
    """Between letters: replaced, dropped, a word of its own or part of one."""
    folder = write_fsmt(tmp_path)
    ours, theirs = Tokenizer.from_folder(folder), transformers.FSMTTokenizer.from_pretrained(folder)
    kinds: dict[str, list[str]] = {}
    for point in range(0x110000):
        if not 0xD800 <= point < 0xE000:
            kinds.setdefault(unicodedata.category(chr(point)), []).append(chr(point))
    draw = random.Random(0)
    for found in kinds.values():
        text = "".join(f"a{char}b " for char in draw.sample(found, k=min(len(found), 20)))
        assert ours.rows([text]) == [theirs(text)["input_ids"]], repr(text)


def test_letters_become_small_where_the_checkpoint_says_so(tmp_path: Path) -> None:
    folder = write_fsmt(tmp_path, do_lower_case=True)
    same(folder, [*TEXTS, "İSTANBUL ΣΑΣ The FOX</s>THE"])
    ours = Tokenizer.from_folder(folder)
    assert ours.rows(["THE FOX"]) == ours.rows(["the fox"])


def test_what_transformers_saves_is_read(tmp_path: Path) -> None:
    first = write_fsmt(tmp_path / "first")
    transformers.FSMTTokenizer.from_pretrained(first).save_pretrained(tmp_path / "saved")
    same(tmp_path / "saved", TEXTS)


def test_the_configuration_of_the_network_may_name_class_and_languages(tmp_path: Path) -> None:
    """As in the first checkpoints, whose tokenizer_config.json says little."""
    wanted = Tokenizer.from_folder(write_fsmt(tmp_path, langs=("de", "en"))).rows(TEXTS)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "config.json").write_text('{"model_type": "fsmt", "langs": ["de", "en"]}')
    assert Tokenizer.from_folder(tmp_path).rows(TEXTS) == wanted


def bpe_of(pairs: list[tuple[str, str]]) -> Any:
    """transformers' own loop."""
    tokenizer = object.__new__(transformers.FSMTTokenizer)
    tokenizer.__dict__ |= {"bpe_ranks": {p: n for n, p in enumerate(pairs)}, "cache": {}}
    return tokenizer.bpe


@pytest.mark.parametrize("seed", range(8))
def test_any_list_of_merges_is_followed_as_in_transformers(seed: int) -> None:
    """Also one that no training makes: pairs twice, pieces that are used before they are made."""
    draw = random.Random(seed)
    symbols = [*"abc", "a</w>", "b</w>", "c</w>"]
    pairs: list[tuple[str, str]] = []
    for _ in range(draw.randint(1, 40)):
        first = draw.choice([symbol for symbol in symbols if not symbol.endswith("</w>")])
        pairs.append((first, draw.choice(symbols)))
        symbols.append("".join(pairs[-1]))
    draw.shuffle(pairs)
    pairs += draw.choices(pairs, k=3)
    merges, theirs = Merges(pairs), bpe_of(pairs)
    for _ in range(300):
        word = "".join(draw.choices("abcd", k=draw.randint(1, 20)))
        assert list(merges.pieces(word)) == theirs(word).split(" "), (pairs, word)


def test_all_of_a_merge_is_done_before_the_next() -> None:
    """Where the `tokenizers` library goes on with what the first of them made."""
    pairs = [("ab", "c"), ("abc", "a"), ("b", "c"), ("a", "bc")]
    assert Merges(pairs).pieces("abcabcd") == ("abc", "abc", "d</w>")
    assert bpe_of(pairs)("abcabcd") == "abc abc d</w>"


def test_a_long_word_is_no_work_of_hours() -> None:
    pairs = [("a", "b"), ("b", "a"), ("ab", "ab"), ("abab", "abab"), ("c", "a")]
    word = "".join(random.Random(0).choices("abc", k=50_000))
    assert "".join(Merges(pairs).pieces(word)) == f"{word}</w>"


@pytest.mark.parametrize("file", ["vocab-src.json", "vocab-tgt.json", "merges.txt"])
def test_missing_files_are_named(tmp_path: Path, file: str) -> None:
    (write_fsmt(tmp_path) / file).unlink()
    with pytest.raises(ValueError, match=f"has no tokenizer.*{file}, which that of FSMT"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("langs", [None, "en", ["en"], ["en", "de", "fr"], ["en", 5], {"en": "de"}])
def test_two_languages_are_needed(tmp_path: Path, langs: object) -> None:
    write_fsmt(tmp_path, langs=langs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tokenizer_config\.json says langs is .*en.*de"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a b 5\nab 7\n\n", r"line 3 of .*merges\.txt is '', not two pieces"),
        (b"a\n", r"line 1 of .*merges\.txt is 'a', not two pieces"),
        (b"\xff\xfe", r"merges\.txt is not UTF-8"),
    ],
)
def test_damaged_merges_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (write_fsmt(tmp_path) / "merges.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_folder(tmp_path)


def test_the_last_merge_counts_without_a_line_break_too(tmp_path: Path) -> None:
    """transformers loses it."""
    path = write_fsmt(tmp_path) / "merges.txt"
    wanted = Tokenizer.from_folder(tmp_path).rows(TEXTS)
    path.write_text(path.read_text().removesuffix("\n"))
    assert Tokenizer.from_folder(tmp_path).rows(TEXTS) == wanted


@pytest.mark.parametrize("side", ["src", "tgt"])
@pytest.mark.parametrize("name", ["<s>", "</s>", "<unk>"])
def test_special_tokens_stand_at_one_place_on_both_sides(
    tmp_path: Path, side: str, name: str
) -> None:
    path = write_fsmt(tmp_path) / f"vocab-{side}.json"
    ids = json.loads(path.read_text())
    path.write_text(json.dumps({**ids, name: len(ids)}))
    with pytest.raises(ValueError, match=rf"vocab-tgt\.json has '{name}' at.*of one checkpoint"):
        Tokenizer.from_folder(tmp_path)
    del ids[name]
    path.write_text(json.dumps(ids))
    with pytest.raises(ValueError, match=rf"vocab-(src|tgt)\.json has .*'{name}'"):
        Tokenizer.from_folder(tmp_path)


def test_tokens_that_a_vocabulary_lacks_are_refused(tmp_path: Path) -> None:
    write_fsmt(tmp_path, additional_special_tokens=["<new>"])
    with pytest.raises(ValueError, match=r"vocab-src\.json has no '<new>'"):
        Tokenizer.from_folder(tmp_path)


def test_without_the_library_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    with pytest.raises(ValueError, match=r"pip install 'tritonseq\[moses\]'"):
        Tokenizer.from_folder(write_fsmt(tmp_path))


def test_from_text_to_text_as_in_transformers_also_in_worker_processes(tmp_path: Path) -> None:
    reference = transformers.FSMTTokenizer.from_pretrained(write_fsmt(tmp_path))
    sizes = {"src_vocab_size": reference.src_vocab_size, "tgt_vocab_size": reference.tgt_vocab_size}
    assert len(set(sizes.values())) == 2
    network = seq2seq.hf_model("fsmt", seed=3, langs=["en", "de"], **sizes)
    network.save_pretrained(tmp_path)
    texts = ["The quick brown fox, isn't it?", "rain falls on old houses", "e-mail & <b> [1]"]
    batch = reference(texts, padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    ids = network.generate(**batch, max_new_tokens=12, num_beams=3)
    model = tritonseq.load(tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"^the text of FSMT is put .*: leave stop_strings out"):
        model.generate_text(["a"], stop_strings="x")
    how = {"max_new_tokens": 12, "num_beams": 3}
    for skips in (True, False):
        wanted = reference.batch_decode(ids, skip_special_tokens=skips)
        if not skips:  # the padding of a batch, of which other texts decide
            wanted = [text.split(" <pad>")[0].removesuffix("<pad>") for text in wanted]
        mine = model.generate_text(texts, skip_special_tokens=skips, **how)
        assert mine == wanted
        assert len(set(mine)) == 3
    places = {"preprocess_workers": 1, "postprocess_workers": 1}
    results = tritonseq.pipeline(model, texts, skip_special_tokens=False, **places, **how)
    assert [result.text for result in results] == wanted
