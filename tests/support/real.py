"""Checkpoints of real width with few layers: their weights lie in memory as users' do.

Random weights, one layer on each side, and a tokenizer whose words are `w17` for token 17. The
vocabularies of T5 and UniLM are as long as theirs; the others are cut to what is quickly written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import seq2seq
import tiny
import tiny_unilm
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

if TYPE_CHECKING:
    from pathlib import Path

_HEADS = {"encoder_attention_heads": 12, "decoder_attention_heads": 12}
_ONE = {"encoder_layers": 1, "decoder_layers": 1}
SIZES: dict[str, dict[str, Any]] = {
    "bart": {
        "vocab_size": 12000, "d_model": 768, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072,
        **_HEADS, **_ONE,
    },
    "marian": {
        "vocab_size": 12001, "d_model": 512, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048,
        "encoder_attention_heads": 8, "decoder_attention_heads": 8, **_ONE,
        "pad_token_id": 12000, "decoder_start_token_id": 12000,
    },
    # NLLB-200's, whose head is most of what a step reads.
    "m2m_100": {
        "vocab_size": 256206, "d_model": 1024, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096,
        "encoder_attention_heads": 16, "decoder_attention_heads": 16, **_ONE,
    },
    "t5": {
        "vocab_size": 32128, "d_model": 512, "d_ff": 2048, "d_kv": 64, "num_heads": 8,
        "num_layers": 1,
    },
    "t5-v1.1": {
        "vocab_size": 12000, "d_model": 512, "d_ff": 1024, "d_kv": 64, "num_heads": 6,
        "num_layers": 1,
    },
    "gpt2": {"vocab_size": 12000, "n_embd": 768, "n_layer": 1, "n_head": 12},
    "unilm": {
        "vocab_size": 28996, "hidden_size": 768, "num_hidden_layers": 1,
        "num_attention_heads": 12, "intermediate_size": 3072,
    },
}  # fmt: skip
UNKNOWN = 3
LINES = ["w70 w8000 w91", "w12", "w2500 w33 w4120 w57 w605 w7000 w83", "w9 w9 w11011"]


@dataclass(frozen=True, eq=False)
class Real:
    """A checkpoint, and what made it."""

    family: str
    folder: Path
    model: Any
    """Of transformers; of UniLM the weights and the configuration."""

    def ids(self, line: str) -> list[int]:
        """What the tokenizer makes of a line."""
        words = list(map(_token, line.split()))
        if self.family == "unilm":
            return [tiny_unilm.CLS, *words, tiny_unilm.SEP]
        return words if self.family == "gpt2" else [*words, self._end]

    def text(self, found: list[int], line: str) -> str:
        """Tokens that were found as words, without special ones and the prompt."""
        config = self.model.config
        if self.family == "unilm":
            return " ".join(f"w{token}" for token in found if token > tiny_unilm.MASK)
        own = found[len(self.ids(line)) :] if self.family == "gpt2" else found
        special = (config.eos_token_id, config.pad_token_id, UNKNOWN)
        return " ".join(f"w{token}" for token in own if token not in special)

    @torch.no_grad()
    def gap(self, line: str, one: str, other: str) -> float:
        """How far apart the two tokens are at which two greedy answers part.

        In standard deviations of the logits there, in float32.
        """
        found, instead = ([*map(_token, text.split()), self._end] for text in (one, other))
        place = next(n for n in range(len(found)) if found[n] != instead[n])
        ids, before = torch.tensor([self.ids(line)]), torch.tensor([found[:place]])
        if self.family == "unilm":
            network = self.model.network(torch.float32)
            logits = network.logits(ids, torch.tensor([ids.shape[1]]), before.long()).flatten()
        elif self.family == "gpt2":
            logits = self.model(torch.cat((ids, before.long()), dim=1)).logits[0, -1]
        else:
            start = torch.tensor([[self.model.config.decoder_start_token_id]])
            begun = torch.cat((start, before.long()), dim=1)
            logits = self.model(input_ids=ids, decoder_input_ids=begun).logits[0, -1]
        return float((logits[found[place]] - logits[instead[place]]).abs() / logits.std())

    @property
    def _end(self) -> int:
        if self.family == "unilm":
            return tiny_unilm.SEP
        end: int = self.model.config.eos_token_id
        return end

    @torch.no_grad()
    def continued(self, line: str, **options: Any) -> list[int]:
        """By transformers, one line at a time; of UniLM by its definition, greedily."""
        ids = torch.tensor([self.ids(line)])
        if self.family == "unilm":
            return self._by_definition(ids, options["max_new_tokens"])
        found: list[int] = self.model.generate(ids, **options)[0].tolist()
        return found

    def _by_definition(self, ids: Tensor, count: int) -> list[int]:
        network = self.model.network(torch.float32)
        found: list[int] = []
        while len(found) < count and tiny_unilm.SEP not in found:
            targets = torch.tensor([found], dtype=torch.int64)
            logits = network.logits(ids, torch.tensor([ids.shape[1]]), targets)
            found.append(int(logits.argmax()))
        return found


def _token(word: str) -> int:
    return int(word[1:])


def write(family: str, folder: Path) -> Real:
    """A checkpoint of one of `SIZES`."""
    sizes = SIZES[family]
    if family == "unilm":
        unilm = tiny_unilm.tiny(**sizes)
        unilm.write(folder)
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words += [f"w{token}" for token in range(len(words), sizes["vocab_size"])]
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
        return Real(family, folder, unilm)
    model = tiny.hf_gpt2(**sizes) if family == "gpt2" else seq2seq.hf_model(family, **sizes)
    model.save_pretrained(folder)
    _write_tokenizer(folder, model.config)
    return Real(family, folder, model)


def _write_tokenizer(folder: Path, config: Any) -> None:
    specials = {config.eos_token_id: "</s>", config.pad_token_id: "<pad>"}
    words = [specials.get(token, f"w{token}") for token in range(config.vocab_size)]
    words[UNKNOWN] = "<unk>"
    vocabulary = {word: token for token, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(list(specials.values()))
    if config.is_encoder_decoder:
        end = [("</s>", config.eos_token_id)]
        backend.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=end)
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
