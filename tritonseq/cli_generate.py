"""`tritonseq generate`: texts in; what models make of them, or how they go on, out."""

from __future__ import annotations

import json
import sys
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .model import load

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from .config import GenerationConfig
    from .model import Model


@dataclass(frozen=True)
class Prompt:
    """A text, and where on the command line or in which line of a file it stands."""

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
    job = Job.of(model, parsed, options)
    _check(job, prompts)
    if parsed.seed is not None:
        torch.manual_seed(parsed.seed)
    tally = Tally()
    if parsed.stream:
        for piece in _stream(job, prompts[0].text, tally):
            print(piece, end="", flush=True)
        print()
    else:
        key = "source" if model.is_encoder_decoder else "prompt"
        for prompt, text in _texts(job, [prompt.text for prompt in prompts], parsed, tally):
            if parsed.json:
                print(json.dumps({key: prompt, "text": text}, ensure_ascii=False))
            else:
                print(text if model.is_encoder_decoder else prompt + text)
    sys.stdout.flush()
    print(f"tritonseq: {tally.line(len(prompts))}", file=sys.stderr)
    return 0


@dataclass(frozen=True)
class Job:
    """What is the same for all texts."""

    model: Model
    how: dict[str, Any]
    """How texts become ids: the arguments of `Model.tokenize`."""
    options: dict[str, Any]
    """Those of `Model.generate`."""
    config: GenerationConfig
    """The options over the model's defaults."""

    @classmethod
    def of(cls, model: Model, parsed: argparse.Namespace, options: dict[str, Any]) -> Job:
        """From the command line; faults of single flags are found here."""
        defaults = {} if parsed.task is None else model.task_options(parsed.task)
        prefix = defaults.pop("prefix", "") if parsed.prefix is None else parsed.prefix
        defaults.pop("prefix", None)
        if parsed.tgt_lang is not None:
            defaults |= model.tokenizer.target_options(parsed.tgt_lang)
        options = {**defaults, **options}
        how = {
            "src_lang": parsed.src_lang,
            "tgt_lang": parsed.tgt_lang,
            "prefix": prefix,
            "truncation": parsed.truncation,
        }
        # What there is to warn of is said by `generate`.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = model.generation_config.merged(**options)
        return cls(model, how, options, config)


def _check(job: Job, prompts: list[Prompt]) -> None:
    """Name the first text that has no tokens or too many, before anything is generated."""
    room = _room(job)
    for prompt in prompts:
        try:
            ids, _ = job.model.tokenize([prompt.text], **job.how)
        except ValueError as error:
            raise ValueError(f"{prompt.origin} {str(error).removeprefix('text 0 ')}") from None
        if room is not None and ids.shape[1] > room:
            remedy = "--truncation" if job.model.is_encoder_decoder else "another --max-new-tokens"
            raise ValueError(
                f"{prompt.origin} has {ids.shape[1]} tokens, and there is room for "
                f"{max(room, 0)}: shorten it, or pass {remedy}"
            )


def _room(job: Job) -> int | None:
    """The most tokens that a text may have, by the positions of the model; None for any number."""
    decoder, config = job.model.decoder, job.config
    if job.model.is_encoder_decoder:
        limit: int | None = decoder.max_source_positions
        return limit
    positions: int = decoder.max_positions
    if config.max_new_tokens is not None:
        # The last token is chosen but never fed back, so it needs no position.
        return positions - config.max_new_tokens + 1
    return min(config.max_length or positions, positions) - 1


def _texts(
    job: Job, prompts: list[str], parsed: argparse.Namespace, tally: Tally
) -> Iterator[tuple[str, str]]:
    """Every prompt with each of its texts, a batch at a time."""
    model = job.model
    for first in range(0, len(prompts), parsed.batch_size):
        batch = prompts[first : first + parsed.batch_size]
        start = time.perf_counter()
        ids, mask = model.tokenize(batch, **job.how)
        sequences = model.generate(ids, mask, **job.options)
        new = sequences[:, model.prompt_length(ids) :].tolist()
        texts = model.tokenizer.decode(new)
        tally.seconds += time.perf_counter() - start
        # The decoder's own start is none of the tokens that were chosen.
        tally.tokens += sum(_chosen(row, job.config) for row in new)
        tally.tokens -= len(new) * model.is_encoder_decoder
        copies = len(texts) // len(batch)  # num_return_sequences
        for index, text in enumerate(texts):
            yield batch[index // copies], text


def _chosen(row: list[int], config: GenerationConfig) -> int:
    """Tokens of a row without what fills it up; the end token counts."""
    fill = -1 if config.fill_token_id is None else config.fill_token_id
    count = len(row)
    while count and row[count - 1] == fill:
        count -= 1
    return count + (count < len(row) and fill in config.eos_token_ids)


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
    """The lines with text; blank ones separate, and are passed over."""
    try:
        lines = [line.rstrip("\r\n") for line in file]
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text: {error}") from None
    numbered = enumerate(lines, start=1)
    return [Prompt(line, f"line {number} of {name}") for number, line in numbered if line]


def _stream(job: Job, prompt: str, tally: Tally) -> Iterator[str]:
    """The prompt, if it is continued, then its text; a character that misses bytes waits."""
    start = time.perf_counter()
    model = job.model
    ids, mask = model.tokenize([prompt], **job.how)
    stream = model.stream(ids, mask, **job.options)
    if not model.is_encoder_decoder:
        yield prompt
    tokens: list[int] = []
    shown = ""
    for token in stream:
        tokens.append(token)
        text = model.tokenizer.decode([tokens])[0]
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(shown) :]
            shown = text
    tally.tokens, tally.seconds = len(tokens), time.perf_counter() - start
    yield model.tokenizer.decode([tokens])[0][len(shown) :]
