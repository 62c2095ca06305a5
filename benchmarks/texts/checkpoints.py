"""Checkpoints of real width that read and write text: random weights, tokenizers trained here.

A measurement of a pipeline needs more than ids: a tokenizer with a vocabulary of real size, and
answers that end after different numbers of tokens. Random weights hardly ever choose the end
token, so its logit gets a bias, fixed once so that answers have all lengths up to the limit.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from generate.checkpoints import quiet_transformers
from texts import corpus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEED = 20217
SHORTEST_ANSWER, LONGEST_ANSWER = 3, 60
# How much more the scale of the last norm, and with it that of the logits, is than at first.
SPREAD = 3.0
# How much more a target depends on its source than at first.
SOURCE = 8.0
# In standard deviations of a logit, such that answers end after all numbers of tokens; tried.
END_BIAS = {"bart-base": 3.4, "opus-mt": 3.1}


@dataclass(frozen=True)
class CheckpointSizes:
    """Those of a network of the BART family, and of its vocabulary."""

    layers: int
    width: int
    vocabulary: int

    def tiny(self) -> CheckpointSizes:
        """For a rehearsal: as wide, for weights to be laid out as real ones are, but shallow."""
        return replace(self, layers=1, vocabulary=2000)

    def config(self) -> dict[str, Any]:
        """In the names of config.json."""
        both = {
            f"{part}_{name}": value
            for part in ("encoder", "decoder")
            for name, value in {
                "layers": self.layers,
                "attention_heads": max(1, self.width // 64),
                "ffn_dim": 4 * self.width,
            }.items()
        }
        return {"d_model": self.width, "max_position_embeddings": 1024} | both


BART_BASE = CheckpointSizes(layers=6, width=768, vocabulary=50265)
OPUS_MT = CheckpointSizes(layers=6, width=512, vocabulary=58101)


def write_bart_base(folder: Path, *, tiny: bool = False) -> None:
    """A BART-base with 6 + 6 layers, its frame of special tokens, and a byte-level BPE."""
    sizes = BART_BASE.tiny() if tiny else BART_BASE
    length = _write_byte_level_bpe(folder, sizes.vocabulary, lines=2000 if tiny else None)
    transformers = quiet_transformers()
    config = transformers.BartConfig(
        vocab_size=length, forced_eos_token_id=None, activation_function="gelu", **sizes.config()
    )
    torch.manual_seed(SEED)
    network = transformers.BartForConditionalGeneration(config)
    with torch.no_grad():
        network.model.decoder.embed_positions.weight.mul_(4.0)
    _save(network, folder, END_BIAS["bart-base"], no_repeat_ngram_size=3)


def write_opus_mt(folder: Path, *, tiny: bool = False) -> None:
    """An opus-mt with 6 + 6 layers, and a sentencepiece model for each of two languages."""
    sizes = OPUS_MT.tiny() if tiny else OPUS_MT
    length = _write_marian_vocabulary(folder, sizes.vocabulary, lines=2000 if tiny else 200_000)
    transformers = quiet_transformers()
    config = transformers.MarianConfig(
        vocab_size=length,
        decoder_vocab_size=length,
        pad_token_id=length - 1,
        decoder_start_token_id=length - 1,
        eos_token_id=0,
        forced_eos_token_id=None,
        activation_function="swish",
        scale_embedding=True,
        share_encoder_decoder_embeddings=True,
        **sizes.config() | {"max_position_embeddings": 512},
    )
    torch.manual_seed(SEED)
    network = transformers.MarianMTModel(config)
    banned = [[length - 1]]
    _save(network, folder, END_BIAS["opus-mt"], bad_words_ids=banned, no_repeat_ngram_size=2)


WRITERS: dict[str, Callable[..., None]] = {"bart-base": write_bart_base, "opus-mt": write_opus_mt}


def _save(network: Any, folder: Path, bias: float, **options: Any) -> None:
    """Weights, configuration and generation defaults: 4 beams, answers of all lengths."""
    config, layers = network.config, network.model.decoder.layers
    with torch.no_grad():
        layers[-1].final_layer_norm.weight.mul_(SPREAD)
        for layer in layers:
            layer.encoder_attn.out_proj.weight.mul_(SOURCE)
    deviation = SPREAD * config.init_std * config.d_model**0.5
    network.final_logits_bias[0, config.eos_token_id] = bias * deviation
    defaults = network.generation_config
    defaults.update(
        num_beams=4, min_new_tokens=SHORTEST_ANSWER, max_new_tokens=LONGEST_ANSWER, **options
    )
    network.save_pretrained(folder)


def _write_byte_level_bpe(folder: Path, size: int, *, lines: int | None) -> int:
    """vocab.json and merges.txt in the layout of BART; returns the number of tokens."""
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        corpus.lines()[:lines], size, 1, show_progress=False, special_tokens=special
    )
    tokenizer.save_model(str(folder))
    named = {"tokenizer_class": "BartTokenizer", "model_max_length": 1024}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    length: int = tokenizer.get_vocab_size()
    return length


def _write_marian_vocabulary(folder: Path, size: int, *, lines: int) -> int:
    """source.spm, target.spm and vocab.json in the layout of Marian; the number of tokens."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    text = corpus.lines()
    pieces: dict[str, None] = {}
    for number, name in enumerate(("source.spm", "target.spm")):
        model = io.BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=iter(text[number * lines : (number + 1) * lines]),
            model_writer=model,
            vocab_size=size * 5 // 9,
            hard_vocab_limit=False,
            model_type="bpe",
            eos_id=0,
            unk_id=1,
            bos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
        (folder / name).write_bytes(model.getvalue())
        processor = SentencePieceProcessor(model_proto=model.getvalue())
        pieces |= dict.fromkeys(map(processor.id_to_piece, range(processor.get_piece_size())))
    tokens = ["</s>", "<unk>", *(p for p in pieces if p not in ("</s>", "<unk>"))]
    tokens = [*tokens[: size - 1], "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    named = {"tokenizer_class": "MarianTokenizer", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return len(tokens)
