"""`tritonseq generate`: prompts in, prompts with their continuations out."""

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
    """A text to continue, and where on the command line or in which line of a file it stands."""

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
    """Continue the prompts of a parsed command line under the given generation options.

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
    config = _settled(model, options)
    _check(model, prompts, config)
    if parsed.seed is not None:
        torch.manual_seed(parsed.seed)
    tally = Tally()
    if parsed.stream:
        for piece in _stream(model, prompts[0].text, options, tally):
            print(piece, end="", flush=True)
        print()
    else:
        texts = [prompt.text for prompt in prompts]
        for prompt, text in _continue(model, texts, parsed.batch_size, options, config, tally):
            line = {"prompt": prompt, "text": text}
            print(json.dumps(line, ensure_ascii=False) if parsed.json else prompt + text)
    sys.stdout.flush()
    print(f"tritonseq: {tally.line(len(prompts))}", file=sys.stderr)
    return 0


def _settled(model: Model, options: dict[str, Any]) -> GenerationConfig:
    """The options over the model's defaults; what there is to warn of is said by `generate`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generation_config.merged(**options)


def _check(model: Model, prompts: list[Prompt], config: GenerationConfig) -> None:
    """Name the first prompt that has no tokens or too many, before anything is generated."""
    positions = model.decoder.max_positions
    if config.max_new_tokens is not None:
        # The last token is chosen but never fed back, so it needs no position.
        room = positions - config.max_new_tokens + 1
    else:
        room = min(config.max_length or positions, positions) - 1
    for prompt in prompts:
        try:
            ids, _ = model.tokenizer.encode([prompt.text], pad_id=0)
        except ValueError as error:
            raise ValueError(f"{prompt.origin} {str(error).removeprefix('text 0 ')}") from None
        if ids.shape[1] > room:
            raise ValueError(
                f"{prompt.origin} has {ids.shape[1]} tokens: with the {positions} positions of "
                f"the model and the max_new_tokens or max_length in force, there is room for "
                f"{max(room, 0)}; shorten it, or pass another --max-new-tokens"
            )


def _continue(
    model: Model,
    prompts: list[str],
    batch_size: int,
    options: dict[str, Any],
    config: GenerationConfig,
    tally: Tally,
) -> Iterator[tuple[str, str]]:
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        start = time.perf_counter()
        ids, mask = model.tokenizer.encode(batch, pad_id=config.fill_token_id or 0)
        sequences = model.generate(ids, mask, **options)
        assert isinstance(sequences, torch.Tensor), "no result object was asked for"
        new = sequences[:, ids.shape[1] :].tolist()
        texts = model.tokenizer.decode(new)
        tally.seconds += time.perf_counter() - start
        tally.tokens += sum(_chosen(row, config) for row in new)
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


def _stream(model: Model, prompt: str, options: dict[str, Any], tally: Tally) -> Iterator[str]:
    """The prompt, then its continuation; a character that misses bytes waits for them."""
    start = time.perf_counter()
    ids, mask = model.tokenizer.encode([prompt], pad_id=0)
    stream = model.stream(ids, mask, **options)
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
