"""`tritonseq generate`: texts in; what models make of them, or how they go on, out."""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .model import load

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

    text: str
    origin: str
    in_file: bool = False

    @property
    def is_blank(self) -> bool:
        """Does it only keep its line in the output?"""
        return self.in_file and not self.text.strip()


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
    prompts = _prompts(parsed)
    if parsed.stream and (parsed.json or len(prompts) > 1):
        raise ValueError("--stream prints the text of one prompt: drop --json and further prompts")
    if parsed.batch_size < 1:
        raise ValueError(f"--batch-size is {parsed.batch_size}: it must be at least 1")
    model = load(
        parsed.model,
        device=parsed.device,
        dtype=parsed.dtype,
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
        truncation=parsed.truncation,
        max_source_length=parsed.max_source_length,
        task=parsed.task,
        **options,
    )
    rows = _read(job, [prompt for prompt in prompts if not prompt.is_blank])
    tally = Tally()
    if parsed.stream:
        _check_stream(job)
        shown = "" if model.is_encoder_decoder else prompts[0].text
        for piece in _stream(job, rows, shown, tally):
            print(piece, end="", flush=True)
        print()
    else:
        for prompt, text in _texts(job, prompts, rows, parsed.batch_size, tally):
            print(_line(model, prompt, text, as_json=parsed.json))
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


def _texts(
    job: TextJob, prompts: list[Prompt], rows: list[list[int]], batch_size: int, tally: Tally
) -> Iterator[tuple[str, str]]:
    """Every prompt with each of its texts; those of a blank one are empty."""
    answers = job.answers(rows, batch_size, window=_AHEAD * batch_size)
    for prompt in prompts:
        for _ in range(job.request.config.num_return_sequences):
            if prompt.is_blank:
                yield prompt.text, ""
                continue
            start = time.perf_counter()
            answer = next(answers)
            tally.seconds += time.perf_counter() - start
            tally.tokens += answer.tokens
            yield prompt.text, answer.text


def _line(model: Model, prompt: str, text: str, *, as_json: bool) -> str:
    if as_json:
        key = "source" if model.is_encoder_decoder else "prompt"
        return json.dumps({key: prompt, "text": text}, ensure_ascii=False)
    return text if model.is_encoder_decoder or not prompt.strip() else prompt + text


def _prompts(parsed: argparse.Namespace) -> list[Prompt]:
    given = enumerate(parsed.prompt, start=1)
    prompts = [Prompt(text, f"--prompt {number}") for number, text in given]
    if parsed.prompt_file == "-":
        prompts += _lines(sys.stdin, "stdin")
    elif parsed.prompt_file is not None:
        try:
            with open(parsed.prompt_file, encoding="utf-8") as file:
                prompts += _lines(file, parsed.prompt_file)
        except OSError as error:
            raise ValueError(f"--prompt-file cannot be read: {error}") from None
    if not prompts:
        raise ValueError("there is nothing to continue: pass --prompt TEXT or --prompt-file F")
    return prompts


def _lines(file: Iterable[str], name: str) -> list[Prompt]:
    try:
        lines = [line.rstrip("\r\n") for line in file]
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text: {error}") from None
    if lines:
        # The mark that editors put before UTF-8 is no text.
        lines[0] = lines[0].removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    numbered = enumerate(lines, start=1)
    return [Prompt(line, f"line {number} of {name}", in_file=True) for number, line in numbered]


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
