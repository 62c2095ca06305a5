"""Loading a tokenizer: which one a folder holds, by its files and by its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.checkpoint.files import find_config, is_there, read_json
from tritonseq.checkpoint.unilm_family import variant_of
from tritonseq.shown import shown

from .fast import FastVocabulary, OneLineVocabulary, merged_bytes, read_saved, saved_vocabulary
from .fsmt import fsmt_vocabulary
from .language_codes import FLORES, M2M100, MBART, MBART50, PLBART, languages_of, listed_codes
from .languages import STYLES, Languages
from .piece_lists import BartphoPieces, M2M100Pieces, MarianPieces
from .prophetnet import FILE, ProphetNetPieces, XLMProphetNetPieces
from .sentencepiece import (
    PEGASUS_OFFSET,
    SentencePieces,
    albert_pieces,
    barthez_pieces,
    camembert_pieces,
    mbart_pieces,
    pegasus_pieces,
    t5_pieces,
    xlm_roberta_pieces,
)  # fmt: skip
from .special_tokens import number, read_stated
from .tokenizer_classes import TOKENIZER_CLASSES, class_of, rebuilt
from .tokenizer_config import LISTS, REMEDY, WHOLE, check_keys, class_within, family_of
from .vocabulary import FRAME, Bytes
from .wordpiece import (
    SPECIAL,
    bert_vocabulary,
    read_pieces,
    s2s_pieces,
    saved_pieces,
    unilm_pieces,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .special_tokens import Stated
    from .vocabulary import Vocabulary

_BERT = frozenset(("bert", "electra", "minilm", "unilm"))

_OF_FAIRSEQ = {
    "barthez": barthez_pieces,
    "camembert": camembert_pieces,
    "xlm_roberta": xlm_roberta_pieces,
}

_MBARTS = {"mbart": MBART, "mbart50": MBART50, "nllb": FLORES}

NO_LIMIT = 10**6
"""A `model_max_length` from here on is no limit."""


class TokenizerParts(NamedTuple):
    """What the files of a checkpoint say about text."""

    vocabulary: Vocabulary
    languages: Languages
    cleans_up: bool = False
    """Whether decoding removes the spaces that tokenizing into words has put before punctuation."""
    can_clean_up: bool = True
    """Whether it could; tokens of byte-level BPE have their own spaces, no traces of that."""
    max_length: int | None = None
    """`model_max_length`, where it is one: files without a limit hold a huge number."""
    truncation_side: str | None = None
    """Where texts are cut, "left" or "right", if that is said."""
    unknown: str | None = None
    """The token that stands for what has none, if files name one."""


class TokenizerFolder(NamedTuple):
    """A folder, and what its JSON files say."""

    folder: Path
    has: set[str]
    """The names of its files."""
    config: dict[str, Any]
    """tokenizer_config.json"""
    model: dict[str, Any]
    """The configuration of the network, with what the caller says in its place."""
    stated: Stated

    @property
    def unknown(self) -> str | None:
        """The name of the token for what has none."""
        return self.stated.roles.get("unk_token")

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


def read_tokenizer(folder: Path, overrides: Mapping[str, Any] | None = None) -> TokenizerParts:
    """The tokenizer that a folder holds; ValueError if there is none that is known.

    `overrides` are keys that count instead of those of the network's configuration.
    """
    path = folder / "tokenizer_config.json"
    config, found = read_json(path) if is_there(path) else {}, find_config(folder)
    check_keys(path, config)
    model = {**(read_json(found) if found else {}), **(overrides or {})}
    has = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    source = TokenizerFolder(folder, has, config, model, read_stated(folder, config))
    longest = config.get("model_max_length", config.get("max_len"))
    limit = int(longest) if longest is not None and 0 < longest < NO_LIMIT else None
    side = config.get("truncation_side")
    if _is_unilm(model, has):
        _check_unilm(source)
        _refuse_splitting(source)
        return TokenizerParts(
            _unilm(source), Languages(), False, False, limit, side, source.unknown
        )
    family, name = family_of(config, model, has)
    if family == "m2m100" and name == "m2m_100" and "vocab.json" not in has:
        family = "nllb"  # the networks of both are of one type
    vocabulary = _vocabulary(source, family, name)
    if (backend := getattr(vocabulary, "backend", None)) is None:
        _refuse_splitting(source)
    else:
        backend.encode_special_tokens = config.get("split_special_tokens") is True
    can_clean = not getattr(vocabulary, "is_bpe", False) or (
        config.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output")
        is True
    )
    cleans_up = config.get("clean_up_tokenization_spaces")
    if cleans_up is None:
        cleans_up = family == "plbart" or getattr(vocabulary, "cleans_up", False)
    return TokenizerParts(
        vocabulary,
        languages_of(vocabulary, family, source),
        can_clean and cleans_up,
        can_clean,
        getattr(vocabulary, "max_length", None) if longest is None else limit,
        side or getattr(vocabulary, "saved_side", None),
        source.unknown,
    )


def _refuse_splitting(source: TokenizerFolder) -> None:
    if source.config.get("split_special_tokens"):
        raise ValueError(
            f"{source.folder / 'tokenizer_config.json'} says split_special_tokens, which is "
            f"supported for tokenizer.json only: {REMEDY}"
        )


def _is_unilm(model: dict[str, Any], has: set[str]) -> bool:
    """Whether it is of BERT's kind, read as UniLM; the first models do not name their type."""
    kind = model.get("model_type")
    return (isinstance(kind, str) and kind in _BERT) or (kind is None and "vocab.txt" in has)


def _check_unilm(source: TokenizerFolder) -> None:
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


def _unilm(source: TokenizerFolder) -> Vocabulary:
    """By vocab.txt, as UniLM and s2s-ft do; else WordPiece or RoBERTa's BPE by other files."""
    folder, has, config, model, _ = source
    if model.get("do_lower_case") is not None:
        config = {**config, "do_lower_case": model["do_lower_case"]}
    shifted = bool(model.get("pos_shift"))
    if "vocab.txt" in has:
        pieces = read_pieces(folder / "vocab.txt", config)
    elif "tokenizer.json" in has:
        fast = _saved(source, None, "UniLM")
        if type(fast.backend.model).__name__ != "WordPiece":
            return OneLineVocabulary(_saved(source, "bart", "RobertaTokenizer"), pos_shift=shifted)
        pieces = saved_pieces(folder / "tokenizer.json", fast.backend, model)
    elif {"vocab.json", "merges.txt"} <= has:
        fast = _byte_pairs(source, "bart", "RobertaTokenizer")
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


def _vocabulary(source: TokenizerFolder, family: str | None, name: str) -> Vocabulary:
    """By the files that there are, and the family where they do not say enough."""
    folder, has, config, _, stated = source
    if family == "byt5" and not (name == "byt5" and "tokenizer.json" in has):
        # Where no class is named, a tokenizer.json goes before bytes.
        return _bytes(config, stated)
    if family in ("m2m100", "small100") and not (
        "tokenizer.json" in has and "vocab.json" not in has
    ):
        for file in ("vocab.json", "sentencepiece.bpe.model"):
            source.file(file, name)
        return M2M100Pieces(folder, listed_codes(source, M2M100), stated)
    if family == "plbart" and "sentencepiece.bpe.model" in has:
        return _plbart(source, name)
    if family == "bartpho":
        source.file("sentencepiece.bpe.model", name)
        return BartphoPieces(source.file("dict.txt", name).parent, stated)
    if family == "prophetnet":
        return ProphetNetPieces(source.file(FILE, name), config, stated)
    if family == "xlm_prophetnet":
        return XLMProphetNetPieces(source.file(FILE, name), stated)
    if family == "fsmt":
        for file in ("vocab-src.json", "vocab-tgt.json", "merges.txt"):
            source.file(file, name)
        return fsmt_vocabulary(folder, config, source.model, stated)
    missing = {"source.spm", "target.spm", "vocab.json"} - has
    if family in ("marian", None) and not missing:
        separate = config.get("separate_vocabs") is True
        if separate:
            source.file("target_vocab.json", name)
        return MarianPieces(folder, stated, separate=separate)
    if "tokenizer.json" in has:
        fast = _saved(source, family, name)
        fast.frame()  # what it cannot do is said now
        return fast
    if family == "marian":
        raise ValueError(
            f"{folder} has no {' and no '.join(sorted(missing))}, which Marian's tokenizer needs: "
            "fetch the missing files, or call generate with token ids"
        )
    return _by_own_files(source, family, name)


def _by_own_files(source: TokenizerFolder, family: str | None, name: str) -> Vocabulary:
    """The files that the family itself has, in the absence of tokenizer.json."""
    folder, has, config, _, stated = source
    if not has & {"spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt"}:
        raise ValueError(
            f"{folder} has no tokenizer: tokenizer.json, a sentencepiece model, or vocab.json and "
            "merges.txt, must lie beside the weights; without them, call generate with token ids"
        )
    if family == "bert":
        return bert_vocabulary(source.file("vocab.txt", name), config, stated)
    if family in ("bart", "blenderbot", "gpt2") or (family is None and "vocab.json" in has):
        for file in ("vocab.json", "merges.txt"):
            source.file(file, name)
        return _byte_pairs(source, family or "gpt2", name)
    return _pieces(source, family, name)


def _pieces(source: TokenizerFolder, family: str | None, name: str) -> Vocabulary:
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
    if family == "plbart":
        return _plbart(source, name)
    if family in _MBARTS:
        codes = _MBARTS[family]
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
    if family in _OF_FAIRSEQ:
        return _OF_FAIRSEQ[family](source.file("sentencepiece.bpe.model", name), stated)
    raise ValueError(
        f"the files in {source.folder} may be of several tokenizers, and there is {name}: say "
        "tokenizer_class in its tokenizer_config.json, such as 'T5Tokenizer'"
    )


def _plbart(source: TokenizerFolder, name: str) -> SentencePieces:
    codes = listed_codes(source, PLBART)
    languages = [STYLES["plbart"].form.format(code) for code in codes]
    path = source.file("sentencepiece.bpe.model", name)
    return mbart_pieces(path, languages, source.stated, has_mask=codes is PLBART["base"])


def _refuse_other_ends(source: TokenizerFolder) -> None:
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


def _saved(source: TokenizerFolder, family: str | None, name: str) -> FastVocabulary:
    """That of tokenizer.json, as the class of the tokenizer has it."""
    path = source.folder / "tokenizer.json"
    backend = read_saved(path)
    brought = class_of(class_within(family, name, source.model), backend)
    if brought is None:
        return saved_vocabulary(path, backend, source.stated)
    return rebuilt(backend, brought, name, path, source.config, source.stated)


def _byte_pairs(source: TokenizerFolder, family: str, name: str) -> FastVocabulary:
    """That of vocab.json and merges.txt, as GPT-2, BART or Blenderbot has it."""
    backend, path = merged_bytes(source.folder), source.folder / "vocab.json"
    # The mask of BART takes the space before it, as it does in every tokenizer.json of one.
    brought = TOKENIZER_CLASSES[family]._replace(mask_strips=family != "gpt2")
    fast = rebuilt(backend, brought, name, path, source.config, source.stated)
    if family == "gpt2":
        fast.own_frame = _ends(fast, source)
    return fast


def _ends(fast: FastVocabulary, source: TokenizerFolder) -> tuple[list[int], list[int]]:
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
