"""Tiny random UniLM checkpoints, written as s2s-ft leaves them: a folder with three files."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import unilm
from safetensors.torch import save_file
from torch import Tensor

import tritonseq
from tritonseq.models.network import place_parameter
from tritonseq.models.unilm import UniLM, UniLMConfig

if TYPE_CHECKING:
    from pathlib import Path

PAD, UNK, CLS, SEP, MASK = range(5)
WORDS = 5
"""The first id that is no special token."""
VOCAB = 61
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_act": "gelu",
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "source_type_id": 0,
    "target_type_id": 1,
    "rel_pos_bins": 0,
    "max_rel_pos": 0,
}
TOKENS: dict[str, Any] = {"mask_token_id": MASK, "start_token_id": SEP}
ENDS: dict[str, Any] = {"eos_token_id": SEP, "pad_token_id": PAD}


class Tiny(NamedTuple):
    """A random model: what its files hold."""

    weights: dict[str, Tensor]
    config: dict[str, Any]

    def network(self, dtype: torch.dtype = torch.float64) -> unilm.Network:
        """Its definition. In float64 it says which decisions float32 cannot be sure of."""
        first = self.config.get("first_type_id", self.config["source_type_id"])
        return unilm.Network(self.weights, {**self.config, "first_type_id": first}, dtype)

    def engine(self, dtype: torch.dtype = torch.float32) -> UniLM:
        """The network of tritonseq on these weights, without the detour over files."""
        config = UniLMConfig.from_dict(self.network().config)
        network, placed = UniLM(config), {}
        for name, spec in UniLM.tensor_specs(self.weights.keys(), config).items():
            if spec not in placed:
                parts = [self.weights[part] for part in spec.names]
                parts = [part.t() for part in parts] if spec.transpose else parts
                placed[spec] = torch.cat(parts, dim=-1).to(dtype)
            place_parameter(network, name, placed[spec])
        return network

    def model(self, **defaults: Any) -> tritonseq.Model:
        """The same with UniLM's search, and what a user calls around it."""
        options = {"search": "unilm", "length_penalty": 0.0, **ENDS, **defaults}
        return tritonseq.Model(self.engine(), tritonseq.GenerationConfig(**options), None)

    def write(self, folder: Path) -> Path:
        """config.json, model.safetensors and vocab.txt, as s2s-ft names and ties them."""
        upstream = {
            "model_type": "bert",
            "architectures": ["BertForSequenceToSequenceWithPseudoMask"],
            # Which its decoder does not read.
            "layer_norm_eps": 1e-12,
        }
        (folder / "config.json").write_text(json.dumps({**self.config, **ENDS, **upstream}))
        words = self.weights["bert.embeddings.word_embeddings.weight"]
        tied = {"cls.predictions.decoder_weight": words.clone()}
        save_file({**self.weights, **tied}, folder / "model.safetensors")
        (folder / "vocab.txt").write_text("\n".join(vocabulary(self.config["vocab_size"])) + "\n")
        return folder


def vocabulary(size: int) -> list[str]:
    """Special tokens, then letters, alone and as pieces that continue a word, then pairs."""
    letters = string.ascii_lowercase
    pieces = [f"##{letter}" for letter in letters]
    pairs = [a + b for a in letters for b in letters]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *pieces, *pairs][:size]


def tiny(seed: int = 0, **config: Any) -> Tiny:
    """A model of `SIZES`, changed by `config`; the same for the same arguments.

    Every weight is random, norms and biases included, and the logits are spread, so that float32
    seldom meets a near tie.
    """
    config = {**SIZES, **TOKENS, **config}
    generator = torch.Generator().manual_seed(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    vocab, weights = config["vocab_size"], {}

    def noise(name: str, *shape: int, scale: float, centre: float = 0.0) -> None:
        weights[name] = torch.randn(shape, generator=generator) * scale + centre

    def linear(name: str, outputs: int, inputs: int, gain: float = 1.5) -> None:
        noise(f"{name}.weight", outputs, inputs, scale=gain * inputs**-0.5)
        noise(f"{name}.bias", outputs, scale=0.1)

    def norm(name: str, scale: float = 1.0) -> None:
        noise(f"{name}.LayerNorm.weight", hidden, scale=0.1 * scale, centre=scale)
        noise(f"{name}.LayerNorm.bias", hidden, scale=0.1 * scale)

    words = "bert.embeddings.word_embeddings.weight"
    noise(words, vocab, hidden, scale=1.0)
    weights[words][config["mask_token_id"]] *= 0.2
    positions = config["max_position_embeddings"]
    noise("bert.embeddings.position_embeddings.weight", positions, hidden, scale=0.5)
    if config["type_vocab_size"]:
        types = config["type_vocab_size"]
        noise("bert.embeddings.token_type_embeddings.weight", types, hidden, scale=0.3)
    norm("bert.embeddings")
    for i in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", hidden, hidden, gain=2.0)
        # What is read must outweigh the mask token that reads it, which is always the same.
        linear(f"{layer}.attention.output.dense", hidden, hidden, gain=4.0)
        norm(f"{layer}.attention.output")
        linear(f"{layer}.intermediate.dense", inner, hidden)
        linear(f"{layer}.output.dense", hidden, inner)
        # Activations are positive on average: that mean would be the same in every state.
        out = weights[f"{layer}.output.dense.weight"]
        out -= out.mean(dim=1, keepdim=True)
        norm(f"{layer}.output")
    if config["rel_pos_bins"]:
        heads = config["num_attention_heads"]
        noise("bert.rel_pos_bias.weight", heads, config["rel_pos_bins"], scale=1.5)
    linear("cls.predictions.transform.dense", hidden, hidden)
    # The head's norm fixes how far the logits are apart: a standard deviation of about 2.
    norm("cls.predictions.transform", 2.0 * hidden**-0.5)
    noise("cls.predictions.bias", vocab, scale=0.3)
    # End tokens come up every now and then.
    weights["cls.predictions.bias"][SEP] += 1.2
    return Tiny(weights, config)


def sources(lengths: list[int], *, seed: int = 0, pos_shift: bool = False) -> list[list[int]]:
    """Random ids with their frame, of true `lengths`; position shift has no end of the source."""
    generator = torch.Generator().manual_seed(seed)
    frame = 1 if pos_shift else 2
    rows = [torch.randint(WORDS, VOCAB, (n - frame,), generator=generator) for n in lengths]
    return [[CLS, *row.tolist(), *([] if pos_shift else [SEP])] for row in rows]


def pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids `[B, S]` padded on the right, and their mask."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(width) < lengths[:, None]).long()


def unpadded(rows: Tensor) -> list[list[int]]:
    """Up to and with the end token."""
    lists = rows.tolist()
    return [row[: row.index(SEP) + 1] if SEP in row else row for row in lists]
