"""ProphetNet's text: the ids and texts of transformers, and the rule of XLM-ProphetNet."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
import seq2seq
from commands import Job
from pieces import train
from transformers import ProphetNetForConditionalGeneration, ProphetNetTokenizer

import tritonseq
from tritonseq.cli.main import main
from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from sentencepiece import SentencePieceProcessor

LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789", *".,;:!?'-#[]()$_", *"éüß日本語яиςσ"]
WORDS = ["the", "fox", "of", "it", "isn", "user", "un", "aff", "##able", "##ing", "##s", "sep"]
CAPITALS = [*"ABCDSEP", "##A", "##S", "SEP", "The", "É", "Я", "##É"]
LINES = ["[PAD]", "[unused1]", "[X_SEP]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LINES += list(dict.fromkeys([*LETTERS, *(f"##{c}" for c in LETTERS), *WORDS, *CAPITALS]))

TEXTS = [
    "the unaffable user, it's THE Fox. Isn't it?",
    "  two\tkinds \r\n of\u00a0white\u3000space\u2028and\u200bmore ",
    "cafe\u0301 CAFÉ café Über Я straße İstanbul ΟΔΟΣ ΣΑΣ",
    "日本語the語 語,本ﬁne ½ 🙂 \U00020000 한국",
    "contr\x00ol\x07 chars\ufffd\u00ad",
    "a" * 100 + " " + "a" * 101 + " " + "é" * 101,
    "bill gates [SEP] microsoft was[SEP] [MASK]s [UNK][PAD] x[X_SEP]y",
    "[sep] [ SEP ] [SEP [[SEP]] [CLS] [unused1] [SE\x00P] x[SE\x00P] [S\u200bEP]",
    "$5,000.00 (really?) e-mail _x_ #tag ##ing",
]
PARTS = [
    *"abtheofx  SEP.,'-[]#éÉ日ΣςσÜ\t\n\u200b\x00\u0301",
    *("[SEP]", "[MASK]", "[X_SEP]", " [SEP] ", " [CLS] ", " [UNK]\t", "the", " un", "[SEP\x00]"),
]


def write(folder: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "prophetnet.tokenizer").write_text("".join(f"{line}\n" for line in LINES))
    named = {"tokenizer_class": "ProphetNetTokenizer", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return folder


def drawn(count: int) -> list[str]:
    draw = random.Random(7)
    return [f"e {''.join(draw.choices(PARTS, k=draw.randint(1, 30)))}" for _ in range(count)]


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cased": {"do_lower_case": False},
    "cased without accents": {"do_lower_case": False, "strip_accents": True},
    "with accents": {"strip_accents": False},
    "chinese in words": {"tokenize_chinese_chars": False},
    "with a [CLS]": {"cls_token": "[CLS]"},
    "with a token of its own": {"extra_special_tokens": ["<user>"]},
    "without clean-up": {"clean_up_tokenization_spaces": False},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_ids_and_texts_equal_transformers(tmp_path: Path, config: dict[str, Any]) -> None:
    ours = Tokenizer.from_folder(write(tmp_path, **config))
    theirs = ProphetNetTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS, *drawn(150), "of <user> and<user>"]
    rows = ours.rows(texts)
    for text, row in zip(texts, rows, strict=True):
        assert row == theirs(text)["input_ids"], repr(text)
    draw = random.Random(3)
    rows += [[draw.randrange(len(LINES)) for _ in range(draw.randint(0, 20))] for _ in range(100)]
    for skips in (True, False):
        assert ours.decode(rows, skip_special_tokens=skips) == [
            theirs.decode(row, skip_special_tokens=skips) for row in rows
        ]
    for cleans in (True, False):
        assert ours.decode(rows, clean_up_tokenization_spaces=cleans) == [
            theirs.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=cleans)
            for row in rows
        ]


def assert_pieces_add_up(tokenizer: Tokenizer, count: int) -> None:
    """As stop strings have it: a text is what its tokens add to it."""
    pieces, draw = tokenizer.pieces(), random.Random(4)
    for _ in range(50):
        # What a text begins with is another matter.
        row = tokenizer.rows(["of"])[0][:1]
        row += [draw.randrange(count) for _ in range(draw.randint(0, 12))]
        (text,) = tokenizer.decode(
            [row], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        assert b"".join(pieces[token] for token in row).decode().strip() == text


def test_what_tokens_add_to_a_text(tmp_path: Path) -> None:
    assert_pieces_add_up(Tokenizer.from_folder(write(tmp_path)), len(LINES))


def test_what_the_model_type_says_is_enough(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    ours = Tokenizer.from_folder(tmp_path, {"model_type": "prophetnet"})
    assert ours.decode(ours.rows(["it isn ' t , the fox ."])) == ["it isn't, the fox."]
    assert ours.rows(["the fox [SEP] it"])[0].count(LINES.index("[SEP]")) == 2
    assert ours.max_length == 512
    assert ours.token_ids(["the", "[X_SEP]"]) == [LINES.index("the"), LINES.index("[X_SEP]")]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"unk_token": "<unk>"}, "unk_token is '<unk>', and that of ProphetNetTokenizer"),
        ({"x_sep_token": "[Y]"}, "x_sep_token is '\\[Y\\]', and that of"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize is False, which is not supported"),
        ({"split_special_tokens": True}, "split_special_tokens, which is supported for tokenizer"),
    ],
)
def test_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_folder(write(tmp_path, **config))


def test_files_that_are_not_there_or_of_another_model(tmp_path: Path) -> None:
    folder = write(tmp_path)
    lines = [line for line in LINES if line != "[X_SEP]"]
    (folder / "prophetnet.tokenizer").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"has no \[X_SEP\], which the vocabulary of a ProphetNet"):
        Tokenizer.from_folder(folder)
    (folder / "prophetnet.tokenizer").unlink()
    with pytest.raises(ValueError, match=r"neither tokenizer.json nor prophetnet\.tokenizer"):
        Tokenizer.from_folder(folder)


class TestXLM:
    """By the rule of transformers 4, since 5 has lost the class."""

    FIRST = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"[unused{n}]" for n in range(10)))

    @pytest.fixture
    def model(self, tmp_path: Path) -> SentencePieceProcessor:
        named = {"tokenizer_class": "XLMProphetNetTokenizer"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
        ids = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
        return train(tmp_path / "prophetnet.tokenizer", **ids)

    def test_ids(self, tmp_path: Path, model: SentencePieceProcessor) -> None:
        ours = Tokenizer.from_folder(tmp_path)
        texts = ["the quick brown fox", "Über 日本 naïve café!", "  3.14 $5  ", "<s> the </s>"]
        for text in texts:
            wanted = [model.piece_to_id(piece) for piece in model.encode(text, out_type=str)]
            wanted = [piece + 12 if piece else 3 for piece in wanted]
            assert ours.rows([text]) == [[*wanted, 2]]
        (row,) = ours.rows(["the [SEP] fox[MASK]"])
        assert [token for token in row if token < 12] == [2, 4, 2]
        assert 3 in ours.rows(texts)[1]

    def test_texts(self, tmp_path: Path, model: SentencePieceProcessor) -> None:
        ours = Tokenizer.from_folder(tmp_path)
        draw, size = random.Random(5), model.get_piece_size()
        names = {n + 12: model.id_to_piece(n) for n in range(size)} | dict(enumerate(self.FIRST))
        for _ in range(60):
            row = [draw.randrange(size + 12) for _ in range(draw.randint(1, 15))]
            for skips in (True, False):
                kept = [token for token in row if not (skips and token < 5)]
                wanted = "".join(names[token] for token in kept).replace("▁", " ").strip()
                assert ours.decode([row], skip_special_tokens=skips) == [wanted]
        assert ours.decode(ours.rows(["it is not , true"])) == ["it is not , true"]
        assert_pieces_add_up(ours, size + 12)

    def test_refused(self, tmp_path: Path, model: SentencePieceProcessor) -> None:
        assert model.get_piece_size() > 0
        named = {"tokenizer_class": "XLMProphetNetTokenizer", "sep_token": "</s>"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
        with pytest.raises(ValueError, match="sep_token is '</s>', and that of XLMProphetNet"):
            Tokenizer.from_folder(tmp_path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder: network, options and tokenizer."""
    folder = tmp_path_factory.mktemp("prophetnet")
    model = seq2seq.hf_model("prophetnet", seed=16, vocab_size=len(LINES), eos_token_id=5)
    model.generation_config.update(decoder_start_token_id=5, num_beams=3, max_length=14)
    model.save_pretrained(folder)
    return write(folder)


def test_text_in_and_text_out(checkpoint: Path, tmp_path: Path) -> None:
    """From the command line, the pipeline and the model, as with transformers' own parts."""
    lines = ["the unaffable user, it's a fox.", "of [SEP] it", "Isn't it?", "x"]
    tokenizer = ProphetNetTokenizer.from_pretrained(checkpoint)
    model = ProphetNetForConditionalGeneration.from_pretrained(checkpoint)
    wanted = [
        tokenizer.decode(
            model.generate(**tokenizer(line, return_tensors="pt"))[0], skip_special_tokens=True
        )
        for line in lines
    ]
    assert len(set(wanted)) == len(lines)
    ours = tritonseq.load(checkpoint, device="cpu")
    assert ours.generate_text(lines) == wanted
    assert [result.text for result in tritonseq.pipeline(ours, lines)] == wanted
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("\n".join(lines) + "\n")
    assert main(Job(checkpoint, source, output, ()).arguments()) == 0
    assert output.read_text().splitlines() == wanted
