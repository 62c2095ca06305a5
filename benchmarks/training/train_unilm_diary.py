"""Trains the embedded UniLM, of 0.4 million weights, which makes diary lines of sentences.

    python benchmarks/training/train_unilm_diary.py [--steps N] [--folder F]

One BERT is encoder and decoder at once. It is trained as s2s-ft trains, with pseudo masks: behind
the source stand the tokens of the target, then one [MASK] for each of them at the same position,
which sees the source, the tokens before its own, and itself. The [MASK]s alone are trained on.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from string import ascii_letters
from typing import TYPE_CHECKING

import torch
from common import IGNORED, Recipe, main, pad_rows, tokenize
from tokenizers import pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, GenerationConfig

from tritonseq.demo.diary import problems

if TYPE_CHECKING:
    from pathlib import Path

    from tritonseq.demo.tasks import Problem

PAD, UNK, CLS, SEP, MASK = SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD_ID, UNK_ID, CLS_ID, SEP_ID, MASK_ID = range(len(SPECIALS))
SOURCE_TYPE, TARGET_TYPE = 0, 1
USUAL = 100
"""A word that occurs as often in 20,000 problems is a piece of its own."""
LONGEST = 20
"""Answers have at most this many pieces, with the end."""


def count_vocabulary() -> list[str]:
    """Cased WordPieces by line: the usual words, letters for all others, figures of up to two.

    So four figures are always an hour and the minutes, whichever times were seen in training.
    Counted, not trained: the trainer of the library gives other pieces at every run.
    """
    counts: Counter[str] = Counter()
    for problem in islice(problems(seed=0, unseen=False), 20_000):
        for text in (problem.prompt, problem.answer):
            words = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)
            counts.update(word for word, _ in words if not word.isdigit())
    usual = [word for word, count in counts.most_common() if count >= USUAL]
    figures = [f"{n:0{width}}" for width in (1, 2) for n in range(10**width)]
    parts = [*ascii_letters, *figures]
    pieces = [*SPECIALS, *usual, *parts, *("##" + part for part in parts)]
    return list(dict.fromkeys(pieces))  # "a" and "I" are both words and letters


class BertForSequenceToSequenceWithPseudoMask(BertForMaskedLM):
    """A BERT under the name that s2s-ft's configurations give to it."""

    @torch.inference_mode()
    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Sources and their greedy targets ``[B, S + T]``, all computed anew at every step."""
        target = torch.empty(len(input_ids), 0, dtype=torch.long)
        ended = torch.zeros(len(input_ids), dtype=torch.bool)
        for _ in range(LONGEST):
            target = torch.cat([target, torch.full((len(target), 1), PAD_ID)], dim=1)
            logits = self(**arrange(input_ids, target)).logits[:, -1]  # of the last [MASK]
            target[:, -1] = torch.where(ended, PAD_ID, logits.argmax(-1))
            ended |= target[:, -1] == SEP_ID
            if ended.all():
                break
        return torch.cat([input_ids, target], dim=1)


def arrange(source: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inputs for sources ``[B, S]`` and targets ``[B, T]``, each padded on the right.

    Rows are ``[B, S + 2T]``: source, target, and the [MASK] of each target.
    """
    lengths = (source != PAD_ID).sum(1, keepdim=True)
    (samples, width), count = source.shape, target.shape[1]
    positions = lengths + torch.arange(count)
    return {
        "input_ids": torch.cat([source, target, torch.full_like(target, MASK_ID)], dim=1),
        "position_ids": torch.cat(
            [torch.arange(width).expand(samples, -1), positions, positions], dim=1
        ),
        "token_type_ids": torch.tensor([SOURCE_TYPE] * width + [TARGET_TYPE] * 2 * count).expand(
            samples, -1
        ),
        "attention_mask": visibility(lengths, width, count),
    }


def visibility(lengths: torch.Tensor, width: int, count: int) -> torch.Tensor:
    """Which row may see which: boolean ``[B, 1, S + 2T, S + 2T]``."""
    source = torch.ones(width, width), torch.zeros(width, count), torch.zeros(width, count)
    seen, before = torch.ones(count, width), torch.ones(count, count).tril()
    tokens = seen, before, torch.zeros(count, count)
    masks = seen, before.tril(-1), torch.eye(count)
    rows = torch.cat([torch.cat(row, dim=1) for row in (source, tokens, masks)]).bool()
    column = torch.arange(width + 2 * count)
    real = (column < lengths) | (column >= width)
    # Padding sees itself: a row that sees nothing would have no softmax.
    return (rows & real[:, None] | torch.eye(len(column), dtype=torch.bool))[:, None]


def encode(recipe: Recipe, batch: list[Problem]) -> dict[str, torch.Tensor]:
    """The inputs of a training step; the labels of all but the [MASK]s are ignored."""
    prompts, answers = tokenize(recipe, batch)
    source = pad_rows(prompts, PAD_ID)
    target = pad_rows([answer[1:] for answer in answers], PAD_ID)  # without [CLS]
    labels = torch.full((len(batch), source.shape[1] + 2 * target.shape[1]), IGNORED)
    labels[:, -target.shape[1] :] = target.masked_fill(target == PAD_ID, IGNORED)
    return arrange(source, target) | {"labels": labels}


def save(recipe: Recipe, folder: Path) -> None:
    """Write the folder as s2s-ft leaves it, with the vocabulary that its command line is given."""
    recipe.model.save_pretrained(folder)
    recipe.generation.save_pretrained(folder)
    vocabulary = recipe.tokenizer.convert_ids_to_tokens(range(len(recipe.tokenizer)))
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in vocabulary))
    settings = {"do_lower_case": False, "model_max_length": recipe.tokenizer.model_max_length}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def build_model(vocab_size: int) -> BertForSequenceToSequenceWithPseudoMask:
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        intermediate_size=384,
        max_position_embeddings=64,
        type_vocab_size=2,
        layer_norm_eps=1e-5,  # that of the decoder, whatever the configuration says
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=PAD_ID,
        # What s2s-ft adds.
        source_type_id=SOURCE_TYPE,
        target_type_id=TARGET_TYPE,
        rel_pos_bins=0,
        max_rel_pos=0,
        label_smoothing=0.0,
        fix_word_embedding=False,
    )
    return BertForSequenceToSequenceWithPseudoMask(config)


def build() -> Recipe:
    vocabulary = count_vocabulary()
    model = build_model(len(vocabulary))
    return Recipe(
        folder="unilm-clock",
        problems=problems,
        tokenizer=BertTokenizer(
            {piece: index for index, piece in enumerate(vocabulary)},
            do_lower_case=False,
            model_max_length=model.config.max_position_embeddings,
        ),
        model=model,
        generation=GenerationConfig(max_new_tokens=LONGEST),
        modes={"greedy": {}},
        steps=1500,
        encode=encode,
        save=save,
    )


if __name__ == "__main__":
    main(build)
