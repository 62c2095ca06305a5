"""Which tokenizer a folder holds: by its files, and by what its configuration says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .fast_vocabulary import FastVocabulary
from .languages import MBART, MBART50, Languages
from .marian_vocabulary import MarianPieces
from .sentencepieces import Added, mbart_pieces, pegasus_pieces, t5_pieces
from .vocabularies import Bytes
from .weights import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator
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


def read_tokenizer(folder: Path) -> Files:
    """The tokenizer that a folder holds; ValueError if there is none."""
    config, model = (_optional(folder / name) for name in ("tokenizer_config.json", "config.json"))
    family = _family(config, model)
    vocabulary = _vocabulary(folder, family, config)
    cleans_up = config.get("clean_up_tokenization_spaces") is True
    longest = config.get("model_max_length")
    limit = int(longest) if isinstance(longest, int | float) and 0 < longest < NO_LIMIT else None
    return Files(vocabulary, _languages(vocabulary, family, config), cleans_up, limit)


def _family(config: dict[str, Any], model: dict[str, Any]) -> str:
    """The tokenizer's class says more than the type of the model, if it says anything."""
    for source in (config, model):
        name = str(source.get("tokenizer_class") or "")
        family = name.removesuffix("Fast").removesuffix("Tokenizer").lower()
        if family in _FAMILIES:
            return family
    return str(model.get("model_type"))


def _vocabulary(folder: Path, family: str, config: dict[str, Any]) -> Vocabulary:
    """By the files that there are, and the family where they do not say enough."""
    if family == "byt5":
        return Bytes()
    has = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
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
