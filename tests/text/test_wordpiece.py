"""WordPiece: the ids of transformers, UniLM's names and frames, and texts as its decoders do."""

from __future__ import annotations

import json
import random
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pieces import BART, write_byte_pairs
from transformers import BertTokenizer, RobertaTokenizer

from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
UNUSED = [f"[unused{n}]" for n in range(1, 25)]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789", *".,;:!?'-#[]()$_", *"éüß日本語яи"]
WORDS = ["the", "fox", "of", "it", "sep", "user", "un", "aff", "##able", "##ing", "##s", "##sep"]
CAPITALS = [*"ABCDSEPXUNK", "##A", "##S", "##E", "##P", "SEP", "The", "London", "É", "Я"]
UNCASED = SPECIAL + UNUSED + LETTERS + [f"##{c}" for c in LETTERS] + WORDS
CASED = list(dict.fromkeys(UNCASED + CAPITALS))

TEXTS = [
    "the unaffable user, it's THE Fox.",
    "  two\tkinds \r\n of\u00a0white\u3000space\u2028and\u200bmore ",
    "cafe\u0301 CAFÉ café Über Я straße İstanbul",
    "日本語the語 語,本ﬁne ½ 🙂 \U00020000 한국",
    "contr\x00ol\x07 chars\ufffd\u00ad",
    "a" * 100 + " " + "a" * 101 + " " + "é" * 101,
    "[CLS] the [SEP] fox[SEP] it[MASK]s [UNK][PAD]",
    "[sep] [ SEP ] [SEP [[SEP]] [X_SEP] [unused1] x[X_SEP]x",
    "$5,000.00 (really?) e-mail _x_ #tag ##ing",
]
PARTS = [
    *"abtheofx  SEP.,'-[]#éÉ日\t\n\u200b\x00\u0301",
    *("[SEP]", "[MASK]", "[X_SEP]", " [SEP] ", " [X_SEP] ", " [UNK]\t", "the", " un"),
]


def write(folder: Path, lines: list[str] = CASED, **files: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def s2s(folder: Path, **config: Any) -> Tokenizer:
    return Tokenizer.from_folder(folder, {"model_type": "unilm", "variant": "s2s", **config})


def v1(folder: Path, **config: Any) -> Tokenizer:
    return Tokenizer.from_folder(folder, {"model_type": "unilm", "variant": "v1", **config})


def drawn(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    texts = ["".join(draw.choices(PARTS, k=draw.randint(1, 40))) for _ in range(count)]
    return [f"e {text}" for text in texts]


def tokens_of(tokenizer: Tokenizer, lines: list[str], text: str) -> list[str]:
    return [lines[token] for token in tokenizer.rows([text])[0]]


@pytest.mark.parametrize("lines", [CASED, UNCASED], ids=["cased", "uncased"])
def test_ids_equal_transformers(tmp_path: Path, lines: list[str]) -> None:
    ours = s2s(write(tmp_path, lines))
    reference = BertTokenizer(vocab=str(tmp_path / "vocab.txt"), do_lower_case=lines is UNCASED)
    texts = TEXTS + drawn(400, seed=0)
    rows = ours.rows(texts)
    for text, row in zip(texts, rows, strict=True):
        assert row == reference(text)["input_ids"], repr(text)
    assert any(lines.index("[UNK]") in row for row in rows)
    # A text gives the same ids alone as among others.
    assert [ours.rows([text])[0] for text in texts[:20]] == rows[:20]


@pytest.mark.parametrize("lines", [CASED, UNCASED], ids=["cased", "uncased"])
def test_the_first_unilm_keeps_special_tokens_whole_as_words_only(
    tmp_path: Path, lines: list[str]
) -> None:
    ours = v1(write(tmp_path, lines))
    reference = BertTokenizer(
        vocab=str(tmp_path / "vocab.txt"), do_lower_case=lines is UNCASED, split_special_tokens=True
    )
    whole = {name: lines.index(name) for name in SPECIAL}
    whole["[X_SEP]"] = lines.index("[unused1]")
    found = 0
    for text in drawn(400, seed=1):
        # What stands apart only after cleaning has a test of its own.
        text = text.replace("\u200b", "").replace("\x00", "").replace("日", " 日 ")
        expected = []
        for word in text.split():
            found += word in whole
            plain = reference(word, add_special_tokens=False)["input_ids"]
            expected += [whole[word]] if word in whole else plain
        assert ours.rows([text])[0][1:-1] == expected, repr(text)
    assert found > 50


def test_special_tokens_and_pads_are_shown_as_in_transformers(tmp_path: Path) -> None:
    """It closes up spaces before punctuation besides, which UniLM's own code does not."""
    ours = s2s(write(tmp_path))
    reference = BertTokenizer(vocab=str(tmp_path / "vocab.txt"), do_lower_case=False)
    draw, end, pad = random.Random(0), CASED.index("[SEP]"), CASED.index("[PAD]")
    for _ in range(100):
        row = [CASED.index("[CLS]"), *draw.choices(range(len(CASED)), k=8), end, pad, pad]
        (mine,) = ours.decode([row], skip_special_tokens=False)
        wanted = reference.decode(row, skip_special_tokens=False)
        assert mine.replace(" ", "") == wanted.replace(" ", ""), row
        assert mine.endswith(" [SEP] [PAD] [PAD]")


def test_special_words_of_the_first_unilm_are_found_after_cleaning(tmp_path: Path) -> None:
    ours = v1(write(tmp_path))
    for text in ("日[X_SEP]日", "日 [X_\u200bSEP]\x00 日", "日\u00a0[X_SEP]\u2028日"):
        assert tokens_of(ours, CASED, text) == ["[CLS]", "日", "[unused1]", "日", "[SEP]"], text
    # Unless cleaned away, a character beside them makes them text.
    assert "[unused1]" not in tokens_of(ours, CASED, "日 [X_SEP]. 日")
    assert "[unused1]" not in tokens_of(s2s(tmp_path), CASED, "日 [X_SEP] 日")


def test_names_are_written_over_unused_tokens(tmp_path: Path) -> None:
    names = ["[X_SEP]", *(f"[SEP_{n}]" for n in range(10)), "[S2S_SEP]", "[S2S_CLS]", "[L2R_SEP]"]
    names += ["[L2R_CLS]", "[R2L_SEP]", "[R2L_CLS]", "[S2S_SOS]"]
    first = CASED.index("[unused1]")
    ours, plain = v1(write(tmp_path)), s2s(tmp_path)
    assert ours.token_ids(names) == list(range(first, first + 18))
    assert ours.decode([[first, first + 17, first + 18]]) == ["[X_SEP] [S2S_SOS] [unused19]"]
    assert plain.decode([[first, first + 17]]) == ["[unused1] [unused18]"]
    for tokenizer, name in ((plain, "[X_SEP]"), (ours, "[unused1]")):
        with pytest.raises(ValueError, match="is no token of the vocabulary"):
            tokenizer.token_ids(["the", name])


def test_names_that_the_file_has_stay(tmp_path: Path) -> None:
    """UniLM's own vocabulary: [X_SEP] is written already, and what stands elsewhere stays."""
    lines = [{"[unused1]": "[X_SEP]", "[unused2]": "mine"}.get(line, line) for line in CASED]
    ours = v1(write(tmp_path, lines))
    first = lines.index("[X_SEP]")
    assert ours.decode([[first, first + 1, first + 2]]) == ["[X_SEP] mine [SEP_1]"]
    assert ours.token_ids(["[X_SEP]", "mine"]) == [first, first + 1]


def test_of_two_equal_lines_both_have_a_text_and_the_later_one_the_name(tmp_path: Path) -> None:
    lines = ["fox", "[unused99]", *CASED, "[unused99]", "fox"]
    for ours in (s2s(write(tmp_path, lines)), v1(tmp_path)):
        last = len(lines) - 1
        assert ours.token_ids(["fox", "[unused99]"]) == [last, last - 1]
        assert ours.rows(["fox"])[0][1:-1] == [last]
        assert ours.decode([[0, 1, last - 1, last]]) == ["fox [unused99] [unused99] fox"]


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["The", "un", "##aff", "##able", "user"], "The unaffable user"),
        (["##ing", "the", "##s", "##s"], "##ing thess"),
        (["##ing", "##s"], "##ings"),
        (
            ["[UNK]", "##s", "[MASK]", "[CLS]", "[unused20]", "."],
            "[UNK]s [MASK] [CLS] [unused20] .",
        ),
        (["the", "'", "s", ",", "(", "x", ")"], "the ' s , ( x )"),
        (["the", "[SEP]", "fox", "[SEP]"], "the"),
        (["the", "[PAD]", "fox"], "the"),
        (["[SEP]", "the"], ""),
        ([], ""),
    ],
)
def test_texts_are_tokens_up_to_the_end(tmp_path: Path, tokens: list[str], text: str) -> None:
    lines = [*CASED, "##aff"]
    # Clean-up, which BERT's files ask for, is none of UniLM's.
    config = {"clean_up_tokenization_spaces": True}
    for ours in (s2s(write(tmp_path, lines, tokenizer_config=config)), v1(tmp_path)):
        row = [lines.index(token) for token in tokens]
        assert ours.decode([row]) == [text]
        # Ids beyond the vocabulary, and below it, are passed over.
        assert ours.decode([[-1, len(lines), *row, 10**6]]) == [text]
        assert ours.decode(torch.tensor([row, row])) == [text, text]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "marked"])
@pytest.mark.parametrize("last", [True, False], ids=["ended", "open"])
def test_ends_of_lines(tmp_path: Path, end: str, mark: str, last: bool) -> None:
    # Separators that no text file's line ends at are tokens like others.
    lines = [*CASED[:3], "\u2028", "\x85", "\x0c", "", *CASED[3:]]
    wanted = write(tmp_path / "wanted", lines)
    other = write(tmp_path / "other")
    content = mark + end.join(lines) + end * last
    (other / "vocab.txt").write_bytes(content.encode())
    ours, plain = s2s(other), s2s(wanted)
    assert ours.rows(TEXTS) == plain.rows(TEXTS)
    assert ours.token_ids([lines[-1], "[CLS]"]) == [len(lines) - 1, 2]
    assert ours.decode([range(len(lines))]) == plain.decode([range(len(lines))])


@pytest.mark.parametrize(
    ("lines", "config", "overrides", "lowers"),
    [
        (CASED, {}, {}, False),
        (UNCASED, {}, {}, True),
        ([*UNCASED, "[X_SEP]"], {}, {}, True),
        (CASED, {"do_lower_case": True}, {}, True),
        (UNCASED, {"do_lower_case": False}, {}, False),
        (UNCASED, {"do_lower_case": False}, {"do_lower_case": True}, True),
        (CASED, {"do_lower_case": True}, {"do_lower_case": False}, False),
        (CASED, {"do_lower_case": True}, {"do_lower_case": None}, True),
    ],
)
@pytest.mark.parametrize("make", [s2s, v1])
def test_lower_casing_is_asked_for_or_seen(
    tmp_path: Path, make: Any, lines: list[str], config: Any, overrides: Any, lowers: bool
) -> None:
    ours = make(write(tmp_path, lines, tokenizer_config=config), **overrides)
    assert (ours.rows(["THE Fox"]) == ours.rows(["the fox"])) is lowers


def test_accents_and_chinese_characters_by_configuration(tmp_path: Path) -> None:
    config = {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False}
    ours = s2s(write(tmp_path, tokenizer_config=config))
    reference = BertTokenizer(vocab=str(tmp_path / "vocab.txt"), **config)
    assert all(ours.rows([text])[0] == reference(text)["input_ids"] for text in TEXTS)
    changed = [
        text for text in TEXTS if s2s(write(tmp_path / "x")).rows([text]) != ours.rows([text])
    ]
    assert len(changed) >= 2


@pytest.mark.parametrize(
    ("make", "config", "before", "behind"),
    [
        (s2s, {}, "[CLS]", "[SEP]"),
        (v1, {}, "[CLS]", "[SEP]"),
        (s2s, {"pos_shift": True}, "[CLS]", None),
        (v1, {"pos_shift": True}, "[CLS]", "[SEP]"),
        (v1, {"s2s_special_token": True}, "[unused13]", "[unused12]"),
        # s2s-ft takes the flag and does nothing with it.
        (s2s, {"s2s_special_token": True}, "[CLS]", "[SEP]"),
    ],
)
def test_what_stands_around_a_source(
    tmp_path: Path, make: Any, config: Any, before: str, behind: str | None
) -> None:
    ours = make(write(tmp_path), **config)
    ends = [behind] if behind else []
    assert tokens_of(ours, CASED, "the fox") == [before, "the", "fox", *ends]
    cut = ours.rows(["the fox of it"], max_length=2 + len(ends))[0]
    assert [CASED[token] for token in cut] == [before, "the", *ends]
    assert ours.token_rows([["the"]], max_length=2 + len(ends)) == [cut]
    with pytest.raises(ValueError, match="leaves no room for a token"):
        ours.token_rows([["the"]], max_length=1 + len(ends))


def test_sources_that_are_cut_already(tmp_path: Path) -> None:
    early, late = v1(write(tmp_path)), s2s(tmp_path)
    tokens = ["The", "un", "##able", "[UNK]", "."]
    row = [CASED.index(token) for token in ("[CLS]", *tokens, "[SEP]")]
    assert early.token_rows([tokens, ["it"]])[0] == late.token_rows(iter([tokens]))[0] == row
    # Names count, not texts: nothing is cut, lower-cased or cleaned.
    unknown = [["it"], ["the", "unable"]]
    with pytest.raises(ValueError, match="text 1: 'unable' is no token of the vocabulary"):
        early.token_rows(unknown)
    assert [CASED[token] for token in late.token_rows(unknown)[1]] == [
        "[CLS]", "the", "[UNK]", "[SEP]",
    ]  # fmt: skip
    assert early.token_rows([["[X_SEP]"]])[0][1] == CASED.index("[unused1]")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "texts is empty"),
        ("the", "texts must be a list of lists of tokens"),
        (7, "texts must be a list of lists of tokens, not 7"),
        (["the fox"], "text 0 is 'the fox', not a list of tokens"),
        ([["it"], 5], "text 1 is 5, not a list of tokens"),
        ([["it"], []], "text 1 is empty"),
        ([["it", None]], "text 0: None is not a string"),
    ],
)
@pytest.mark.parametrize("make", [s2s, v1])
def test_bad_lists_of_tokens_are_named(tmp_path: Path, make: Any, texts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(write(tmp_path)).token_rows(texts)


def test_texts_without_tokens_are_refused(tmp_path: Path) -> None:
    for text in ("", "  \n", "\x00\u200b"):
        for make in (s2s, v1):
            with pytest.raises(ValueError, match="text 1 is empty"):
                make(write(tmp_path)).rows(["the", text])


@pytest.mark.parametrize("name", SPECIAL)
def test_a_vocabulary_without_special_tokens(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, [line for line in CASED if line != name])
    for make in (s2s, v1):
        with pytest.raises(ValueError, match=rf"vocab\.txt has no \[{name[1:-1]}\], which"):
            make(folder)


def test_a_vocabulary_without_the_frame_that_is_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path, [line for line in CASED if line != "[unused13]"])
    assert v1(folder).rows(["it"])
    with pytest.raises(ValueError, match=r"vocab\.txt has no \[S2S_CLS\], which"):
        v1(folder, s2s_special_token=True)


def test_without_the_parting_token_it_is_unknown(tmp_path: Path) -> None:
    lines = [line for line in CASED if line != "[unused1]"]
    ours = v1(write(tmp_path, lines))
    assert tokens_of(ours, lines, "it [X_SEP]") == ["[CLS]", "it", "[UNK]", "[SEP]"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"vocab\.txt is empty: it must hold one token a line"),
        ("\n".join(CASED).encode("utf-16"), r"vocab\.txt is not UTF-8: fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"git lfs pull"),
        (b"\n\n\n", r"vocab\.txt has no \[PAD\]"),
    ],
    ids=["empty", "utf-16", "pointer", "blank"],
)
def test_damaged_vocabularies_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (write(tmp_path) / "vocab.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        s2s(tmp_path)


def test_a_folder_without_a_vocabulary_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for files in ([], ["vocab.json"]):
        for name in files:
            (tmp_path / name).write_text("{}")
        with pytest.raises(ValueError, match=r"has no tokenizer: .* tokenizer= "):
            Tokenizer.from_folder(tmp_path)


def test_without_the_library_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"pip install 'tritonseq\[text\]'"):
        s2s(write(tmp_path))


@pytest.mark.parametrize("file", ["config", "bert_config", "unilm1-base-cased-config"])
def test_the_configuration_is_read_and_overridden(tmp_path: Path, file: str) -> None:
    content = {"variant": "s2s", "pos_shift": True, "do_lower_case": True}
    write(tmp_path, **{file: content})
    assert tokens_of(Tokenizer.from_folder(tmp_path), CASED, "THE") == ["[CLS]", "the"]
    ours = Tokenizer.from_folder(tmp_path, {"pos_shift": False, "do_lower_case": False})
    assert tokens_of(ours, CASED, "The") == ["[CLS]", "The", "[SEP]"]
    assert Tokenizer.from_folder(tmp_path, {"variant": "v1"}).token_ids(["[X_SEP]"])


@pytest.mark.parametrize(
    ("config", "overrides", "name"),
    [
        # Published with version 1: transformers has written no type.
        ({"type_vocab_size": 6, "layer_norm_epsilon": 1e-5}, {}, "[X_SEP]"),
        ({"type_vocab_size": 2}, {"new_segment_ids": True}, "[X_SEP]"),
        ({"model_type": "bert", "source_type_id": 0, "target_type_id": 1}, {}, "[unused1]"),
        (
            {"model_type": "bert", "source_type_id": 0, "target_type_id": 1},
            {"model_type": "unilm"},
            "[unused1]",
        ),
    ],
)
def test_the_configuration_tells_whose_names_count(
    tmp_path: Path, config: Any, overrides: Any, name: str
) -> None:
    ours = Tokenizer.from_folder(write(tmp_path, config=config), overrides)
    assert ours.decode([[CASED.index("[unused1]")]]) == [name]


@pytest.mark.parametrize("kind", ["bert", "electra", "minilm", None])
def test_models_of_bert_are_read_as_unilm(tmp_path: Path, kind: str | None) -> None:
    write(tmp_path, config={"model_type": kind, "variant": "v1"} if kind else {"variant": "v1"})
    assert Tokenizer.from_folder(tmp_path).token_ids(["[X_SEP]"]) == [CASED.index("[unused1]")]


def test_lists_of_other_models_are_not_taken_for_bert(tmp_path: Path) -> None:
    write(tmp_path, config={"model_type": "gpt2"})
    with pytest.raises(ValueError, match=r"if vocab\.txt is BERT's, say tokenizer_class"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("make", [s2s, v1])
@pytest.mark.parametrize("lowers", [False, True])
def test_a_saved_tokenizer_is_read_like_the_list(tmp_path: Path, make: Any, lowers: bool) -> None:
    wanted = make(write(tmp_path / "list"), do_lower_case=lowers, pos_shift=True)
    saved = BertTokenizer(vocab=str(tmp_path / "list" / "vocab.txt"), do_lower_case=lowers)
    saved.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "vocab.txt").exists()
    ours = make(tmp_path / "saved", pos_shift=True)
    texts = [text for text in TEXTS if "SEP" not in text] + ["it [MASK] [UNK] s"]
    assert ours.rows(texts) == wanted.rows(texts)
    everything = [[token] for token in range(len(CASED))]
    assert ours.decode(everything) == wanted.decode(everything)
    # Lower-casing may be asked for anew.
    other = make(tmp_path / "saved", do_lower_case=not lowers)
    assert (other.rows(["THE É"]) == other.rows(["the e"])) is not lowers


def test_the_list_comes_before_a_saved_tokenizer(tmp_path: Path) -> None:
    """As UniLM and s2s-ft, whose tokenizers know nothing but vocab.txt."""
    backward = write(tmp_path / "x", CASED[::-1])
    BertTokenizer(vocab=str(backward / "vocab.txt")).save_pretrained(tmp_path)
    saved, listed = s2s(tmp_path), s2s(write(tmp_path))
    assert listed.token_ids(["the", "fox"]) == [CASED.index("the"), CASED.index("fox")]
    assert listed.rows(["the fox"]) != saved.rows(["the fox"])


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, config = (
        tmp_path_factory.mktemp("roberta"),
        {"model_type": "bert", "type_vocab_size": 0},
    )
    return write_byte_pairs(folder, TEXTS[:5], BART, size=320, **config)


@pytest.mark.parametrize("saved", ["", "json", "json without a frame"])
def test_texts_of_a_roberta_are_single_lines(roberta: Path, tmp_path: Path, saved: str) -> None:
    vocab, merges = str(roberta / "vocab.json"), str(roberta / "merges.txt")
    reference = RobertaTokenizer(vocab=vocab, merges=merges)
    if saved:
        reference.save_pretrained(tmp_path)
    if saved == "json without a frame":
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    folder = tmp_path if saved else roberta
    ours, shifted = s2s(folder), s2s(folder, pos_shift=True)
    draw = random.Random(0)
    for text in TEXTS[:5] + drawn(50, seed=3):
        expected = reference(text)["input_ids"]
        assert ours.rows([text])[0] == expected, repr(text)
        assert shifted.rows([text])[0] == expected[:-1]
        row = draw.choices([token for token in range(len(reference)) if token not in (1, 2)], k=12)
        told = reference.convert_tokens_to_string(reference.convert_ids_to_tokens(row))
        told = told.replace("\n", " [X_SEP] ")
        assert ours.decode([row, [*row, 2, *row], [*row, 1, 5], [2, 5]]) == [told, told, told, ""]
    assert ours.decode([expected[1:] for expected in ours.rows(["a b\nc"])]) == ["a b [X_SEP] c"]


def test_tokens_of_a_roberta(roberta: Path) -> None:
    ours = s2s(roberta)
    the = ours.token_ids(["Ġ"])[0]
    assert ours.token_rows([["Ġ", "what is it", "<mask>"]]) == [[0, the, 3, 4, 2]]
    with pytest.raises(ValueError, match="'what is it' is no token"):
        ours.token_ids(["what is it"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config": {"tokenizer_class": "XLMRobertaTokenizer"}}, "no tokenizer of a Uni"),
        ({"config": {"tokenizer_class": "T5Tokenizer"}}, "T5Tokenizer is no tokenizer of a UniLM"),
        ({"tokenizer_config": {"tokenizer_class": "FooTokenizer"}}, "'FooTokenizer', which is not"),
        ({"added_tokens": {"<new>": 500}}, "adds the token '<new>'"),
        ({"special_tokens_map": {"cls_token": "<new>"}}, "adds the token '<new>'"),
        ({"tokenizer_config": {"split_special_tokens": True}}, "split_special_tokens"),
        ({"tokenizer_config": {"do_lower_case": "no"}}, "do_lower_case is 'no'"),
    ],
    ids=str,
)
def test_what_unilm_has_not_is_refused_by_name(
    tmp_path: Path, files: dict[str, Any], message: str
) -> None:
    write(tmp_path, **{"config": {"model_type": "unilm"}, **files})
    with pytest.raises(ValueError, match=message):
        s2s(tmp_path)
