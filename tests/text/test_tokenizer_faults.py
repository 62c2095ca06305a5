"""Damaged and hostile tokenizer files: they are read as they are, or refused by name."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
import tokenizers
from pieces import BART, FAMILIES, theirs, write_byte_pairs, write_checkpoint
from transformers import GPT2Tokenizer

from tritonseq.text.fast import add_tokens, merged_bytes
from tritonseq.text.special_tokens import read_stated
from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS = ["the quick fox", " it's<unk> 🙂 \n a</s>", "x" * 50]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz'", "the"]


SAID: dict[str, Any] = {
    **{"eos_token": {"content": "</s>", "lstrip": False}, "unk_token": "<unk>", "legacy": True},
    **{"model_max_length": 512, "clean_up_tokenization_spaces": True, "sp_model_kwargs": {}},
    **{"truncation_side": "left", "extra_special_tokens": ["<a>", "<b>"], "image_token": "<img>"},
}
SAID_BY: dict[str, dict[str, Any]] = {
    "t5": {"extra_ids": 100, "added_tokens_decoder": {"900": {"content": "<n>", "special": True}}},
    "byt5": {"extra_ids": 125},
    "mbart": {"src_lang": "de_DE", "tgt_lang": "en_XX"},
    "marian": {"separate_vocabs": False, "source_lang": "en"},
    "pegasus": {"offset": 103, "mask_token_sent": "<mask_1>"},
}


def write_all(root: Path) -> dict[str, Path]:
    """One folder for every kind of file."""
    root.mkdir(exist_ok=True)
    folders = {family: write_checkpoint(root / family, family) for family in FAMILIES}
    for family, folder in folders.items():
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | SAID | SAID_BY.get(family, {})))
    for family in ("t5", "mbart50"):
        folders[f"{family}-json"] = root / f"{family}-json"
        theirs(folders[family], family).save_pretrained(folders[f"{family}-json"])
    for kind, special in (("gpt2", ["<|endoftext|>", "<mask>"]), ("bart", BART)):
        folders[kind] = write_byte_pairs(root / kind, TEXTS, special, size=280, model_type=kind)
        (folders[kind] / "added_tokens.json").write_text("{}")
        (folders[kind] / "special_tokens_map.json").write_text('{"eos_token": "<mask>"}')
        folders[f"{kind}-json"] = root / f"{kind}-json"
        folders[f"{kind}-json"].mkdir()
        Tokenizer.from_folder(folders[kind]).backend.save(str(root / f"{kind}-json/tokenizer.json"))
        (root / f"{kind}-json/config.json").write_text(json.dumps({"model_type": kind}))
    folders["bert"] = root / "bert"
    folders["bert"].mkdir()
    (root / "bert" / "vocab.txt").write_text("\n".join(WORDS))
    (root / "bert" / "config.json").write_text('{"model_type": "gpt2"}')
    said = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "eos_token": "[SEP]"}
    (root / "bert" / "tokenizer_config.json").write_text(json.dumps(said))
    return folders


VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2.5, 2**31, 2**32, 2**64, 2**70, "", "x", "\ud800", "</s>"),
    *([], ["a"], {}, {"content": "<new>"}, [[]], "\x00", "▁" * 3, 10**400),
]


def mutated(content: bytes, name: str, draw: random.Random) -> bytes:
    """The content of a file with one thing changed."""
    if name.endswith(".json") and draw.random() < 0.7:
        with contextlib.suppress(ValueError):
            value = json.loads(content)
            _change(value, draw)
            return json.dumps(value).encode()
    kind = draw.randrange(5)
    at = draw.randrange(len(content) + 1)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
    if kind == 2:
        return content[:at] + draw.randbytes(draw.randrange(1, 20)) + content[at:]
    if kind == 3:
        return content[:at] + content[at + draw.randrange(1, 50) :]
    lines = content.splitlines(keepends=True)
    draw.shuffle(lines)
    return b"".join(lines + lines[: draw.randrange(3)])


def _change(value: Any, draw: random.Random) -> None:
    """Change a random place in a JSON value."""
    while isinstance(value, dict | list) and value:
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        child = value[key]
        if isinstance(child, dict | list) and child and draw.random() < 0.8:
            value = child
            continue
        kind = draw.randrange(4)
        if kind == 0:
            del value[key]
        elif kind == 1 and isinstance(value, dict) and draw.random() < 0.3:
            value[str(draw.choice(VALUES))] = value.pop(key)
        else:
            value[key] = draw.choice(VALUES)
        return


def try_one(folders: dict[str, Path], target: Path, seed: int) -> str:
    """Read a mutated copy and use it; the outcome in a word."""
    draw = random.Random(seed)
    source = folders[draw.choice(sorted(folders))]
    names = sorted(path.name for path in source.iterdir() if path.is_file())
    files = [name for name in names if name != "config.json"]
    chosen = draw.choice(files)
    for path in target.iterdir():
        path.unlink()
    times = draw.randint(1, 3)
    for name in names:
        content = (source / name).read_bytes()
        for _ in range(times if name == chosen else 0):
            content = mutated(content, name, draw)
        (target / name).write_bytes(content)
    try:
        tokenizer = Tokenizer.from_folder(target)
    except ValueError as error:
        told = str(error)
        assert str(target) in told or chosen in told, (seed, told)
        assert len(told) < 1000, (seed, told)
        return "refused"
    try:
        rows = tokenizer.rows(TEXTS)
        for row in rows:
            assert all(type(token) is int and 0 <= token < 2**32 for token in row)
    except ValueError as error:
        assert "text" in str(error), (seed, error)
        return "no text"
    for skips in (True, False):
        assert all(
            isinstance(text, str) for text in tokenizer.decode(rows, skip_special_tokens=skips)
        )
        assert len(tokenizer.decode([[0, 5, 10**6, 2**31]], skip_special_tokens=skips)) == 1
    return "read"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("faults"))


def test_all_of_them_are_read_as_they_are(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        tokenizer = Tokenizer.from_folder(folder)
        assert len(tokenizer.decode(tokenizer.rows(TEXTS))) == len(TEXTS)


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_changed_files_are_read_or_refused_by_name(
    folders: dict[str, Path], tmp_path: Path, first: int
) -> None:
    outcomes = {try_one(folders, tmp_path, seed) for seed in range(first, first + 100)}
    assert {"read", "refused"} <= outcomes


@pytest.mark.long
@pytest.mark.parametrize("first", range(300, 2300, 500))
def test_many_changed_files_are_read_or_refused_by_name(
    folders: dict[str, Path], tmp_path: Path, first: int
) -> None:
    for seed in range(first, first + 500):
        try_one(folders, tmp_path, seed)


FORMS = {
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "nowhere": lambda path: path.symlink_to("nowhere"),
    "huge": lambda path: os.truncate(path.open("w").name, 6 * 2**30),
    "pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
}
"""What may stand in the place of a file; nothing is there before."""


@pytest.mark.parametrize("form", FORMS)
def test_every_file_of_a_tokenizer_is_read_as_a_regular_one_only(
    folders: dict[str, Path], tmp_path: Path, form: str
) -> None:
    """It is neither waited for nor overlooked, and not read whatever its size."""
    (folders["gpt2-json"] / "special_tokens_map.json").write_text("{}")
    for kind, source in folders.items():
        for name in sorted(path.name for path in source.iterdir()):
            folder = tmp_path / f"{kind}-{name}"
            shutil.copytree(source, folder)
            (folder / name).unlink()
            FORMS[form](folder / name)
            with pytest.raises(ValueError, match=f"{name}.*(not a file|cannot be|bytes|pointer)"):
                Tokenizer.from_folder(folder)


def saved(folder: Path, vocabulary: dict[str, int], **parts: Any) -> Path:
    """A tokenizer.json of whole words."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "a"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    content = json.loads(backend.to_str()) | parts
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_ids_above_the_size_of_the_vocabulary_are_read(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(saved(tmp_path, {"a": 1000, "b": 2000}))
    assert tokenizer.rows(["a b b"]) == [[1000, 2000, 2000]]
    assert tokenizer.decode([[2000, 0, 5, 2**40]]) == ["b"]


@pytest.mark.parametrize("vocabulary", [{}, {"a": 0}])
def test_a_tokenizer_that_has_no_place_for_a_text_is_refused(
    tmp_path: Path, vocabulary: dict[str, int]
) -> None:
    ends = {"id": "a", "ids": [0], "tokens": ["a"]}
    processor = {
        **{"type": "TemplateProcessing", "special_tokens": {"a": ends}, "pair": []},
        "single": [{"SpecialToken": {"id": "a", "type_id": 0}}],
    }
    folder = saved(tmp_path, vocabulary, post_processor=processor)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(folder).rows(["a"])


@pytest.mark.parametrize("family", ["gpt2", "marian"])
def test_ids_of_two_tokens_are_refused(
    folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    shutil.copytree(folders[family], tmp_path, dirs_exist_ok=True)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    vocabulary["twice"] = 7
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ValueError, match=r"vocab\.json has several tokens of the same id"):
        Tokenizer.from_folder(tmp_path)
    del vocabulary["twice"]
    vocabulary["\ud800"] = 10_000
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ValueError, match=r"vocab\.json has tokens that are not valid Unicode"):
        Tokenizer.from_folder(tmp_path)


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


GROWING: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "replaced": ("normalizer", [replace("e" * 1000, String="e")] * 4),
    "replaced by a pattern": ("normalizer", [replace("ee", Regex="[a-z]")] * 20),
    "between all": ("normalizer", [replace("e", Regex="x*")] * 20),
    "put before": ("normalizer", [{"type": "Prepend", "prepend": "x" * 10**5}]),
    "joined": ("decoder", [replace("t" * 3000, String="t")] * 3),
}


@pytest.mark.parametrize("kind", GROWING)
def test_steps_that_make_texts_beyond_memory_are_refused(tmp_path: Path, kind: str) -> None:
    part, steps = GROWING[kind]
    chain = {"type": "Sequence", f"{part}s": steps}
    with pytest.raises(ValueError, match=rf"tokenizer\.json is refused: its {part} can make"):
        Tokenizer.from_folder(saved(tmp_path, {"a": 0, "b": 1}, **{part: chain}))


def test_steps_that_lengthen_a_text_a_little_are_none_of_these(tmp_path: Path) -> None:
    steps = [{"type": "Prepend", "prepend": "a"}, *[replace("b", String="a")] * 50]
    chain = {"type": "Sequence", "normalizers": [*steps, replace(" ", Regex=" {2,}")]}
    folder = saved(tmp_path, {"a": 0, "bb": 1}, normalizer=chain)
    assert Tokenizer.from_folder(folder).rows(["a"]) == [[1]]


def test_added_tokens_are_added_in_one_call(folders: dict[str, Path], tmp_path: Path) -> None:
    """Each call goes through all tokens that there are: one for each takes the square of them."""
    shutil.copytree(folders["gpt2"], tmp_path, dirs_exist_ok=True)
    more = {f"<{n}>": 1000 + n for n in range(300)}
    size = len(json.loads((tmp_path / "vocab.json").read_text()))
    tokens = {
        str(size + n): {"content": name, "special": n % 3 == 0} for n, name in enumerate(more)
    }
    said = {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": tokens}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    backend = MagicMock(wraps=merged_bytes(tmp_path))
    add_tokens(backend, read_stated(tmp_path, said))
    assert backend.add_tokens.call_count == 1 and not backend.add_special_tokens.called
    ours, reference = Tokenizer.from_folder(tmp_path), GPT2Tokenizer.from_pretrained(tmp_path)
    text = "the <0><1> <299>"
    assert ours.rows([text]) == [reference(text)["input_ids"]]
    assert ours.decode(ours.rows([text])) == [
        reference.decode(reference(text)["input_ids"], skip_special_tokens=True)
    ]


def test_a_token_is_not_added_where_ids_have_a_hole(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """The library counts tokens, and would give it the id of the last one."""
    shutil.copytree(folders["gpt2"], tmp_path, dirs_exist_ok=True)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    size = len(vocabulary)
    vocabulary["behind the hole"] = size + 1
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    Tokenizer.from_folder(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<new>"}')
    with pytest.raises(ValueError, match=r"vocab\.json is damaged.*several have the same id"):
        Tokenizer.from_folder(tmp_path)


def test_a_text_that_the_library_fails_at_is_named(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, "<none>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="text 1: the tokenizer fails at it"):
        Tokenizer.from_folder(tmp_path).rows(["a b", "a c b", "c"])


LONG = 2**19


@pytest.mark.parametrize("kind", ["byt5", "t5", "marian", "bert", "bart"])
@pytest.mark.parametrize("text", [" " * LONG + "a", "the</s> " + "\n" * LONG + "a", ">" * LONG])
def test_the_time_of_a_long_line_grows_with_its_length(
    folders: dict[str, Path], kind: str, text: str
) -> None:
    """Half a minute for each of them would be the square of it: then this never ends."""
    tokenizer = Tokenizer.from_folder(folders[kind])
    (ids,) = tokenizer.rows([text])
    assert ids
    # What swallows white space swallows all of it.
    if kind == "byt5" and text.startswith("the</s>"):
        assert ids == tokenizer.rows(["the</s>a"])[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix": 5}, "prefix is 5: it must be a string"),
        ({"prefix": ["a"]}, r"prefix is \['a'\]"),
        ({"prefix": "\ud800"}, "prefix is not valid Unicode"),
        ({"src_lang": 5}, "src_lang is 5: it must be a string, or a list"),
        ({"src_lang": ""}, "'' is no language"),
        ({"tgt_lang": ["de"]}, "text 0: 'de' is no language"),
    ],
)
def test_what_stands_before_texts_must_be_text(
    folders: dict[str, Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_folder(folders["mbart"]).rows(["the fox"], **options)
