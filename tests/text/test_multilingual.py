"""Tokenizers of NLLB, M2M100, SMaLL-100, PLBart, MADLAD-400 and IndicBART, by their own files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from multilingual import FAIRSEQ, say, write_m2m100, write_nllb, write_plbart
from pieces import pieces_of, train
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import M2M100Tokenizer, NllbTokenizer, PLBartTokenizer, T5Tokenizer
from transformers.models.m2m_100 import tokenization_m2m_100
from transformers.models.nllb import tokenization_nllb

from tritonseq.text.language_codes import FLORES, M2M100
from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

TEXTS = [
    "the quick brown fox",
    "  rain   falls, on old houses ! ",
    "naïve \u4f60\u597d caf\u00e9 12",
    "a </s> b<mask> c <pad>d",
]


def ids_of(tokenizer: Tokenizer, text: str, **languages: Any) -> list[int]:
    return tokenizer.rows([text], **languages)[0]


def assert_same_texts(ours: Tokenizer, theirs: Any, rows: list[list[int]]) -> None:
    for skip in (True, False):
        decoded = [theirs.decode(row, skip_special_tokens=skip) for row in rows]
        assert ours.decode(rows, skip_special_tokens=skip) == decoded


def test_the_codes_are_those_of_transformers() -> None:
    assert list(FLORES) == tokenization_nllb.FAIRSEQ_LANGUAGE_CODES
    assert {name: list(codes) for name, codes in M2M100.items()} == (
        tokenization_m2m_100.FAIRSEQ_LANGUAGE_CODES
    )


@pytest.fixture(scope="module")
def nllb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tokenizer.json, as transformers saves it."""
    return write_nllb(tmp_path_factory.mktemp("nllb"), TEXTS[:2] * 3)


@pytest.mark.parametrize("legacy", [False, True])
def test_nllb_by_its_tokenizer_json(nllb: Path, tmp_path: Path, legacy: bool) -> None:
    (tmp_path / "tokenizer.json").write_bytes((nllb / "tokenizer.json").read_bytes())
    config = json.loads((nllb / "tokenizer_config.json").read_text())
    say(tmp_path, **{**config, "legacy_behaviour": legacy, "src_lang": "eng_Latn"})
    ours, theirs = Tokenizer.from_folder(tmp_path), NllbTokenizer.from_pretrained(tmp_path)
    assert ours.languages() == list(FLORES)
    for code in (None, "fra_Latn", "zul_Latn"):
        theirs.src_lang = code or "eng_Latn"
        for text in TEXTS:
            assert ids_of(ours, text, src_lang=code) == theirs(text)["input_ids"]
    row, code = ids_of(ours, "fox", src_lang="fra_Latn"), ours.language_id("fra_Latn")
    assert (row[-2:] == [2, code]) if legacy else (row[0], row[-1]) == (code, 2)
    assert ours.target_options("deu_Latn") == {
        "forced_bos_token_id": theirs.convert_tokens_to_ids("deu_Latn")
    }
    assert_same_texts(ours, theirs, [[2, code, *theirs(text)["input_ids"]] for text in TEXTS])


def test_nllb_by_sentencepiece_alone(tmp_path: Path) -> None:
    """Its ids are those of fairseq: four tokens, the pieces, the languages, the mask."""
    model = train(tmp_path / "sentencepiece.bpe.model", model_type="bpe", **FAIRSEQ)
    for config in ({"tokenizer_class": "NllbTokenizer"}, {}):
        say(tmp_path, **config)
        (tmp_path / "config.json").write_text('{"model_type": "m2m_100"}')
        ours = Tokenizer.from_folder(tmp_path)
        behind = model.get_piece_size() + 1
        assert ours.language_id("ace_Arab") == behind
        assert ours.language_id("zul_Latn") == behind + 201
        assert ours.token_ids(["<mask>"]) == [behind + 202]
        wanted = [piece + 1 for piece in model.encode("the fox")]
        assert ids_of(ours, "the fox") == [ours.language_id("eng_Latn"), *wanted, 2]


@pytest.mark.parametrize("name", ["fr", "fra", "fra_Latin", "french"])
def test_unknown_codes_of_nllb_get_the_nearest(nllb: Path, name: str) -> None:
    ours = Tokenizer.from_folder(nllb)
    with pytest.raises(ValueError, match=f"'{name}' is no language of this checkpoint.*fra_Latn"):
        ours.target_options(name)


@pytest.mark.parametrize("codes", ["m2m100", "wmt21"])
def test_m2m100_by_its_own_files(tmp_path: Path, codes: str) -> None:
    write_m2m100(tmp_path, codes, src_lang="de", num_madeup_words=8)
    ours, theirs = Tokenizer.from_folder(tmp_path), M2M100Tokenizer.from_pretrained(tmp_path)
    assert ours.languages() == list(M2M100[codes])
    for code in (None, "ja", "__zh__"):
        theirs.src_lang = (code or "de").strip("_")
        for text in (*TEXTS, "go __de__ home"):
            assert ids_of(ours, text, src_lang=code) == theirs(text)["input_ids"]
    for code in ("de", "ja"):
        wanted = {"forced_bos_token_id": theirs.get_lang_id(code)}
        assert ours.target_options(code) == wanted
    with pytest.raises(ValueError, match=r"'deu' is no language of this checkpoint: it has .*de"):
        ours.target_options("deu")
    rows = [[2, theirs.get_lang_id("de"), *theirs(text)["input_ids"]] for text in TEXTS]
    assert_same_texts(ours, theirs, rows)


def test_m2m100_says_what_its_codes_are(tmp_path: Path) -> None:
    write_m2m100(tmp_path)
    say(tmp_path, tokenizer_class="M2M100Tokenizer", language_codes="wmt22")
    with pytest.raises(ValueError, match=r"language_codes is 'wmt22'.*'m2m100' or 'wmt21'"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "vocab.json").unlink()
    say(tmp_path, tokenizer_class="M2M100Tokenizer")
    with pytest.raises(ValueError, match=r"neither tokenizer\.json nor vocab\.json"):
        Tokenizer.from_folder(tmp_path)


def test_small100_tells_the_target_before_its_source(tmp_path: Path) -> None:
    write_m2m100(tmp_path)
    told, named = (say(tmp_path / name) for name in ("told", "named"))
    for folder in (told, named):
        for file in ("vocab.json", "sentencepiece.bpe.model", "special_tokens_map.json"):
            (folder / file).write_bytes((tmp_path / file).read_bytes())
    many = Tokenizer.from_folder(tmp_path)
    say(told, tokenizer_class="SMALL100Tokenizer", tgt_lang="fr")
    say(named, tokenizer_class="SMALL100Tokenizer")
    for folder, usual in ((told, "fr"), (named, "en")):
        ours = Tokenizer.from_folder(folder)
        for code in (None, "ja"):
            wanted = ids_of(many, "the fox", src_lang=code or usual)
            assert ids_of(ours, "the fox", tgt_lang=code) == wanted
        assert ours.target_options("ja") == {}
        assert ours.leaves_target_open(["the fox"]) == (folder is named)
        with pytest.raises(
            ValueError, match=r"src_lang='en': .*not told the language of its source"
        ):
            ids_of(ours, "the fox", src_lang="en")


@pytest.mark.parametrize("codes", ["base", "multi"])
@pytest.mark.parametrize("source", [None, "python"])
def test_plbart_by_its_own_files(tmp_path: Path, codes: str, source: str | None) -> None:
    config = {} if source is None else {"src_lang": source, "tgt_lang": "en_XX"}
    write_plbart(tmp_path, codes, **config)
    ours, theirs = Tokenizer.from_folder(tmp_path), PLBartTokenizer.from_pretrained(tmp_path)
    languages = ["java", "python", "en_XX"]
    languages += ["javascript", "php", "ruby", "go"] if codes == "multi" else []
    assert ours.languages() == languages
    for code in (None, "java", "__en_XX__"):
        if code is not None:
            theirs.src_lang = code
        for text in (*TEXTS[:3], "return x __java__ home"):
            assert ids_of(ours, text, src_lang=code) == theirs(text)["input_ids"]
    start = theirs.convert_tokens_to_ids("__python__")
    assert ours.target_options("python") == {"decoder_start_token_id": start}
    rows = [[2, start, *theirs(text)["input_ids"]] for text in (*TEXTS[:3], "e-mail , no . it 's")]
    assert_same_texts(ours, theirs, rows)


@pytest.mark.parametrize("form", ["tokenizer.json", "spiece.model"])
def test_madlad_is_told_in_its_source(tmp_path: Path, form: str) -> None:
    """Its layout: <unk>, <s> (which pads), </s>, and the languages among the pieces."""
    tokens = {"0": "<unk>", "1": "<s>", "2": "</s>"}
    added = {number: {"content": name, "special": True} for number, name in tokens.items()}
    roles = {"pad_token": "<s>", "unk_token": "<unk>", "eos_token": "</s>"}
    say(
        tmp_path, tokenizer_class="T5Tokenizer", added_tokens_decoder=added, extra_ids=0,
        additional_special_tokens=[], legacy=False, **roles,
    )  # fmt: skip
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    codes = ["en", "de", "zh_Hant"]
    symbols = [f"<2{code}>" for code in codes]
    layout = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
    model = train(tmp_path / "spiece.model", user_defined_symbols=symbols, **layout)
    pieces, charsmap = pieces_of(model)
    theirs = T5Tokenizer(vocab=pieces, _spm_precompiled_charsmap=charsmap, extra_ids=0, **roles)
    if form == "tokenizer.json":
        backend = Backend(models.Unigram(pieces, unk_id=0))
        kept = theirs.backend_tokenizer
        backend.normalizer, backend.pre_tokenizer = kept.normalizer, kept.pre_tokenizer
        backend.decoder, backend.post_processor = kept.decoder, kept.post_processor
        backend.save(str(tmp_path / form))
    ours = Tokenizer.from_folder(tmp_path)
    assert ours.languages() == codes
    for code in codes:
        for text in TEXTS[:2]:
            wanted = theirs(f"<2{code}> {text}")["input_ids"]
            assert ids_of(ours, text, tgt_lang=code) == wanted
            assert model.piece_to_id(f"<2{code}>") in wanted
    assert ours.target_options("de") == {}
    assert ours.leaves_target_open(["the fox"])
    assert not ours.leaves_target_open(["<2de> the fox"])
    # What is unknown is <unk>, where transformers takes the third token, whatever that is.
    assert 0 in ids_of(ours, "fox \u4f60")
    with pytest.raises(ValueError, match="'fr' is no language of this checkpoint"):
        ids_of(ours, "the fox", tgt_lang="fr")


def test_indicbart_is_told_behind_its_source_and_by_its_start(tmp_path: Path) -> None:
    say(
        tmp_path, tokenizer_class="AlbertTokenizer", do_lower_case=False, keep_accents=True,
        bos_token="[CLS]", eos_token="[SEP]", cls_token="[CLS]", sep_token="[SEP]",
        pad_token="<pad>", unk_token="<unk>", mask_token="[MASK]",
    )  # fmt: skip
    (tmp_path / "config.json").write_text('{"model_type": "mbart"}')
    symbols = ["[CLS]", "[SEP]", "[MASK]"]
    layout = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1}
    model = train(tmp_path / "spiece.model", control_symbols=symbols, **layout)
    size = model.get_piece_size()
    added = {name: size + n for n, name in enumerate(["<s>", "</s>", "<2en>", "<2hi>", "<2ta>"])}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    ours = Tokenizer.from_folder(tmp_path)
    assert ours.languages() == ["en", "hi", "ta"]
    wanted = [*model.encode("the fox"), added["</s>"], added["<2hi>"]]
    assert ids_of(ours, "the fox", src_lang="hi") == wanted
    assert ours.target_options("ta") == {"decoder_start_token_id": added["<2ta>"]}
    with pytest.raises(ValueError, match=r"text 0: this checkpoint must be told.*src_lang"):
        ids_of(ours, "the fox")
    by_hand = ours.rows(["the fox </s> <2hi>"], add_special_tokens=False, src_lang="hi")
    assert by_hand == [wanted]


@pytest.mark.parametrize("name", ["IndicTransTokenizer", "PhobertTokenizer", "NLLBTokenizer"])
def test_other_classes_are_refused_by_name(tmp_path: Path, name: str) -> None:
    write_m2m100(tmp_path)
    say(tmp_path, tokenizer_class=name)
    with pytest.raises(ValueError, match=f"tokenizer_class '{name}', which is not known here"):
        Tokenizer.from_folder(tmp_path)


def test_each_text_may_have_languages_of_its_own(nllb: Path) -> None:
    ours = Tokenizer.from_folder(nllb)
    codes = ["fra_Latn", None, "zul_Latn"]
    alone = [ids_of(ours, "the fox", src_lang=code) for code in codes]
    assert ours.rows(["the fox"] * 3, src_lang=codes, tgt_lang=codes) == alone
    with pytest.raises(ValueError, match=r"text 1: 'fr' is no language.*fra_Latn"):
        ours.rows(["the fox"] * 3, src_lang=["fra_Latn", "fr", None])
    with pytest.raises(ValueError, match="2 languages for 3 texts: pass one, or one for each"):
        ours.rows(["the fox"] * 3, src_lang=codes[:2])
