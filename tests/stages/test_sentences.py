"""Texts are cut into sentences and joined again: nothing is lost, whatever stands between."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pieces import write_checkpoint, write_fsmt
from seq2seq import hf_model

import tritonseq
from tritonseq.decoding.completion import Completion, together
from tritonseq.sentences import Parts, joined, split, splitting
from tritonseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:this checkpoint writes")
ENGLISH = splitting("en")


def test_abbreviations_quotes_and_paragraphs() -> None:
    text = ' Dr. Smith came at 3 p.m. on Jan. 5.  "Really?" she said.\n\nNew paragraph. Bye '
    parts = split(text, ENGLISH)
    assert parts == Parts(
        ["Dr. Smith came at 3 p.m. on Jan. 5.", '"Really?" she said.', "New paragraph.", "Bye"],
        ["  ", "\n\n", " "],
    )
    assert parts.joined(parts.sentences) == text.strip()


def test_what_is_cut_is_the_text_to_the_last_space() -> None:
    draw = random.Random(3)
    words = [
        "Mr.",
        "a",
        "End.",
        "What?",
        "No!",
        "3.5",
        "e.g.",
        "\n",
        "\t",
        "  ",
        "...",
        "\u3002",
        "x",
    ]
    for _ in range(60):
        text = " ".join(draw.choices(words, k=draw.randint(1, 25)))
        parts = split(text, ENGLISH)
        if text.strip():
            whole = "".join(a + b for a, b in zip(parts.sentences, [*parts.gaps, ""], strict=True))
            assert whole == text.strip()
            assert all(sentence == sentence.strip() for sentence in parts.sentences)


@pytest.mark.parametrize(
    ("outputs", "gaps", "whole"),
    [
        (["Ja.", "Nein."], [""], "Ja. Nein."),
        (["Ja.", "Nein."], ["  "], "Ja.  Nein."),
        (["\u662f\u3002", "\u4e0d\u3002"], [" "], "\u662f\u3002\u4e0d\u3002"),
        (["\u7528iPhone", "\u4e0d\u3002"], [" "], "\u7528iPhone\u4e0d\u3002"),
        (["\u662f\u3002", "\u4e0d\u3002"], ["\n\n"], "\u662f\u3002\n\n\u4e0d\u3002"),
        (["\ub124.", "\uc544\ub2c8."], [""], "\ub124. \uc544\ub2c8."),
        (["", "Nein.", ""], [" ", "\n"], "Nein."),
        ([" as it is "], [], " as it is "),
    ],
)
def test_what_stands_between_outputs(outputs: list[str], gaps: list[str], whole: str) -> None:
    assert joined(outputs, gaps) == whole


def test_languages_by_the_codes_of_every_checkpoint() -> None:
    for code in ("de", "de_DE", "deu_Latn", "deu"):
        assert splitting(code).language == "de"
    assert splitting("zho_Hans").language == splitting("zh_CN").language == "zh"
    assert (
        len(
            split(
                "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002\u6211\u4eec\u8d70\u5427!",
                splitting("zh"),
            ).sentences
        )
        == 2
    )
    with pytest.raises(ValueError, match="'tha_Thai' is Thai, whose sentences end without a mark"):
        splitting("tha_Thai")
    for code in ("English", "", "ROMANCE", ">>de<<"):
        with pytest.raises(ValueError, match="is no code of a language such as 'en'"):
            splitting(code)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(ValueError, match=r"pip install 'tritonseq\[sentences\]'"):
        splitting("en")


def test_what_is_no_text_stays_whole() -> None:
    for text in (["to", "kens"], "a. B\ud800. C.", 3, ""):
        assert split(text, ENGLISH) == Parts([text])
    assert split("One. Two.", None) == Parts(["One. Two."])


def test_scores_are_summed_and_one_fault_is_that_of_all() -> None:
    parts = [Completion([[n], [n + 1]], [-0.5, -1.0], 2) for n in range(3)]
    assert together(parts) == Completion([[0], [1], [1], [2], [2], [3]], [-1.5, -3.0], 6)
    assert together([*parts, Completion(fault="no")]).fault == "sentence 4: no"


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> tritonseq.Model:
    folder = write_checkpoint(tmp_path_factory.mktemp("sentences"), "marian")
    pad = 215
    config: dict[str, Any] = {"pad_token_id": pad, "decoder_start_token_id": pad}
    config |= {"eos_token_id": 0, "forced_eos_token_id": 0, "bad_words_ids": [[pad]]}
    hf_model("marian", seed=3, vocab_size=216, **config).save_pretrained(folder)
    return tritonseq.load(folder, device="cpu")


TEXTS = [
    "the quick brown fox. It's a lazy dog!  Rain falls?",
    "",
    "old houses near river",
    "We go home.\n\nThe end. >>x<<",
    "fox. " * 12,
]


@pytest.mark.parametrize("options", [{}, {"num_beams": 2, "num_return_sequences": 2}])
def test_each_sentence_is_answered_as_alone(marian: tritonseq.Model, options: Any) -> None:
    how = {"max_new_tokens": 8, **options}
    copies = options.get("num_return_sequences", 1)
    expected = []
    for text in TEXTS:
        parts = split(text, ENGLISH)
        alone = marian.generate_text(list(parts.sentences), **how)
        expected.append([parts.joined(alone[copy::copies]) for copy in range(copies)])
    found = marian.generate_text(TEXTS, split_sentences="en", batch_size=3, **how)
    assert found == [text for texts in expected for text in texts]
    results = list(tritonseq.pipeline(marian, TEXTS, split_sentences="en", batch_size=3, **how))
    assert [result.texts for result in results] == expected
    assert [result.index for result in results] == list(range(len(TEXTS)))
    if copies > 1:
        first = split(TEXTS[0], ENGLISH).sentences
        each = [result.scores for result in tritonseq.pipeline(marian, first, **how)]
        sums = [sum(scores) for scores in zip(*each, strict=True)]
        assert results[0].scores == pytest.approx(sums, abs=1e-4)


def test_a_language_named_in_the_text_is_that_of_all_its_sentences(marian: tritonseq.Model) -> None:
    how: dict[str, Any] = {"max_new_tokens": 6}
    named = marian.generate_text([">>deu<< We go. Home."], split_sentences="en", **how)
    assert named == marian.generate_text(
        ["We go. Home."], tgt_lang="deu", split_sentences="en", **how
    )


def test_faults_of_one_sentence_are_those_of_the_text(marian: tritonseq.Model) -> None:
    texts = ["It is. " + "fox " * 80 + ". The end.", "It is. The end."]
    results = list(tritonseq.pipeline(marian, texts, split_sentences="en", max_new_tokens=4))
    assert results[0].fault is not None
    assert results[0].fault.startswith("sentence 2: the text has ")
    assert results[1].fault is None
    with pytest.raises(ValueError, match=r"text 1: sentence 2 has .* tokens"):
        marian.generate_text(texts[::-1], split_sentences="en", max_new_tokens=4)
    with pytest.raises(ValueError, match=r"text 1 has .* tokens"):
        marian.generate_text(["It is.", "fox " * 80], split_sentences="en", max_new_tokens=4)


def test_each_text_is_cut_by_the_rules_of_its_own_language(tmp_path: Path) -> None:
    """In German "ca." and "3." end no sentence."""
    folder = write_checkpoint(tmp_path, "mbart50")
    hf_model("mbart", seed=3, vocab_size=330).save_pretrained(folder)
    model = tritonseq.load(folder, device="cpu")
    how: dict[str, Any] = {"max_new_tokens": 5, "skip_special_tokens": False}
    text = "rain falls ca. Fox bzw. am 3. Juni. Lazy dogs."
    codes = ["de_DE", "en_XX", None, "th_TH"]
    named = [
        model.generate_text([text], src_lang=code, split_sentences=True, **how)[0]
        for code in codes[:3]
    ]
    assert named[0] != model.generate_text([text], src_lang="de_DE", split_sentences="en", **how)[0]
    found = list(tritonseq.pipeline(model, [text] * 4, src_lang=codes, split_sentences=True, **how))
    assert [result.text for result in found[:3]] == named
    assert "'th_TH' is Thai" in str(found[3].fault)
    # The language that the option names is that of all texts.
    found = list(tritonseq.pipeline(model, [text], src_lang=["de_DE"], split_sentences="en", **how))
    assert found[0].text != named[0]


def test_the_language_that_fsmt_reads_is_known(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write_fsmt(tmp_path, langs=("ru", "en")))
    assert tokenizer.source_language == "ru"
    assert tokenizer.languages() == []


def test_what_cannot_be_split_is_refused(marian: tritonseq.Model) -> None:
    with pytest.raises(ValueError, match="does not say what language it reads; pass"):
        marian.generate_text(["a"], split_sentences=True)
    with pytest.raises(ValueError, match="it must be True, False or a language"):
        marian.generate_text(["a"], split_sentences=3)
    with pytest.raises(ValueError, match="makes several rows of a text"):
        marian.tokenize(["a"], split_sentences="en")
    with pytest.raises(ValueError, match="split_sentences='en' is for generate_text"):
        marian.generate([[5]], split_sentences="en")
    for name, value in (
        ("forced_bos_token_id", [5, 6]),
        ("decoder_start_token_id", [5, 6]),
        ("decoder_input_ids", [[5], [6]]),
        ("prefix_allowed_tokens_fn", lambda _, __: [5]),
    ):
        with pytest.raises(ValueError, match=f"{name} speaks of texts by their place"):
            marian.generate_text(["One. Two.", "Three."], split_sentences="en", **{name: value})
