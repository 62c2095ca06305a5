"""How every embedded checkpoint is trained, checked and saved.

Needs the test extra (transformers). Everything is drawn from fixed seeds. Each training takes
about ten minutes on one CPU core, writes a Hugging Face folder, and prints the accuracy on unseen
problems.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from muon import Muon
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

    from tritonseq.demo.tasks import Problem, Problems

EMBEDDED = Path(__file__).parents[2] / "tritonseq" / "embedded"
IGNORED = -100
"""The label of a token that is not trained on."""
BATCH = 128


def save(recipe: Recipe, folder: Path) -> None:
    """Write the folder as transformers does."""
    recipe.model.save_pretrained(folder)
    recipe.tokenizer.save_pretrained(folder)


def encode_prompts(recipe: Recipe, batch: list[Problem]) -> Mapping[str, torch.Tensor]:
    """The inputs of a generation, padded on the side that the tokenizer names."""
    return recipe.tokenizer(
        [p.prompt for p in batch],
        padding=True,
        return_tensors="pt",
        return_token_type_ids=False,
    )


@dataclass(frozen=True)
class Recipe:
    """All in which the trainings differ. ``modes`` are the options that are tried at the end."""

    folder: str
    problems: Problems
    tokenizer: PreTrainedTokenizerFast
    model: PreTrainedModel
    generation: GenerationConfig
    modes: dict[str, dict[str, Any]]
    steps: int
    encode: Callable[[Recipe, list[Problem]], dict[str, torch.Tensor]]
    """The inputs of a training step, with labels for the answers only. Two of them stand below."""
    encode_prompts: Callable[[Recipe, list[Problem]], Mapping[str, torch.Tensor]] = encode_prompts
    save: Callable[[Recipe, Path], None] = save


def tokenize(recipe: Recipe, batch: list[Problem]) -> tuple[list[list[int]], list[list[int]]]:
    """The ids of the prompts and of the answers."""
    prompts = recipe.tokenizer([p.prompt for p in batch])["input_ids"]
    return prompts, recipe.tokenizer([p.answer for p in batch])["input_ids"]


def encode_pairs(recipe: Recipe, batch: list[Problem]) -> dict[str, torch.Tensor]:
    """For an encoder-decoder: the encoder reads the prompts, the answers are the labels."""
    return training_inputs(recipe, *tokenize(recipe, batch))


def encode_continuations(recipe: Recipe, batch: list[Problem]) -> dict[str, torch.Tensor]:
    """For a decoder alone: every answer goes on where its prompt ends."""
    prompts, answers = tokenize(recipe, batch)
    answers = [[*answer, recipe.model.config.eos_token_id] for answer in answers]
    rows = [p + a for p, a in zip(prompts, answers, strict=True)]
    labels = [[IGNORED] * len(p) + a for p, a in zip(prompts, answers, strict=True)]
    return training_inputs(recipe, rows, labels)


def training_inputs(
    recipe: Recipe, rows: list[list[int]], labels: list[list[int]]
) -> dict[str, torch.Tensor]:
    """Rows and labels as tensors, padded on the right."""
    pad = recipe.model.config.pad_token_id
    ids = pad_rows(rows, pad)
    return {
        "input_ids": ids,
        "attention_mask": (ids != pad).long(),
        "labels": pad_rows(labels, IGNORED),
    }


def pad_rows(rows: list[list[int]], value: int) -> torch.Tensor:
    """Rows ``[B, L]``, filled up on the right."""
    length = max(map(len, rows))
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


def build_optimizers(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks: AdamW alone left the GPT-2 at 98 % after 5000 steps."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    tables.add(id(model.get_output_embeddings().weight))
    matrices, others = [], []
    for weight in model.parameters():
        (matrices if weight.dim() == 2 and id(weight) not in tables else others).append(weight)
    return [
        Muon(matrices, lr=0.02, weight_decay=0.1),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def schedule(step: int, steps: int, warmup: int = 100) -> float:
    """What the learning rates are multiplied by: a linear rise, then half a cosine down to 1 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def train(recipe: Recipe, steps: int) -> None:
    model, start = recipe.model, time.monotonic()
    optimizers = build_optimizers(model)
    rate = partial(schedule, steps=steps)
    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, rate) for o in optimizers]
    source = recipe.problems(seed=1, unseen=False)
    for step in range(steps):
        loss = model(**recipe.encode(recipe, list(islice(source, BATCH)))).loss
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for update in (*optimizers, *schedulers):
            update.step()
        if step % 250 == 0:
            seconds, right = time.monotonic() - start, accuracy(recipe, 500)
            line = f"step {step:5d}  loss {loss.item():.4f}  unseen {right:.1%}  {seconds:.0f} s"
            print(line, flush=True)


@torch.inference_mode()
def accuracy(recipe: Recipe, count: int, **options: Any) -> float:
    """The share of ``count`` unseen problems whose answer is right to the letter."""
    recipe.model.eval()
    batch = list(islice(recipe.problems(seed=2, unseen=True), count))
    inputs = recipe.encode_prompts(recipe, batch)
    out = recipe.model.generate(**inputs, **options)
    if not recipe.model.config.is_encoder_decoder:
        out = out[:, inputs["input_ids"].shape[1] :]
    texts = recipe.tokenizer.batch_decode(out, skip_special_tokens=True)
    recipe.model.train()
    return sum(t == p.answer for t, p in zip(texts, batch, strict=True)) / count


def main(build: Callable[[], Recipe]) -> None:
    """The command line of a training: build the recipe, train, save, and print what is right."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, help="default: what the recipe says")
    parser.add_argument("--folder", type=Path, help="default: the one inside the package")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    recipe = build()
    folder = arguments.folder or EMBEDDED / recipe.folder
    print(f"{len(recipe.tokenizer)} tokens, {recipe.model.num_parameters():,} weights", flush=True)
    recipe.model.generation_config = recipe.generation
    train(recipe, arguments.steps or recipe.steps)
    recipe.save(recipe, folder)
    for name, options in recipe.modes.items():
        print(f"{name}: {accuracy(recipe, 1000, **options):.1%} of 1000 unseen problems")
