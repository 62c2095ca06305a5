"""A tokenizer.json has the ids that transformers' class of it gives, or is refused by name."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
import transformers
from pieces import model_of, pieces_of, write_checkpoint
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tritonseq.text.language_codes import MBART, MBART50
from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS = [
    "Hello world, this is a test.",
    "The quick  brown fox jumps 12345!",
    "  leading and trailing  ",
    "<s> special </s> inside <mask> here <extra_id_0> x",
    "UPPER Éléphant naïve ½ ﬁ",
    "new\nline\ttab don't",
]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
# A frame of two, and one of the end alone.
FRAME = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
END = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 2)])
TWICE = processors.TemplateProcessing("$A $A", special_tokens=[])
BETWEEN = processors.TemplateProcessing("$A </s> $A", special_tokens=[("</s>", 2)])


def bytes_of() -> Backend:
    """Byte-level BPE, trained on the spot."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS * 5, trainer)
    return backend


def words_of(special: list[str]) -> Backend:
    """Unigram pieces, likewise."""
    backend = Backend(models.Unigram())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(TEXTS * 5, trainer)
    return backend


def berts() -> Backend:
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.normalizer = normalizers.BertNormalizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SPECIAL]
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    backend.train_from_iterator(TEXTS * 5, trainer)
    return backend


T5 = ["<pad>", "</s>", "<unk>", "<s>", "<mask>"]


def write(
    folder: Path, backend: Backend | dict[str, Any], model_type: str = "gpt2", **config: Any
) -> Path:
    content = backend if isinstance(backend, dict) else json.loads(backend.to_str())
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def same(folder: Path, texts: list[str] = TEXTS) -> Tokenizer:
    """Ids and texts are those of AutoTokenizer."""
    ours, theirs = Tokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in texts:
        wanted = theirs(text)["input_ids"]
        assert ours.rows([text]) == [wanted], repr(text)
        for skips in (True, False):
            shown = theirs.decode(wanted, skip_special_tokens=skips)
            assert ours.decode([wanted], skip_special_tokens=skips) == [shown], repr(text)
    return ours


BYTE_CLASSES = [
    *("GPT2Tokenizer", "BartTokenizer", "RobertaTokenizerFast", "LEDTokenizer", "CodeGenTokenizer"),
    *("BlenderbotTokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer", "CohereTokenizer"),
    *("PreTrainedTokenizerFast", "TokenizersBackend", "LlamaTokenizer"),
]
CHANGES: dict[str, dict[str, Any]] = {
    "as trained": {},
    "lower case": {"normalizer": normalizers.Lowercase()},
    "digits": {
        "pre_tokenizer": pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
        )
    },
    "no regex": {"pre_tokenizer": pre_tokenizers.ByteLevel(use_regex=False)},
    "frame": {"post_processor": FRAME},
    "end": {"post_processor": END},
}


@pytest.mark.parametrize("name", BYTE_CLASSES)
@pytest.mark.parametrize("change", CHANGES)
def test_bytes_are_read_as_their_class_has_them(tmp_path: Path, name: str, change: str) -> None:
    backend = bytes_of()
    if name == "BlenderbotTokenizer":  # without it, transformers leaves it out
        backend.post_processor = END
    for part, value in CHANGES[change].items():
        setattr(backend, part, value)
    same(write(tmp_path, backend, tokenizer_class=name, eos_token="</s>"))
    same(write(tmp_path, backend, tokenizer_class=name, add_prefix_space=True))


@pytest.mark.parametrize("kind", ["bart", "gpt2", "led", "blenderbot"])
def test_where_no_class_is_named_that_of_the_model_counts(tmp_path: Path, kind: str) -> None:
    backend = bytes_of()
    if kind == "blenderbot":  # see above
        backend.post_processor = END
    ours = same(write(tmp_path, backend, kind))
    (ids,) = ours.rows(["Hello"])
    assert ((ids[0], ids[-1]) == (0, 2)) is (kind in ("bart", "led"))


@pytest.mark.parametrize("config", [{}, {"legacy": True}, {"add_prefix_space": False}], ids=str)
def test_llamas_words_begin_with_a_space(tmp_path: Path, config: dict[str, Any]) -> None:
    """But for those by bytes, which are left as they are: see above."""
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    backend.train_from_iterator(TEXTS * 5, trainer)
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    same(write(tmp_path, backend, tokenizer_class="LlamaTokenizer", **config))


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
@pytest.mark.parametrize("name", ["T5Tokenizer", "PegasusTokenizer", "CamembertTokenizer", None])
@pytest.mark.parametrize("frame", [None, FRAME, END])
def test_pieces_are_read_as_their_class_has_them(
    tmp_path: Path, scheme: str, name: str | None, frame: Any
) -> None:
    backend = words_of(T5)
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    if frame is not None:
        backend.post_processor = frame
    said = {} if name is None else {"tokenizer_class": name}
    same(write(tmp_path, backend, "t5", **said))


FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@pytest.mark.parametrize("name", ["XLMRobertaTokenizer", "MBartTokenizer", "MBart50Tokenizer"])
@pytest.mark.parametrize("frame", [FRAME, END])
def test_pieces_of_fairseq_too(tmp_path: Path, name: str, frame: Any) -> None:
    backend = words_of([*FAIRSEQ, *(MBART50 if "50" in name else MBART)])
    backend.post_processor = frame
    write(tmp_path, backend, "mbart", tokenizer_class=name)
    ours = same(tmp_path, [text for text in TEXTS if "<s>" not in text])
    assert ("en_XX" in ours.languages()) is (name != "XLMRobertaTokenizer")


@pytest.mark.parametrize("name", ["BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"])
@pytest.mark.parametrize(
    "config",
    [{}, {"do_lower_case": False}, {"cls_token": "<mask>"}, {"sep_token": "<pad>"}],
    ids=str,
)
def test_words_of_bert_too(tmp_path: Path, name: str, config: dict[str, Any]) -> None:
    """They stand in their frame whether tokenizer.json has it or not."""
    backend = berts()
    same(write(tmp_path, backend, tokenizer_class=name, **config))
    backend.normalizer = normalizers.Lowercase()
    backend.post_processor = FRAME
    same(write(tmp_path, backend, tokenizer_class=name, **config))


@pytest.mark.parametrize(
    ("name", "special", "message"),
    [
        ("T5Tokenizer", None, "holds a BPE model, and T5Tokenizer is made for Unigram"),
        ("GPT2Tokenizer", T5, "holds a Unigram model, and GPT2Tokenizer is made for BPE"),
        ("XLMRobertaTokenizer", T5, "the id 2 for what is unknown, and XLMRobertaTokenizer 3"),
        ("MBart50Tokenizer", FAIRSEQ, "none of the languages that MBart50Tokenizer has"),
        ("XLNetTokenizer", T5, "'XLNetTokenizer', which is not known here"),
    ],
)
def test_what_a_class_would_make_another_of_is_refused(
    tmp_path: Path, name: str, special: list[str] | None, message: str
) -> None:
    backend = bytes_of() if special is None else words_of(special)
    write(tmp_path, backend, "mbart", tokenizer_class=name)
    with pytest.raises(ValueError, match=f"{message}.*TokenizersBackend"):
        Tokenizer.from_folder(tmp_path)
    same(write(tmp_path, backend, tokenizer_class="TokenizersBackend"))


def test_words_that_are_unknown_need_a_token(tmp_path: Path) -> None:
    write(tmp_path, berts(), tokenizer_class="BertTokenizer", unk_token="[NONE]")
    with pytest.raises(ValueError, match=r"has no '\[NONE\]', which BertTokenizer writes for"):
        Tokenizer.from_folder(tmp_path)
    same(write(tmp_path, berts(), tokenizer_class="BertTokenizer", unk_token="<unk>"))


def test_a_frame_of_tokens_that_there_are_not_is_refused(tmp_path: Path) -> None:
    write(tmp_path, bytes_of(), tokenizer_class="DebertaTokenizer")
    with pytest.raises(ValueError, match=r"has no \[CLS\], the cls_token of this tokenizer"):
        Tokenizer.from_folder(tmp_path)
    write(tmp_path, bytes_of(), tokenizer_class="BartTokenizer", sep_token=None)
    with pytest.raises(ValueError, match="say that sep_token is null"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "PreTrainedTokenizerFast", "BartTokenizer"])
@pytest.mark.parametrize("frame", [None, FRAME])
@pytest.mark.parametrize("bos", [True, False, None])
@pytest.mark.parametrize("eos", [True, False, None])
def test_tokenizer_json_says_what_stands_around_texts(
    tmp_path: Path, name: str, frame: Any, bos: bool | None, eos: bool | None
) -> None:
    """add_bos_token and add_eos_token are for vocab.json and merges.txt."""
    backend = bytes_of()
    if frame is not None:
        backend.post_processor = frame
    said = {"add_bos_token": bos, "add_eos_token": eos}
    said = {key: value for key, value in said.items() if value is not None}
    same(write(tmp_path, backend, tokenizer_class=name, bos_token="<s>", eos_token="</s>", **said))


@pytest.mark.parametrize("processor", [TWICE, BETWEEN])
@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "GPT2Tokenizer"])
def test_a_template_that_is_no_frame_is_refused(tmp_path: Path, processor: Any, name: str) -> None:
    backend = bytes_of()
    backend.post_processor = processor
    write(tmp_path, backend, tokenizer_class=name)
    with pytest.raises(ValueError, match=r"post_processor of tokenizer\.json does not put"):
        Tokenizer.from_folder(tmp_path)
    # A class that brings its own does not ask for it.
    same(write(tmp_path, backend, tokenizer_class="BartTokenizer"))


@pytest.mark.parametrize("has_tokens", [True, False])
def test_what_the_library_panics_at_is_a_fault_in_words(tmp_path: Path, has_tokens: bool) -> None:
    """Such as an empty pattern; its panics are no Exceptions."""
    content = json.loads(bytes_of().to_str())
    content["normalizer"] = {"type": "Replace", "pattern": {"Regex": ""}, "content": "ab"}
    content["added_tokens"] = content["added_tokens"] if has_tokens else []
    write(tmp_path, content, tokenizer_class="PreTrainedTokenizerFast")
    with pytest.raises(ValueError, match=r"text 0: the tokenizer fails|tokenizer\.json is damaged"):
        Tokenizer.from_folder(tmp_path).rows(["the fox"])


def test_merges_are_never_left_to_chance(tmp_path: Path) -> None:
    content = json.loads(bytes_of().to_str())
    content["model"]["dropout"] = 0.5
    same(write(tmp_path, content, tokenizer_class="GPT2Tokenizer"))
    write(tmp_path, content, tokenizer_class="PreTrainedTokenizerFast")
    with pytest.raises(ValueError, match=r"dropout is 0\.5: the same text would have other ids"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        *(
            ("GPT2Tokenizer", "json"),
            ("PreTrainedTokenizerFast", "json"),
            ("BartTokenizer", "json"),
        ),
        *(("GPT2Tokenizer", "lists"), ("BartTokenizer", "lists")),
    ],
)
@pytest.mark.parametrize(
    "token",
    [
        {"content": "<mask>", "special": True, "lstrip": True, "rstrip": True},
        {"content": "<mask>", "special": False},
        {"content": "he", "special": False, "single_word": True},
    ],
    ids=str,
)
def test_tokens_of_the_vocabulary_have_the_flags_that_are_said(
    tmp_path: Path, name: str, files: str, token: dict[str, Any]
) -> None:
    backend = bytes_of()
    added = {str(backend.token_to_id(token["content"])): token}
    write(tmp_path, backend, tokenizer_class=name, added_tokens_decoder=added)
    if files == "lists":
        backend.model.save(str(tmp_path))
        (tmp_path / "tokenizer.json").unlink()
    # Where no flags are said, masks read from lists differ: see test_loading.py.
    said = files == "json" or token["content"] == "<mask>"
    same(tmp_path, ["the he, hers", f"inside{' ' if said else ''}<mask> here"])


@pytest.mark.parametrize(
    "config",
    [
        {"sep_token": "<pad>"},
        {"cls_token": "<mask>"},
        {"mask_token": "<sp>"},
        {"extra_special_tokens": ["<new>", "<sp>"], "pad_token": "<other>"},
    ],
    ids=str,
)
@pytest.mark.parametrize("files", ["json", "lists"])
def test_the_roles_that_are_said_count(tmp_path: Path, config: dict[str, Any], files: str) -> None:
    backend = bytes_of()
    write(tmp_path, backend, "bart", tokenizer_class="BartTokenizer", **config)
    if files == "lists":
        backend.model.save(str(tmp_path))
        (tmp_path / "tokenizer.json").unlink()
    # Read from lists, the mask takes the space before it: see test_loading.py.
    same(tmp_path, ["a<mask> b", "a <new> b <sp> <other>", "Hello"])


@pytest.mark.parametrize("config", [{}, {"pad_token": "<new>"}, {"extra_special_tokens": ["<a>"]}])
def test_new_tokens_come_behind_those_that_a_class_adds(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    """GPT-2's <|endoftext|> is added where a vocabulary has none."""
    folder = write(tmp_path, bytes_of(), tokenizer_class="GPT2Tokenizer", **config)
    ours = same(folder, [*TEXTS, "x<|endoftext|> <new> <a>"])
    assert ours.token_ids(["<|endoftext|>"]) == [bytes_of().get_vocab_size()]


def test_a_token_that_one_file_adds_and_the_other_leaves_out_is_named(tmp_path: Path) -> None:
    backend = bytes_of()
    backend.add_tokens(["<behind>"])
    added = {"4": {"content": "<mask>", "special": True}}
    write(tmp_path, backend, tokenizer_class="GPT2Tokenizer", added_tokens_decoder=added)
    with pytest.raises(ValueError, match=r"adds the token '<behind>'.*leaves it out"):
        Tokenizer.from_folder(tmp_path)


BYTES: list[dict[str, Any]] = [
    {"additional_special_tokens": ["<new>", "<sp>"]},
    {"mask_token": "<new>"},
    {"sep_token": "<new>", "bos_token": "<sp>"},
    {"image_token": "<new>"},
    {"extra_ids": 3, "mask_token": "<new>"},
]


@pytest.mark.parametrize("config", BYTES, ids=str)
def test_tokens_behind_bytes_have_the_ids_of_transformers(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    said = {"tokenizer_class": "ByT5Tokenizer", **config}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    ours = Tokenizer.from_folder(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("a <new> b", "x<sp>", "<extra_id_0> <extra_id_2>"):
        assert ours.rows([text]) == [theirs(text)["input_ids"]], text


def test_a_tokenizer_json_goes_before_bytes_where_no_class_is_named(tmp_path: Path) -> None:
    same(write(tmp_path, bytes_of(), "byt5"))


# As transformers 4 saved them, and tokenizers before it: what is published.
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
PUBLISHED_BYTES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "post_processor": {**BYTE_LEVEL, "add_prefix_space": True, "trim_offsets": False},
    },
    "bart": {
        "post_processor": {
            **{"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]},
            **{"trim_offsets": True, "add_prefix_space": False},
        },
    },
}


@pytest.mark.parametrize("kind", PUBLISHED_BYTES)
def test_published_bytes_stay_as_they_are(tmp_path: Path, kind: str) -> None:
    content = json.loads(bytes_of().to_str())
    content |= {"pre_tokenizer": BYTE_LEVEL, "decoder": {**BYTE_LEVEL, "add_prefix_space": True}}
    content |= PUBLISHED_BYTES[kind]
    # They have no type; merges are strings; the mask takes the space before it.
    content["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    del content["model"]["type"]
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    content["added_tokens"][4]["lstrip"] = True
    write(tmp_path, content, kind, model_max_length=1024)
    ours = same(tmp_path)
    plain = Backend.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        assert ours.rows([text]) == [plain.encode(text).ids]


METASPACE = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
SPLIT = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}
DOUBLE = {"type": "Replace", "pattern": {"Regex": " {2,}"}}
STRIP = {"type": "Strip", "strip_left": False, "strip_right": True}
# What stands behind the table of equal characters, and the pre-tokenizer.
PUBLISHED: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "first": ([], SPLIT),
    "later": ([{**DOUBLE, "content": " "}], SPLIT),
    "last": ([STRIP, {**DOUBLE, "content": "▁"}], METASPACE),
}
FAMILIES = {"t5": 0, "pegasus": 103, "mbart": 1, "mbart50": 1}


@pytest.mark.parametrize("form", PUBLISHED)
@pytest.mark.parametrize("family", FAMILIES)
def test_published_pieces_have_the_ids_of_their_model(
    tmp_path: Path, form: str, family: str
) -> None:
    """Also where transformers 5 has lost what was in the file: see test_loading.py."""
    model = model_of(write_checkpoint(tmp_path, family))
    steps, words = PUBLISHED[form]
    (tmp_path / next(tmp_path.glob("*.model")).name).rename(tmp_path / "model")
    content = saved(model, family)
    content["pre_tokenizer"] = words
    content["normalizer"]["normalizers"] += steps
    said = json.loads((tmp_path / "tokenizer_config.json").read_text())
    write(tmp_path, content, family.removesuffix("50"), **said)
    ours = Tokenizer.from_folder(tmp_path)
    for text in ("the quick  brown fox", " it's  not true \n", "ﬁre nai\u0308ve", "\u00a0a the"):
        pieces = [piece + FAMILIES[family] for piece in model.encode(text)]
        (bare,) = ours.rows([text], add_special_tokens=False)
        if model.unk_id() not in model.encode(text):
            assert bare == pieces, repr(text)
    (ids,) = ours.rows(["the fox"])
    end, code = ours.backend.token_to_id("</s>"), ours.backend.token_to_id("en_XX")
    before, behind = {"mbart": (None, [end, code]), "mbart50": (code, [end])}.get(
        family, (None, [end])
    )
    assert ids[-len(behind) :] == behind
    assert before in (None, ids[0])


def saved(model: Any, family: str) -> dict[str, Any]:
    """The pieces of a model as the tokenizers library has them, in the order of a family."""
    pieces, charsmap = pieces_of(model)
    unknown = 2
    if family == "pegasus":
        names = ["<pad>", "</s>", "<mask_1>", "<mask_2>", *(f"<unk_{n}>" for n in range(2, 103))]
        pieces, unknown = [(name, 0.0) for name in names] + pieces[2:], 105
    if family[0] == "m":
        codes = MBART50 if family == "mbart50" else MBART
        names = ["<s>", "<pad>", "</s>", "<unk>"]
        pieces = [*((name, 0.0) for name in names), *pieces[3:], *((code, 0.0) for code in codes)]
        pieces, unknown = [*pieces, ("<mask>", 0.0)], 3
    backend = Backend(models.Unigram(pieces, unk_id=unknown))
    backend.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap)])
    backend.decoder = decoders.Metaspace()
    content: dict[str, Any] = json.loads(backend.to_str())
    return content


def test_the_table_of_equal_characters_is_what_it_was(tmp_path: Path) -> None:
    """transformers 5 takes it from the file for T5, and so do we."""
    model = model_of(write_checkpoint(tmp_path, "t5"))
    next(tmp_path.glob("*.model")).unlink()
    content = saved(model, "t5")
    (part,) = content["normalizer"]["normalizers"]
    assert base64.b64decode(part["precompiled_charsmap"])
    write(tmp_path, content, "t5", tokenizer_class="T5Tokenizer")
    same(tmp_path, ["the quick  fox", "ﬁre", "\u00a0a the ", "it's <extra_id_0>"])
