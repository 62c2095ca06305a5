"""`tritonseq generate`: texts in; what models make of them, or how they go on, out."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import torch

from .cli_unilm import (
    check_traces,
    generation_options,
    load_options,
    output_path,
    read_sources,
    source_length,
    write_traces,
)
from .model import BATCH_SIZE, load
from .standard_streams import refuse_closed
from .text_job import Answer

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from .model import Model
    from .text_job import TextJob

_AHEAD = 8
"""Batches whose texts are sorted by length together: lines come while others are being made."""


@dataclass(frozen=True)
class Prompt:
    """A text, and where on the command line or in which line of a file it stands."""

    text: str | list[str]
    """Or its tokens, if it is tokenized already."""
    origin: str
    in_file: bool = False

    @property
    def shown(self) -> str:
        """The text as one string."""
        return self.text if isinstance(self.text, str) else " ".join(self.text)

    @property
    def is_blank(self) -> bool:
        """Does it only keep its line in the output?"""
        return self.in_file and not self.shown.strip()


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
    checkpoint, prompts = load_options(parsed), _prompts(parsed)
    if parsed.stream and (parsed.json or len(prompts) > 1):
        raise ValueError("--stream prints the text of one prompt: drop --json and further prompts")
    model = load(
        **checkpoint,
        revision=parsed.revision,
        cache_dir=parsed.cache_dir,
        local_files_only=parsed.local_files_only,
    )
    if parsed.seed is not None:
        torch.manual_seed(parsed.seed)
    job = model.text_job(
        src_lang=parsed.src_lang,
        tgt_lang=parsed.tgt_lang,
        prefix=parsed.prefix,
        truncation=bool(parsed.truncation),
        max_source_length=parsed.max_source_length or source_length(parsed),
        task=parsed.task,
        **generation_options(parsed, options, model.tokenizer),
    )
    check_traces(parsed, job.request.config)
    rows = _read(job, [prompt for prompt in prompts if not prompt.is_blank])
    tally = Tally()
    if parsed.stream:
        _check_stream(job)
        shown = "" if model.is_encoder_decoder else prompts[0].shown
        for piece in _stream(job, rows, shown, tally):
            print(piece, end="", flush=True)
        print()
    else:
        answers = _answers(job, prompts, rows, parsed.batch_size or BATCH_SIZE, tally)
        _print(model, answers, parsed)
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
    except ValueError as error:
        message = re.sub(r"^text (\d+)", lambda at: prompts[int(at[1])].origin, str(error))
        raise ValueError(message) from None


def _print(model: Model, answers: Iterable[tuple[str, Answer]], parsed: argparse.Namespace) -> None:
    """Write a line for every answer, and the traces if they are asked for."""
    traces, output = [], output_path(parsed)
    with contextlib.ExitStack() as stack:
        file: TextIO = sys.stdout
        if output is not None:
            file = stack.enter_context(output.open("w", encoding="utf-8"))
        for prompt, answer in answers:
            print(_line(model, prompt, answer.text, as_json=parsed.json), file=file)
            if parsed.need_score_traces:
                traces.append(answer.trace)
    if parsed.need_score_traces and output is not None:
        write_traces(output.with_name(f"{output.name}.trace.pickle"), traces, len(traces))


def _answers(
    job: TextJob, prompts: list[Prompt], rows: list[list[int]], batch_size: int, tally: Tally
) -> Iterator[tuple[str, Answer]]:
    """Every prompt with each of its answers; those of a blank one are empty."""
    answers = job.answers(rows, batch_size, window=_AHEAD * batch_size)
    for prompt in prompts:
        for _ in range(job.request.config.num_return_sequences):
            if prompt.is_blank:
                yield prompt.shown, Answer("", 0)
                continue
            start = time.perf_counter()
            answer = next(answers)
            tally.seconds += time.perf_counter() - start
            tally.tokens += answer.tokens
            yield prompt.shown, answer


def _line(model: Model, prompt: str, text: str, *, as_json: bool) -> str:
    if as_json:
        key = "source" if model.is_encoder_decoder else "prompt"
        return json.dumps({key: prompt, "text": text}, ensure_ascii=False)
    return text if model.is_encoder_decoder or not prompt.strip() else prompt + text


def _prompts(parsed: argparse.Namespace) -> list[Prompt]:
    given = enumerate(parsed.prompt, start=1)
    prompts = [Prompt(text, f"--prompt {number}") for number, text in given]
    if parsed.prompt_file is not None:
        prompts += _in_file(_lines("--prompt-file", parsed.prompt_file), parsed.prompt_file)
    if parsed.input_file is not None:
        lines = _lines("--input-file", parsed.input_file)
        texts = read_sources(lines, tokenized=parsed.tokenized_input)
        prompts += _in_file(texts, parsed.input_file)
    if parsed.subset < 0:
        raise ValueError(f"--subset is {parsed.subset}: it must be at least 0, which means all")
    if not prompts:
        raise ValueError("there are no texts: name INPUT, or pass --prompt TEXT or --prompt-file F")
    return prompts[: parsed.subset or None]


def _in_file(texts: Iterable[str | list[str]], name: str) -> list[Prompt]:
    name = "stdin" if name == "-" else name
    numbered = enumerate(texts, start=1)
    return [Prompt(text, f"line {number} of {name}", in_file=True) for number, text in numbered]


def _lines(flag: str, name: str) -> list[str]:
    """The lines of a file, or of stdin for "-"."""
    try:
        if name == "-":
            refuse_closed(0, name)
            lines = [line.rstrip("\r\n") for line in sys.stdin]
        else:
            with open(name, encoding="utf-8") as file:
                lines = [line.rstrip("\r\n") for line in file]
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text: {error}") from None
    except OSError as error:
        raise ValueError(f"{flag} cannot be read: {error}") from None
    if lines:
        # The mark that editors put before UTF-8 is no text.
        lines[0] = lines[0].removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    return lines


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
        text = job.tokenizer.decode([tokens])[0]
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(shown) :]
            shown = text
    tally.tokens, tally.seconds = len(tokens), time.perf_counter() - start
    yield job.tokenizer.decode([tokens])[0][len(shown) :]
