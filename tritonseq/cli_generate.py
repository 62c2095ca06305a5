"""`tritonseq generate`: prompts in, prompts with their continuations out."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import torch

from .model import load

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from .model import Model


def run(parsed: argparse.Namespace, options: dict[str, Any]) -> int:
    """Continue the prompts of a parsed command line under the given generation options."""
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
    if parsed.stream:
        for piece in _stream(model, prompts[0], options):
            print(piece, end="", flush=True)
        print()
    else:
        for prompt, text in _continue(model, prompts, parsed.batch_size, options):
            line = {"prompt": prompt, "text": text}
            print(json.dumps(line, ensure_ascii=False) if parsed.json else prompt + text)
    return 0


def _continue(
    model: Model, prompts: list[str], batch_size: int, options: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        texts = model.generate_text(batch, **options)
        copies = len(texts) // len(batch)  # num_return_sequences
        for index, text in enumerate(texts):
            yield batch[index // copies], text


def _prompts(parsed: argparse.Namespace) -> list[str]:
    prompts: list[str] = list(parsed.prompt)
    if parsed.prompt_file == "-":
        prompts += _lines(sys.stdin)
    elif parsed.prompt_file is not None:
        try:
            with open(parsed.prompt_file, encoding="utf-8") as file:
                prompts += _lines(file)
        except OSError as error:
            raise ValueError(f"--prompt-file cannot be read: {error}") from None
    if not prompts:
        raise ValueError("there is nothing to continue: pass --prompt TEXT or --prompt-file F")
    return prompts


def _lines(file: Iterable[str]) -> list[str]:
    lines = (line.rstrip("\r\n") for line in file)
    return [line for line in lines if line]


def _stream(model: Model, prompt: str, options: dict[str, Any]) -> Iterator[str]:
    """The prompt, then its continuation; a character that misses bytes waits for them."""
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
    yield model.tokenizer.decode([tokens])[0][len(shown) :]
