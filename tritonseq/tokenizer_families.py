"""The vocabulary of a family of tokenizers, by the files that a folder has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .bert_vocabulary import bert_vocabulary, normalizing
from .fast_vocabulary import byte_level, saved_vocabulary
from .languages import MBART, MBART50
from .marian_vocabulary import MarianPieces
from .roberta_pieces import (
    BartphoPieces,
    albert_pieces,
    barthez_pieces,
    camembert_pieces,
    xlm_roberta_pieces,
)
from .sentencepieces import PEGASUS_OFFSET, mbart_pieces, pegasus_pieces, t5_pieces
from .shown import shown
from .special_tokens import number
from .tokenizer_classes import REMEDY, WHOLE
from .vocabularies import Bytes

if TYPE_CHECKING:
    from pathlib import Path

    from .fast_vocabulary import FastVocabulary
    from .special_tokens import Stated
    from .vocabularies import Vocabulary


class Source(NamedTuple):
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


def vocabulary_of(source: Source, family: str | None, name: str) -> Vocabulary:
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


def _by_own_files(source: Source, family: str | None, name: str) -> Vocabulary:
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
        return _settled(saved_or_byte_level(source, framed=family == "bart"), family, source)
    return _pieces(source, family, name)


def _pieces(source: Source, family: str | None, name: str) -> Vocabulary:
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
                    f"{stated.path} says {key} is {shown(config[key])}, and "
                    f"that of Pegasus is {usual!r}: {REMEDY}"
                )
        return pegasus_pieces(source.file("spiece.model", name), stated)
    if family in ("mbart", "mbart50"):
        codes = MBART50 if family == "mbart50" else MBART
        return mbart_pieces(source.file("sentencepiece.bpe.model", name), codes, stated)
    if config.get("add_prefix_space") is False:
        raise ValueError(
            f"{source.stated.path} says add_prefix_space false, which is not "
            f"supported for a sentencepiece model: {REMEDY}"
        )
    if family == "albert":
        return albert_pieces(source.file("spiece.model", name), config, stated)
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
            f"{stated.path} adds {shown(next(iter(added.plain)))} to bytes as an ordinary token, "
            "which is not supported: call generate with token ids"
        )
    return Bytes(listed or usual, added.special)


def saved_or_byte_level(source: Source, *, framed: bool) -> FastVocabulary:
    """tokenizer.json, else byte-level BPE of vocab.json and merges.txt."""
    if "tokenizer.json" in source.has:
        return saved_vocabulary(source.folder / "tokenizer.json", source.stated)
    spaced = source.config.get("add_prefix_space") is True
    return byte_level(source.folder, source.stated, framed=framed, add_prefix_space=spaced)


def _settled(fast: FastVocabulary, family: str | None, source: Source) -> FastVocabulary:
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


def _ends(fast: FastVocabulary, family: str, source: Source) -> tuple[list[int], list[int]]:
    """What add_bos_token and add_eos_token put around texts."""
    usual = "<|endoftext|>" if family == "gpt2" else None
    ends: list[list[int]] = []
    for role in ("bos_token", "eos_token"):
        content = source.stated.roles.get(role, usual)
        token = None if content is None else fast.token_id(content)
        wanted = source.config.get(f"add_{role}") and content is not None
        if wanted and token is None:
            raise ValueError(
                f"{source.stated.path} says add_{role}, and the vocabulary has no {shown(content)}"
            )
        ends.append([token] if wanted and token is not None else [])
    return ends[0], ends[1]
