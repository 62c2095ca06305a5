"""A UniLM of real shape with random weights, written as s2s-ft writes what it has fine-tuned.

As it is initialised it would give one token for ever, whatever the source. Positions
weigh more here, attention is sharper and the logits are spread, so that every token depends on
the source and on the tokens before it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from pathlib import Path

    from generate.checkpoints import ModelShape
    from torch import Tensor

START, END, MASK = 101, 102, 103
"""[CLS], [SEP] and [MASK] of BERT's vocabularies; words come after them."""
# How many times as large as BERT initialises them, by the end of the name.
SCALES = {
    "position_embeddings.weight": 2.0,
    "self.query.weight": 16.0,
    "transform.LayerNorm.weight": 3.0,
}


def write_folder(folder: Path, shape: ModelShape) -> int:
    """Write config.json and model.safetensors in float32; returns the bytes of the weights."""
    config = config_of(shape)
    # BERT's own at a width of 768.
    deviation = 0.02 * (768 / shape.width) ** 0.5
    # Few layers take as much from the source as many.
    scales = SCALES | {"attention.output.dense.weight": (12 / shape.layers) ** 0.5}
    weights = {
        name: initial(name, size, deviation) * scale_of(name, scales)
        for name, size in sizes_of(config).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(weights, folder / "model.safetensors")
    return sum(weight.nbytes for weight in weights.values())


def config_of(shape: ModelShape) -> dict[str, Any]:
    """A config.json with the token types that UniLM was pre-trained with; heads of size 64."""
    return {
        "architectures": ["BertForSequenceToSequenceUniLMV1"],
        "model_type": "bert",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.width // 64,
        "intermediate_size": 4 * shape.width,
        "hidden_act": "gelu",
        "max_position_embeddings": 768,
        "type_vocab_size": 6,
        "source_type_id": 4,
        "target_type_id": 5,
        "rel_pos_bins": 0,
        "max_rel_pos": 0,
        "layer_norm_eps": 1e-12,
    }


def sizes_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor's name and shape; the output matrix is that of the embeddings."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    sizes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (config["vocab_size"], width),
        "bert.embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
        "bert.embeddings.token_type_embeddings.weight": (config["type_vocab_size"], width),
        "cls.predictions.bias": (config["vocab_size"],),
    }
    products = {"cls.predictions.transform.dense": (width, width)}
    norms = ["bert.embeddings.LayerNorm", "cls.predictions.transform.LayerNorm"]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"bert.encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            products[f"{prefix}.attention.{part}"] = (width, width)
        products[f"{prefix}.intermediate.dense"] = (inner, width)
        products[f"{prefix}.output.dense"] = (width, inner)
        norms += [f"{prefix}.attention.output.LayerNorm", f"{prefix}.output.LayerNorm"]
    for name, size in products.items():
        sizes |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
    for name in norms:
        sizes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return sizes


def initial(name: str, size: tuple[int, ...], deviation: float) -> Tensor:
    """As BERT starts: matrices drawn, biases zero, the weights of norms one."""
    if len(size) == 2:
        return torch.normal(0.0, deviation, size)
    return torch.ones(size) if name.endswith("LayerNorm.weight") else torch.zeros(size)


def scale_of(name: str, scales: dict[str, float]) -> float:
    """The factor for a tensor, by the end of its name."""
    return next((scale for end, scale in scales.items() if name.endswith(end)), 1.0)
