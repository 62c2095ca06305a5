"""`generate_text` of encoder-decoder models gives the texts of transformers, from text to text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import seq2seq
from pieces import theirs, write_checkpoint

import tritonseq

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

# tokenizer -> network
NETWORKS = {
    "t5": "t5",
    "byt5": "t5",
    "pegasus": "pegasus",
    "mbart": "mbart",
    "mbart50": "mbart",
    "marian": "marian",
}
TEXTS = ["the quick brown fox", "it's a lazy dog", "rain falls on old houses near river 1999 !"]
LONG = [" ".join(TEXTS) + f" {' '.join(TEXTS)}" * 9, "a house"]
POSITIONS = 64
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 12},
    "beams": {"max_new_tokens": 10, "num_beams": 3, "num_return_sequences": 2},
}


class Both(NamedTuple):
    """One folder in both engines."""

    tokenizer: Any
    model: Any
    ours: tritonseq.Model

    def expected(
        self, texts: list[str], *, positions: int | None = None, **options: Any
    ) -> list[str]:
        """Tokenized, padded on the right, generated and decoded by transformers."""
        batch = self.tokenizer(
            texts,
            padding=True,
            padding_side="right",
            truncation=positions is not None,
            max_length=positions,
            return_tensors="pt",
        )
        mask = batch["attention_mask"]
        ids = self.model.generate(batch["input_ids"], attention_mask=mask, **options)
        decoded: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return decoded


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Both]:
    root = tmp_path_factory.mktemp("text")
    return {family: both_of(root / family, family) for family in NETWORKS}


def both_of(folder: Path, family: str) -> Both:
    """A random network beside a tokenizer whose vocabulary it has."""
    tokenizer = theirs(write_checkpoint(folder, family), family)
    config: dict[str, Any] = {"vocab_size": len(tokenizer)}
    if family == "marian":
        pad = tokenizer.pad_token_id
        config |= {"pad_token_id": pad, "decoder_start_token_id": pad, "bad_words_ids": [[pad]]}
        config |= {"eos_token_id": 0, "forced_eos_token_id": 0}
    model = seq2seq.hf_model(NETWORKS[family], seed=3, **config)
    model.save_pretrained(folder)
    return Both(tokenizer, model, tritonseq.load(folder, device="cpu"))


def same(mine: list[str], wanted: list[str]) -> None:
    """Where a text starts with two marks of spaces, transformers keeps the second."""
    assert [text.lstrip(" ") for text in mine] == [text.lstrip(" ") for text in wanted]
    assert len(set(mine)) > 1, "the model always says the same"


@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("family", NETWORKS)
def test_texts_equal_transformers(
    both: dict[str, Both], family: str, options: dict[str, Any]
) -> None:
    pair = both[family]
    plain = pair.expected(TEXTS, **options)
    same(pair.ours.generate_text(TEXTS, **options), plain)
    prefixed = pair.expected([f"summarize: {text}" for text in TEXTS], **options)
    assert prefixed != plain
    same(pair.ours.generate_text(TEXTS, prefix="summarize: ", **options), prefixed)


@pytest.mark.parametrize("family", ["pegasus", "mbart", "mbart50", "marian"])
def test_long_texts_are_cut_to_the_positions_when_asked(both: dict[str, Both], family: str) -> None:
    pair = both[family]
    wanted = pair.expected(LONG, positions=POSITIONS, max_new_tokens=8)
    same(pair.ours.generate_text(LONG, truncation=True, max_new_tokens=8), wanted)
    ids, _ = pair.ours.tokenize(LONG, truncation=True)
    assert ids.shape == (2, POSITIONS)
    with pytest.raises(ValueError, match="truncation=True"):
        pair.ours.generate_text(LONG, max_new_tokens=8)


@pytest.mark.parametrize(
    ("family", "option"),
    [("mbart", "decoder_start_token_id"), ("mbart50", "forced_bos_token_id")],
)
def test_mbart_reads_one_language_and_writes_another(
    both: dict[str, Both], family: str, option: str
) -> None:
    pair = both[family]
    ask: dict[str, Any] = {"src_lang": "fr_XX", "tgt_lang": "de_DE", "max_new_tokens": 8}
    german, romanian = pair.tokenizer.convert_tokens_to_ids(["de_DE", "ro_RO"])
    before = pair.tokenizer.src_lang
    pair.tokenizer.src_lang = "fr_XX"
    try:
        wanted = [
            pair.expected(TEXTS, max_new_tokens=8, **{option: token})
            for token in (german, romanian)
        ]
    finally:
        pair.tokenizer.src_lang = before
    assert wanted[0] != wanted[1]
    same(pair.ours.generate_text(TEXTS, **ask), wanted[0])
    # Who names the option himself is obeyed.
    same(pair.ours.generate_text(TEXTS, **ask, **{option: romanian}), wanted[1])


def test_marian_is_told_the_target_in_its_source(both: dict[str, Both]) -> None:
    pair = both["marian"]
    options: dict[str, Any] = {"max_new_tokens": 8, "num_beams": 2}
    wanted = {
        code: pair.expected([f">>{code}<< {text}" for text in TEXTS], **options)
        for code in ("deu", "fra")
    }
    assert wanted["deu"] != wanted["fra"]
    for code, texts in wanted.items():
        same(pair.ours.generate_text(TEXTS, tgt_lang=code, **options), texts)


def test_a_task_brings_its_prefix_and_its_options(tmp_path: Path) -> None:
    pair = both_of(tmp_path, "t5")
    options = {"num_beams": 2, "max_length": 8, "min_length": 6}
    config = json.loads((tmp_path / "config.json").read_text())
    config["task_specific_params"] = {"translation": {"prefix": "translate: ", **options}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = tritonseq.load(tmp_path, device="cpu")
    prefixed = pair.expected([f"translate: {text}" for text in TEXTS], **options)
    plain = pair.expected(TEXTS, **options)
    assert prefixed != plain
    same(ours.generate_text(TEXTS, task="translation"), prefixed)
    same(ours.generate_text(TEXTS, task="translation", prefix=""), plain)
    short = pair.expected([f"translate: {text}" for text in TEXTS], **{**options, "max_length": 7})
    same(ours.generate_text(TEXTS, task="translation", max_length=7), short)
    with pytest.raises(ValueError, match=r"'summary' is not among .*it has translation"):
        ours.generate_text(TEXTS, task="summary")


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("t5", {"tgt_lang": "de"}, "'de': this checkpoint has no languages"),
        ("t5", {"task": "summary"}, "'summary' is not among .*it has none"),
        ("mbart50", {"tgt_lang": "de"}, "'de' is no language"),
        ("mbart", {"src_lang": "xx"}, "'xx' is no language"),
        ("marian", {"src_lang": "eng"}, "src_lang='eng'"),
        ("byt5", {"input_ids": [[1]]}, "input_ids is for generate"),
    ],
)
def test_faults_are_named(
    both: dict[str, Both], family: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        both[family].ours.generate_text(TEXTS, **options)
