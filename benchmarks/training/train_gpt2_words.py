"""Trains the embedded GPT-2, of 0.4 million weights, which does sums in words.

python benchmarks/training/train_gpt2_words.py [--steps N] [--folder F]
"""

from __future__ import annotations

from itertools import islice

from common import Recipe, encode_continuations, main
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tritonseq.demo.sums import problems

EOS, PAD = "<|endoftext|>", "<|pad|>"
EOS_ID, PAD_ID = 0, 1
# GPT-2 would cut "forty-one" into three tokens; with "-one" whole, a number that stands in the
# prompt can be said again under a ban on repeated 3-grams.
WORDS = r"-?\p{L}+| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE: whole words for the vocabulary of the task, bytes for anything else."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        min_frequency=20,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (p.prompt + p.answer for p in islice(problems(seed=0, unseen=False), 50_000))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def build_model(vocab_size: int) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=64,
        n_embd=96,
        n_layer=3,
        n_head=3,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=EOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    return GPT2LMHeadModel(config)


def build() -> Recipe:
    tokenizer = train_tokenizer()
    model = build_model(tokenizer.get_vocab_size())
    return Recipe(
        folder="gpt2-words",
        problems=problems,
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=EOS,
            eos_token=EOS,
            pad_token=PAD,
            padding_side="left",
            model_max_length=model.config.n_positions,
        ),
        model=model,
        generation=GenerationConfig(
            bos_token_id=EOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID, max_new_tokens=12
        ),
        modes={
            "greedy": {},
            "beams": {"num_beams": 4, "no_repeat_ngram_size": 3},
            "sampling": {"do_sample": True, "temperature": 0.7},
        },
        steps=4000,
        encode=encode_continuations,
    )


if __name__ == "__main__":
    main(build)
