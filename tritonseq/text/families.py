"""The vocabulary of a family of tokenizers, by the files that a folder has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.shown import shown

from .classes import REMEDY, class_within
from .fast import bert_vocabulary, merged_bytes, read_saved, saved_vocabulary
from .keys import LISTS
from .languages import MBART, MBART50
from .pipelines import PIPELINES, pipeline_of, rebuilt
from .roberta import (
    BartphoPieces,
    albert_pieces,
    barthez_pieces,
    camembert_pieces,
    xlm_roberta_pieces,
)
from .sentencepiece import PEGASUS_OFFSET, MarianPieces, mbart_pieces, pegasus_pieces, t5_pieces
from .special_tokens import number
from .vocabulary import FRAME, Bytes

if TYPE_CHECKING:
    from pathlib import Path

    from .fast import FastVocabulary
    from .special_tokens import Stated
    from .vocabulary import Vocabulary


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
    if family == "byt5" and not (name == "byt5" and "tokenizer.json" in has):
        # Where no class is named, a tokenizer.json goes before bytes.
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
        fast = saved(source, family, name)
        fast.frame()  # what it cannot do is said now
        return fast
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
        return byte_pairs(source, family or "gpt2", name)
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
    if family in ("albert", "barthez"):
        _refuse_other_ends(source)
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


def _refuse_other_ends(source: Source) -> None:
    """Raise ValueError where transformers puts fewer tokens around texts than there are here."""
    said = {f"add_{end}_token": source.config.get(f"add_{end}_token") for end in ("bos", "eos")}
    if set(said.values()) not in ({None}, {True}):
        told = ", ".join(f"{name} {value}" for name, value in said.items() if value is not None)
        raise ValueError(
            f"{source.stated.path} says {told}, which is not supported for this sentencepiece "
            f"model unless both are true: {REMEDY}"
        )


def _bytes(config: dict[str, Any], stated: Stated) -> Bytes:
    stated.expect("ByT5Tokenizer", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    count = config.get("extra_ids")
    behind = [f"<extra_id_{n}>" for n in range(125 if count is None else count)]
    listed = [token.content for token in stated.tokens if "extra_id" in token.content]
    if listed or any(isinstance(config.get(key), list) for key in LISTS):
        behind = listed
    if not any(token.id is not None for token in stated.tokens):
        # In the order of their roles, and those of lists last.
        news = [token.content for token in stated.tokens if token.content not in FRAME]
        behind = [*news, *(name for name in behind if name not in news)]
    known = Bytes(behind)
    added = number(stated.all_special(), known.token_id, 259 + len(behind), known.name)
    if added.plain:
        raise ValueError(
            f"{stated.path} adds {shown(next(iter(added.plain)))} to bytes as an ordinary token, "
            "which is not supported: call generate with token ids"
        )
    return Bytes(behind, added.special)


def saved(source: Source, family: str | None, name: str) -> FastVocabulary:
    """That of tokenizer.json, as the class of the tokenizer has it."""
    path = source.folder / "tokenizer.json"
    backend = read_saved(path)
    pipeline = pipeline_of(class_within(family, name, source.model), backend)
    if pipeline is None:
        return saved_vocabulary(path, backend, source.stated)
    return rebuilt(backend, pipeline, name, path, source.config, source.stated)


def byte_pairs(source: Source, family: str, name: str) -> FastVocabulary:
    """That of vocab.json and merges.txt, as GPT-2 or BART has it."""
    backend, path = merged_bytes(source.folder), source.folder / "vocab.json"
    # The mask of BART takes the space before it, as it does in every tokenizer.json of one.
    pipeline = PIPELINES[family]._replace(mask_strips=family == "bart")
    fast = rebuilt(backend, pipeline, name, path, source.config, source.stated)
    if family == "gpt2":
        fast.own_frame = _ends(fast, source)
    return fast


def _ends(fast: FastVocabulary, source: Source) -> tuple[list[int], list[int]]:
    """What add_bos_token and add_eos_token put around texts, unless tokenizer.json says it."""
    ends: list[list[int]] = []
    for role in ("bos_token", "eos_token"):
        content = source.stated.roles.get(role, "<|endoftext|>")
        token = None if content is None else fast.token_id(content)
        wanted = source.config.get(f"add_{role}") and content is not None
        if wanted and token is None:
            raise ValueError(
                f"{source.stated.path} says add_{role}, and the vocabulary has no {shown(content)}"
            )
        ends.append([token] if wanted and token is not None else [])
    return ends[0], ends[1]
