"""ROUGE and BLEU of output files are those of the packages, and faults are told beforehand."""

from __future__ import annotations

import gzip
import importlib.util
import json
from typing import TYPE_CHECKING, Any

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu

from tritonseq.jobs.metrics import Reference, best_outputs, sentences

if TYPE_CHECKING:
    from pathlib import Path

WANTED = [
    "The cat sat on the mat. It slept.",
    "Two dogs were running through a park!",
    "Nothing happened today.",
    "He said nothing at all to anybody",
]
FOUND = [
    "It slept. The cat was sitting on a mat.",
    "Two dogs ran through the park!",
    "",
    "He said nothing at all to her",
]


def reference(folder: Path, metric: str = "rouge", **more: Any) -> Reference:
    (folder / "wanted.txt").write_text("".join(f"{line}\n" for line in WANTED))
    return Reference(folder / "wanted.txt", metric, **more)


def test_rouge_is_the_mean_over_lines(tmp_path: Path) -> None:
    scores = reference(tmp_path).score(FOUND)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for name in ("rouge1", "rouge2", "rougeL"):
        pairs = zip(WANTED, FOUND, strict=True)
        each = [scorer.score(wanted, found)[name].fmeasure for wanted, found in pairs]
        assert scores[name] == pytest.approx(sum(each) / len(WANTED))
    assert 0 < scores["rouge2"] < scores["rouge1"] < 1


def test_sentences_in_another_order_cost_rouge_l_alone(tmp_path: Path) -> None:
    """ROUGE-Lsum looks at sentences by themselves, so they must be told apart within a line."""
    (tmp_path / "one.txt").write_text("It slept. The cat sat on the mat.\n")
    scores = Reference(tmp_path / "one.txt", "rouge").score(["The cat sat on the mat. It slept."])
    assert scores["rouge1"] == scores["rougeLsum"] == 1
    assert scores["rougeL"] < 1


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("One. Two! Three", "One.\nTwo!\nThree"),
        ('He said "so." Then 3.5 more', 'He said "so."\nThen 3.5 more'),
        ("one<n>two <n> three", "one\ntwo\nthree"),
        ("one . [X_SEP] two .", "one .\ntwo ."),
        ("", ""),
    ],
)
def test_where_sentences_end(text: str, split: str) -> None:
    assert sentences(text) == split


def test_bleu_is_that_of_sacrebleu(tmp_path: Path) -> None:
    scores = reference(tmp_path, "bleu").score(FOUND)
    assert scores["bleu"] == corpus_bleu(FOUND, [WANTED]).score > 0
    assert "tok:13a" in scores["signature"]


def test_references_may_be_zipped_and_end_as_on_windows(tmp_path: Path) -> None:
    file = tmp_path / "wanted.gz"
    file.write_bytes(gzip.compress("\ufeffone\r\ntwo\u2028three\r\n\nfour".encode()))
    assert list(Reference(file, "rouge").texts()) == ["one", "two\u2028three", "", "four"]


def test_a_limit_holds_for_references_too(tmp_path: Path) -> None:
    limited = reference(tmp_path, limit=2)
    limited.check(2)
    assert limited.score(WANTED[:2])["rouge1"] == 1


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["out", "out.gz"])
def test_the_best_output_of_every_line(tmp_path: Path, name: str) -> None:
    lines = write(tmp_path / name, "a\nb\n\n\nc\nd\n")
    assert list(best_outputs(lines)) == ["a", "b", "", "", "c", "d"]
    assert list(best_outputs(lines, copies=2)) == ["a", "", "c"]
    scored = write(tmp_path / name, "-0.5\ta\tb\n-1.0\tc\n\n\n")
    assert list(best_outputs(scored, copies=2, scored=True)) == ["a\tb", ""]


def test_outputs_in_json_lines(tmp_path: Path) -> None:
    rows = [{"id": 7, "y": "a\nb"}, {"y": ["c", "d"]}, {"y": ""}, {"y": ["", ""]}]
    lines = write(tmp_path / "out.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert list(best_outputs(lines, field="y", copies=2)) == ["a\nb", "c", "", ""]


def test_unequal_numbers_of_lines(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"wanted\.txt has 4 lines and the input 5"):
        reference(tmp_path).check(5)
    with pytest.raises(ValueError, match=r"there are 3 outputs, and .*wanted\.txt has 4 lines"):
        reference(tmp_path).score(FOUND[:3])
    reference(tmp_path).check(4)
    reference(tmp_path).check(None)


@pytest.mark.parametrize(("metric", "package"), [("rouge", "rouge-score"), ("bleu", "sacrebleu")])
def test_a_missing_package_is_told_beforehand(
    tmp_path: Path, metric: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=rf"needs {package}: pip install 'tritonseq\[quality\]'"):
        reference(tmp_path, metric).check()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b"fine\n" * 9, mtime=0)[:10] + b"\xff" * 20, "is damaged after line 0"),
        (b"", "has no lines"),
        (b"fine\n\xff\xfe\n", "line 2 of .* is not UTF-8 text"),
        (gzip.compress(b"fine\n" * 9, mtime=0)[:-3], "is damaged after line 9"),
    ],
)
def test_a_bad_reference_is_told_beforehand(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "wanted").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        Reference(tmp_path / "wanted", "rouge").check()


def test_a_missing_reference_and_an_unknown_metric(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        Reference(tmp_path / "absent", "bleu").check()
    with pytest.raises(ValueError, match="'meteor' is not known: say rouge or bleu"):
        reference(tmp_path, "meteor").check()
