"""Ways from texts to texts: plain loops, and the pipeline with one idea more each time."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any

from texts import corpus
from texts.checkpoints import WRITERS

import tritonseq
from tritonseq.demo.run import BEAMS, CHECKPOINTS, GREEDY
from tritonseq.stages.pipeline import Pipeline
from tritonseq.stages.run_options import RunOptions
from tritonseq.stages.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tritonseq.model import Model

SEED = 20216
EMBEDDED = ("bart-numbers", "unilm-clock", "t5-dates", "gpt2-words")
KINDS = {"bart-base": "BART-base", "opus-mt": "opus-mt"}
REAL = tuple(KINDS)
NAMES = (*REAL, *EMBEDDED)
# Texts that take a plain loop some seconds: small models answer hundreds a second, real ones few.
LINES = dict.fromkeys(EMBEDDED, 2000) | dict.fromkeys(REAL, 160)
MOST_WORDS = 120

PLAIN, THEIRS = "plain loop", "transformers' loop"


def stages(batch: int) -> dict[str, RunOptions]:
    """The pipeline at one batch size, with a cause of its speed after the other; then as it is."""
    return {
        "+ overlap": RunOptions(batch_size=batch, by_length=False, refill=False),
        "+ length grouping": RunOptions(batch_size=batch, refill=False),
        "+ refill": RunOptions(batch_size=batch, refill=True),
        "auto": RunOptions(batch_size=batch),
        "defaults": RunOptions(),
    }


@dataclass(frozen=True, eq=False)
class Subject:
    """A checkpoint and the texts that it answers, of all lengths in no order."""

    name: str
    kind: str
    folder: Path
    model: Model
    texts: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    """How it is generated from, where its own defaults do not say so."""

    @classmethod
    def of(cls, name: str, store: Path, lines: int | None = None, *, tiny: bool = False) -> Subject:
        """The checkpoint of this name, and so many texts.

        One of real width is written to the folder `store`, or a toy in its place if it is `tiny`.
        """
        lines = LINES[name] if lines is None else lines
        return _embedded(name, lines) if name in EMBEDDED else _real(name, store, lines, tiny=tiny)

    @property
    def title(self) -> str:
        """The model, its search and its sources in words."""
        beams = self.model.generation_config.merged(**self.options).num_beams
        lengths = sorted(map(len, self.model.text_job().encoder.ids(self.texts)))
        search = f"{beams} beams" if beams > 1 else "greedy"
        return f"{self.kind}, {search}, sources of {lengths[0]}-{lengths[-1]} tokens"

    def ways(self, batch: int, *, theirs: bool = True) -> dict[str, Callable[[], list[str]]]:
        """What is compared, by name; `theirs`: transformers as well, if it is installed."""
        ways: dict[str, Callable[[], list[str]]] = {PLAIN: partial(plain_loop, self, batch)}
        for name, run in stages(batch).items():
            ways[name] = partial(through_stages, self, run)
        if theirs and self.kind != "UniLM" and find_spec("transformers"):
            ways[THEIRS] = Theirs(self, batch).loop
        return ways

    def batches(self, size: int) -> Iterator[list[str]]:
        """The texts in their order."""
        for start in range(0, len(self.texts), size):
            yield self.texts[start : start + size]


def _embedded(name: str, lines: int) -> Subject:
    """A small trained checkpoint, and problems that it has never seen."""
    (checkpoint,) = (each for each in CHECKPOINTS if each.name == name)
    texts = [each.prompt for each in islice(checkpoint.problems(SEED, unseen=True), lines)]
    mode = BEAMS if BEAMS in checkpoint.modes else GREEDY
    model = tritonseq.load(checkpoint.folder, device="cpu")
    return Subject(name, checkpoint.kind, checkpoint.folder, model, texts, dict(mode.options))


def _real(name: str, store: Path, lines: int, *, tiny: bool) -> Subject:
    """A checkpoint of real width with random weights, and paragraphs of English."""
    folder = store / name
    if not folder.exists():
        folder.mkdir(parents=True)
        WRITERS[name](folder, tiny=tiny)
    texts = corpus.texts(lines, seed=SEED, most_words=MOST_WORDS)
    model = tritonseq.load(folder, device="cpu")
    # A rehearsal tries every way, which short answers do as well.
    options = {"max_new_tokens": 12} if tiny else {}
    return Subject(name, KINDS[name], folder, model, texts, options)


def through_stages(subject: Subject, run: RunOptions) -> list[str]:
    """All texts through the pipeline."""
    return [result.text for result in piped(subject, run)]


def piped(subject: Subject, run: RunOptions) -> Pipeline:
    """The pipeline, ready to be iterated over; setting it up counts as its work."""
    return Pipeline(subject.texts, Workers(subject.model, subject.options, run), {})


def plain_loop(subject: Subject, size: int) -> list[str]:
    """What one writes without a pipeline: batch after batch, each from its texts to its texts."""
    model = subject.model
    job = model.text_job()
    answers = []
    for batch in subject.batches(size):
        ids, mask = job.pad(job.encoder.ids(batch))
        sequences = model.generate(ids, mask, **subject.options)
        start = ids.shape[1] if subject.kind == "GPT-2" else 0
        answers += model.tokenizer.decode(sequences[:, start:])
    return answers


class Theirs:
    """The same loop with transformers' tokenizer and model."""

    def __init__(self, subject: Subject, size: int) -> None:
        import transformers

        is_decoder = subject.kind == "GPT-2"
        kind = "AutoModelForCausalLM" if is_decoder else "AutoModelForSeq2SeqLM"
        folder = subject.folder
        self._subject, self._size = subject, size
        self._continues = is_decoder
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
        self._network: Any = getattr(transformers, kind).from_pretrained(folder).eval()

    def loop(self) -> list[str]:
        """All texts, batch after batch."""
        answers = []
        for batch in self._subject.batches(self._size):
            inputs = self._tokenizer(
                batch, padding=True, return_tensors="pt", return_token_type_ids=False
            )
            sequences = self._network.generate(**inputs, **self._subject.options)
            start = inputs["input_ids"].shape[1] if self._continues else 0
            answers += self._tokenizer.batch_decode(sequences[:, start:], skip_special_tokens=True)
        return answers
