"""Trains the embedded M2M100, of 0.4 million weights, which translates amounts as NLLB would.

    python benchmarks/training/train_m2m100_amounts.py [--steps N] [--folder F]

One network for all twenty directions: the source starts with the token of its language, the target
with that of the language that is asked for.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING

import torch
from common import Recipe, main, pad_rows, training_inputs
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    M2M100Config,
    M2M100ForConditionalGeneration,
    NllbTokenizer,
)

from tritonseq.demo.amounts import LANGUAGES, problems

if TYPE_CHECKING:
    from tritonseq.demo.tasks import Problem

BOS, PAD, EOS, UNK = SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
BOS_ID, PAD_ID, EOS_ID = 0, 1, 2


def train_tokenizer() -> NllbTokenizer:
    """BPE as in NLLB; no piece is learnt across a hyphen or from one part of a German number on
    into the next, so that unseen numbers are made of the pieces of others."""
    tokenizer = Tokenizer(models.BPE())
    parts = Regex("hundert|tausend|und(?=zw|dr|vi|fü|se|si|ac|ne)")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Split("-", "merged_with_next"),
            pre_tokenizers.Split(parts, "isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1000, min_frequency=150, special_tokens=[*SPECIALS], show_progress=False
    )
    batch = islice(problems(seed=0, unseen=False), 50_000)
    tokenizer.train_from_iterator((p.answer for p in batch), trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    return NllbTokenizer(
        learnt["vocab"],
        list(map(tuple, learnt["merges"])),
        extra_special_tokens=[language.code for language in LANGUAGES],
        src_lang=LANGUAGES[0].code,
        model_max_length=64,
    )


def frame(recipe: Recipe, texts: list[str], codes: list[str | None]) -> list[list[int]]:
    """Texts behind the tokens of their languages, with an end: NLLB's frame of either side."""
    ids = recipe.tokenizer(texts, add_special_tokens=False)["input_ids"]
    languages = recipe.tokenizer.convert_tokens_to_ids(codes)
    return [[language, *row, EOS_ID] for language, row in zip(languages, ids, strict=True)]


def encode(recipe: Recipe, batch: list[Problem]) -> dict[str, torch.Tensor]:
    sources = frame(recipe, [p.prompt for p in batch], [p.src_lang for p in batch])
    targets = frame(recipe, [p.answer for p in batch], [p.tgt_lang for p in batch])
    return training_inputs(recipe, sources, targets)


def encode_prompts(recipe: Recipe, batch: list[Problem]) -> dict[str, torch.Tensor]:
    """Sources and how each target begins: `generate` would force one language on all of them."""
    sources = frame(recipe, [p.prompt for p in batch], [p.src_lang for p in batch])
    ids = pad_rows(sources, PAD_ID)
    targets = recipe.tokenizer.convert_tokens_to_ids([p.tgt_lang for p in batch])
    return {
        "input_ids": ids,
        "attention_mask": (ids != PAD_ID).long(),
        "decoder_input_ids": torch.tensor([[EOS_ID, language] for language in targets]),
    }


def build_model(vocab_size: int) -> M2M100ForConditionalGeneration:
    config = M2M100Config(
        vocab_size=vocab_size,
        max_position_embeddings=64,
        d_model=96,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=192,
        decoder_ffn_dim=192,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        bos_token_id=BOS_ID,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        decoder_start_token_id=EOS_ID,
    )
    return M2M100ForConditionalGeneration(config)


def build() -> Recipe:
    tokenizer = train_tokenizer()
    return Recipe(
        folder="m2m100-amounts",
        problems=problems,
        tokenizer=tokenizer,
        model=build_model(len(tokenizer)),
        generation=GenerationConfig(
            bos_token_id=BOS_ID,
            pad_token_id=PAD_ID,
            eos_token_id=EOS_ID,
            decoder_start_token_id=EOS_ID,
            max_new_tokens=40,
        ),
        modes={"greedy": {}, "beams": {"num_beams": 4}},
        steps=3000,
        encode=encode,
        encode_prompts=encode_prompts,
    )


if __name__ == "__main__":
    main(build)
