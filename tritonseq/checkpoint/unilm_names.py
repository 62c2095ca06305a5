"""The tensors of UniLM checkpoints by name: in every family, and in BERT of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    Shapes = Mapping[str, tuple[int, ...]]

WORDS = "bert.embeddings.word_embeddings.weight"
POSITIONS = "bert.embeddings.position_embeddings.weight"
TYPES = "bert.embeddings.token_type_embeddings.weight"
RELATIVE = "bert.rel_pos_bias.weight"
HEAD = "cls.predictions.transform"
BIAS = "cls.predictions.bias"
# What a head may have of its own, beside the table of words and the bias.
OWN_HEAD = "cls.predictions.decoder.weight"
DECODER_BIAS = "cls.predictions.decoder.bias"

# From the names of other families, one after the other. Bare BERT models have no prefix.
PREFIXES = {
    "embeddings.": "bert.embeddings.",
    "encoder.": "bert.encoder.",
    "pooler.": "bert.pooler.",
    "roberta.": "bert.",
    "electra.": "bert.",
    "bert.encoder.rel_pos_bias.": "bert.rel_pos_bias.",
    "lm_head.dense.": "cls.predictions.transform.dense.",
    "lm_head.layer_norm.": "cls.predictions.transform.LayerNorm.",
    "lm_head.": "cls.predictions.",
}
SUFFIXES = {".gamma": ".weight", ".beta": ".bias"}


def standard_name(name: str) -> str:
    """The name that a tensor of any family has in BERT of transformers."""
    for old, new in SUFFIXES.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    for old, new in PREFIXES.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
    return name
