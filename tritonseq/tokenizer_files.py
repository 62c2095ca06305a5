"""Which tokenizer a folder holds: by its files, and by what its configuration says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .config_files import find_config
from .fast_vocabulary import FastVocabulary, OneLineVocabulary
from .json_files import read_json
from .languages import MBART, MBART50, Languages
from .marian_vocabulary import MarianPieces
from .sentencepieces import Added, mbart_pieces, pegasus_pieces, t5_pieces
from .unilm_families import variant_of
from .vocabularies import Bytes
from .wordpieces import read_pieces, s2s_pieces, saved_pieces, unilm_pieces

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from .vocabularies import Vocabulary

_FAMILIES = frozenset(
    (
        "bart",
        "byt5",
        "gpt2",
        "marian",
        "mbart",
        "mbart50",
        "mt5",
        "pegasus",
        "roberta",
        "t5",
        "umt5",
    )
)

_BERT = frozenset(("bert", "electra", "minilm", "unilm"))

NO_LIMIT = 10**6
"""A `model_max_length` from here on is no limit."""


class Files(NamedTuple):
    """What the files of a checkpoint say about text."""

    vocabulary: Vocabulary
    languages: Languages
    cleans_up: bool
    """Does decoding remove the spaces that tokenizing into words has put before punctuation?"""
    max_length: int | None = None
    """`model_max_length`, where it is one: files without a limit hold a huge number."""


def read_tokenizer(folder: Path, overrides: Mapping[str, Any] | None = None) -> Files:
    """The tokenizer that a folder holds; ValueError if there is none.

    `overrides` are keys that count instead of those of the network's configuration.
    """
    config, found = _optional(folder / "tokenizer_config.json"), find_config(folder)
    model = {**(read_json(found) if found else {}), **(overrides or {})}
    longest = config.get("model_max_length")
    limit = int(longest) if isinstance(longest, int | float) and 0 < longest < NO_LIMIT else None
    has = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if _is_unilm(model, has):
        return Files(_unilm(folder, has, config, model), Languages(), False, limit)
    family = _family(config, model)
    vocabulary = _vocabulary(folder, has, family, config)
    cleans_up = config.get("clean_up_tokenization_spaces") is True
    return Files(vocabulary, _languages(vocabulary, family, config), cleans_up, limit)


def _is_unilm(model: dict[str, Any], has: set[str]) -> bool:
    """All models of BERT's kind are read as UniLM; the first ones do not name their type."""
    kind = model.get("model_type")
    return kind in _BERT or (kind is None and "vocab.txt" in has)


def _unilm(
    folder: Path, has: set[str], config: dict[str, Any], model: dict[str, Any]
) -> Vocabulary:
    """By vocab.txt, as UniLM and s2s-ft do; else WordPiece or RoBERTa's BPE by other files."""
    if model.get("do_lower_case") is not None:
        config = {**config, "do_lower_case": model["do_lower_case"]}
    shifted = bool(model.get("pos_shift"))
    if "vocab.txt" in has:
        pieces = read_pieces(folder / "vocab.txt", config)
    elif "tokenizer.json" in has or {"vocab.json", "merges.txt"} <= has:
        fast = FastVocabulary.from_folder(folder, config, framed=True)
        if type(fast.backend.model).__name__ != "WordPiece":
            return OneLineVocabulary(fast.backend, pos_shift=shifted)
        pieces = saved_pieces(folder / "tokenizer.json", fast.backend, model)
    else:
        raise ValueError(
            f"{folder} has no tokenizer: s2s-ft leaves vocab.txt (RoBERTa: vocab.json and "
            "merges.txt) out of the folders that it writes. Name the folder that has it by "
            "tokenizer= (--tokenizer-name), or call generate with token ids"
        )
    if variant_of(model) == "v1":
        return unilm_pieces(pieces, s2s_special_token=bool(model.get("s2s_special_token")))
    return s2s_pieces(pieces, pos_shift=shifted)


def _family(config: dict[str, Any], model: dict[str, Any]) -> str:
    """The tokenizer's class says more than the type of the model, if it says anything."""
    for source in (config, model):
        name = str(source.get("tokenizer_class") or "")
        family = name.removesuffix("Fast").removesuffix("Tokenizer").lower()
        if family in _FAMILIES:
            return family
    return str(model.get("model_type"))


def _vocabulary(folder: Path, has: set[str], family: str, config: dict[str, Any]) -> Vocabulary:
    """By the files that there are, and the family where they do not say enough."""
    if family == "byt5":
        return Bytes()
    missing = {"source.spm", "target.spm", "vocab.json"} - has
    if not missing:
        return MarianPieces(folder)
    if "tokenizer.json" in has:
        return FastVocabulary.from_folder(folder, config)
    if family == "marian":
        raise ValueError(
            f"{folder} has no {' and no '.join(sorted(missing))}, which Marian's tokenizer needs: "
            "fetch the missing files, or call generate with token ids"
        )
    if "spiece.model" in has and family == "pegasus":
        return pegasus_pieces(folder / "spiece.model", _added(folder, config))
    if "spiece.model" in has:
        # mT5 and UMT5 have their sentinels inside the model.
        extra_ids = config.get("extra_ids", 100 if family == "t5" else 0)
        return t5_pieces(folder / "spiece.model", extra_ids, _added(folder, config))
    if "sentencepiece.bpe.model" in has:
        codes = MBART50 if family == "mbart50" else MBART
        added = _added(folder, config)
        return mbart_pieces(folder / "sentencepiece.bpe.model", codes, added)
    if {"vocab.json", "merges.txt"} <= has:
        return FastVocabulary.from_folder(folder, config, framed=family in ("bart", "roberta"))
    raise ValueError(
        f"{folder} has no tokenizer: tokenizer.json, a sentencepiece model, or vocab.json and "
        "merges.txt, must lie beside the weights; without them, call generate with token ids"
    )


def _languages(vocabulary: Vocabulary, family: str, config: dict[str, Any]) -> Languages:
    if isinstance(vocabulary, MarianPieces):
        return Languages("marian", vocabulary.languages())
    codes = [code for code in MBART50 if vocabulary.token_id(code) is not None]
    if family not in ("mbart", "mbart50") or not codes:
        return Languages()
    if vocabulary.token_id("</s>") is None:
        raise ValueError("the vocabulary has no </s>, which ends every text of mBART")
    fifty = family == "mbart50" or len(codes) > len(MBART)
    return Languages("mbart50" if fifty else "mbart", codes, config.get("src_lang"))


def _added(folder: Path, config: dict[str, Any]) -> Added:
    """From `added_tokens_decoder` of the configuration, else from `added_tokens.json`."""
    added = Added({}, {})
    try:
        for name, token, special in _tokens(folder, config):
            (added.special if special else added.plain)[name] = token
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder} names added tokens in a form that cannot be read: added_tokens_decoder maps "
            f"ids to objects with 'content', added_tokens.json tokens to ids ({error!r})"
        ) from None
    return added


def _tokens(folder: Path, config: dict[str, Any]) -> Iterator[tuple[str, int, bool]]:
    if by_id := config.get("added_tokens_decoder"):
        for token, entry in by_id.items():
            yield entry["content"], int(token), bool(entry.get("special"))
        return
    special = {str(token) for token in config.get("additional_special_tokens") or ()}
    for name, token in _optional(folder / "added_tokens.json").items():
        yield name, int(token), name in special


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
