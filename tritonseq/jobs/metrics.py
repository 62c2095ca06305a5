"""Metrics of outputs against references: ROUGE (Lin, 2004) or BLEU (Papineni et al., 2002).

The figures are those of the packages `rouge-score` and `sacrebleu`, which the `quality` extra has.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
import zlib
from contextlib import closing
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

METRICS = ("rouge", "bleu")

_PACKAGES = {"rouge": "rouge_score", "bleu": "sacrebleu"}
_ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
# What Pegasus and UniLM write between sentences.
_MARK = re.compile(r"\s*(?:<n>|\[X_SEP\])\s*")
_SENTENCE_END = re.compile(r"""([.!?]["'\u201d\u2019)\]]*)\s+""")


@dataclass(frozen=True)
class Reference:
    """A file with one reference text a line, gzipped or not, and what to compute against it."""

    path: Path
    metric: str
    limit: int | None = None
    """Only so many of its lines count, as with the lines of the input."""

    def check(self, lines: int | None = None) -> None:
        """Raise what would come after the job now: ValueError or OSError.

        `lines` is how many the input has, if that is known.
        """
        if self.metric not in METRICS:
            raise ValueError(f"metric {self.metric!r} is not known: say {' or '.join(METRICS)}")
        package = _PACKAGES[self.metric]
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"{self.metric} needs {package.replace('_', '-')}: pip install 'tritonseq[quality]'"
            )
        count = sum(1 for _ in self.texts())
        if not count:
            raise ValueError(f"{self.path} has no lines to compare with")
        if lines is not None and count != lines:
            raise ValueError(f"{self.path} has {count:,} lines and the input {lines:,}")

    def texts(self) -> Iterator[str]:
        """Its lines; ValueError for one that is not UTF-8 or a damaged archive."""
        for number, line in enumerate(_lines(self.path)):
            if number == self.limit:
                return
            yield line

    def score(self, outputs: Iterable[str]) -> dict[str, Any]:
        """The figures by their names.

        ROUGE as fractions: the mean F1 of `rouge1`, `rouge2`, `rougeL` and `rougeLsum`, with
        stemming. The plain mean, so that it can be repeated: the package's own aggregator draws
        samples. `bleu` from 0 to 100, with the `signature` that makes it comparable. Raises
        ValueError if there are not as many outputs as references.
        """
        found, wanted = list(outputs), list(self.texts())
        if len(found) != len(wanted):
            raise ValueError(
                f"there are {len(found):,} outputs, and {self.path} has {len(wanted):,} lines"
            )
        return _rouge(found, wanted) if self.metric == "rouge" else _bleu(found, wanted)


def best_outputs(
    path: Path, *, field: str | None = None, copies: int = 1, scored: bool = False
) -> Iterator[str]:
    """The first output of every line of the input, from a file that a job has written.

    Args:
        path: the file, gzipped or not.
        field: it holds JSON lines, with the outputs under this name; None for lines of text.
        copies: lines of text for each line of the input.
        scored: a score and a tab stand before each text; lines that were rejected have neither.
    """
    for number, line in enumerate(_lines(path)):
        if field is not None:
            output = json.loads(line)[field]
            yield output[0] if isinstance(output, list) else output
        elif number % copies == 0:
            _, tab, text = line.partition("\t")
            yield text if scored and tab else line


def sentences(text: str) -> str:
    """`text` with a newline between its sentences, as ROUGE-Lsum wants it.

    They end at a mark of Pegasus or UniLM, or at a full stop, question or exclamation mark that
    a space follows.
    """
    return _SENTENCE_END.sub(r"\1\n", _MARK.sub("\n", text.strip()))


def _rouge(outputs: list[str], references: list[str]) -> dict[str, Any]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(_ROUGES, use_stemmer=True)
    pairs = zip(references, outputs, strict=True)
    scores = [scorer.score(sentences(wanted), sentences(found)) for wanted, found in pairs]
    return {name: fmean(score[name].fmeasure for score in scores) for name in _ROUGES}


def _bleu(outputs: list[str], references: list[str]) -> dict[str, Any]:
    from sacrebleu import BLEU

    bleu = BLEU()
    score = bleu.corpus_score(outputs, [references]).score
    return {"bleu": score, "signature": str(bleu.get_signature())}


def _lines(path: Path) -> Iterator[str]:
    """Lines end at newlines alone: other characters that end lines are text."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    number = 0
    with closing(gzip.open(path, "rb") if zipped else path.open("rb")) as lines:
        try:
            for number, line in enumerate(lines, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield text.removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise ValueError(f"line {number} of {path} is not UTF-8 text: {error}") from None
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is damaged after line {number}: {error}") from None
