"""Languages: where their tokens stand, what makes a model write one, and codes that it lacks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pieces import FAMILIES, model_of, theirs, write_checkpoint

from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every family, and mBART's also as transformers saves them, with tokenizer.json."""
    root = tmp_path_factory.mktemp("languages")
    folders = {family: write_checkpoint(root / family, family) for family in FAMILIES}
    for family in ("mbart", "mbart50"):
        folders[f"{family}-json"] = root / f"{family}-json"
        theirs(folders[family], family).save_pretrained(folders[f"{family}-json"])
    return folders


def ids_of(tokenizer: Tokenizer, text: str, **options: Any) -> list[int]:
    return tokenizer.encode([text], pad_id=0, **options)[0][0].tolist()


@pytest.mark.parametrize("form", ["", "-json"], ids=["pieces", "json"])
@pytest.mark.parametrize("family", ["mbart", "mbart50"])
def test_the_source_language_overrides_the_saved_one(
    folders: dict[str, Path], family: str, form: str
) -> None:
    ours = Tokenizer.from_folder(folders[family + form])
    reference = theirs(folders[family], family)
    for code in ("en_XX", "ro_RO", "de_DE"):
        reference.src_lang = code
        assert ids_of(ours, "the fox", src_lang=code) == reference("the fox")["input_ids"]
    reference.src_lang = "en_XX"
    assert ids_of(ours, "the fox") == reference("the fox")["input_ids"]


@pytest.mark.parametrize("family", ["mbart", "mbart50"])
def test_the_default_source_language_is_read(family: str, tmp_path: Path) -> None:
    ours = Tokenizer.from_folder(write_checkpoint(tmp_path, family))
    wanted = ids_of(ours, "the fox", src_lang="cs_CZ")
    assert wanted != ids_of(ours, "the fox")
    config = {"tokenizer_class": FAMILIES[family].__name__, "src_lang": "cs_CZ"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert ids_of(Tokenizer.from_folder(tmp_path), "the fox") == wanted


@pytest.mark.parametrize("form", ["", "-json"], ids=["pieces", "json"])
def test_the_order_of_mbarts_tokens(folders: dict[str, Path], form: str) -> None:
    code = model_of(folders["mbart"]).get_piece_size() + 4  # the fourth language
    early, late = (Tokenizer.from_folder(folders[name + form]) for name in ("mbart", "mbart50"))
    assert ids_of(early, "the fox")[-2:] == [2, code]
    framed = ids_of(late, "the fox")
    assert (framed[0], framed[-1]) == (code, 2)
    assert early.language_id("en_XX") == late.language_id("en_XX") == code


@pytest.mark.parametrize("form", ["", "-json"], ids=["pieces", "json"])
def test_what_makes_mbart_write_a_language(folders: dict[str, Path], form: str) -> None:
    early, late = (Tokenizer.from_folder(folders[name + form]) for name in ("mbart", "mbart50"))
    code = early.language_id("ro_RO")
    assert early.target_options("ro_RO") == {"decoder_start_token_id": code}
    assert late.target_options("ro_RO") == {"forced_bos_token_id": code}
    assert len(early.languages()) == 25
    assert len(late.languages()) == 52
    assert ids_of(late, "the fox", tgt_lang="ro_RO") == ids_of(late, "the fox")
    assert late.decode([[code, *ids_of(late, "the fox")]]) == ["the fox"]


def test_a_tokenizer_json_that_names_no_class(folders: dict[str, Path], tmp_path: Path) -> None:
    saved = (folders["mbart50-json"] / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(saved)
    (tmp_path / "config.json").write_text('{"model_type": "mbart"}')
    ours = Tokenizer.from_folder(tmp_path)
    wanted = Tokenizer.from_folder(folders["mbart50"])
    assert ids_of(ours, "the fox", src_lang="af_ZA") == ids_of(wanted, "the fox", src_lang="af_ZA")


def test_marian_is_told_in_its_source(folders: dict[str, Path]) -> None:
    ours = Tokenizer.from_folder(folders["marian"])
    reference = theirs(folders["marian"], "marian")
    wanted = reference([">>deu<< the fox"])["input_ids"][0]
    assert ids_of(ours, "the fox", tgt_lang="deu") == wanted
    assert ours.languages() == ["fra", "deu", "frp"]
    assert ours.language_id("deu") == wanted[0]
    assert ours.target_options("deu") == {}
    with pytest.raises(ValueError, match="src_lang='eng'"):
        ids_of(ours, "the fox", src_lang="eng")


def test_marian_with_two_vocabularies(folders: dict[str, Path], tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "marian")
    shared = json.loads((tmp_path / "vocab.json").read_text())
    moved = {token: len(shared) - 1 - number for token, number in shared.items()}
    (tmp_path / "target_vocab.json").write_text(json.dumps(moved))
    config = {"tokenizer_class": "MarianTokenizer", "separate_vocabs": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, reference = Tokenizer.from_folder(tmp_path), theirs(tmp_path, "marian")
    source = ids_of(ours, "the quick fox")
    assert source == reference("the quick fox")["input_ids"]
    target = reference(text_target="the quick fox")["input_ids"]
    assert target != source
    assert ours.decode([target]) == ["the quick fox"]


@pytest.mark.parametrize("name", ["mbart", "mbart50-json", "marian"])
def test_unknown_languages_get_the_nearest(folders: dict[str, Path], name: str) -> None:
    ours = Tokenizer.from_folder(folders[name])
    code, near = ("frz", "fra") if name == "marian" else ("fr_FR", "fr_XX")
    for ask in (ours.language_id, ours.target_options):
        with pytest.raises(ValueError, match=f"'{code}' is no language of this checkpoint.*{near}"):
            ask(code)
    with pytest.raises(ValueError, match="'</s>' is no language"):
        ours.language_id("</s>")
    with pytest.raises(ValueError, match=f"'{code}' is no language"):
        ids_of(ours, "the fox", tgt_lang=code)


@pytest.mark.parametrize("family", ["t5", "byt5", "pegasus"])
def test_where_there_are_no_languages_the_prefix_is_named(
    folders: dict[str, Path], family: str
) -> None:
    ours = Tokenizer.from_folder(folders[family])
    assert ours.languages() == []
    for ask in (
        ours.language_id,
        ours.target_options,
        lambda code: ids_of(ours, "a", tgt_lang=code),
    ):
        with pytest.raises(ValueError, match=r"'fr': this checkpoint has no languages.*prefix="):
            ask("fr")
    with pytest.raises(ValueError, match="src_lang='fr'"):
        ids_of(ours, "a", src_lang="fr")


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ({"</s>": 0}, r"vocab\.json has no <unk>"),
        ({"<unk>": 0}, r"vocab\.json has no </s>"),
        ({"<unk>": "0", "</s>": 1}, r"vocab\.json must map tokens to ids"),
        ([], r"vocab\.json holds no JSON object"),
    ],
)
def test_damaged_vocabularies_of_marian(tmp_path: Path, vocabulary: object, message: str) -> None:
    write_checkpoint(tmp_path, "marian")
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["source.spm", "target.spm", "vocab.json"])
def test_missing_files_of_marian_are_named(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path, "marian")
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"has no {name}, which Marian's tokenizer needs"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("t5", "spiece.model"),
        ("mbart", "sentencepiece.bpe.model"),
        ("marian", "target.spm"),
        ("marian", "vocab.json"),
        ("t5", "tokenizer.json"),
    ],
)
def test_pointers_of_git_lfs_are_told_from_files(tmp_path: Path, family: str, name: str) -> None:
    write_checkpoint(tmp_path, family)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(ValueError, match=f"{name} is only a Git LFS pointer: run `git lfs pull`"):
        Tokenizer.from_folder(tmp_path)


def test_a_target_that_the_text_says_itself_is_not_said_twice(folders: dict[str, Path]) -> None:
    """The second one would be read as punctuation and unknown letters."""
    ours = Tokenizer.from_folder(folders["marian"])
    wanted = ids_of(ours, "the fox", tgt_lang="fra")
    assert ids_of(ours, ">>fra<< the fox") == wanted
    assert not ours.leaves_target_open([">>fra<< the fox"])
    # Transformers, too, takes it for text behind spaces.
    assert ours.leaves_target_open(["  >>fra<< the fox"])
    for text in (">>fra<< the fox", "  >>fra<< the fox"):
        for code in ("fra", ">>fra<<"):
            assert ids_of(ours, text, tgt_lang=code) == wanted
    assert ids_of(ours, "the fox", tgt_lang="fra", prefix=">>fra<< ") == wanted
    message = r"text 1: it begins with >>fra<<, and tgt_lang says >>deu<<: leave one of them out"
    with pytest.raises(ValueError, match=message):
        ours.rows(["the fox", ">>fra<< the fox"], tgt_lang=[None, "deu"])
    with pytest.raises(ValueError, match="text 0: it begins with >>fra<<"):
        ours.rows([">>fra<< the fox"], tgt_lang="deu")
    # What is no language of the checkpoint is text.
    assert len(ids_of(ours, ">>xyz<< the fox", tgt_lang="fra")) > len(wanted)
