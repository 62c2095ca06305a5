"""Trains the embedded T5, of 0.35 million weights, which turns spoken dates into ISO dates.

    python benchmarks/training/train_t5_dates.py [--steps N] [--folder F]

The shape is that of T5 v1.1: gated GELU, an untied head, heads wider in all than the model, and
a decoder of fewer layers than the encoder.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice
from string import ascii_lowercase

import torch
from common import Recipe, encode_pairs, main
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from tritonseq.demo.dates import problems

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
PAD_ID, EOS_ID = 0, 1
RARE = -20.0
"""The score of a letter: a word is never cut into letters where it is a piece of its own."""


def count_tokenizer() -> Tokenizer:
    """Unigram pieces as in T5: whole words by their frequency, and letters for anything else.

    Counted, not trained: the trainer of the library gives other pieces at every run.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Lowercase()  # speech has no capitals
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Metaspace(prepend_scheme="first"),
            pre_tokenizers.Punctuation(),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    counts: Counter[str] = Counter()
    for problem in islice(problems(seed=0, unseen=False), 50_000):
        for text in (problem.prompt, problem.answer):
            words = tokenizer.pre_tokenizer.pre_tokenize_str(text.lower())
            counts.update(word for word, _ in words)
    pieces = [(special, 0.0) for special in (PAD, EOS, UNK)]
    pieces += [(word, math.log(count / counts.total())) for word, count in counts.most_common()]
    pieces += [(letter, RARE) for letter in ascii_lowercase if letter not in counts]
    tokenizer.model = models.Unigram(pieces, unk_id=2, byte_fallback=False)
    tokenizer.add_special_tokens([PAD, EOS, UNK])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, EOS_ID)]
    )
    return tokenizer


def build_model(vocab_size: int) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=vocab_size,
        d_model=64,
        d_kv=16,
        num_heads=6,
        d_ff=160,
        num_layers=3,
        num_decoder_layers=2,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=64,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        decoder_start_token_id=PAD_ID,
    )
    model = T5ForConditionalGeneration(config)
    # transformers 5 ties the head of every T5 that it makes; those of v1.1 have one of their own.
    model.lm_head.weight = nn.Parameter(0.05 * torch.randn_like(model.shared.weight))
    return model


def build() -> Recipe:
    tokenizer = count_tokenizer()
    return Recipe(
        folder="t5-dates",
        problems=problems,
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token=EOS, unk_token=UNK, pad_token=PAD
        ),
        model=build_model(tokenizer.get_vocab_size()),
        generation=GenerationConfig(
            decoder_start_token_id=PAD_ID,
            eos_token_id=EOS_ID,
            pad_token_id=PAD_ID,
            max_new_tokens=16,
        ),
        modes={"greedy": {}, "beams": {"num_beams": 4}},
        steps=3000,
        encode=encode_pairs,
    )


if __name__ == "__main__":
    main(build)
