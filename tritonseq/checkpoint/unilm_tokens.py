"""The ids of the tokens that frame, mask, end and pad the texts of a UniLM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritonseq.callers import warn

from .files import is_there, read_json, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

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


def special_ids(
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
    vocabulary = None if folder is None else read_vocabulary(folder, vocab_size)
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
        _check(key, ids[key], vocab_size)
    ids["start_token_id"] = _first(
        overrides.get("start_token_id"),
        config.get("start_token_id"),
        # s2s-ft starts with the token that ends.
        ids["eos_token_id"] if variant == "s2s" else None,
        *(_find(vocabulary, name) for name in START_NAMES),
        # It counts under position shift only, and may be none of a small vocabulary.
        START if vocab_size > START else 0,
    )
    _check("start_token_id", ids["start_token_id"], vocab_size)
    return ids


def read_vocabulary(folder: Path, vocab_size: int) -> dict[str, int] | None:
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


def read_lines(path: Path) -> list[str]:
    """The tokens of a `vocab.txt`, whose ids are the numbers of their lines.

    Raises ValueError if it is empty or no UTF-8.
    """
    # Lines end as Python's text files have it; other separators of Unicode are tokens.
    lines = read_text(path, "utf-8-sig").split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise ValueError(f"{path} is empty: it must hold one token a line, fetch it again")
    return lines


def _find(vocabulary: Mapping[str, int] | None, name: str) -> int | None:
    return None if vocabulary is None else vocabulary.get(name)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _check(key: str, token: Any, vocab_size: int) -> None:
    if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab_size:
        raise ValueError(
            f"{key} is {token!r}, which is none of the {vocab_size} tokens of the network: "
            "say which token it is in the configuration"
        )
