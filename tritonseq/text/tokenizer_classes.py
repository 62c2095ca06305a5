"""Tokenizer classes: the normalizer, pre-tokenizer, decoder and frame around a tokenizer.json.

Since version 5, the classes of transformers take vocabulary, merges, added tokens and the table of
equal characters from that file, most of them its post-processor too, and bring everything else.
Where they lose what a model was trained by, the table (mBART, BARThez) or the tokens around texts
(BARThez, Blenderbot), it is kept here.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.shown import shown

from .fast import FastVocabulary, add_tokens, check_ids, library_errors, tokenizers_library
from .language_codes import FLORES, MBART, MBART50
from .sentencepiece import FAIRSEQ_ROLES, PEGASUS_OFFSET, albert_normalizers
from .special_tokens import FLAGS, Token
from .tokenizer_config import ROLES
from .vocabulary import SPACE
from .wordpiece import BERT_ROLES, normalizing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from .special_tokens import Stated

    # The library, tokenizer_config.json, and the tokenizer as tokenizer.json has it, to normalizer,
    # pre-tokenizer and decoder.
    Build = Callable[[Any, Mapping[str, Any], Any], tuple[Any, Any, Any]]

# In no vocabulary, so that a model of pieces shows what it takes for the unknown.
_UNASSIGNED = "\U0010fffe"

_PRETOKENIZE_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class TokenizerClass(NamedTuple):
    """What a class of transformers brings to the vocabulary of a tokenizer.json."""

    model: str
    """The kind of model that it can hold."""
    roles: Mapping[str, str]
    """Its special tokens, where no file says others."""
    build: Build
    frame: tuple[Sequence[str], Sequence[str]] = ((), ())
    """The roles around every text."""
    keeps_frame: bool = False
    """Whether the post-processor of the file counts before that."""
    unknown: int | None = None
    """The id of what is unknown among pieces; None: that of the unk_token."""
    mask_strips: bool = False
    """Whether the mask takes the space before it, where no file says."""
    extras: Callable[[Mapping[str, Any]], Sequence[str]] = lambda _: ()
    """More special tokens, where tokenizer_config.json lists none."""
    languages: Sequence[str] = ()
    """Special tokens that there are in any case."""
    falls_back: bool = False
    """Whether BPE writes unknown characters as bytes, and fuses unknown ones."""
    names_unknown: bool = False
    """Whether BPE writes one unk_token for unknown characters in a row."""


def class_of(name: str | None, backend: Any) -> TokenizerClass | None:
    """That of a family or class, by its key; None if it leaves tokenizer.json as it is."""
    cls = TOKENIZER_CLASSES.get(name or "")
    steps = (backend.pre_tokenizer, backend.decoder)
    if name == "Llama" and any(b"ByteLevel" in step.__getstate__() for step in steps if step):
        return None  # Llama 3's, which have nothing of the class but its name
    return cls


def rebuilt(
    backend: Any,
    cls: TokenizerClass,
    name: str,
    path: Path,
    config: Mapping[str, Any],
    said: Stated,
) -> FastVocabulary:
    """What the class `name` makes of the tokenizer `backend`, which was read from `path`.

    `config` is tokenizer_config.json, `said` what it and files beside it say of tokens. Raises
    ValueError for a file that the class cannot hold, and for tokens that the frame lacks.
    """
    library = tokenizers_library()
    roles = _roles(cls, config, said)
    _check_model(backend, cls, name, path, roles)
    fresh = library.Tokenizer(backend.model)
    _settle_model(fresh.model, cls, roles)
    fresh.normalizer, fresh.pre_tokenizer, fresh.decoder = cls.build(library, config, backend)
    keeps = cls.keeps_frame and backend.post_processor is not None
    frame = ((), ()) if keeps else cls.frame
    for role in (*frame[0], *frame[1]):
        _check_end(backend, role, roles, path)
    add_tokens(fresh, _tokens(backend, cls, roles, config, said))
    check_ids(path, fresh)
    if keeps:
        fresh.post_processor = backend.post_processor
        fast = FastVocabulary(fresh)
    else:
        before, behind = ([fresh.token_to_id(roles[role]) for role in end] for end in frame)
        fast = FastVocabulary(fresh, (before, behind))
    fast.saved_side = (backend.truncation or {}).get("direction")
    return fast


def _check_model(
    backend: Any, cls: TokenizerClass, name: str, path: Path, roles: Mapping[str, str]
) -> None:
    model = backend.model
    kind = type(model).__name__
    fault = None
    if kind != cls.model:
        fault = f"holds a {kind} model, and {name} is made for {cls.model}"
    elif kind == "BPE" and model.continuing_subword_prefix:
        fault = f"says continuing_subword_prefix, which {name} does without"
    elif cls.languages is MBART50 and not any(map(backend.token_to_id, MBART50)):
        fault = f"has none of the languages that {name} has"
    elif (kind == "WordPiece" or cls.names_unknown) and not _has_unknown(model, roles):
        fault = f"has no {shown(roles.get('unk_token'))}, which {name} writes for what is unknown"
    elif kind == "Unigram":
        wanted, found = cls.unknown, _unknown_id(model, path)
        if wanted is None:
            wanted = model.token_to_id(roles.get("unk_token", ""))
        if found not in (None, wanted):
            fault = f"has the id {found} for what is unknown, and {name} {wanted}"
    if fault is not None:
        raise ValueError(
            f"{path} {fault}: if the file describes this tokenizer to the end, say tokenizer_class "
            "'TokenizersBackend' in tokenizer_config.json; else call generate with token ids"
        )


def _has_unknown(model: Any, roles: Mapping[str, str]) -> bool:
    return model.token_to_id(roles.get("unk_token", "")) is not None


def _unknown_id(model: Any, path: Path) -> int | None:
    """What pieces have for the unknown; None if they write it as bytes."""
    with library_errors(path):
        found: list[int] = [token.id for token in model.tokenize(_UNASSIGNED)]
    return found[0] if len(found) == 1 else None


def _settle_model(model: Any, cls: TokenizerClass, roles: Mapping[str, str]) -> None:
    """The options of a model are the class's own; random merges (dropout) have no place here."""
    if cls.model == "BPE":
        model.dropout = model.end_of_word_suffix = None
        model.unk_token = roles["unk_token"] if cls.names_unknown else None
        model.fuse_unk = cls.falls_back or cls.names_unknown
        model.byte_fallback = cls.falls_back
        model.ignore_merges = False
    if cls.model == "WordPiece":
        model.unk_token = roles["unk_token"]
        model.continuing_subword_prefix = "##"
        model.max_input_chars_per_word = 100


def _roles(cls: TokenizerClass, config: Mapping[str, Any], said: Stated) -> dict[str, str]:
    """Those of the files, and of the class where the files do not say that there is none."""
    unsaid = {role: name for role, name in cls.roles.items() if role not in config}
    return {**unsaid, **said.roles}


def _tokens(
    backend: Any,
    cls: TokenizerClass,
    roles: Mapping[str, str],
    config: Mapping[str, Any],
    said: Stated,
) -> Stated:
    """All special and added tokens, in the order in which new ones are given their ids."""
    stated = {token.content: token for token in said.tokens}
    found: dict[str, Token] = {}
    for token in _numbered(backend, config, said):
        is_special = token.special or token.content in roles.values()
        found.setdefault(token.content, token._replace(special=is_special))
    for role in filter(roles.__contains__, ROLES):
        strips = cls.mask_strips and role == "mask_token"
        usual = Token(roles[role], None, True, {"normalized": False, "lstrip": strips})
        found.setdefault(usual.content, stated.get(usual.content, usual))
    for token in said.tokens:
        found.setdefault(token.content, token)
    lists = {"additional_special_tokens", "extra_special_tokens"} & config.keys()
    for name in (*(() if lists else cls.extras(config)), *cls.languages):
        found.setdefault(name, Token(name, None, True, {"normalized": False}))
    return said._replace(tokens=tuple(found.values()))


def _numbered(backend: Any, config: Mapping[str, Any], said: Stated) -> list[Token]:
    """The tokens whose ids are stated: by added_tokens_decoder, else by tokenizer.json first."""
    held = _held(backend)
    stated = [token for token in said.tokens if token.id is not None]
    if config.get("added_tokens_decoder") is None:
        return held + stated
    names = {token.content for token in stated}
    for token in held:
        if token.content not in names and backend.model.token_to_id(token.content) is None:
            raise ValueError(
                f"tokenizer.json adds the token {shown(token.content)}, and the "
                f"added_tokens_decoder of {said.path} leaves it out: name it there too"
            )
    return stated


def _held(backend: Any) -> list[Token]:
    """The added tokens of tokenizer.json, by their ids."""
    return [
        Token(token.content, number, token.special, {flag: getattr(token, flag) for flag in FLAGS})
        for number, token in sorted(backend.get_added_tokens_decoder().items())
    ]


def _check_end(backend: Any, role: str, roles: Mapping[str, str], path: Path) -> None:
    """Raise ValueError if there is no token to stand before or behind every text."""
    if role not in roles:
        raise ValueError(
            f"the files beside {path} say that {role} is null, and it stands around every text of "
            "this tokenizer: name a token there"
        )
    if backend.token_to_id(roles[role]) is None:
        raise ValueError(
            f"the vocabulary in {path} has no {roles[role]}, the {role} of this tokenizer, which "
            "stands around every text: is it the vocabulary of another model?"
        )


def _charsmap(library: Any, backend: Any) -> list[Any]:
    """The table of equal characters, if there is one."""
    return [
        library.normalizers.Precompiled(base64.b64decode(part["precompiled_charsmap"]))
        for part in _normalizers(backend)
        if part.get("type") == "Precompiled"
    ][:1]


def _right_strip(library: Any, backend: Any) -> list[Any]:
    """Conversions of transformers 4 cut spaces at the end, as the models' training did."""
    strips = any(part.get("type") == "Strip" for part in _normalizers(backend))
    if backend.pre_tokenizer is not None:
        strips = strips or b"WhitespaceSplit" in backend.pre_tokenizer.__getstate__()
    return [library.normalizers.Strip(left=False, right=True)] if strips else []


def _normalizers(backend: Any) -> list[dict[str, Any]]:
    if backend.normalizer is None:
        return []
    state = json.loads(backend.normalizer.__getstate__())
    return list(state["normalizers"]) if state.get("type") == "Sequence" else [state]


def _joined(library: Any, steps: list[Any]) -> Any:
    return library.normalizers.Sequence(steps) if steps else None


def _single_spaces(library: Any) -> Any:
    return library.normalizers.Replace(library.Regex(" {2,}"), " ")


def _metaspace(
    library: Any, config: Mapping[str, Any], *, words: bool, absent: str = "never"
) -> tuple[Any, Any]:
    """Spaces as part of the words behind them; with `words`, all white space is a single one."""
    scheme = absent if config.get("add_prefix_space") is False else "always"
    step = library.pre_tokenizers.Metaspace(prepend_scheme=scheme)
    if words:
        first = library.pre_tokenizers.WhitespaceSplit()
        step = library.pre_tokenizers.Sequence([first, step])
    return step, library.decoders.Metaspace(prepend_scheme=scheme)


def _bytes(
    library: Any, config: Mapping[str, Any], _: Any, *, spaced: bool = False
) -> tuple[Any, Any, Any]:
    said = config.get("add_prefix_space")
    step = library.pre_tokenizers.ByteLevel(add_prefix_space=spaced if said is None else said)
    return None, step, library.decoders.ByteLevel()


def _blenderbot(library: Any, config: Mapping[str, Any], backend: Any) -> tuple[Any, Any, Any]:
    return _bytes(library, config, backend, spaced=True)


def _neox(library: Any, config: Mapping[str, Any], backend: Any) -> tuple[Any, Any, Any]:
    return library.normalizers.NFC(), *_bytes(library, config, backend)[1:]


def _cohere(library: Any, config: Mapping[str, Any], backend: Any) -> tuple[Any, Any, Any]:
    normalizer, step, decoder = _neox(library, config, backend)
    digits = library.pre_tokenizers.Digits(individual_digits=True)
    return normalizer, library.pre_tokenizers.Sequence([digits, step]), decoder


def _qwen(library: Any, config: Mapping[str, Any], _: Any) -> tuple[Any, Any, Any]:
    spaced = config.get("add_prefix_space") is True
    steps = library.pre_tokenizers
    cut = steps.Split(library.Regex(_PRETOKENIZE_QWEN), behavior="isolated", invert=False)
    both = [cut, steps.ByteLevel(add_prefix_space=spaced, use_regex=False)]
    return library.normalizers.NFC(), steps.Sequence(both), library.decoders.ByteLevel()


def _llama(library: Any, config: Mapping[str, Any], _: Any) -> tuple[Any, Any, Any]:
    spaced = config.get("add_prefix_space") is not False
    scheme = ("always" if config.get("legacy") else "first") if spaced else "never"
    step = library.pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    parts = library.decoders
    steps = [parts.Replace(SPACE, " "), parts.ByteFallback(), parts.Fuse()]
    steps += [parts.Strip(content=" ", left=1)] if spaced else []
    return None, step, parts.Sequence(steps)


def _bert(library: Any, config: Mapping[str, Any], _: Any) -> tuple[Any, Any, Any]:
    normalizer = library.normalizers.BertNormalizer(**normalizing(config))
    decoder = library.decoders.WordPiece(prefix="##")
    return normalizer, library.pre_tokenizers.BertPreTokenizer(), decoder


def _words(library: Any, _: Mapping[str, Any], backend: Any) -> tuple[Any, Any, Any]:
    """T5 and mBART, which always have a space before their words."""
    return _joined(library, _charsmap(library, backend)), *_metaspace(library, {}, words=True)


def _roberta_words(library: Any, config: Mapping[str, Any], backend: Any) -> tuple[Any, Any, Any]:
    """XLM-R and CamemBERT."""
    return _joined(library, _charsmap(library, backend)), *_metaspace(library, config, words=True)


def _spaces(library: Any, _: Mapping[str, Any], backend: Any) -> tuple[Any, Any, Any]:
    """Pegasus and mBART-50."""
    steps = _charsmap(library, backend) + _right_strip(library, backend)
    steps.append(_single_spaces(library))
    return _joined(library, steps), *_metaspace(library, {}, words=False)


def _pegasus(library: Any, config: Mapping[str, Any], backend: Any) -> tuple[Any, Any, Any]:
    normalizer, step, decoder = _spaces(library, config, backend)
    if not _charsmap(library, backend):
        lines = library.normalizers.Replace(library.Regex("\\n"), " ")
        normalizer = _joined(library, [lines, normalizer])
    return normalizer, step, decoder


def _nllb(library: Any, _: Mapping[str, Any], backend: Any) -> tuple[Any, Any, Any]:
    steps = _charsmap(library, backend)
    steps += [_single_spaces(library)] if steps else []
    return _joined(library, steps), *_metaspace(library, {}, words=False)


def _barthez(library: Any, config: Mapping[str, Any], backend: Any) -> tuple[Any, Any, Any]:
    parts = library.normalizers
    steps = _charsmap(library, backend)
    steps += [parts.Replace(library.Regex(r"\s{2,}|[\n\r\t]"), " "), parts.NFC()]
    steps.append(parts.Strip(left=False, right=True))
    return _joined(library, steps), *_metaspace(library, config, words=False)


def _albert(library: Any, config: Mapping[str, Any], backend: Any) -> tuple[Any, Any, Any]:
    steps = albert_normalizers(library, config) + _charsmap(library, backend)
    return _joined(library, steps), *_metaspace(library, config, words=True)


def _sentinels(config: Mapping[str, Any]) -> list[str]:
    count = config.get("extra_ids")
    return [f"<extra_id_{number}>" for number in range(100 if count is None else count)]


def _unused(_: Mapping[str, Any]) -> Sequence[str]:
    """Those of fairseq that CamemBERT does without."""
    return "<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"


def _pretraining(config: Mapping[str, Any]) -> list[str]:
    """The tokens of Pegasus' pre-training."""
    first = config.get("mask_token_sent", "<mask_1>")
    offset = config.get("offset")
    numbers = range(2, PEGASUS_OFFSET if offset is None else offset)
    return [*([] if first is None else [first]), *(f"<unk_{number}>" for number in numbers)]


_FAIRSEQ = {**FAIRSEQ_ROLES, "pad_token": "<pad>"}
_END = "<|endoftext|>"
_GPT2 = dict.fromkeys(("bos_token", "eos_token", "unk_token"), _END)
_T5 = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_BRACKETS = {**BERT_ROLES, "bos_token": "[CLS]", "eos_token": "[SEP]"}
_COHERE = {
    **{"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>", "unk_token": "<UNK>"},
    **{"sep_token": "<SEP>", "pad_token": "<PAD>", "cls_token": "<CLS>"},
    "mask_token": "<MASK_TOKEN>",
}
_ALBERT = {**_BRACKETS, "unk_token": "<unk>", "pad_token": "<pad>"}
_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_MBART50 = {role: name for role, name in _FAIRSEQ.items() if role != "bos_token"}
_QWEN = dict.fromkeys(("eos_token", "unk_token", "pad_token"), _END)
_ENDS = (("cls_token",), ("sep_token",))
_BOUNDS = (("bos_token",), ("eos_token",))
_STOP = ((), ("eos_token",))

TOKENIZER_CLASSES: Mapping[str, TokenizerClass] = {
    "gpt2": TokenizerClass("BPE", _GPT2, _bytes, keeps_frame=True),
    "bart": TokenizerClass("BPE", _FAIRSEQ, _bytes, _ENDS),
    "bert": TokenizerClass("WordPiece", BERT_ROLES, _bert, _ENDS),
    "t5": TokenizerClass("Unigram", _T5, _words, _STOP, extras=_sentinels),
    "pegasus": TokenizerClass(
        "Unigram", {**_T5, "mask_token": "<mask_2>"}, _pegasus, _STOP, extras=_pretraining
    ),
    "mbart": TokenizerClass(
        "Unigram", _FAIRSEQ, _words, _STOP, unknown=3, mask_strips=True, languages=MBART
    ),
    "mbart50": TokenizerClass(
        "Unigram", _MBART50, _spaces, _STOP, unknown=3, mask_strips=True, languages=MBART50
    ),
    "nllb": TokenizerClass(
        "BPE", _FAIRSEQ, _nllb, _STOP, mask_strips=True, extras=lambda _: FLORES, names_unknown=True
    ),
    "xlm_roberta": TokenizerClass("Unigram", _FAIRSEQ, _roberta_words, _BOUNDS, unknown=3),
    "camembert": TokenizerClass(
        "Unigram", _FAIRSEQ, _roberta_words, _BOUNDS, mask_strips=True, extras=_unused
    ),
    "barthez": TokenizerClass(
        "Unigram", _FAIRSEQ, _barthez, _ENDS, keeps_frame=True, unknown=3, mask_strips=True
    ),
    "albert": TokenizerClass("Unigram", _ALBERT, _albert, _ENDS, keeps_frame=True, unknown=1),
    "blenderbot": TokenizerClass(
        "BPE", _FAIRSEQ, _blenderbot, _STOP, keeps_frame=True, mask_strips=True
    ),
    "Cohere": TokenizerClass("BPE", _COHERE, _cohere, keeps_frame=True),
    "Deberta": TokenizerClass("BPE", _BRACKETS, _bytes, _ENDS),
    "GPTNeoX": TokenizerClass("BPE", {**_GPT2, "pad_token": "<|padding|>"}, _neox),
    "Llama": TokenizerClass("BPE", _LLAMA, _llama, keeps_frame=True, falls_back=True),
    "Qwen2": TokenizerClass("BPE", _QWEN, _qwen, keeps_frame=True),
}
"""By families, and by what is before "Tokenizer" for classes that are read as tokenizer.json only.

Other classes leave that file as it is.
"""
