"""Every kind of tokenizer file gives the ids and texts that transformers gives for it."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import tokenizers
import torch
import transformers
from pieces import BART, FAMILIES, model_of, theirs, write_byte_pairs, write_checkpoint
from transformers import BartTokenizer

from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

TEXTS = [
    "the quick brown fox",
    "  the   dogs  ",
    "line\nbreak\n\ttab ",
    "\u00a0hard\u00a0space, zero\u200bwidth",
    "cafe\u0301 ﬁne ½ \U0001f9d1\u200d\U0001f680 ☃☃",
    "<extra_id_0> the <extra_id_99>fox",
    "the </s> fox</s>",
    "<s> the<pad><unk> fox",
    "the<mask_1>fox <mask_2> <unk_3>",
    "the<mask> fox <mask>",
    "en_XX the fr_XX",
    "e",
]
WITH_JSON = ("t5", "pegasus", "mbart", "mbart50")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every family by its own files, some by tokenizer.json, and BART by vocabulary and merges."""
    root = tmp_path_factory.mktemp("vocabularies")
    folders = {family: write_checkpoint(root / family, family) for family in FAMILIES}
    for family in WITH_JSON:
        folders[f"{family}-json"] = root / f"{family}-json"
        theirs(folders[family], family).save_pretrained(folders[f"{family}-json"])
    folders["bart"] = write_byte_pairs(root / "bart", TEXTS, BART, model_type="bart")
    return folders


KINDS = [*FAMILIES, *(f"{family}-json" for family in WITH_JSON), "bart"]


def reference_of(folders: dict[str, Path], kind: str) -> Any:
    folder = folders[kind]
    if kind == "bart":
        vocab, merges = str(folder / "vocab.json"), str(folder / "merges.txt")
        return BartTokenizer(vocab=vocab, merges=merges)
    family = kind.removesuffix("-json")
    return theirs(folder, family) if kind == family else FAMILIES[family].from_pretrained(folder)


def ids_of(tokenizer: Tokenizer, text: str, **options: Any) -> list[int]:
    row: list[int] = tokenizer.encode([text], pad_id=0, **options)[0][0].tolist()
    return row


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in FAMILIES])
def test_files_of_the_tokenizers_library_equal_transformers(
    folders: dict[str, Path], kind: str
) -> None:
    ours, reference = Tokenizer.from_folder(folders[kind]), reference_of(folders, kind)
    draw = random.Random(0)
    drawn = [
        "".join(draw.choices("the fox\n\té🙂語</s>", k=draw.randint(1, 30))) for _ in range(100)
    ]
    for text in TEXTS + [text for text in drawn if text.strip()]:
        if kind == "bart" and " <mask>" in text:
            continue  # see below
        expected = reference(text)["input_ids"]
        assert ids_of(ours, text) == expected, repr(text)
        # Rows that were filled up with padding show none of it.
        row = [*expected, reference.pad_token_id, reference.pad_token_id]
        assert ours.decode([row]) == [reference.decode(row, skip_special_tokens=True)], repr(text)


@pytest.mark.parametrize("kind", KINDS)
def test_any_ids_decode_as_in_transformers(folders: dict[str, Path], kind: str) -> None:
    ours, reference = Tokenizer.from_folder(folders[kind]), reference_of(folders, kind)
    draw = random.Random(0)
    for _ in range(200):
        ids = draw.choices(range(len(reference)), k=draw.randint(1, 12))
        mine, wanted = ours.decode([ids])[0], reference.decode(ids, skip_special_tokens=True)
        if kind in WITH_JSON:
            # Where a text starts with two marks of spaces, transformers keeps the second.
            wanted = wanted.lstrip(" ")
        assert mine == wanted, ids


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_cut_as_in_transformers(folders: dict[str, Path], kind: str) -> None:
    ours, reference = Tokenizer.from_folder(folders[kind]), reference_of(folders, kind)
    text = "the quick brown fox jumps over dogs"
    for length in (3, 4, 7, 1000):
        cut = reference(text, truncation=True, max_length=length)["input_ids"]
        assert ids_of(ours, text, max_length=length) == cut
    # No length is remembered.
    assert ids_of(ours, text) == reference(text)["input_ids"]


@pytest.mark.parametrize(
    ("family", "offset", "text"),
    [
        # The conversion makes a token of spaces at the end, which training has cut off ...
        ("pegasus", 103, "the fox "),
        ("pegasus", 103, "the fox\n"),
        ("mbart50", 1, "the fox "),
        # ... and leaves out the model's table of equal characters for mBART.
        ("mbart", 1, "nai\u0308ve cafe\u0301"),
        ("mbart", 1, "ﬁre"),
        ("mbart", 1, "the\u200bfox"),
    ],
)
def test_where_transformers_departs_from_the_model_ours_does_not(
    folders: dict[str, Path], family: str, offset: int, text: str
) -> None:
    ours, reference = Tokenizer.from_folder(folders[family]), theirs(folders[family], family)
    model = model_of(folders[family])
    pieces = model.encode(text)
    assert model.unk_id() not in pieces
    body = [piece + offset for piece in pieces]
    code = None if family == "pegasus" else ours.language_id("en_XX")
    frame = {"pegasus": [*body, 1], "mbart50": [code, *body, 2], "mbart": [*body, 2, code]}
    assert ids_of(ours, text) == frame[family]
    assert reference(text)["input_ids"] != frame[family], "no departure any more: drop the case"


def test_the_mask_of_bart_takes_the_space_before_it(folders: dict[str, Path]) -> None:
    """As in its tokenizer.json; transformers 5 forgets it when it reads vocab.json."""
    ours, reference = Tokenizer.from_folder(folders["bart"]), reference_of(folders, "bart")
    assert (
        ids_of(ours, "the <mask>")
        == ids_of(ours, "the<mask>")
        == reference("the<mask>")["input_ids"]
    )
    assert reference("the <mask>")["input_ids"] != reference("the<mask>")["input_ids"]


@pytest.mark.parametrize(
    ("family", "file"),
    [("marian", "source.spm"), ("marian", "target.spm"), ("mbart", "sentencepiece.bpe.model")],
)
@pytest.mark.parametrize("content", [b"", b"\xff" * 40], ids=["empty", "garbage"])
def test_damaged_and_missing_models_are_named(
    tmp_path: Path, family: str, file: str, content: bytes
) -> None:
    path = write_checkpoint(tmp_path, family) / file
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} is no sentencepiece model"):
        Tokenizer.from_folder(tmp_path)
    path.unlink()
    missing = f"has no {file}, which Marian's" if family == "marian" else "has no tokenizer"
    with pytest.raises(ValueError, match=missing):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("lacking", ["<s>", "</s>"])
def test_a_vocabulary_of_bart_without_its_frame(
    folders: dict[str, Path], tmp_path: Path, lacking: str
) -> None:
    shutil.copytree(folders["bart"], tmp_path, dirs_exist_ok=True)
    vocabulary = (tmp_path / "vocab.json").read_text(encoding="utf-8")
    (tmp_path / "vocab.json").write_text(vocabulary.replace(f'"{lacking}"', '"<other>"'))
    with pytest.raises(ValueError, match=f"has no {lacking}"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("clean_up", [True, False])
def test_spaces_before_punctuation_are_closed_up_if_the_checkpoint_says_so(
    tmp_path: Path, clean_up: bool
) -> None:
    words = ["the", "fox", ",", ".", "do", "n't", "'", "s", "'s", "we", "'re", "!"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: token for token, word in enumerate(words)}, "the")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=clean_up
    )
    theirs.save_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, len(words), (50, 12), generator=generator)
    assert Tokenizer.from_folder(tmp_path).decode(rows) == theirs.batch_decode(rows)
