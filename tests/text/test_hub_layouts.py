"""Tokenizers as their files are laid out on the Hub have the ids and texts of transformers."""

# ruff: noqa: RUF001 (Chinese punctuation is meant)

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import transformers
from pieces import BART, theirs, train, write_byte_pairs
from tokenizers import processors

from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")

CODE = [
    "def f(x):\n    return x + 1  # the quick brown fox",
    "for i in range(10): print(i, end='')",
]
SENTINELS = [f"<extra_id_{n}>" for n in range(100)]
DIALOGUE = ["<pad>", "<s>", "</s>", "<unk>"]
CHINESE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"今天气很好我们去公园吧，。！？"]
CHINESE += [*"abcdefghijklmnopqrstuvwxyz0123456789.,!?'-", "##s", "##ing", "the", "fox"]
PIECES = [
    *"abc XYZ09 \n\t.,!?'-_()[]{}<>=+#éß今天好语🙂\u00a0\u0301\u3000",
    *("the ", " fox", "ing", "n't", "</s>", "<s>", "<pad>", "<extra_id_0>", "<extra_id_99>"),
    *("[SEP]", "[MASK]", "<unk>", "def ", "    "),
]


def say(folder: Path, **files: dict[str, Any]) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def codet5(folder: Path, *, with_json: bool = False, with_objects: bool = False) -> None:
    """Salesforce/codet5-base: RoBERTa's files, and T5's sentinels behind the vocabulary, the last
    first; CodeT5+ has tokenizer.json besides."""
    first = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
    write_byte_pairs(folder, CODE * 5, first, model_type="t5")
    size = len(json.loads((folder / "vocab.json").read_text()))
    roles = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>"}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    said: dict[str, Any] = {
        f"{role}_token": {"content": name, **flags}
        for role, name in {**roles, "cls": "<s>"}.items()
    }
    said["mask_token"] = {"content": "<mask>", **flags, "lstrip": True}
    names = SENTINELS[::-1]
    objects = [{"content": name, **flags} for name in names]
    lists = {"additional_special_tokens": objects if with_objects else names}
    config = {"add_prefix_space": False, "errors": "replace", "model_max_length": 512, **lists}
    typed = {role: {"__type": "AddedToken", **token} for role, token in said.items()}
    say(
        folder,
        added_tokens={name: size + n for n, name in enumerate(names)},
        special_tokens_map={**said, **lists},
        tokenizer_config={**typed, **config, "tokenizer_class": "RobertaTokenizer"},
    )
    if with_json:
        reference = transformers.AutoTokenizer.from_pretrained(folder)
        reference.backend_tokenizer.save(str(folder / "tokenizer.json"))


def mt0(folder: Path) -> None:
    """bigscience/mt0-base: an mT5 with T5's class, whose sentinels are inside the model."""
    folder.mkdir()
    train(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    pieces = theirs(folder, "t5", extra_ids=0)
    pieces.save_pretrained(folder)
    roles = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    config = {"additional_special_tokens": None, "extra_ids": 0, "sp_model_kwargs": {}}
    say(
        folder,
        config={"model_type": "mt5"},
        special_tokens_map=roles,
        tokenizer_config={**roles, **config, "tokenizer_class": "T5Tokenizer"},
    )


def flan(folder: Path) -> None:
    """google/flan-ul2: tokenizer.json, and the sentinels in a list."""
    folder.mkdir()
    train(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    theirs(folder, "t5").save_pretrained(folder)
    roles = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    said = {**roles, "additional_special_tokens": SENTINELS}
    say(
        folder,
        config={"model_type": "t5"},
        special_tokens_map=said,
        tokenizer_config={**said, "extra_ids": 100, "tokenizer_class": "T5Tokenizer"},
    )


def blenderbot(folder: Path) -> None:
    """facebook/blenderbot-400M-distill with its tokenizer.json, as transformers 4 converted it."""
    write_byte_pairs(folder, CODE * 5, [*DIALOGUE, "<mask>"], model_type="blenderbot")
    say(folder, tokenizer_config={"add_prefix_space": True, "model_max_length": 128})
    reference = transformers.BlenderbotTokenizer.from_pretrained(folder)
    backend = reference.backend_tokenizer
    end = processors.TemplateProcessing("$A:0 </s>:0", special_tokens=[("</s>", 2)])
    backend.post_processor = end
    backend.save(str(folder / "tokenizer.json"))


def mvp(folder: Path, *, with_json: bool = False) -> None:
    """RUCAIBox/mvp: BART's files."""
    write_byte_pairs(folder, CODE * 5, BART, model_type="mvp")
    say(folder, tokenizer_config={"tokenizer_class": "MvpTokenizer", "add_prefix_space": False})
    if with_json:
        transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)


def chinese(folder: Path, model_type: str, **config: Any) -> None:
    """fnlp/bart-base-chinese says nothing beside vocab.txt, uer/t5-base-chinese names the class."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in CHINESE))
    say(folder, config={"model_type": model_type})
    if config:
        say(folder, tokenizer_config=config)


class Layout(NamedTuple):
    write: Callable[[Path], None]
    reference: str = "AutoTokenizer"


BERT = "BertTokenizer"
LAYOUTS = {
    "CodeT5": Layout(codet5),
    "CodeT5+": Layout(lambda folder: codet5(folder, with_json=True)),
    "mT0": Layout(mt0),
    "Flan-UL2": Layout(flan),
    "Blenderbot": Layout(blenderbot),
    "MVP": Layout(mvp),
    "MVP with tokenizer.json": Layout(lambda folder: mvp(folder, with_json=True)),
    "Chinese BART": Layout(lambda folder: chinese(folder, "bart"), BERT),
    "Chinese GPT-2": Layout(lambda folder: chinese(folder, "gpt2", tokenizer_class=BERT)),
    "Chinese T5": Layout(
        lambda folder: chinese(folder, "t5", tokenizer_class=BERT, do_lower_case=False)
    ),
    "Chinese T5 of few words": Layout(lambda folder: chinese(folder, "t5"), BERT),
}


def drawn(count: int) -> list[str]:
    draw = random.Random(0)
    texts = ["".join(draw.choices(PIECES, k=draw.randint(1, 25))) for _ in range(count)]
    return [*CODE, "今天天气很好, the foxes.", *(text for text in texts if text.strip())]


def same(ours: Tokenizer, reference: Any, texts: list[str]) -> None:
    """Ids, and texts of these, of any others, and of rows with ends and pads."""
    draw = random.Random(0)
    pads = [reference.pad_token_id] * 2
    for text in texts:
        ids = reference(text)["input_ids"]
        if len(ids) == len(reference("")["input_ids"]):
            continue
        assert ours.rows([text]) == [ids], repr(text)
        for row in ([*ids, *pads], draw.choices(range(len(reference)), k=8), [*pads[:1], *ids]):
            for skips in (True, False):
                wanted = reference.decode(row, skip_special_tokens=skips)
                assert ours.decode([row], skip_special_tokens=skips) == [wanted], (row, skips)


@pytest.mark.parametrize("name", LAYOUTS)
def test_ids_and_texts_equal_transformers(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    folder = tmp_path / "model"
    layout.write(folder)
    reference = getattr(transformers, layout.reference).from_pretrained(folder)
    same(Tokenizer.from_folder(folder), reference, drawn(60))


def test_sentinels_are_special_however_they_are_listed(tmp_path: Path) -> None:
    """As objects transformers 4 took them so too; 5.24 fails at them."""
    texts = []
    for kind, with_objects in (("names", False), ("objects", True)):
        codet5(tmp_path / kind, with_objects=with_objects)
        ours = Tokenizer.from_folder(tmp_path / kind)
        ids = ours.rows(["print(<extra_id_0>)"])
        texts.append((ids, ours.decode(ids), ours.decode(ids, skip_special_tokens=False)))
    assert texts[0] == texts[1]
    assert texts[0][1:] == (["print()"], ["<s>print(<extra_id_0>)</s>"])


def test_pieces_alone_have_the_ids_of_tokenizer_json(tmp_path: Path) -> None:
    for kind, write in (("mt0", mt0), ("flan", flan)):
        write(tmp_path / kind)
        texts = [text for text in drawn(60) if "\u0301" not in text]
        wanted = Tokenizer.from_folder(tmp_path / kind).rows(texts)
        (tmp_path / kind / "tokenizer.json").unlink()
        assert Tokenizer.from_folder(tmp_path / kind).rows(texts) == wanted


@pytest.mark.parametrize("with_json", [True, False])
def test_blenderbots_texts_end_whether_a_file_says_so_or_not(
    tmp_path: Path, with_json: bool
) -> None:
    """Transformers 5 leaves the end out where there is no tokenizer.json that has it."""
    blenderbot(tmp_path / "model")
    wanted = Tokenizer.from_folder(tmp_path / "model").rows(CODE)
    assert all(row[-1] == 2 and 1 not in row for row in wanted)
    path = tmp_path / "model" / "tokenizer.json"
    content = json.loads(path.read_text()) | {"post_processor": None}
    path.write_text(json.dumps(content)) if with_json else path.unlink()
    assert Tokenizer.from_folder(tmp_path / "model").rows(CODE) == wanted
    reference = transformers.BlenderbotTokenizer.from_pretrained(tmp_path / "model")
    assert [row[:-1] for row in wanted] == reference(CODE)["input_ids"], "drop this"


@pytest.mark.parametrize("said", [{"tokenizer_class": "BlenderbotSmallTokenizer"}, {}])
def test_blenderbot_small_is_refused_by_name(tmp_path: Path, said: dict[str, str]) -> None:
    """Its words and merges are of a kind of their own."""
    write_byte_pairs(tmp_path, CODE, BART, model_type="blenderbot-small")
    say(tmp_path, tokenizer_config=said)
    with pytest.raises(ValueError, match=r"BlenderbotSmallTokenizer|blenderbot-small"):
        Tokenizer.from_folder(tmp_path)


def test_a_vocabulary_that_may_be_of_another_tokenizer_is_not_taken_for_berts(
    tmp_path: Path,
) -> None:
    """Chinese Pegasus has a vocab.txt for words that other code has cut."""
    chinese(tmp_path / "model", "pegasus")
    with pytest.raises(ValueError, match=r"if vocab\.txt is BERT's, say tokenizer_class"):
        Tokenizer.from_folder(tmp_path / "model")
    chinese(tmp_path / "words", "t5")
    (tmp_path / "words" / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"vocab\.txt has no \[UNK\]"):
        Tokenizer.from_folder(tmp_path / "words")
