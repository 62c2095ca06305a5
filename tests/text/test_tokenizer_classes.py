"""The class of a tokenizer decides how its files are read; one that is not known is refused."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
import tokenizers
import transformers
from pieces import BART, model_of, pieces_of, train, write_byte_pairs

from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [
    "the quick brown fox",
    "  the   dogs  ",
    "line\nbreak\n\ttab ",
    "unseen ☃ 🙂🙃 日本語 x",
    "The QUICK Über-fox, isn't it? 1999 !",
    "``quoted'' 3.14 $5 (really?)",
    "the<mask> fox <mask> and</s>dogs <s>",
    "<pad>the<unk>fox [CLS] [MASK]dogs[SEP]",
    "\u00a0the\u00a0\u00a0fox",
]
_FAIRSEQ = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
_OWN = {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3, "user_defined_symbols": ["<mask>"]}
_ALBERT = {
    **{"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1},
    "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
    "normalization_rule_name": "nmt_nfkc_cf",
}
BPE = "sentencepiece.bpe.model"
# class -> its file, and how the model was trained
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "XLMRobertaTokenizer": (BPE, _FAIRSEQ),
    "CamembertTokenizer": (BPE, _FAIRSEQ),
    "BarthezTokenizer": (BPE, _OWN),
    "AlbertTokenizer": ("spiece.model", _ALBERT),
    "BartphoTokenizer": (BPE, _FAIRSEQ),
}


def write(folder: Path, name: str, **config: Any) -> Path:
    """The files of a class beside the configuration of an mBART."""
    folder.mkdir(exist_ok=True)
    file, options = CLASSES[name]
    model = train(folder / file, **options)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **config}))
    (folder / "config.json").write_text('{"model_type": "mbart"}')
    if name == "BartphoTokenizer":
        pieces = [model.id_to_piece(number) for number in range(3, model.get_piece_size(), 2)]
        (folder / "dict.txt").write_text("".join(f"{piece} 1\n" for piece in pieces))
    return folder


def theirs(folder: Path, name: str, **options: Any) -> Any:
    """transformers' tokenizer, whose conversion of models needs yet another library."""
    if name == "BartphoTokenizer":
        return transformers.BartphoTokenizer(str(folder / BPE), str(folder / "dict.txt"))
    pieces, charsmap = pieces_of(model_of(folder))
    if name == "XLMRobertaTokenizer":
        first = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
        pieces = [*first, *pieces[3:], ("<mask>", 0.0)]
    if name == "CamembertTokenizer":
        first = [(token, 0.0) for token in ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>")]
        pieces = [*first, ("<unk>NOTUSED", -100.0), *pieces[1:], ("<mask>", 0.0)]
    if charsmap:
        options["_spm_precompiled_charsmap"] = charsmap
    return getattr(transformers, name)(vocab=pieces, **options)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("classes")
    return {name: write(root / name, name) for name in CLASSES}


def same(ours: Tokenizer, reference: Any, text: str) -> None:
    (ids,) = ours.rows([text])
    assert ids == reference(text)["input_ids"], repr(text)
    for skips in (True, False):
        (mine,) = ours.decode([ids], skip_special_tokens=skips)
        wanted = reference.decode(ids, skip_special_tokens=skips)
        # Where a text starts with what is left out, transformers keeps the space that follows.
        assert mine.strip(" ") == wanted.strip(" "), repr(text)


@pytest.mark.parametrize("name", CLASSES)
def test_ids_and_texts_equal_transformers(folders: dict[str, Path], name: str) -> None:
    ours, reference = Tokenizer.from_folder(folders[name]), theirs(folders[name], name)
    if name == "BarthezTokenizer":
        # transformers 5 forgets what stands around its texts, unless tokenizer.json says so.
        assert reference("fox")["input_ids"][0] != reference.bos_token_id, "drop this"
        ends = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        reference._tokenizer.post_processor = ends
    draw = random.Random(0)
    alphabet = [*"abcdefhi theXY\n\t 0'.-é🙂語\u00a0", "<mask>", "</s>", "[SEP]", "the "]
    drawn = ["".join(draw.choices(alphabet, k=draw.randint(1, 30))) for _ in range(100)]
    for text in TEXTS + [text for text in drawn if text.strip()]:
        if name == "BarthezTokenizer":
            text = text.replace("\u00a0", " ")  # see below
        same(ours, reference, text)


def test_barthez_has_the_characters_of_its_model(folders: dict[str, Path]) -> None:
    """transformers 5 leaves out the model's table of equal characters, which it was trained by."""
    ours = Tokenizer.from_folder(folders["BarthezTokenizer"])
    reference = theirs(folders["BarthezTokenizer"], "BarthezTokenizer")
    for text in ("\u00a0the", "ﬁre", "the\u200bfox"):
        pieces = model_of(folders["BarthezTokenizer"]).encode(text)
        assert ours.rows([text]) == [[0, *pieces, 2]]
        assert reference(text, add_special_tokens=False)["input_ids"] != pieces, "drop this"


@pytest.mark.parametrize(
    ("name", "config"),
    [("do_lower_case", False), ("keep_accents", True)],
)
def test_albert_is_told_what_to_change_in_texts(tmp_path: Path, name: str, config: bool) -> None:
    folder = write(tmp_path, "AlbertTokenizer", **{name: config})
    ours, reference = (
        Tokenizer.from_folder(folder),
        theirs(folder, "AlbertTokenizer", **{name: config}),
    )
    for text in TEXTS:
        same(ours, reference, text)


@pytest.mark.parametrize("name", ["AlbertTokenizer", "BarthezTokenizer", "XLMRobertaTokenizer"])
def test_pieces_without_a_space_before_the_text_are_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, name, add_prefix_space=False)
    with pytest.raises(ValueError, match="add_prefix_space false, which is not supported"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize("name", ["AlbertTokenizer", "BarthezTokenizer"])
@pytest.mark.parametrize("said", ["add_bos_token", "add_eos_token"])
@pytest.mark.parametrize("value", [True, False])
def test_texts_without_their_ends_are_refused(
    tmp_path: Path, name: str, said: str, value: bool
) -> None:
    """transformers leaves out the one that is false, or not said beside the other one."""
    folder = write(tmp_path, name, **{said: value})
    with pytest.raises(ValueError, match=rf"tokenizer_config\.json says {said} {value}, which"):
        Tokenizer.from_folder(folder)
    Tokenizer.from_folder(write(tmp_path, name, add_bos_token=True, add_eos_token=True))


def test_an_mbart_with_the_tokenizer_of_albert_is_asked_by_tokens(tmp_path: Path) -> None:
    """IndicBART, whose caller may put languages where they belong."""
    folder = write(tmp_path, "AlbertTokenizer", do_lower_case=False, keep_accents=True)
    size = model_of(folder).get_piece_size()
    added = {name: size + n for n, name in enumerate(("</s>", "<s>", "<2en>", "<2hi>"))}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    special = {"additional_special_tokens": ["<s>", "</s>", "<2en>", "<2hi>"]}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    ours = Tokenizer.from_folder(folder)
    assert ours.languages() == ["en", "hi"]
    fox = model_of(folder).encode("the fox")
    (ids,) = ours.rows(["the fox </s> <2en>"], add_special_tokens=False)
    assert ids == [*fox, size, size + 2]
    assert ours.decode([ids]) == ["the fox"]
    assert ours.decode([ids], skip_special_tokens=False) == ["the fox</s><2en>"]


# By vocab.txt, for models that are not BERT.
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789"]
PIECES += [
    *".,;:!?'-#[]()$_<>",
    *"éüß日本語яи",
    "the",
    "fox",
    "##ing",
    "##s",
    "##able",
    "dog",
    "##t",
]
PIECES += [*"ABCDE", "The", "É"]


@pytest.mark.parametrize("model_type", ["gpt2", "bart", "t5"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"do_lower_case": False},
        {"strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
        {
            "cls_token": "[MASK]",
            "sep_token": {"__type": "AddedToken", "content": "[SEP]", "lstrip": True},
        },
        {"clean_up_tokenization_spaces": True},
        {"additional_special_tokens": ["<new>", "dog"]},
    ],
    ids=str,
)
def test_berts_pieces_are_read_for_other_models(
    tmp_path: Path, model_type: str, config: dict[str, Any]
) -> None:
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    said = {"tokenizer_class": "BertTokenizer", **config}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    ours = Tokenizer.from_folder(tmp_path)
    reference = transformers.BertTokenizer.from_pretrained(tmp_path)
    texts = [
        *TEXTS,
        "the foxing , dogs . don't !",
        "日本語the語 <new>x",
        "a" * 100 + " " + "a" * 101,
    ]
    for text in texts:
        (ids,) = ours.rows([text])
        assert ids == reference(text)["input_ids"], repr(text)
        for skips in (True, False):
            wanted = reference.decode(ids, skip_special_tokens=skips)
            assert ours.decode([ids], skip_special_tokens=skips) == [wanted]
    reference.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text(json.dumps({"model_type": model_type}))
    saved = Tokenizer.from_folder(tmp_path / "saved")
    assert saved.rows(texts) == ours.rows(texts)


def test_of_two_lines_that_agree_the_later_one_counts(tmp_path: Path) -> None:
    lines = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "a", "b", "a", "c"]
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    config = {"tokenizer_class": "BertTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    reference = transformers.BertTokenizer.from_pretrained(tmp_path)
    assert Tokenizer.from_folder(tmp_path).rows(["a b c"]) == [[1, 7, 6, 8, 2]]
    assert reference("a b c")["input_ids"] == [1, 7, 6, 8, 2]
    # A token that is added would be given the id of the last line.
    config["additional_special_tokens"] = ["<new>"]  # type: ignore[assignment]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"vocab\.txt is damaged.*several have the same id"):
        Tokenizer.from_folder(tmp_path)


def test_the_pieces_of_bert_need_their_frame(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "gpt2", "tokenizer_class": "BertTokenizer"}'
    )
    with pytest.raises(ValueError, match="has no tokenizer"):
        Tokenizer.from_folder(tmp_path)
    for content, message in (
        (b"a\nb\n[UNK]\n[SEP]\n", r"vocab\.txt has no \[CLS\], the cls_token"),
        (b"", r"vocab\.txt has no \[UNK\]"),
        (b"[UNK]\n\xff\xfe\n", r"vocab\.txt cannot be read"),
    ):
        (tmp_path / "vocab.txt").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["FooTokenizer", "XLNetTokenizer", "XLMTokenizerFast", "bart"])
@pytest.mark.parametrize("where", ["tokenizer_config", "config"])
def test_an_unknown_class_is_refused_by_name(tmp_path: Path, name: str, where: str) -> None:
    """Whatever other files there are; the class of the model's type is no substitute."""
    write(tmp_path, "XLMRobertaTokenizer")
    (tmp_path / "tokenizer_config.json").unlink()
    content = {"model_type": "mbart", "tokenizer_class": name}
    if where == "tokenizer_config":
        content.pop("model_type")
    (tmp_path / f"{where}.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"tokenizer_class '{name}', which is not known.*save_pre"):
        Tokenizer.from_folder(tmp_path)
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=f"'{name}', which is not known.*TokenizersBackend"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["TokenizersBackend", "PreTrainedTokenizerFast", "ConvBertTokenizer", "BloomTokenizerFast"],
)
def test_some_classes_are_read_as_tokenizer_json_alone(tmp_path: Path, name: str) -> None:
    write(tmp_path, "XLMRobertaTokenizer", tokenizer_class=name)
    with pytest.raises(ValueError, match=f"'{name}', which is read as tokenizer.json.*save_pre"):
        Tokenizer.from_folder(tmp_path)
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, "a"))
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.from_folder(tmp_path).rows(["b"]) == [[1]]


def test_the_class_counts_and_not_the_type_of_the_model(tmp_path: Path) -> None:
    """CodeT5 is a T5 with RoBERTa's tokenizer; "Fast" behind a name says nothing."""
    write_byte_pairs(tmp_path, TEXTS, BART, model_type="t5")
    for name in ("RobertaTokenizer", "RobertaTokenizerFast", "BartTokenizer", "LEDTokenizerFast"):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
        (ids,) = Tokenizer.from_folder(tmp_path).rows(["the fox"])
        assert (ids[0], ids[-1]) == (0, 2)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    assert Tokenizer.from_folder(tmp_path).rows(["the fox"]) == [ids[1:-1]]


@pytest.mark.parametrize("name", ["T5Tokenizer", "MBartTokenizer", "PegasusTokenizer"])
def test_the_ends_of_texts_are_those_of_the_class(tmp_path: Path, name: str) -> None:
    """Another one would be put there in vain: it is refused, and tokenizer.json can have it."""
    write(tmp_path, "XLMRobertaTokenizer", tokenizer_class=name, eos_token="<end>")
    (tmp_path / "spiece.model").write_bytes((tmp_path / BPE).read_bytes())
    with pytest.raises(ValueError, match=r"tokenizer_config\.json says eos_token is '<end>'"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("file", ["dict.txt", BPE])
def test_missing_files_of_bartpho_are_named(tmp_path: Path, file: str) -> None:
    (write(tmp_path, "BartphoTokenizer") / file).unlink()
    with pytest.raises(ValueError, match=f"neither tokenizer.json nor {file}"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("content", [b"a 1\n\nb 1\n", b"\xff\xfe\n"])
def test_a_damaged_list_of_bartpho_is_named(tmp_path: Path, content: bytes) -> None:
    (write(tmp_path, "BartphoTokenizer") / "dict.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"dict\.txt (has no piece|is not UTF-8)"):
        Tokenizer.from_folder(tmp_path)
