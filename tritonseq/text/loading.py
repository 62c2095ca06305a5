"""Which tokenizer a folder holds: by its files, and by what its configuration says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.checkpoint.files import find_config, is_there, read_json
from tritonseq.checkpoint.unilm_family import variant_of
from tritonseq.shown import shown

from .classes import REMEDY, WHOLE, family_of
from .families import Source, byte_pairs, saved, vocabulary_of
from .fast import OneLineVocabulary
from .keys import check_keys
from .languages import MBART, MBART50, Languages
from .sentencepiece import MarianPieces
from .special_tokens import read_stated
from .wordpiece import SPECIAL, read_pieces, s2s_pieces, saved_pieces, unilm_pieces

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .vocabulary import Vocabulary

_BERT = frozenset(("bert", "electra", "minilm", "unilm"))

NO_LIMIT = 10**6
"""A `model_max_length` from here on is no limit."""


class Files(NamedTuple):
    """What the files of a checkpoint say about text."""

    vocabulary: Vocabulary
    languages: Languages
    cleans_up: bool = False
    """Does decoding remove the spaces that tokenizing into words has put before punctuation?"""
    can_clean_up: bool = True
    """Could it? Tokens of byte-level BPE have their own spaces, which are no traces of that."""
    max_length: int | None = None
    """`model_max_length`, where it is one: files without a limit hold a huge number."""
    truncation_side: str | None = None
    """Where texts are cut, "left" or "right", if that is said."""


def read_tokenizer(folder: Path, overrides: Mapping[str, Any] | None = None) -> Files:
    """The tokenizer that a folder holds; ValueError if there is none that is known.

    `overrides` are keys that count instead of those of the network's configuration.
    """
    path = folder / "tokenizer_config.json"
    config, found = read_json(path) if is_there(path) else {}, find_config(folder)
    check_keys(path, config)
    model = {**(read_json(found) if found else {}), **(overrides or {})}
    has = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    source = Source(folder, has, config, model, read_stated(folder, config))
    longest = config.get("model_max_length", config.get("max_len"))
    limit = int(longest) if longest is not None and 0 < longest < NO_LIMIT else None
    side = config.get("truncation_side")
    if _is_unilm(model, has):
        _check_unilm(source)
        _refuse_splitting(source)
        return Files(_unilm(source), Languages(), False, False, limit, side)
    family, name = family_of(config, model, has)
    vocabulary = vocabulary_of(source, family, name)
    if (backend := getattr(vocabulary, "backend", None)) is None:
        _refuse_splitting(source)
    else:
        backend.encode_special_tokens = config.get("split_special_tokens") is True
    can_clean = not getattr(vocabulary, "is_bpe", False) or (
        config.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output")
        is True
    )
    return Files(
        vocabulary,
        _languages(vocabulary, family, config),
        can_clean and config.get("clean_up_tokenization_spaces") is True,
        can_clean,
        limit,
        side or getattr(vocabulary, "saved_side", None),
    )


def _refuse_splitting(source: Source) -> None:
    if source.config.get("split_special_tokens"):
        raise ValueError(
            f"{source.folder / 'tokenizer_config.json'} says split_special_tokens, which is "
            f"supported for tokenizer.json only: {REMEDY}"
        )


def _is_unilm(model: dict[str, Any], has: set[str]) -> bool:
    """All models of BERT's kind are read as UniLM; the first ones do not name their type."""
    kind = model.get("model_type")
    return (isinstance(kind, str) and kind in _BERT) or (kind is None and "vocab.txt" in has)


def _check_unilm(source: Source) -> None:
    """Raise ValueError for a class and for tokens that UniLM's own code does not have."""
    named = {"tokenizer_class": source.model.get("tokenizer_class")}
    if any(where.get("tokenizer_class") is not None for where in (source.config, named)):
        family, name = family_of(source.config, named, source.has)
        if family not in ("bert", "bart", WHOLE):
            raise ValueError(
                f"{name} is no tokenizer of a UniLM, whose texts are read by BERT's or RoBERTa's: "
                "name the folder of its own by tokenizer= (--tokenizer-name), or call generate "
                "with token ids"
            )
    if "vocab.txt" in source.has:
        for token in source.stated.tokens:
            if token.content not in SPECIAL:
                raise ValueError(
                    f"{source.stated.path} or a file beside it adds the token "
                    f"{shown(token.content)}, which is not supported for UniLM's vocab.txt: call "
                    "generate with token ids"
                )


def _unilm(source: Source) -> Vocabulary:
    """By vocab.txt, as UniLM and s2s-ft do; else WordPiece or RoBERTa's BPE by other files."""
    folder, has, config, model, _ = source
    if model.get("do_lower_case") is not None:
        config = {**config, "do_lower_case": model["do_lower_case"]}
    shifted = bool(model.get("pos_shift"))
    if "vocab.txt" in has:
        pieces = read_pieces(folder / "vocab.txt", config)
    elif "tokenizer.json" in has:
        fast = saved(source, None, "UniLM")
        if type(fast.backend.model).__name__ != "WordPiece":
            return OneLineVocabulary(saved(source, "bart", "RobertaTokenizer"), pos_shift=shifted)
        pieces = saved_pieces(folder / "tokenizer.json", fast.backend, model)
    elif {"vocab.json", "merges.txt"} <= has:
        fast = byte_pairs(source, "bart", "RobertaTokenizer")
        return OneLineVocabulary(fast, pos_shift=shifted)
    else:
        raise ValueError(
            f"{folder} has no tokenizer: s2s-ft leaves vocab.txt (RoBERTa: vocab.json and "
            "merges.txt) out of the folders that it writes. Name the folder that has it by "
            "tokenizer= (--tokenizer-name), or call generate with token ids"
        )
    if variant_of(model) == "v1":
        return unilm_pieces(pieces, s2s_special_token=bool(model.get("s2s_special_token")))
    return s2s_pieces(pieces, pos_shift=shifted)


def _languages(vocabulary: Vocabulary, family: str | None, config: dict[str, Any]) -> Languages:
    if isinstance(vocabulary, MarianPieces):
        return Languages("marian", vocabulary.languages())
    codes = [code for code in MBART50 if vocabulary.token_id(code) is not None]
    if family not in ("mbart", "mbart50") or not codes:
        return Languages()
    if vocabulary.token_id("</s>") is None:
        raise ValueError("the vocabulary has no </s>, which ends every text of mBART")
    fifty = family == "mbart50" or len(codes) > len(MBART)
    source = config.get("src_lang")
    if source is not None and source not in codes:
        raise ValueError(
            f"tokenizer_config.json says src_lang is {shown(source)}, which is no language of this "
            f"checkpoint: it has {', '.join(codes[:3])} and others"
        )
    return Languages("mbart50" if fifty else "mbart", codes, source)
