"""`tritonseq generate --prompt`: texts on the command line; what models make of them on stdout."""

from __future__ import annotations

import itertools
import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tritonseq.errors import TextError
from tritonseq.jobs.lines import shown
from tritonseq.model import BATCH_SIZE, load
from tritonseq.text_task import SplitJob

from .arguments import flag
from .checkpoint_flags import check_kind, load_arguments, look, text_options
from .generate_files import input_file
from .unilm_flags import token_ids

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from tritonseq.decoding.completion import Completion
    from tritonseq.jobs.input import InputFile
    from tritonseq.model import Model
    from tritonseq.text_task import TextJob

_AHEAD = 8
"""Batches whose texts are sorted by length together: lines come while others are being made."""


class PromptText(NamedTuple):
    """A text, and where it stands."""

    text: str
    origin: str


@dataclass
class Tally:
    """What was generated, and in how much time; loading and printing do not count."""

    tokens: int = 0
    seconds: float = 0.0

    def line(self, prompts: int) -> str:
        speed = self.tokens / self.seconds if self.seconds else 0.0
        return (
            f"prompts: {prompts}, new tokens: {self.tokens}, seconds: {self.seconds:.2f}, "
            f"tokens/s: {speed:,.1f}"
        )


def run(parsed: argparse.Namespace, options: dict[str, Any]) -> int:
    """Answer or continue the texts of a parsed command line under the given generation options.

    The last line on stderr says how many tokens were generated and how fast.
    """
    prompts, checkpoint = _prompts(parsed), load_arguments(parsed)
    if parsed.stream and (parsed.json or len(prompts) > 1):
        raise ValueError("--stream prints the text of one prompt: drop --json and further prompts")
    if parsed.stream and parsed.split_sentences:
        raise ValueError("--stream prints one text as it grows: drop --split-sentences")
    info = look(checkpoint)
    check_kind(parsed, info)
    model = load(**checkpoint)
    if parsed.seed is not None:
        torch.manual_seed(parsed.seed)
    options |= token_ids(parsed.token_names, model.tokenizer)
    job = model.text_job(**text_options(parsed, info), **options)
    tally = Tally()
    if parsed.stream:
        rows = _read(job, prompts)
        _check_stream(job)
        shown_first = "" if model.is_encoder_decoder else prompts[0].text
        for piece in _stream(job, rows[0], shown_first, tally):
            print(piece, end="", flush=True)
        print()
    else:
        answering = SplitJob(job) if parsed.split_sentences else job
        read = _read(answering, prompts)
        for prompt, text in _answers(
            answering, prompts, read, parsed.batch_size or BATCH_SIZE, tally
        ):
            print(_line(model, prompt, text, as_json=parsed.json))
    sys.stdout.flush()
    print(f"tritonseq: {tally.line(len(prompts))}", file=sys.stderr)
    return 0


def _read(job: TextJob | SplitJob, prompts: list[PromptText]) -> Any:
    """The ids of all texts; faults of a text are told with the place that it has."""
    try:
        return job.read([prompt.text for prompt in prompts])
    except TextError as error:
        raise ValueError(error.of(prompts[error.index].origin)) from None


def _answers(
    job: TextJob | SplitJob, prompts: list[PromptText], rows: Any, batch_size: int, tally: Tally
) -> Iterator[tuple[str, str]]:
    """Every prompt with each of its answers."""
    done: dict[int, Completion] = {}
    batches = job.run(rows, batch_size, window=_AHEAD * batch_size)
    for place, prompt in enumerate(prompts):
        start = time.perf_counter()
        while place not in done:
            done |= next(batches)
        tally.seconds += time.perf_counter() - start
        tally.tokens += done[place].tokens
        for text in done[place].texts or ():
            yield prompt.text, text


def _line(model: Model, prompt: str, text: str, *, as_json: bool) -> str:
    if as_json:
        key = "source" if model.is_encoder_decoder else "prompt"
        return json.dumps({key: prompt, "text": text}, ensure_ascii=False)
    return text if model.is_encoder_decoder else prompt + text


def _prompts(parsed: argparse.Namespace) -> list[PromptText]:
    """The texts: those of the command line, or the first of a file, one more than is streamed."""
    if parsed.input is None:
        given = enumerate(parsed.prompt, start=1)
        prompts = [PromptText(text, f"--prompt {number}") for number, text in given]
    else:
        prompts = list(itertools.islice(_in_file(input_file(parsed)), 2))
    if not prompts:
        raise ValueError("there are no texts: name INPUT, or pass --prompt TEXT or --prompt-file F")
    return prompts


def _in_file(file: InputFile) -> Iterator[PromptText]:
    file.look()
    for sample in file:
        origin = f"line {sample.number + 1} of {file.name}"
        if sample.completion.fault is not None:
            raise ValueError(f"{origin}: {sample.completion.fault}")
        yield PromptText(shown(sample), origin)


def _check_stream(job: TextJob) -> None:
    for name in ("num_beams", "num_return_sequences"):
        value = getattr(job.request.config, name)
        if value > 1:
            raise ValueError(
                f"--stream prints one text as it grows, and {name} is {value}, given or by default "
                f"of the checkpoint: pass {flag(name)} 1"
            )


def _stream(job: TextJob, row: list[int], prompt: str, tally: Tally) -> Iterator[str]:
    """The prompt, then its text as it grows; a character that misses bytes waits.

    `row` holds the ids of the prompt; those of a blank one are none, and so is its text.
    """
    start = time.perf_counter()
    stream = job.request.stream(*job.pad([row])) if row else ()
    yield prompt
    tokens: list[int] = []
    printed = ""
    for chosen in stream:
        tokens.append(int(chosen))
        text = job.encoder.texts([tokens])[0]
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(printed) :]
            printed = text
    tally.tokens, tally.seconds = len(tokens), time.perf_counter() - start
    yield job.encoder.texts([tokens])[0][len(printed) :]
