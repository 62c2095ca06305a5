"""Families of UniLM checkpoints: which they are, whose decoder they were made for, their tensors.

They have BERT's names and often BERT's configuration. What tells them apart are keys that s2s-ft
adds, and tensors that a BERT does not have.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

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

# The model types under which such checkpoints are found; version 1 has none.
MODEL_TYPES = (None, "unilm", "bert", "minilm", "electra", "roberta", "xlm-roberta")

# The keys of others, by those of upstream.
SPELLINGS = {
    "src_type_id": "source_type_id",
    "tgt_type_id": "target_type_id",
    "layer_norm_epsilon": "layer_norm_eps",
}
# What s2s-ft adds to a configuration of BERT.
ADDED_KEYS = ("source_type_id", "target_type_id", "rel_pos_bins")
CLASSES = re.compile("BertForSequenceToSequence|Unilm", re.IGNORECASE)
# What upstream saves and transformers does not.
ADDED_TENSORS = ("cls.predictions.decoder_weight", "crit_mask_lm_smoothed.one_hot")

HEADLESS = (
    f"the checkpoint has no prediction head ({HEAD}.*): it is a backbone, which generates only "
    "after it was fine-tuned, with s2s-ft for one"
)


def standard_name(name: str) -> str:
    """The name that a tensor of any family has in BERT of transformers."""
    for old, new in SUFFIXES.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    for old, new in PREFIXES.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
    return name


def is_unilm(config: Mapping[str, Any], shapes: Shapes) -> bool:
    """Whether a checkpoint of one of `MODEL_TYPES` is a UniLM, by its configuration and tensors."""
    model_type = config.get("model_type")
    if model_type == "unilm" or not is_bert(shapes):
        return model_type == "unilm"
    # The first files of BERT have no model type either; but what version 1 has tuned has new
    # names of norms.
    is_first = model_type is None and f"{HEAD}.LayerNorm.weight" in shapes
    return is_first or _has_keys_of_s2s(config) or _has_tensors_of_unilm(shapes)


def refuse_bert(shapes: Shapes) -> None:
    """Raise ValueError with the remedy for a BERT that may, or may not, be a UniLM.

    It has one of `MODEL_TYPES`, and `is_unilm` does not see one in it.
    """
    if not is_bert(shapes):
        return
    if f"{HEAD}.dense.weight" not in map(standard_name, shapes):
        raise ValueError(HEADLESS)
    raise ValueError(
        "the checkpoint is a masked language model, and nothing in its files says that it was "
        'fine-tuned to generate; if it was, with UniLM or s2s-ft, pass model_type="unilm" '
        "(--model-type unilm)"
    )


def variant_of(config: Mapping[str, Any]) -> str:
    """Whose decoder a model was made for: "v1" or "s2s".

    Version 1 came with UniLM and takes token types and sizes from its command line; s2s-ft finds
    them in config.json, which transformers has written. A key `variant` says it outright.
    """
    variant = config.get("variant")
    if variant is not None:
        if variant not in ("v1", "s2s"):
            raise ValueError(f"variant is {variant!r}: it must be 'v1' or 's2s'")
        return str(variant)
    if config.get("new_segment_ids"):
        return "v1"
    by_transformers = config.get("model_type") not in (None, "unilm")
    return "s2s" if by_transformers or _has_keys_of_s2s(config) else "v1"


def respelt(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration under upstream's keys."""
    return {SPELLINGS.get(key, key): value for key, value in config.items()}


def is_bert(shapes: Shapes) -> bool:
    """Whether there are the layers of a BERT."""
    return any(re.search(r"encoder\.layer\.\d+\.attention\.self\.", name) for name in shapes)


def _has_keys_of_s2s(config: Mapping[str, Any]) -> bool:
    classes = config.get("architectures") or ()
    keys = respelt(config)
    return any(key in keys for key in ADDED_KEYS) or any(CLASSES.match(str(c)) for c in classes)


def _has_tensors_of_unilm(shapes: Shapes) -> bool:
    by_name = {standard_name(name): shape for name, shape in shapes.items()}

    def size(name: str, dim: int) -> int:
        shape = by_name.get(name, ())
        return shape[dim] if dim < len(shape) else 0

    return (
        any(name in by_name for name in ADDED_TENSORS)
        or any(name.endswith(".attention.self.qkv_linear.weight") for name in by_name)
        # Types of sources and targets, and tables and heads with a slice for each task.
        or size(TYPES, 0) >= 6
        or size(POSITIONS, 1) > size(WORDS, 1)
        or size(f"{HEAD}.dense.weight", 0) > size(f"{HEAD}.dense.weight", 1)
    )
