"""WordPiece, BERT's vocabulary: as UniLM and s2s-ft read and write it, and as BertTokenizer does.

Devlin et al., "BERT", 2019; Dong et al., "Unified Language Model Pre-training", 2019.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.checkpoint.files import read_lines, refuse_unfit
from tritonseq.shown import shown

from .fast import FastVocabulary, add_tokens, check_ids, library_errors, tokenizers_library
from .special_tokens import number
from .vocabulary import SplitVocabulary, splitter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from .special_tokens import Stated

    Frame = tuple[tuple[str, ...], tuple[str, ...]]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The tokens of BERT that are no pieces of text."""

BERT_ROLES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
"""The special tokens of every BERT, unless other ones are said."""

# UniLM v1 has names of its own for tokens that BERT left unused, from [unused1] on.
_NAMES = ("[X_SEP]", *(f"[SEP_{n}]" for n in range(10)), "[S2S_SEP]", "[S2S_CLS]", "[L2R_SEP]")
_NAMES += ("[L2R_CLS]", "[R2L_SEP]", "[R2L_CLS]", "[S2S_SOS]")
_RENAMED = {f"[unused{number}]": name for number, name in enumerate(_NAMES, start=1)}

# Characters; a longer word is unknown.
_LONGEST_WORD = 100


class Pieces(NamedTuple):
    """A vocabulary as a file has it."""

    path: Path
    names: dict[int, str]
    """Tokens by id, in ascending order."""
    backend: Any
    """What cuts ordinary text into tokens: a tokenizer of the `tokenizers` library."""


class WordPieces:
    """The vocabulary of a UniLM; made by `s2s_pieces` or `unilm_pieces`.

    A text is decoded up to its first [SEP] or [PAD], or to its end if special tokens are not
    skipped. All tokens before it are written as they are,
    with spaces between them; only "##ing" loses its marks and joins the word before it.
    """

    def __init__(
        self,
        pieces: Pieces,
        frame: Frame,
        special: Sequence[str],
        cut: Callable[[str], list[str]],
        *,
        refuses_unknown: bool,
    ) -> None:
        """`frame` names what stands before and behind a source.

        `cut` parts a text into the tokens `special`, which stay whole, and what is between them.
        Raises ValueError if the vocabulary lacks tokens that it must have.
        """
        self.backend = pieces.backend
        self._names = pieces.names
        # Of two lines with the same token, the later one is meant by it.
        self._ids = {name: token for token, name in pieces.names.items()}
        before, behind = frame
        for name in (*SPECIAL, *before, *behind):
            if name not in self._ids:
                raise ValueError(
                    f"{pieces.path} has no {name}, which the vocabulary of this model needs: "
                    "is it that of another model?"
                )
        self._frame = [self._ids[name] for name in before], [self._ids[name] for name in behind]
        unknown = self._ids["[UNK]"]
        self._special = {name: self._ids.get(name, unknown) for name in special}
        self._cut = cut
        self.unknown_id = None if refuses_unknown else unknown
        """What stands for unknown tokens of texts that are cut already; None: they are refused."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        cut = [self._cut(text) for text in texts]
        plain = [part for parts in cut for part in parts if part not in self._special]
        encodings = iter(self.backend.encode_batch(plain, add_special_tokens=False))
        return [[token for part in parts for token in self._part(part, encodings)] for parts in cut]

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        ends = ("[SEP]", "[PAD]") if skip_special_tokens else ()
        return [self._text(row, ends) for row in rows]

    def frame(self) -> tuple[list[int], list[int]]:
        return self._frame

    def token_id(self, token: str) -> int | None:
        return self._ids.get(token)

    def pieces(self) -> dict[int, bytes]:
        named = self._names.items()
        return {
            token: (name[2:] if name.startswith("##") else f" {name}").encode()
            for token, name in named
            if name
        }

    def _part(self, part: str, encodings: Iterator[Any]) -> list[int]:
        """The id of a special token; of other parts, which come in turn, the ids found."""
        if part in self._special:
            return [self._special[part]]
        ids: list[int] = next(encodings).ids
        return ids

    def _text(self, row: Sequence[int], ends: Sequence[str]) -> str:
        words: list[str] = []
        for token in row:
            name = self._names.get(token, "")
            if name in ends:
                break
            if name.startswith("##") and words:
                words[-1] += name[2:]
            elif name:
                words.append(name)
        return " ".join(words)


def s2s_pieces(pieces: Pieces, *, pos_shift: bool = False) -> WordPieces:
    """The vocabulary of a model of s2s-ft; with `pos_shift`, no [SEP] ends a source.

    Unknown tokens of sources that are cut already are [UNK].
    """
    frame: Frame = (("[CLS]",), () if pos_shift else ("[SEP]",))
    return WordPieces(pieces, frame, SPECIAL, splitter(SPECIAL), refuses_unknown=False)


def unilm_pieces(pieces: Pieces, *, s2s_special_token: bool = False) -> WordPieces:
    """The vocabulary of a UniLM v1, with UniLM's names for the tokens that BERT left unused.

    [X_SEP], which parts sentences, is special too. Special tokens in a text stay whole only where
    white space stands around them, as in "of it . [X_SEP] the". With `s2s_special_token`, sources
    stand between [S2S_CLS] and [S2S_SEP]. Sources that are cut already must hold known tokens.
    """
    special = (*SPECIAL, "[X_SEP]")
    names = {token: _RENAMED.get(name, name) for token, name in pieces.names.items()}
    frame: Frame = (("[CLS]",), ("[SEP]",))
    if s2s_special_token:
        frame = (("[S2S_CLS]",), ("[S2S_SEP]",))
    split = splitter(special, alone=special)
    # Chinese characters and every kind of white space stand apart before tokens are looked for.
    clean = _normalizer(lowercase=False, strip_accents=False).normalize_str
    return WordPieces(
        pieces._replace(names=names),
        frame,
        special,
        lambda text: split(clean(text)),
        refuses_unknown=True,
    )


def read_pieces(path: Path, config: Mapping[str, Any]) -> Pieces:
    """Read `vocab.txt`: a token a line, whose number is its id.

    `config` may say `do_lower_case`, else a vocabulary with capital letters is cased; and
    `strip_accents` (as lower-casing) and `tokenize_chinese_chars` (yes). Raises ValueError if the
    file is empty or no UTF-8, or the `text` extra is missing.
    """
    library = tokenizers_library()
    names = dict(enumerate(read_lines(path)))
    ids = {name: token for token, name in names.items()}
    model = library.models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=_LONGEST_WORD)
    backend = library.Tokenizer(model)
    backend.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    lowercase = config.get("do_lower_case")
    backend.normalizer = _normalizer(
        lowercase=_is_uncased(ids) if lowercase is None else bool(lowercase),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=config.get("tokenize_chinese_chars") is not False,
    )
    return Pieces(path, names, backend)


def saved_pieces(path: Path, backend: Any, config: Mapping[str, Any]) -> Pieces:
    """Those of a `tokenizer.json` that was read; `config` may say `do_lower_case`."""
    ids: dict[str, int] = backend.get_vocab()
    if config.get("do_lower_case") is not None:
        backend.normalizer = _normalizer(lowercase=bool(config["do_lower_case"]))
    names = {token: name for name, token in ids.items()}
    return Pieces(path, dict(sorted(names.items())), backend)


def _normalizer(**options: Any) -> Any:
    return tokenizers_library().normalizers.BertNormalizer(**options)


def _is_uncased(names: Mapping[str, int]) -> bool:
    """Whether no ordinary piece has a capital letter; names in brackets are none."""
    return not any(re.search("[A-Z]", name) for name in names if name[:1] != "[")


def bert_vocabulary(path: Path, config: Mapping[str, Any], stated: Stated) -> FastVocabulary:
    """As BertTokenizer reads `vocab.txt`, for Chinese GPT-2 and BART: [CLS] and [SEP] around texts.

    `config` may say `do_lower_case` (yes), `strip_accents` (as lower-casing) and
    `tokenize_chinese_chars` (yes). Raises ValueError if the file is no UTF-8 or lacks a token that
    it must have, or the `text` extra is missing.
    """
    library = tokenizers_library()
    refuse_unfit(path)
    roles = {**BERT_ROLES, **stated.roles}
    with library_errors(path):
        # Of two lines with the same token, the later one counts.
        vocabulary = library.models.WordPiece.read_file(str(path))
        model = library.models.WordPiece(vocabulary, unk_token=roles["unk_token"])
    for role in ("unk_token", "cls_token", "sep_token"):
        if roles[role] not in vocabulary:
            raise ValueError(
                f"{path} has no {roles[role]}, the {role} of this BertTokenizer: is it the "
                "vocabulary of another model?"
            )
    backend = library.Tokenizer(model)
    backend.normalizer = library.normalizers.BertNormalizer(**normalizing(config))
    backend.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    backend.decoder = library.decoders.WordPiece(prefix="##")
    add_tokens(backend, stated)
    backend.add_special_tokens(list(dict.fromkeys(roles[role] for role in BERT_ROLES)))
    check_ids(path, backend)
    ends = [backend.token_to_id(roles[role]) for role in ("cls_token", "sep_token")]
    return FastVocabulary(backend, (ends[:1], ends[1:]))


def normalizing(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the normalizer, as a BertTokenizer has them."""
    chinese = config.get("tokenize_chinese_chars")
    lowercase = config.get("do_lower_case")
    return {
        "handle_chinese_chars": True if chinese is None else chinese,
        "strip_accents": config.get("strip_accents"),
        "lowercase": True if lowercase is None else lowercase,
    }


PROPHETNET_FILE = "prophetnet.tokenizer"
PROPHETNET_LONGEST = 512
"""The tokens of a text that every published checkpoint has positions for."""

PROPHETNET_ROLES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
_PROPHETNET_SPECIAL = (*PROPHETNET_ROLES.values(), "[X_SEP]")


class ProphetNetPieces(SplitVocabulary):
    """BERT's WordPiece, with [X_SEP] between the sentences of a summary.

    Special tokens stay whole in a text: what asks for a question holds a [SEP] of its own.
    """

    cleans_up = True
    """Decoding removes the spaces before punctuation, unless the files say otherwise."""
    max_length = PROPHETNET_LONGEST

    def __init__(self, path: Path, config: Mapping[str, Any], stated: Stated) -> None:
        """Read the file `path`, a token a line, whose number is its id.

        `config` may say `do_lower_case` (yes), `strip_accents` (as lower-casing) and
        `tokenize_chinese_chars` (yes). Raises ValueError if the file is no UTF-8, lacks a token
        that it must have, or the `text` extra is missing.
        """
        stated.expect("ProphetNetTokenizer", **PROPHETNET_ROLES)
        between = config.get("x_sep_token")
        if between is not None and _content(between) != "[X_SEP]":
            raise ValueError(
                f"{stated.path} says x_sep_token is {shown(between)}, and that of "
                "ProphetNetTokenizer is '[X_SEP]': call generate with token ids"
            )
        how = normalizing(config)
        self._lowers = how["lowercase"]
        strips = how["strip_accents"]
        # What is left to the library: accents, and the cutting into words and pieces. Letters are
        # made small before, by Python's rules, which know a word's end.
        pieces = read_pieces(path, {"do_lower_case": False})
        normalizer = tokenizers_library().normalizers.BertNormalizer
        self._clean = normalizer(
            clean_text=True, handle_chinese_chars=how["handle_chinese_chars"],
            strip_accents=False, lowercase=False,
        )  # fmt: skip
        self._backend = pieces.backend
        self._backend.normalizer = normalizer(
            clean_text=False, handle_chinese_chars=False,
            strip_accents=self._lowers if strips is None else strips, lowercase=False,
        )  # fmt: skip
        self._ids = {name: token for token, name in pieces.names.items()}
        for name in _PROPHETNET_SPECIAL:
            if name not in self._ids:
                raise ValueError(
                    f"{path} has no {name}, which the vocabulary of a ProphetNet needs: is it that "
                    "of another model?"
                )
        special = {name: self._ids[name] for name in _PROPHETNET_SPECIAL}
        added = number(stated.all_special(), self._ids.get, len(pieces.names), pieces.names.get)
        special |= added.special
        own = {**special, **added.plain}
        super().__init__(
            own,
            left=stated.having("lstrip"),
            right=stated.having("rstrip"),
            words=stated.having("single_word"),
        )
        self._alone = splitter(special, alone=special)
        self._skipped = frozenset(special.values())
        self._names = {**pieces.names, **{token: name for name, token in own.items()}}

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        skipped = self._skipped if skip_special_tokens else ()
        named = (
            [self._names[token] for token in row if token in self._names and token not in skipped]
            for row in rows
        )
        return [" ".join(names).replace(" ##", "").strip() for names in named]

    def frame(self) -> tuple[list[int], list[int]]:
        return [], [self._own["[SEP]"]]

    def pieces(self) -> dict[int, bytes]:
        return {
            token: (name.removeprefix("##") if name.startswith("##") else f" {name}").encode()
            for token, name in self._names.items()
        }

    def token_id(self, token: str) -> int | None:
        return self._own.get(token, self._ids.get(token))

    def _between(self, text: str) -> list[int]:
        clean = unicodedata.normalize("NFC", self._clean.normalize_str(text))
        # Of what was removed may have been within a special token.
        return [token for part in self._alone(clean) for token in self._part(part)]

    def _part(self, part: str) -> list[int]:
        if part in self._own:
            return [self._own[part]]
        text = part.lower() if self._lowers else part
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def _content(token: str | Mapping[str, Any]) -> Any:
    """That of a token as tokenizer_config.json has it."""
    return token if isinstance(token, str) else token.get("content")
