"""Trains the embedded BART, of 0.44 million weights, which puts the numbers of a text into words.

python benchmarks/training/train_bart_numbers.py [--steps N] [--folder F]
"""

from __future__ import annotations

from itertools import islice

from common import Recipe, encode_pairs, main
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from tritonseq.demo.numbers import problems

BOS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
BOS_ID, PAD_ID, EOS_ID = 0, 1, 2


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE as in BART, with a start and an end; digits stand alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        min_frequency=20,
        special_tokens=[BOS, PAD, EOS, UNK, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    batch = islice(problems(seed=0, unseen=False), 20_000)
    tokenizer.train_from_iterator((text for p in batch for text in (p.prompt, p.answer)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, BOS_ID), (EOS, EOS_ID)]
    )
    return tokenizer


def build_model(vocab_size: int) -> BartForConditionalGeneration:
    config = BartConfig(
        vocab_size=vocab_size,
        max_position_embeddings=64,
        d_model=96,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=192,
        decoder_ffn_dim=192,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        bos_token_id=BOS_ID,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        decoder_start_token_id=EOS_ID,
        forced_eos_token_id=EOS_ID,
    )
    return BartForConditionalGeneration(config)


def build() -> Recipe:
    tokenizer = train_tokenizer()
    model = build_model(tokenizer.get_vocab_size())
    return Recipe(
        folder="bart-numbers",
        problems=problems,
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=BOS,
            eos_token=EOS,
            pad_token=PAD,
            unk_token=UNK,
            mask_token=MASK,
            model_max_length=model.config.max_position_embeddings,
        ),
        model=model,
        generation=GenerationConfig(
            bos_token_id=BOS_ID,
            pad_token_id=PAD_ID,
            eos_token_id=EOS_ID,
            decoder_start_token_id=EOS_ID,
            forced_bos_token_id=BOS_ID,
            forced_eos_token_id=EOS_ID,
            max_new_tokens=40,
        ),
        modes={"greedy": {}, "beams": {"num_beams": 4}},
        steps=3000,
        encode=encode_pairs,
    )


if __name__ == "__main__":
    main(build)
