"""What tokenizer_config.json and its companions say is honoured as in transformers, or refused."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import transformers
from pieces import BART, FAMILIES, model_of, theirs, write_byte_pairs, write_checkpoint

from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

TEXTS = [
    "the quick brown fox",
    "  the   dogs  ",
    "x != y , z . do n't we 're ?",
    "a<new>b <new> c  <new>\n",
    "the<|endoftext|> fox </s><mask> dogs",
    "unseen ☃ 🙂🙃 日本語 x",
]


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Byte-level BPE of a GPT-2 and of a BART: vocab.json, merges.txt, config.json."""
    root = tmp_path_factory.mktemp("bpe")
    return {
        kind: write_byte_pairs(root / kind, TEXTS, special, model_type=kind)
        for kind, special in (("gpt2", ["<|endoftext|>"]), ("bart", BART))
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("keys")
    return {family: write_checkpoint(root / family, family) for family in FAMILIES}


CLASSES = {"gpt2": "GPT2Tokenizer", "bart": "BartTokenizer"}


def with_config(source: Path, target: Path, **files: Any) -> Path:
    """A copy of a folder, with other JSON files."""
    if source != target:
        shutil.copytree(source, target, dirs_exist_ok=True)
    for name, content in files.items():
        path = target / f"{name}.json"
        old = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(old | content))
    return target


def both(bpe: dict[str, Path], kind: str, folder: Path, **files: Any) -> tuple[Tokenizer, Any]:
    files.setdefault("tokenizer_config", {})
    files["tokenizer_config"] = {"tokenizer_class": CLASSES[kind], **files["tokenizer_config"]}
    with_config(bpe[kind], folder, **files)
    reference = getattr(transformers, CLASSES[kind]).from_pretrained(folder)
    return Tokenizer.from_folder(folder), reference


def same(ours: Tokenizer, reference: Any) -> None:
    for text in TEXTS:
        (ids,) = ours.rows([text])
        assert ids == reference(text)["input_ids"], repr(text)
        (bare,) = ours.rows([text], add_special_tokens=False)
        assert bare == reference(text, add_special_tokens=False)["input_ids"], repr(text)
        for skips in (True, False):
            wanted = reference.decode(ids, skip_special_tokens=skips)
            assert ours.decode([ids], skip_special_tokens=skips) == [wanted], repr(text)


@pytest.mark.parametrize("form", ["lists", "json"])
@pytest.mark.parametrize("kind", ["gpt2", "bart"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"add_prefix_space": True},
        {"add_prefix_space": False},
        {"add_bos_token": True},
        {"add_bos_token": False, "add_eos_token": True},
        {"add_bos_token": True, "bos_token": "<new>"},
        {"clean_up_tokenization_spaces": True},
        {"clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True}
        | {"clean_up_tokenization_spaces": True},
        {"split_special_tokens": True},
        {"pad_token": "<new>"},
        {"extra_special_tokens": ["<new>", "fox"]},
        {"extra_special_tokens": {"image_token": "<new>"}},
        {"image_token": "<new>"},
        {"do_lower_case": True, "errors": "ignore", "legacy": False, "unknown": None},
    ],
    ids=str,
)
def test_byte_level_bpe_does_as_it_is_told(
    bpe: dict[str, Path], tmp_path: Path, kind: str, config: dict[str, Any], form: str
) -> None:
    ours, reference = both(bpe, kind, tmp_path / "a", tokenizer_config=config)
    if form == "json":
        reference.save_pretrained(tmp_path / "b")
        with_config(tmp_path / "b", tmp_path / "b", tokenizer_config=config)
        (tmp_path / "b" / "config.json").write_text(json.dumps({"model_type": kind}))
        ours = Tokenizer.from_folder(tmp_path / "b")
        reference = getattr(transformers, CLASSES[kind]).from_pretrained(tmp_path / "b")
    same(ours, reference)


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("form", ["decoder", "map", "file"])
def test_added_tokens_have_their_flags(
    bpe: dict[str, Path], tmp_path: Path, flag: str, special: bool, form: str
) -> None:
    size = len(json.loads((bpe["gpt2"] / "vocab.json").read_text()))
    token = {"content": "<new>", flag: True, "normalized": False}
    files: dict[str, Any]
    if form == "decoder":
        files = {
            "tokenizer_config": {"added_tokens_decoder": {size: {**token, "special": special}}}
        }
    elif form == "map":
        files = {"special_tokens_map": {"pad_token": token}}
    else:
        files = {"added_tokens": {"<new>": size, "fox": size + 1}}
        if special:
            files["special_tokens_map"] = {"pad_token": "fox"}
    ours, reference = both(bpe, "gpt2", tmp_path, **files)
    assert ours.token_ids(["<new>"]) == [size]
    same(ours, reference)


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens": {"<new>": 500}},
        {"added_tokens": {"the": 500}},
        {"tokenizer_config": {"added_tokens_decoder": {"5": {"content": "<new>"}}}},
    ],
    ids=str,
)
def test_ids_that_differ_from_those_of_the_vocabulary_are_refused(
    bpe: dict[str, Path], tmp_path: Path, files: dict[str, Any]
) -> None:
    with_config(bpe["gpt2"], tmp_path, **files)
    with pytest.raises(ValueError, match=r"has the id (5|500), and in the vocabulary it has"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("family", ["t5", "mbart", "marian", "byt5", "pegasus"])
@pytest.mark.parametrize("side", ["left", "right", None])
def test_texts_are_cut_on_the_side_that_is_said(
    folders: dict[str, Path], tmp_path: Path, family: str, side: str | None
) -> None:
    config = {} if side is None else {"truncation_side": side}
    ours = Tokenizer.from_folder(with_config(folders[family], tmp_path, tokenizer_config=config))
    reference = theirs(tmp_path, family)
    text = "the quick brown fox jumps over lazy dogs"
    for unsaid in ("left", "right"):
        reference.truncation_side = side or unsaid
        for length in (4, 7, 1000):
            cut = reference(text, truncation=True, max_length=length)["input_ids"]
            assert ours.rows([text], max_length=length, truncation_side=unsaid) == [cut]


def test_the_side_that_tokenizer_json_was_saved_with_counts(
    bpe: dict[str, Path], tmp_path: Path
) -> None:
    backend = Tokenizer.from_folder(bpe["bart"]).backend
    backend.enable_truncation(max_length=5, direction="left")
    with_config(bpe["bart"], tmp_path, tokenizer_config={"tokenizer_class": "BartTokenizer"})
    backend.save(str(tmp_path / "tokenizer.json"))
    ours, reference = (
        Tokenizer.from_folder(tmp_path),
        transformers.BartTokenizer.from_pretrained(tmp_path),
    )
    assert reference.truncation_side == "left"
    (end,) = ours.rows(["the quick brown fox"], max_length=6, add_special_tokens=False)
    assert end == ours.rows(["the quick brown fox"], add_special_tokens=False)[0][-6:]


@pytest.mark.parametrize("family", ["t5", "marian", "byt5", "mbart"])
@pytest.mark.parametrize("said", [True, False, None])
@pytest.mark.parametrize("asked", [True, False, None])
def test_spaces_before_punctuation_go_if_that_is_said(
    folders: dict[str, Path], tmp_path: Path, family: str, said: bool | None, asked: bool | None
) -> None:
    config = {"clean_up_tokenization_spaces": said}
    ours = Tokenizer.from_folder(with_config(folders[family], tmp_path, tokenizer_config=config))
    reference = theirs(tmp_path, family)
    reference.clean_up_tokenization_spaces = bool(said)
    ids = ours.rows(["the fox , it 's ! true ."])
    wanted = reference.decode(ids[0], skip_special_tokens=True, clean_up_tokenization_spaces=asked)
    mine = ours.decode(ids, clean_up_tokenization_spaces=asked)
    assert [text.strip() for text in mine] == [wanted.strip()]
    assert ("fox ," in mine[0]) is not (said if asked is None else asked)


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_are_kept_if_they_are_asked_for(
    folders: dict[str, Path], family: str
) -> None:
    ours, reference = Tokenizer.from_folder(folders[family]), theirs(folders[family], family)
    for text in ("the quick fox", "the</s>fox", "<unk> it's<pad>true", "<extra_id_0> the"):
        (ids,) = ours.rows([text])
        row = [reference.pad_token_id, *ids, reference.pad_token_id]
        wanted = reference.decode(row, skip_special_tokens=False)
        assert ours.decode([row], skip_special_tokens=False) == [wanted], repr(text)
        (bare,) = ours.rows([text], add_special_tokens=False)
        assert bare == reference(text, add_special_tokens=False)["input_ids"]


def test_added_tokens_of_a_sentencepiece_model_have_their_flags(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    size = model_of(folders["t5"]).get_piece_size() + 100
    plain = {"special": False, "normalized": False}
    tokens = {
        size: {"content": "<word>", "single_word": True, **plain},
        size + 1: {"content": "<left>", "lstrip": True, **plain},
    }
    config = {"added_tokens_decoder": tokens, "additional_special_tokens": ["<more>"]}
    ours = Tokenizer.from_folder(with_config(folders["t5"], tmp_path, tokenizer_config=config))
    reference = theirs(folders["t5"], "t5")
    for token in tokens.values():
        reference.add_tokens(transformers.AddedToken(**token))
    reference.add_tokens("<more>", special_tokens=True)
    for text in ("the <word> fox<word>es", "<word>the  <left>fox", "a<more>b", "the<word>,fox"):
        assert ours.rows([text]) == [reference(text)["input_ids"]], text


BAD = [
    ({"truncation_side": "middle"}, "truncation_side is 'middle': it must be 'left' or 'right'"),
    ({"padding_side": 1}, "padding_side is 1"),
    ({"do_lower_case": "yes"}, "do_lower_case is 'yes': it must be true or false"),
    ({"add_prefix_space": 1.5}, "add_prefix_space is 1.5"),
    ({"clean_up_tokenization_spaces": []}, r"clean_up_tokenization_spaces is \[\]"),
    ({"model_max_length": "512"}, "model_max_length is '512': it must be a number"),
    ({"model_max_length": True}, "model_max_length is True"),
    *(({"model_max_length": n}, f"model_max_length is {n}") for n in (-5, 0, 3.5)),
    ({"model_max_length": float("nan")}, "model_max_length is nan: it must be a number of tokens"),
    ({"max_len": [5]}, r"max_len is \[5\]"),
    ({"extra_ids": -1}, "extra_ids is -1: it must be a number of tokens"),
    ({"extra_ids": 10**9}, "extra_ids is 1000000000"),
    ({"extra_ids": "3"}, "extra_ids is '3'"),
    ({"src_lang": 5}, "src_lang is 5: it must be a string"),
    ({"tokenizer_class": ["T5Tokenizer"]}, "tokenizer_class is"),
    ({"sp_model_kwargs": {"enable_sampling": True}}, "sp_model_kwargs is {'enable_sampling'"),
    ({"never_split": ["the"]}, "never_split is"),
    ({"do_basic_tokenize": False}, "do_basic_tokenize is False, which is not supported"),
    ({"remove_space": False}, "remove_space is False"),
    ({"auto_map": {"AutoTokenizer": ["x.Y", None]}}, "auto_map.*code of the checkpoint"),
    ({"auto_map": ["x.Y", None]}, "auto_map.*code of the checkpoint"),
    ({"split_special_tokens": True}, "split_special_tokens, which is supported for tokenizer.json"),
    ({"dropout": 0.1}, "the key 'dropout', which is not known here"),
    ({"vocabulary_offset": 0}, "the key 'vocabulary_offset', which is not known here"),
    ({"eos_token": "<end>"}, "eos_token is '<end>', and that of T5Tokenizer is '</s>'"),
    ({"unk_token": 5}, "names special tokens in a form"),
    ({"pad_token": False}, "names special tokens in a form"),
    ({"foo_token": 5}, "foo_token is 5: it must be a token"),
    ({"foo_token": ["<foo>"]}, "it must be a token"),
    ({"extra_special_tokens": "<a>"}, "extra_special_tokens: it is '<a>', not a list"),
    ({"additional_special_tokens": {"a": "<a>"}}, "additional_special_tokens: it is"),
    ({"pad_token": {"content": "<pad>", "strip": True}}, "the unknown key 'strip'"),
    ({"pad_token": "\ud800"}, "no valid Unicode"),
    ({"added_tokens_decoder": {"99999999999": {"content": "<a>"}}}, "not a token id"),
    ({"added_tokens_decoder": {"7": {"content": "<a>"}, "07": {"content": "<b>"}}}, "id 7 twice"),
]


@pytest.mark.parametrize(("config", "message"), BAD, ids=[str(config) for config, _ in BAD])
def test_what_cannot_be_honoured_is_refused_by_name(
    folders: dict[str, Path], tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    folder = with_config(folders["t5"], tmp_path, tokenizer_config=config)
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.from_folder(folder)
    assert "tokenizer_config.json" in str(caught.value)


def test_the_map_of_special_tokens_has_known_keys_too(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = with_config(folders["t5"], tmp_path, special_tokens_map={"dropout": 1})
    with pytest.raises(ValueError, match=r"special_tokens_map\.json has the key 'dropout'"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"<a>": "5"}, "maps to '5'"),
        ({"<a>": True}, "maps to True"),
        ({"<a>": -1}, "maps to -1"),
        ({"<a>": 500, "<b>": 500}, "two tokens have the same id"),
    ],
)
def test_malformed_added_tokens_name_their_file(
    folders: dict[str, Path], tmp_path: Path, added: dict[str, Any], message: str
) -> None:
    folder = with_config(folders["t5"], tmp_path, added_tokens=added)
    with pytest.raises(ValueError, match=rf"added_tokens\.json names.*{message}"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize("said", [{}, {"special": False}, {"special": True}, {"lstrip": True}])
@pytest.mark.parametrize("key", ["additional_special_tokens", "extra_special_tokens"])
@pytest.mark.parametrize("kind", ["gpt2", "marian"])
def test_a_token_in_a_list_is_special_if_its_object_says_so(
    bpe: dict[str, Path], folders: dict[str, Path], tmp_path: Path, kind: str, key: str,
    said: dict[str, bool],
) -> None:  # fmt: skip
    """Marian's is, whatever it says: its class is not one of the library's."""
    token = {"__type": "AddedToken", "content": "<x>", **said}
    name = {"gpt2": "GPT2Tokenizer", "marian": "MarianTokenizer"}[kind]
    config = {"tokenizer_class": name, key: [token]}
    folder = with_config({**bpe, **folders}[kind], tmp_path, tokenizer_config=config)
    ours = Tokenizer.from_folder(folder)
    reference = getattr(transformers, name).from_pretrained(folder)
    ids = reference("the <x> fox", add_special_tokens=False)["input_ids"]
    assert ours.rows(["the <x> fox"], add_special_tokens=False) == [ids]
    assert ours.decode([ids]) == [reference.decode(ids, skip_special_tokens=True)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["decoder", "file"])
def test_an_id_that_another_token_has_is_refused(
    folders: dict[str, Path], tmp_path: Path, family: str, form: str
) -> None:
    """Else what was that token before comes out as the new one."""
    said = {"added_tokens": {"<new>": 50}}
    if form == "decoder":
        said = {"tokenizer_config": {"added_tokens_decoder": {"50": {"content": "<new>"}}}}
    folder = with_config(folders[family], tmp_path, **said)
    with pytest.raises(ValueError, match="'<new>' has the id 50, which in the vocabulary is that"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize("pad", ["<new>", "</s>", "<unk>"])
def test_padding_of_another_name_leaves_marian_s_to_the_text(
    folders: dict[str, Path], tmp_path: Path, pad: str
) -> None:
    said = {"tokenizer_class": "MarianTokenizer", "pad_token": pad}
    folder = with_config(folders["marian"], tmp_path, tokenizer_config=said)
    ours, reference = (
        Tokenizer.from_folder(folder),
        transformers.MarianTokenizer.from_pretrained(folder),
    )
    ids = reference("the <pad> fox <new> it")["input_ids"]
    assert ours.rows(["the <pad> fox <new> it"]) == [ids]
    row = [*ids, reference.convert_tokens_to_ids("<pad>")]
    for skips in (True, False):
        wanted = reference.decode(row, skip_special_tokens=skips)
        assert ours.decode([row], skip_special_tokens=skips) == [wanted]


@pytest.mark.parametrize("said", ["add_bos_token", "add_eos_token"])
@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("family", ["t5", "pegasus", "mbart", "mbart50", "marian"])
def test_ends_that_a_class_does_not_ask_for_have_no_effect(
    folders: dict[str, Path], tmp_path: Path, family: str, said: str, value: bool
) -> None:
    """As in transformers, whose classes of these families set their own."""
    before = json.loads((folders[family] / "tokenizer_config.json").read_text())
    folder = with_config(folders[family], tmp_path, tokenizer_config={**before, said: value})
    reference = Tokenizer.from_folder(folders[family])
    assert Tokenizer.from_folder(folder).rows(["the fox"]) == reference.rows(["the fox"])


# As they were published: what they say must not keep a checkpoint from being read.
PUBLISHED: dict[str, dict[str, Any]] = {
    "t5": {
        "additional_special_tokens": [f"<extra_id_{n}>" for n in range(100)],
        **{"eos_token": "</s>", "extra_ids": 100, "model_max_length": 512, "pad_token": "<pad>"},
        **{"sp_model_kwargs": {}, "special_tokens_map_file": "/x/y.json", "unk_token": "<unk>"},
        **{"name_or_path": "t5-small", "legacy": True, "tokenizer_file": None},
    },
    "byt5": {
        "additional_special_tokens": [f"<extra_id_{n}>" for n in range(125)],
        "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False}
        | {"normalized": True, "rstrip": False, "single_word": False},
        **{"extra_ids": 0, "pad_token": "<pad>", "unk_token": "<unk>"},
    },
    "mbart50": {
        **{"src_lang": "en_XX", "tgt_lang": None, "language_codes": None, "bos_token": "<s>"},
        **{"additional_special_tokens": ["ar_AR", "cs_CZ"], "sp_model_kwargs": {}},
        "mask_token": {"content": "<mask>", "single_word": False, "lstrip": True}
        | {"rstrip": False, "normalized": True, "__type": "AddedToken"},
    },
    "marian": {
        **{
            "source_lang": "en",
            "target_lang": "fr",
            "model_max_length": 512,
            "sp_model_kwargs": {},
        },
        **{"separate_vocabs": False, "return_tensors": "pt", "special_tokens_map_file": None},
    },
    "pegasus": {
        **{"offset": 103, "mask_token": "<mask_2>", "mask_token_sent": "<mask_1>"},
        "additional_special_tokens": ["<mask_1>", *(f"<unk_{n}>" for n in range(2, 103))],
        **{"full_tokenizer_file": None, "max_length": 128, "stride": 0},
        **{"pad_to_multiple_of": None, "pad_token_type_id": 0, "truncation_strategy": "only_first"},
        **{"truncation_side": "right", "padding_side": "right"},
    },
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_published_configurations_change_nothing_by_what_is_usual(
    folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    folder = with_config(folders[family], tmp_path, tokenizer_config=PUBLISHED[family])
    ours, plain = Tokenizer.from_folder(folder), Tokenizer.from_folder(folders[family])
    text = "the quick fox <extra_id_0> <mask_1>"
    assert ours.rows([text]) == plain.rows([text])
    assert ours.decode(ours.rows([text])) == plain.decode(plain.rows([text]))
