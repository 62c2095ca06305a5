"""Tokenizers of multilingual checkpoints, trained on the spot and laid out as published ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pieces import train
from tokenizers import SentencePieceBPETokenizer
from transformers import NllbTokenizer

from tritonseq.text.language_codes import M2M100

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FAIRSEQ = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}


def say(folder: Path, **config: Any) -> Path:
    """Write tokenizer_config.json."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_nllb(folder: Path, texts: Sequence[str]) -> Path:
    """tokenizer.json, as transformers saves it."""
    trained = SentencePieceBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(texts, vocab_size=120, special_tokens=special)
    held = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in held["merges"]]
    NllbTokenizer(vocab=held["vocab"], merges=merges).save_pretrained(folder)
    return folder


def write_m2m100(folder: Path, codes: str = "m2m100", **config: Any) -> Path:
    """vocab.json without some of the pieces, and in an order of its own."""
    say(folder, **{"tokenizer_class": "M2M100Tokenizer", "language_codes": codes, **config})
    model = train(folder / "sentencepiece.bpe.model", **FAIRSEQ)
    pieces = [model.id_to_piece(number) for number in range(3, model.get_piece_size())]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *reversed(pieces[:-5])]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    listed = {"additional_special_tokens": [f"__{code}__" for code in M2M100[codes]]}
    (folder / "special_tokens_map.json").write_text(json.dumps(listed))
    return folder


def write_plbart(folder: Path, codes: str = "base", **config: Any) -> Path:
    """A sentencepiece model, behind whose pieces the languages stand."""
    say(folder, tokenizer_class="PLBartTokenizer", language_codes=codes, **config)
    train(folder / "sentencepiece.bpe.model", **FAIRSEQ)
    return folder
