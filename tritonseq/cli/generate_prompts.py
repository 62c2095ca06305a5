"""`tritonseq generate --prompt`: texts on the command line; what models make of them on stdout."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tritonseq.errors import TextError
from tritonseq.jobs.formatter import shown
from tritonseq.jobs.input import Source
from tritonseq.model import BATCH_SIZE, load

from .checkpoint_info import look
from .generate_files import check_kind, checkpoint_arguments, text_options
from .standard_streams import refuse_closed
from .unilm_flags import generation_options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from tritonseq.decoding.completion import Completion
    from tritonseq.model import Model
    from tritonseq.text_task import TextJob

_AHEAD = 8
"""Batches whose texts are sorted by length together: lines come while others are being made."""


@dataclass(frozen=True)
class Prompt:
    """A text, and where it stands."""

    text: str
    origin: str
    is_blank: bool = False
    """Is it the blank line of a file, which is answered by another?"""


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
    prompts, checkpoint = _prompts(parsed), checkpoint_arguments(parsed)
    if parsed.stream and (parsed.json or len(prompts) > 1):
        raise ValueError("--stream prints the text of one prompt: drop --json and further prompts")
    info = look(checkpoint)
    check_kind(parsed, info)
    model = load(**checkpoint)
    if parsed.seed is not None:
        torch.manual_seed(parsed.seed)
    generation = generation_options(parsed, options, model.tokenizer)
    job = model.text_job(**text_options(parsed, info), **generation)
    rows = _read(job, [prompt for prompt in prompts if not prompt.is_blank])
    tally = Tally()
    if parsed.stream:
        _check_stream(job)
        shown_first = "" if model.is_encoder_decoder else prompts[0].text
        for piece in _stream(job, rows, shown_first, tally):
            print(piece, end="", flush=True)
        print()
    else:
        for prompt, text in _answers(job, prompts, rows, parsed.batch_size or BATCH_SIZE, tally):
            print(_line(model, prompt, text, as_json=parsed.json))
    if sys.stdout is not None:
        sys.stdout.flush()
    print(f"tritonseq: {tally.line(len(rows))}", file=sys.stderr)
    return 0


def _read(job: TextJob, prompts: list[Prompt]) -> list[list[int]]:
    """The ids of all texts; faults of a text are told with the place that it has."""
    if not prompts:
        return []
    try:
        return job.read([prompt.text for prompt in prompts])
    except TextError as error:
        raise ValueError(error.of(prompts[error.index].origin)) from None


def _answers(
    job: TextJob, prompts: list[Prompt], rows: list[list[int]], batch_size: int, tally: Tally
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


def _prompts(parsed: argparse.Namespace) -> list[Prompt]:
    """The texts; a file has them only if one is to be streamed."""
    given = enumerate(parsed.prompt, start=1)
    prompts = [Prompt(text, f"--prompt {number}") for number, text in given]
    if file := parsed.input_file or parsed.prompt_file:
        prompts += _in_file(file, by_line=parsed.input_file is not None)
    if not prompts:
        raise ValueError("there are no texts: name INPUT, or pass --prompt TEXT or --prompt-file F")
    return prompts


def _in_file(name: str, *, by_line: bool) -> Iterator[Prompt]:
    """The first texts, one more than can be streamed."""
    refuse_closed(0, name)
    source = Source(
        name,
        format="any" if by_line else None,
        source_field="src" if by_line else "source",
        limit=2,
    )
    source.look()
    for sample in source:
        origin = f"line {sample.number + 1} of {source.name}"
        if sample.completion.fault is not None:
            raise ValueError(f"{origin}: {sample.completion.fault}")
        yield Prompt(shown(sample), origin, is_blank=sample.is_done)


def _check_stream(job: TextJob) -> None:
    for name in ("num_beams", "num_return_sequences"):
        value = getattr(job.request.config, name)
        if value > 1:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"--stream prints one text as it grows, and {name} is {value}, given or by default "
                f"of the checkpoint: pass {flag} 1"
            )


def _stream(job: TextJob, rows: list[list[int]], prompt: str, tally: Tally) -> Iterator[str]:
    """The prompt, then its text as it grows; a character that misses bytes waits.

    `rows` are the ids of one prompt, or none if it is blank.
    """
    if not rows:
        return
    start = time.perf_counter()
    stream = job.request.stream(*job.pad(rows))
    yield prompt
    tokens: list[int] = []
    shown = ""
    for chosen in stream:
        tokens.append(int(chosen))
        text = job.encoder.texts([tokens])[0]
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(shown) :]
            shown = text
    tally.tokens, tally.seconds = len(tokens), time.perf_counter() - start
    yield job.encoder.texts([tokens])[0][len(shown) :]
