"""Sentencepiece models and bytes: the ids and texts of transformers, added tokens, and faults."""

from __future__ import annotations

import json
import random
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pieces import FAMILIES, model_of, theirs, train, write_checkpoint

from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

TEXTS = [
    "the quick brown fox",
    " the  dogs",
    "a\nb\n\nc\t d",
    "naïve café Über cafe\u0301 1999",
    "unseen ☃ 🙂🙃 日本語 x",
    "<extra_id_0> the <extra_id_99> fox<extra_id_1>dogs",
    "the</s>fox</s> dogs",
    "<pad>the<unk>fox",
    "<mask> the<mask>fox",
    "<mask_1>the<mask_2> fox<unk_7>",
    "fr_XX",
    "en_XX,de_DE",
    ">>fra<< the fox",
    ">>xyz<< the >>deu<< fox",
    "<pad>>>fra<<the",
    "\u00a0the\u00a0\u00a0fox",
    "<0x41> <n>",
    "the , fox . do n't",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pieces")
    return {family: write_checkpoint(root / family, family) for family in FAMILIES}


def ids_of(tokenizer: Tokenizer, text: str, **options: Any) -> list[int]:
    return tokenizer.encode([text], pad_id=0, **options)[0][0].tolist()


def same(ours: Tokenizer, reference: Any, text: str) -> None:
    ids = ids_of(ours, text)
    assert ids == reference(text)["input_ids"], repr(text)
    # Where a text starts with what is left out, transformers keeps the space that follows.
    wanted = reference.decode(ids, skip_special_tokens=True)
    assert ours.decode([ids])[0].lstrip(" ") == wanted.lstrip(" "), repr(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_and_text_equal_transformers(folders: dict[str, Path], family: str) -> None:
    ours, reference = Tokenizer.from_folder(folders[family]), theirs(folders[family], family)
    for text in TEXTS:
        # transformers 5 does not compose characters for mBART, which its model wants.
        same(ours, reference, text.replace("e\u0301", "é") if family == "mbart" else text)


@pytest.mark.parametrize("family", FAMILIES)
def test_random_texts_equal_transformers(folders: dict[str, Path], family: str) -> None:
    ours, reference = Tokenizer.from_folder(folders[family]), theirs(folders[family], family)
    draw = random.Random(0)
    for _ in range(200):
        text = "".join(draw.choices("abcdefhi theXY\n\t 0'.-é🙂語\u00a0", k=draw.randint(1, 30)))
        same(ours, reference, text.strip() or "a")


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_are_shown_as_in_transformers(folders: dict[str, Path], family: str) -> None:
    """Those of the frame, those within a text, and pads before and behind."""
    ours, reference = Tokenizer.from_folder(folders[family]), theirs(folders[family], family)
    pad, draw = reference.pad_token_id, random.Random(0)
    parts = ["the ", "fox", " ", "é", "x", "</s>", "<pad>", "<unk>", ".", " n't", "<extra_id_0>"]
    for _ in range(60):
        ids = reference("".join(draw.choices(parts, k=8)) + "a")["input_ids"]
        row = [pad, *ids, pad, pad]
        wanted = reference.decode(row, skip_special_tokens=False)
        assert ours.decode([row], skip_special_tokens=False) == [wanted], row


@pytest.mark.parametrize(("family", "offset"), [("pegasus", 103), ("mbart50", 1), ("t5", 0)])
def test_spaces_at_the_ends_are_no_text(folders: dict[str, Path], family: str, offset: int) -> None:
    """As in the models' training; transformers makes a piece of them for two of the families."""
    pieces = model_of(folders[family]).encode(" the fox \n")
    ours = Tokenizer.from_folder(folders[family])
    assert [piece + offset for piece in pieces] == [
        token for token in ids_of(ours, " the fox \n") if ours.decode([[token]]) != [""]
    ]


@pytest.mark.parametrize("family", ["t5", "pegasus", "mbart", "mbart50"])
def test_tokenizer_json_gives_the_ids_of_the_model(
    folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    theirs(folders[family], family).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    reference = FAMILIES[family].from_pretrained(tmp_path)
    fast, pieces = Tokenizer.from_folder(tmp_path), Tokenizer.from_folder(folders[family])
    for text in ("the quick brown fox", "it's not 🙂 true"):
        assert ids_of(fast, text) == ids_of(pieces, text) == reference(text)["input_ids"]
    assert fast.languages() == pieces.languages()


@pytest.mark.parametrize("extra_ids", [100, 3])
def test_the_first_sentinel_is_the_last_id(tmp_path: Path, extra_ids: int) -> None:
    folder = write_checkpoint(tmp_path, "t5")
    if extra_ids != 100:
        config = {"tokenizer_class": "T5Tokenizer", "extra_ids": extra_ids}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    size = model_of(folder).get_piece_size()
    ids = ids_of(Tokenizer.from_folder(folder), f"<extra_id_0><extra_id_{extra_ids - 1}>")
    assert ids == [size + extra_ids - 1, size, 1]


@pytest.mark.parametrize(("extra_ids", "text"), [(100, ""), (0, "<extra_id_0>")])
def test_sentinels_inside_the_model_keep_their_ids(
    tmp_path: Path, extra_ids: int, text: str
) -> None:
    folder = write_checkpoint(tmp_path, "t5", user_defined_symbols=["<extra_id_0>"])
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": extra_ids}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    inside = model_of(folder).piece_to_id("<extra_id_0>")
    ours = Tokenizer.from_folder(folder)
    assert ids_of(ours, "<extra_id_0>") == [inside, 1]
    assert ours.decode([[inside]]) == [text]


def test_unknown_characters_become_bytes_where_the_model_has_them(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "t5", byte_fallback=True, vocab_size=400)
    ours = Tokenizer.from_folder(folder)
    ids = ids_of(ours, "the 🙂 fox ☃")
    assert 2 not in ids
    assert ours.decode([ids]) == ["the 🙂 fox ☃"]


@pytest.mark.parametrize("family", FAMILIES)
def test_decode_passes_over_special_negative_and_unknown_ids(
    folders: dict[str, Path], family: str
) -> None:
    ours = Tokenizer.from_folder(folders[family])
    ids = ids_of(ours, "the fox")
    assert ours.decode([[-1, *ids, 0, 1, 100_000], []]) == ["the fox", ""]


def test_incomplete_bytes_are_left_out(folders: dict[str, Path]) -> None:
    ours = Tokenizer.from_folder(folders["byt5"])
    ids = ids_of(ours, "a🙂b")
    assert ours.decode([ids[:4], [*ids, 259, 383]]) == ["a", "a🙂b"]


def test_bytes_that_end_are_not_ended_again(folders: dict[str, Path]) -> None:
    ours, reference = Tokenizer.from_folder(folders["byt5"]), theirs(folders["byt5"], "byt5")
    for text in ("fox</s>", "</s>", "fox </s> ", "fox</s></s>", "</s>fox"):
        assert ours.rows([text]) == [reference(text)["input_ids"]], text
        for length in (3, 4):
            cut = reference(text, truncation=True, max_length=length)["input_ids"]
            assert ours.rows([text], max_length=length) == [cut], text


@pytest.mark.parametrize("form", ["decoder", "file"])
def test_added_tokens_stay_whole(folders: dict[str, Path], tmp_path: Path, form: str) -> None:
    write_checkpoint(tmp_path, "t5")
    config: dict[str, Any] = {"tokenizer_class": "T5Tokenizer"}
    if form == "decoder":
        config["added_tokens_decoder"] = {
            "400": {"content": "<sep>", "special": False},
            "401": {"content": "<ctrl>", "special": True},
        }
    else:
        config["additional_special_tokens"] = ["<ctrl>"]
        (tmp_path / "added_tokens.json").write_text('{"<sep>": 400, "<ctrl>": 401}')
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = Tokenizer.from_folder(tmp_path)
    the, fox = (ids_of(Tokenizer.from_folder(folders["t5"]), word)[:-1] for word in ("the", "fox"))
    ids = ids_of(ours, "the<sep>fox<ctrl>")
    assert ids == [*the, 400, *fox, 401, 1]
    assert ours.decode([ids]) == ["the<sep> fox"]


@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_and_truncation(folders: dict[str, Path], family: str) -> None:
    ours = Tokenizer.from_folder(folders[family])
    whole = ids_of(ours, "summarize: the quick fox")
    assert ids_of(ours, "the quick fox", prefix="summarize: ") == whole
    cut = ids_of(ours, "summarize: the quick fox", max_length=5)
    assert len(cut) == 5
    assert ours.decode([whole])[0].startswith(ours.decode([cut])[0])
    # What stands around the text is not cut off.
    ends = [ours.decode([[token]]) == [""] for token in (whole[0], whole[-2], whole[-1])]
    assert [ours.decode([[token]]) == [""] for token in (cut[0], cut[-2], cut[-1])] == ends
    with pytest.raises(ValueError, match="a limit of 1 tokens leaves no room"):
        ids_of(ours, "the", max_length=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_empty_texts_are_named(folders: dict[str, Path], family: str) -> None:
    with pytest.raises(ValueError, match="text 1 is empty"):
        Tokenizer.from_folder(folders[family]).encode(["the fox", ""], pad_id=0)


def test_a_class_named_by_config_json_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "mbart50")
    (tmp_path / "tokenizer_config.json").unlink()
    config = {"model_type": "mbart", "tokenizer_class": "MBart50Tokenizer"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "sl_SI" in Tokenizer.from_folder(tmp_path).languages()
    (tmp_path / "sentencepiece.bpe.model").unlink()
    (tmp_path / "config.json").write_text(
        '{"model_type": "t5", "tokenizer_class": "ByT5Tokenizer"}'
    )
    assert ids_of(Tokenizer.from_folder(tmp_path), "a") == [100, 1]


def test_damaged_models_are_named(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"no model at all")
    with pytest.raises(ValueError, match="say tokenizer_class"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ValueError, match=r"spiece\.model is no sentencepiece model"):
        Tokenizer.from_folder(tmp_path)
    train(tmp_path / "spiece.model", eos_id=-1)
    with pytest.raises(ValueError, match=r"spiece\.model has no piece </s>"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "added", [["<a>"], {"x": {"content": "<a>"}}, {"5": {}}, {"5": "<a>"}], ids=str
)
def test_malformed_added_tokens(folders: dict[str, Path], tmp_path: Path, added: object) -> None:
    (tmp_path / "spiece.model").write_bytes((folders["t5"] / "spiece.model").read_bytes())
    config = {"tokenizer_class": "T5Tokenizer", "added_tokens_decoder": added}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="names special tokens in a form that cannot be read"):
        Tokenizer.from_folder(tmp_path)


def test_without_the_library_the_extra_is_named(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"sentencepiece library: pip install 'tritonseq\[text\]'"):
        Tokenizer.from_folder(folders["t5"])
    # Bytes need no library.
    assert ids_of(Tokenizer.from_folder(folders["byt5"]), "a") == [100, 1]
