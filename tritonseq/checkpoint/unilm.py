"""UniLM checkpoints of every family, brought into the form that the network reads."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from tritonseq.callers import warn

from .files import is_there, read_json, read_lines
from .unilm_family import (
    HEAD,
    HEADLESS,
    POSITIONS,
    RELATIVE,
    TYPES,
    WORDS,
    is_bert,
    respelt,
    variant_of,
)  # fmt: skip
from .unilm_tensors import standard_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .unilm_family import Shapes
    from .unilm_tensors import TensorView
    from .weights import WeightReader

LAYER_NORM_EPS = 1e-5
"""Built into both decoders; the value in config.json is that of training, and they ignore it."""

# By the keys of a configuration: their names in BERT's vocabularies and in RoBERTa's, and their
# ids where no vocabulary lies beside the weights.
NAMES = {
    "mask_token_id": ("[MASK]", "<mask>"),
    "eos_token_id": ("[SEP]", "</s>"),
    "pad_token_id": ("[PAD]", "<pad>"),
}
BERT = {"mask_token_id": 103, "eos_token_id": 102, "pad_token_id": 0}
# Beside its mask token, which is the last of every RoBERTa's vocabulary.
ROBERTA = {"eos_token_id": 2, "pad_token_id": 1}

# Version 1 wrote its own names over unused ones of BERT's cased vocabulary.
START_NAMES = ("[S2S_SOS]", "[unused18]")
START = 18

REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
SIZES = {"vocab_size": WORDS, "max_position_embeddings": POSITIONS, "type_vocab_size": TYPES}
TYPE_IDS = ("source_type_id", "target_type_id", "first_type_id")
FLAGS = (
    "new_segment_ids",
    "s2s_add_segment",
    "s2s_share_segment",
    "s2s_special_token",
    "pos_shift",
    "do_lower_case",
)
# Whether a head of its own is to be expected; without one, the table of words is the head.
TIE = "tie_word_embeddings"
# Flags that only the tokenizer reads.
OF_TEXT = ("s2s_special_token", "do_lower_case")
KEYS = (
    *REQUIRED, *SIZES, *TYPE_IDS, *NAMES, "start_token_id", *FLAGS, "hidden_act",
    "layer_norm_eps", "rel_pos_bins", "max_rel_pos", "max_seq_length", "variant", TIE,
)  # fmt: skip
# What version 1 has in its code and in no published model.
STRANGE_PARTS = ("num_qkv", "seg_emb", "ffn_type")


def translate(
    config: Mapping[str, Any],
    overrides: Mapping[str, Any],
    reader: WeightReader,
    *,
    tokenizer: Path | None = None,
) -> tuple[dict[str, Any], TensorView]:
    """The configuration and the tensors of a checkpoint in the form of `models/unilm.py`.

    `config` is what the files say. `overrides` are the caller's: keys of the network's
    configuration, flags of upstream's command lines, `variant`, `eos_token_id`, `pad_token_id`.
    Tables have the sizes of their tensors, unless the caller names others; `max_seq_length` is
    that of the positions for version 1, and s2s-ft leaves them alone. Special tokens are
    looked up in the vocabulary in the folder `tokenizer`. The resulting configuration also holds
    `variant`, `eos_token_id`, `pad_token_id`, and the flags that concern texts, where given.

    Raises ValueError for a checkpoint without a head, for parts that no published model has, for
    sizes that its tables cannot have, and for token types and tokens that they do not have.
    """
    config, overrides = respelt(config), respelt(overrides)
    merged = {**config, **overrides}
    _check_keys(merged, overrides)
    variant = variant_of(merged)
    types = overrides.get("type_vocab_size")
    if types is None and merged.get("new_segment_ids"):
        types = 7 if merged.get("s2s_add_segment") else 6
    positions = overrides.get("max_position_embeddings")
    if positions is None and variant == "v1":
        positions = overrides.get("max_seq_length")
    tensors = standard_tensors(reader, types=types, positions=positions)
    _check_tensors(tensors.shapes)
    bins = tensors.shapes.get(RELATIVE, (0, 0))[-1]
    if bins and overrides.get("rel_pos_bins", bins) != bins:
        raise ValueError(f"rel_pos_bins is {overrides['rel_pos_bins']}, and the table has {bins}")
    sizes = {key: tensors.shapes.get(name, (0,))[0] for key, name in SIZES.items()}
    # Nothing makes a vocabulary fit, but its tensor is to be named.
    vocab_size = overrides.get("vocab_size", sizes["vocab_size"])
    tokens = _special_ids(
        config,
        overrides,
        tokenizer,
        vocab_size=vocab_size,
        roberta=not sizes["type_vocab_size"],
        variant=variant,
    )
    network = {
        "model_type": "unilm",
        "variant": variant,
        **{key: merged[key] for key in REQUIRED},
        "hidden_act": _stated(merged, "hidden_act", "gelu"),
        "layer_norm_eps": overrides.get("layer_norm_eps", LAYER_NORM_EPS),
        "rel_pos_bins": bins or _stated(merged, "rel_pos_bins", 0),
        "max_rel_pos": _stated(merged, "max_rel_pos", 0),
        "pos_shift": bool(merged.get("pos_shift")),
        **sizes,
        "vocab_size": vocab_size,
        **_type_ids(merged, overrides, sizes["type_vocab_size"]),
        **tokens,
        **{key: merged[key] for key in (*OF_TEXT, TIE) if merged.get(key) is not None},
    }
    return network, tensors


def generation_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """How the decoder that a translated `config` was made for generates by default.

    Other keys of config.json do not count: transformers has written its own defaults there.
    """
    least = {"min_new_tokens": 1} if config["variant"] == "s2s" else {}
    ends = {key: config[key] for key in ("eos_token_id", "pad_token_id")}
    return {"search": "unilm", "length_penalty": 0.0, **ends, **least}


def _stated(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """What a configuration says, whatever that is; a null says nothing."""
    value = config.get(key)
    return default if value is None else value


def _check_keys(merged: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    missing = [key for key in REQUIRED if merged.get(key) is None]
    if missing:
        raise ValueError(f"config.json does not say {', '.join(missing)}")
    for part in STRANGE_PARTS:
        if merged.get(part):
            raise ValueError(f"{part}={merged[part]!r} is not supported: no published UniLM has it")
    for flag in FLAGS:
        if not isinstance(merged.get(flag, False), bool | None):
            raise ValueError(f"{flag} is {merged[flag]!r}: it must be True or False")
    for key in (*SIZES, *TYPE_IDS, "max_seq_length"):
        value = overrides.get(key, 1)
        least = 1 if key == "max_seq_length" else 0
        if type(value) is not int or value < least:
            raise ValueError(f"{key} is {value!r}: it must be an integer of at least {least}")
    # A whole configuration may be passed, with much that is not read; but of a few keys that were
    # written for the call, each must mean something.
    if not all(key in overrides for key in REQUIRED):
        for key in set(overrides).difference(KEYS):
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"is it {near[0]!r}?" if near else "options of generation go to generate"
            raise ValueError(f"{key!r} is no key of a UniLM's configuration: {hint}")


def _check_tensors(shapes: Shapes) -> None:
    """Raise ValueError unless this is a BERT with a head and one query per head."""
    if not is_bert(shapes) or len(shapes.get(WORDS, ())) != 2:
        raise ValueError("the checkpoint holds no network like BERT's, which every UniLM is")
    if f"{HEAD}.dense.weight" not in shapes:
        raise ValueError(HEADLESS)
    width = shapes[WORDS][1]
    for name, shape in shapes.items():
        if name.endswith(".attention.self.query.weight") and shape[0] != width:
            raise ValueError(
                f"{name} has shape {list(shape)}, not [{width}, {width}]: several queries per "
                "head (num_qkv) are not supported"
            )


def _type_ids(
    merged: Mapping[str, Any], overrides: Mapping[str, Any], count: int
) -> dict[str, int]:
    """The types of a source's first token, of its others and of a target, out of `count`."""
    if not count:
        return dict.fromkeys(TYPE_IDS, 0)
    ids = _usual_type_ids(merged, count)
    ids |= {key: overrides[key] for key in TYPE_IDS if overrides.get(key) is not None}
    ids.setdefault("first_type_id", ids["source_type_id"])
    for key, value in ids.items():
        if not isinstance(value, int) or not 0 <= value < count:
            raise ValueError(
                f"{key} is {value!r}, and the checkpoint has {count} token types: name another, "
                "or let the table grow by new_segment_ids=True (--new-segment-ids)"
            )
    return ids


def _usual_type_ids(merged: Mapping[str, Any], count: int) -> dict[str, int]:
    """What upstream's command line or config.json says, else what so many types are used for."""
    flags = merged if variant_of(merged) == "v1" else {}
    if flags.get("s2s_add_segment"):
        first, source, target = (0, 1, 5) if flags.get("s2s_share_segment") else (4, 6, 5)
        return {"first_type_id": first, "source_type_id": source, "target_type_id": target}
    if flags.get("new_segment_ids") is not None:
        source, target = (4, 5) if flags["new_segment_ids"] else (0, 1)
        return {"source_type_id": source, "target_type_id": target}
    ids = {key: merged[key] for key in TYPE_IDS if merged.get(key) is not None}
    if count == 7 and not ids:
        # A seventh type is there only where the first token of a source has one of its own.
        return {"first_type_id": 4, "source_type_id": 6, "target_type_id": 5}
    if count == 2 or count >= 6:
        source, target = (0, 1) if count == 2 else (4, 5)
        return {"source_type_id": source, "target_type_id": target} | ids
    if "source_type_id" not in ids or "target_type_id" not in ids:
        raise ValueError(
            f"the checkpoint has {count} token types, and nothing says which a source and a "
            "target have: pass source_type_id and target_type_id in the configuration"
        )
    return ids


def _special_ids(
    config: Mapping[str, Any],
    overrides: Mapping[str, Any],
    folder: Path | None,
    *,
    vocab_size: int,
    roberta: bool,
    variant: str,
) -> dict[str, int]:
    """`mask_token_id`, `eos_token_id`, `pad_token_id` and `start_token_id`.

    What the caller says in `overrides` wins, then the vocabulary in `folder`, which is what texts
    are tokenized with, then config.json, then what the published models have. Raises ValueError
    for an id that is none, and for a vocabulary without one of the tokens.
    """
    vocabulary = None if folder is None else _vocabulary(folder, vocab_size)
    usual = {"mask_token_id": vocab_size - 1, **ROBERTA} if roberta else BERT
    ids = {}
    for key, names in NAMES.items():
        stated = _first(overrides.get(key), *(_find(vocabulary, name) for name in names))
        # s2s-ft writes BERT's pad token into config.json, whatever it has fine-tuned.
        if stated is None and not (roberta and key == "pad_token_id"):
            stated = config.get(key)
        if stated is None and vocabulary:
            raise ValueError(
                f"the vocabulary in {folder} has neither {' nor '.join(names)}: "
                f"say which token it is in the configuration, by {key}"
            )
        ids[key] = usual[key] if stated is None else stated
        _check_token(key, ids[key], vocab_size)
    ids["start_token_id"] = _first(
        overrides.get("start_token_id"),
        config.get("start_token_id"),
        # s2s-ft starts with the token that ends.
        ids["eos_token_id"] if variant == "s2s" else None,
        *(_find(vocabulary, name) for name in START_NAMES),
        # It counts under position shift only, and may be none of a small vocabulary.
        START if vocab_size > START else 0,
    )
    _check_token("start_token_id", ids["start_token_id"], vocab_size)
    return ids


def _vocabulary(folder: Path, vocab_size: int) -> dict[str, int] | None:
    """Tokens and their ids, by the first of the three kinds of files that is there.

    Warns of a `vocab.txt` that has not the `vocab_size` tokens of the network.
    """
    if is_there(folder / "vocab.txt"):
        lines = read_lines(folder / "vocab.txt")
        if len(lines) != vocab_size:
            warn(
                f"{folder / 'vocab.txt'} has {len(lines)} tokens and the network {vocab_size}: is "
                "it the vocabulary of another model?",
            )
        # Of two lines that agree, the later one counts.
        return {token: line for line, token in enumerate(lines)}
    if is_there(folder / "vocab.json"):
        return read_json(folder / "vocab.json")
    if is_there(folder / "tokenizer.json"):
        added = read_json(folder / "tokenizer.json").get("added_tokens") or []
        return {token["content"]: token["id"] for token in added if "content" in token}
    return None


def _find(vocabulary: Mapping[str, int] | None, name: str) -> int | None:
    return None if vocabulary is None else vocabulary.get(name)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _check_token(key: str, token: Any, vocab_size: int) -> None:
    if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab_size:
        raise ValueError(
            f"{key} is {token!r}, which is none of the {vocab_size} tokens of the network: "
            "say which token it is in the configuration"
        )
