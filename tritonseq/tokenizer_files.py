"""Which tokenizer a folder holds: by its files, and by what its configuration says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .bert_vocabulary import bert_vocabulary, normalizing
from .config_files import find_config
from .fast_vocabulary import OneLineVocabulary, byte_level, saved_vocabulary
from .json_files import read_json
from .languages import MBART, MBART50, Languages
from .marian_vocabulary import MarianPieces
from .roberta_pieces import (
    BartphoPieces,
    albert_pieces,
    barthez_pieces,
    camembert_pieces,
    xlm_roberta_pieces,
)
from .sentencepieces import PEGASUS_OFFSET, mbart_pieces, pegasus_pieces, t5_pieces
from .special_tokens import number, read_stated
from .tokenizer_classes import REMEDY, WHOLE, family_of
from .tokenizer_keys import check_keys
from .unilm_families import variant_of
from .vocabularies import Bytes
from .wordpieces import read_pieces, s2s_pieces, saved_pieces, unilm_pieces

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .fast_vocabulary import FastVocabulary
    from .special_tokens import Stated
    from .vocabularies import Vocabulary

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


class _Source(NamedTuple):
    """A folder, and what its JSON files say."""

    folder: Path
    has: set[str]
    """The names of its files."""
    config: dict[str, Any]
    """tokenizer_config.json"""
    model: dict[str, Any]
    """The configuration of the network, with what the caller says in its place."""
    stated: Stated

    def file(self, name: str, family: str) -> Path:
        """A file that a family needs; ValueError if it is not there."""
        if name not in self.has:
            hint = ""
            if "vocab.txt" in self.has:
                hint = "; if vocab.txt is BERT's, say tokenizer_class 'BertTokenizer' in its "
                hint += "tokenizer_config.json"
            raise ValueError(
                f"{self.folder} has no tokenizer: neither tokenizer.json nor {name}, which that of "
                f"{family} is read from, lies there. Fetch the missing file, or call generate with "
                f"token ids{hint}"
            )
        return self.folder / name


def read_tokenizer(folder: Path, overrides: Mapping[str, Any] | None = None) -> Files:
    """The tokenizer that a folder holds; ValueError if there is none that is known.

    `overrides` are keys that count instead of those of the network's configuration.
    """
    path = folder / "tokenizer_config.json"
    config, found = read_json(path) if path.is_file() else {}, find_config(folder)
    check_keys(path, config)
    model = {**(read_json(found) if found else {}), **(overrides or {})}
    has = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    source = _Source(folder, has, config, model, read_stated(folder, config))
    longest = config.get("model_max_length", config.get("max_len"))
    limit = int(longest) if longest is not None and 0 < longest < NO_LIMIT else None
    side = config.get("truncation_side")
    if _is_unilm(model, has):
        if config.get("tokenizer_class") is not None:
            family_of(config, {}, has)
        _refuse_splitting(source)
        return Files(_unilm(source), Languages(), False, False, limit, side)
    family, name = family_of(config, model, has)
    vocabulary = _vocabulary(source, family, name)
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


def _refuse_splitting(source: _Source) -> None:
    if source.config.get("split_special_tokens"):
        raise ValueError(
            f"{source.folder / 'tokenizer_config.json'} says split_special_tokens, which is "
            f"supported for tokenizer.json only: {REMEDY}"
        )


def _is_unilm(model: dict[str, Any], has: set[str]) -> bool:
    """All models of BERT's kind are read as UniLM; the first ones do not name their type."""
    kind = model.get("model_type")
    return (isinstance(kind, str) and kind in _BERT) or (kind is None and "vocab.txt" in has)


def _unilm(source: _Source) -> Vocabulary:
    """By vocab.txt, as UniLM and s2s-ft do; else WordPiece or RoBERTa's BPE by other files."""
    folder, has, config, model, stated = source
    if model.get("do_lower_case") is not None:
        config = {**config, "do_lower_case": model["do_lower_case"]}
    shifted = bool(model.get("pos_shift"))
    if "vocab.txt" in has:
        pieces = read_pieces(folder / "vocab.txt", config)
    elif "tokenizer.json" in has or {"vocab.json", "merges.txt"} <= has:
        fast = _saved_or_byte_level(source, framed=True)
        if type(fast.backend.model).__name__ != "WordPiece":
            return OneLineVocabulary(fast, pos_shift=shifted)
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


def _vocabulary(source: _Source, family: str | None, name: str) -> Vocabulary:
    """By the files that there are, and the family where they do not say enough."""
    folder, has, config, _, stated = source
    if family == "byt5":
        return _bytes(config, stated)
    if family == "bartpho":
        source.file("sentencepiece.bpe.model", name)
        return BartphoPieces(source.file("dict.txt", name).parent, stated)
    missing = {"source.spm", "target.spm", "vocab.json"} - has
    if family in ("marian", None) and not missing:
        separate = config.get("separate_vocabs") is True
        if separate:
            source.file("target_vocab.json", name)
        return MarianPieces(folder, stated, separate=separate)
    if "tokenizer.json" in has:
        return _settled(saved_vocabulary(folder / "tokenizer.json", stated), family, source)
    if family == "marian":
        raise ValueError(
            f"{folder} has no {' and no '.join(sorted(missing))}, which Marian's tokenizer needs: "
            "fetch the missing files, or call generate with token ids"
        )
    return _by_own_files(source, family, name)


def _by_own_files(source: _Source, family: str | None, name: str) -> Vocabulary:
    """The files that the family itself has, in the absence of tokenizer.json."""
    folder, has, config, _, stated = source
    if not has & {"spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt"}:
        raise ValueError(
            f"{folder} has no tokenizer: tokenizer.json, a sentencepiece model, or vocab.json and "
            "merges.txt, must lie beside the weights; without them, call generate with token ids"
        )
    if family == "bert":
        return bert_vocabulary(source.file("vocab.txt", name), config, stated)
    if family in ("bart", "gpt2") or (family is None and "vocab.json" in has):
        for file in ("vocab.json", "merges.txt"):
            source.file(file, name)
        return _settled(_saved_or_byte_level(source, framed=family == "bart"), family, source)
    return _pieces(source, family, name)


def _pieces(source: _Source, family: str | None, name: str) -> Vocabulary:
    """By one sentencepiece model."""
    config, stated = source.config, source.stated
    if family in ("t5", "mt5", "umt5"):
        # mT5 and UMT5 have their sentinels inside the model.
        extra_ids = config.get("extra_ids")
        extra_ids = (100 if family == "t5" else 0) if extra_ids is None else extra_ids
        return t5_pieces(source.file("spiece.model", name), extra_ids, stated)
    if family == "pegasus":
        for key, usual in (("offset", PEGASUS_OFFSET), ("mask_token_sent", "<mask_1>")):
            if config.get(key, usual) != usual:
                raise ValueError(
                    f"{source.folder / 'tokenizer_config.json'} says {key} is {config[key]!r}, and "
                    f"that of Pegasus is {usual!r}: {REMEDY}"
                )
        return pegasus_pieces(source.file("spiece.model", name), stated)
    if family in ("mbart", "mbart50"):
        codes = MBART50 if family == "mbart50" else MBART
        return mbart_pieces(source.file("sentencepiece.bpe.model", name), codes, stated)
    if family == "albert":
        return albert_pieces(source.file("spiece.model", name), config, stated)
    if config.get("add_prefix_space") is False:
        raise ValueError(
            f"{source.folder / 'tokenizer_config.json'} says add_prefix_space false, which is not "
            f"supported for a sentencepiece model: {REMEDY}"
        )
    for known, read in (
        ("xlm_roberta", xlm_roberta_pieces),
        ("camembert", camembert_pieces),
        ("barthez", barthez_pieces),
    ):
        if family == known:
            return read(source.file("sentencepiece.bpe.model", name), stated)
    raise ValueError(
        f"the files in {source.folder} may be of several tokenizers, and there is {name}: say "
        "tokenizer_class in its tokenizer_config.json, such as 'T5Tokenizer'"
    )


def _bytes(config: dict[str, Any], stated: Stated) -> Bytes:
    stated.expect("ByT5Tokenizer", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    listed = [token.content for token in stated.tokens if "extra_id" in token.content]
    count = config.get("extra_ids")
    usual = [f"<extra_id_{n}>" for n in range(125 if count is None else count)]
    known = Bytes(listed or usual)
    added = number(stated, lambda name: known.token_id(name), 259 + len(listed or usual))
    if added.plain:
        raise ValueError(
            f"{stated.path} adds {next(iter(added.plain))!r} to bytes as an ordinary token, which "
            "is not supported: call generate with token ids"
        )
    return Bytes(listed or usual, added.special)


def _saved_or_byte_level(source: _Source, *, framed: bool) -> FastVocabulary:
    if "tokenizer.json" in source.has:
        return saved_vocabulary(source.folder / "tokenizer.json", source.stated)
    spaced = source.config.get("add_prefix_space") is True
    return byte_level(source.folder, source.stated, framed=framed, add_prefix_space=spaced)


def _settled(fast: FastVocabulary, family: str | None, source: _Source) -> FastVocabulary:
    """With what tokenizer_config.json says in place of tokenizer.json, as transformers has it."""
    config, backend = source.config, fast.backend
    kind = type(backend.pre_tokenizer).__name__
    if family in ("gpt2", "bart") and kind == "ByteLevel":
        backend.pre_tokenizer.add_prefix_space = config.get("add_prefix_space") is True
    if family == "bert" and type(backend.normalizer).__name__ == "BertNormalizer":
        for name, value in normalizing(config).items():
            setattr(backend.normalizer, name, value)
    says_ends = config.keys() & {"add_bos_token", "add_eos_token"}
    if family in ("gpt2", WHOLE) and says_ends:
        fast.own_frame = _ends(fast, family, source)
    return fast


def _ends(fast: FastVocabulary, family: str, source: _Source) -> tuple[list[int], list[int]]:
    """What add_bos_token and add_eos_token put around texts."""
    usual = "<|endoftext|>" if family == "gpt2" else None
    ends: list[list[int]] = []
    for role in ("bos_token", "eos_token"):
        content = source.stated.roles.get(role, usual)
        token = None if content is None else fast.token_id(content)
        wanted = source.config.get(f"add_{role}") and content is not None
        if wanted and token is None:
            raise ValueError(
                f"{source.folder / 'tokenizer_config.json'} says add_{role}, and the vocabulary "
                f"has no {content!r}"
            )
        ends.append([token] if wanted and token is not None else [])
    return ends[0], ends[1]


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
            f"tokenizer_config.json says src_lang is {source!r}, which is no language of this "
            f"checkpoint: it has {', '.join(codes[:3])} and others"
        )
    return Languages("mbart50" if fifty else "mbart", codes, source)
