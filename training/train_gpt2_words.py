"""Trains the embedded checkpoint, a GPT-2 of 0.4 million weights that does sums in words.

    python training/train_gpt2_words.py [--steps N] [--folder F]

Needs the test extra (transformers). Everything is drawn from fixed seeds. Takes about ten
minutes on one CPU core, writes a Hugging Face folder, and prints the accuracy on unseen problems.
"""

from __future__ import annotations

import argparse
import math
import time
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tritonseq.words import Problem, problems

EOS, PAD = "<|endoftext|>", "<|pad|>"
EOS_ID, PAD_ID = 0, 1
HOME = Path(__file__).parents[1] / "tritonseq" / "embedded" / "gpt2-words"
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


def encode(tokenizer: Tokenizer, batch: list[Problem]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids ``[B, L]``, padded on the right, and labels of which only the answer and EOS count."""
    prompts = [e.ids for e in tokenizer.encode_batch([p.prompt for p in batch])]
    answers = [[*e.ids, EOS_ID] for e in tokenizer.encode_batch([p.answer for p in batch])]
    length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((len(batch), length), EOS_ID)
    labels = torch.full((len(batch), length), -100)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return ids, labels


def build_optimizers(model: GPT2LMHeadModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks: AdamW alone was at 98 % after 5000 steps of 192."""
    matrices, others = [], []
    for name, weight in model.named_parameters():
        (matrices if ".h." in name and weight.dim() == 2 else others).append(weight)
    return [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def schedule(step: int, steps: int, warmup: int = 100) -> float:
    """What the learning rates are multiplied by: a linear rise, then half a cosine down to 1 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def train(model: GPT2LMHeadModel, tokenizer: Tokenizer, steps: int, batch: int) -> None:
    optimizers = build_optimizers(model)
    rate = partial(schedule, steps=steps)
    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, rate) for o in optimizers]
    source, start = problems(seed=1, unseen=False), time.monotonic()
    for step in range(steps):
        ids, labels = encode(tokenizer, list(islice(source, batch)))
        loss = model(input_ids=ids, labels=labels).loss
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for update in (*optimizers, *schedulers):
            update.step()
        if step % 250 == 0:
            seconds, right = time.monotonic() - start, accuracy(model, tokenizer, 500)
            line = f"step {step:5d}  loss {loss.item():.4f}  unseen {right:.1%}  {seconds:.0f} s"
            print(line, flush=True)


@torch.inference_mode()
def accuracy(model: GPT2LMHeadModel, tokenizer: Tokenizer, count: int, **options: object) -> float:
    """The share of ``count`` unseen problems whose continuation is right to the letter."""
    batch = list(islice(problems(seed=2, unseen=True), count))
    prompts = [e.ids for e in tokenizer.encode_batch([p.prompt for p in batch])]
    length = max(map(len, prompts))
    ids = torch.tensor([[PAD_ID] * (length - len(p)) + p for p in prompts])
    out = model.generate(ids, attention_mask=(ids != PAD_ID).long(), max_new_tokens=12, **options)
    texts = tokenizer.decode_batch(out[:, length:].tolist())
    return sum(t == p.answer for t, p in zip(texts, batch, strict=True)) / count


def save(model: GPT2LMHeadModel, tokenizer: Tokenizer, folder: Path) -> None:
    model.generation_config = GenerationConfig(
        bos_token_id=EOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID, max_new_tokens=12
    )
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=EOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=model.config.n_positions,
    ).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--folder", type=Path, default=HOME)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = train_tokenizer()
    model = build_model(tokenizer.get_vocab_size())
    print(f"{tokenizer.get_vocab_size()} tokens, {model.num_parameters():,} weights")
    train(model.train(), tokenizer, arguments.steps, arguments.batch)
    save(model.eval(), tokenizer, arguments.folder)
    for name, options in {
        "greedy": {},
        "beam": {"num_beams": 4, "no_repeat_ngram_size": 3},
        "sampling": {"do_sample": True, "temperature": 0.7},
    }.items():
        right = accuracy(model, tokenizer, 1000, **options)
        print(f"{name}: {right:.1%} of 1000 unseen problems")


if __name__ == "__main__":
    main()
