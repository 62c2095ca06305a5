"""Tokenizer: text to ids and back, by the files that lie beside a checkpoint's weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tritonseq.errors import TextError
from tritonseq.options.containers import check_container, read_rows, unicode_fault
from tritonseq.shown import shown

from .languages import Untold, each_language
from .loading import read_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import TypeGuard

    from torch import Tensor

    from .loading import TokenizerParts

    Languages = str | Sequence[str | None] | None
    """One for all texts, or one for each; None where none is named."""
    Frame = tuple[list[int], list[int]]

_T = TypeVar("_T")


class Tokenizer:
    """A checkpoint's vocabulary, with its special tokens, that speaks in padded batches.

    Made by `from_folder`. Where the `tokenizers` library does the work, `backend` is its object.
    """

    def __init__(self, parts: TokenizerParts) -> None:
        self._vocabulary, self._languages, self._cleans_up, *_ = parts
        self.can_clean_up = parts.can_clean_up
        """Whether spaces before punctuation could be removed; never from byte-level BPE."""
        self.max_length = parts.max_length
        """The most ids of a source that the checkpoint recommends; None if it names no limit."""
        self.truncation_side = parts.truncation_side
        """Where the checkpoint says that texts are cut: "left", "right", or None."""
        self.backend: Any = getattr(parts.vocabulary, "backend", None)
        self._unknown: int | None = getattr(parts.vocabulary, "unknown_id", None)
        self._target = getattr(parts.vocabulary, "target", parts.vocabulary)
        self.unknown_names = tuple(dict.fromkeys(filter(None, (parts.unknown, "<unk>", "[UNK]"))))
        """What the token for all that has none may be called."""

    @classmethod
    def from_folder(cls, folder: str | Path, config: Mapping[str, Any] | None = None) -> Tokenizer:
        """Read the tokenizer of a checkpoint.

        That is `tokenizer.json`, of which the class of the tokenizer takes what its namesake in
        transformers takes, else the files that the class has: a sentencepiece model (`spiece.model`
        of T5, Pegasus and ALBERT, `sentencepiece.bpe.model` of mBART, NLLB, M2M100, PLBart, XLM-R,
        BARThez, CamemBERT and BARTpho), byte-level BPE of `vocab.json` and `merges.txt`, or BERT's
        `vocab.txt`. ProphetNet's is `prophetnet.tokenizer`, Marian's is `source.spm` and
        `target.spm` with `vocab.json`, FSMT's `vocab-src.json`, `vocab-tgt.json` and `merges.txt`,
        and ByT5's needs no file. UniLM's is `vocab.txt`, or the files of RoBERTa. Keys of `config`
        count instead of those of config.json: `model_type`, and UniLM's `variant`, `do_lower_case`,
        `pos_shift` and `s2s_special_token`. Raises ValueError if files are missing or damaged, name
        a class or a key that is not known, or if an extra (`text`, `moses`) is missing.
        """
        return cls(read_tokenizer(Path(folder), config))

    def encode(
        self,
        texts: Iterable[str],
        *,
        pad_id: int,
        side: str = "left",
        src_lang: Languages = None,
        tgt_lang: Languages = None,
        prefix: str = "",
        max_length: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokenize any iterable of strings: int64 ids `[B, L]` and mask `[B, L]`, 0 on padding.

        L is the longest text; shorter ones are filled with `pad_id` on `side`, "left" or "right".
        Other arguments and errors are those of `rows`.
        """
        rows = self.rows(
            texts, src_lang=src_lang, tgt_lang=tgt_lang, prefix=prefix, max_length=max_length
        )
        return self.pad(rows, pad_id=pad_id, side=side)

    def rows(
        self,
        texts: Iterable[str],
        *,
        src_lang: Languages = None,
        tgt_lang: Languages = None,
        prefix: str = "",
        max_length: int | None = None,
        truncation_side: str = "right",
        add_special_tokens: bool = True,
    ) -> list[list[int]]:
        """The ids of each text, special tokens included unless they are not to be added.

        `prefix` is put before every text. Texts of more than `max_length` ids are cut, their
        special tokens kept, on the side that the checkpoint says, else on `truncation_side`.
        Languages are codes of `languages()`, one for all texts or one, or None, for each. Raises
        ValueError for an empty batch, for a single text that is not in a list, for one that is no
        string or has no tokens, and for languages that the checkpoint does not know.
        """
        if not isinstance(prefix, str):
            raise ValueError(f"prefix is {prefix!r}: it must be a string, put before every text")
        batch = _checked(texts)
        if fault := unicode_fault(prefix):
            raise ValueError(f"prefix is not valid Unicode: {fault}")
        listed = {"src_lang": src_lang, "tgt_lang": tgt_lang}
        languages = [each_language(name, codes, len(batch)) for name, codes in listed.items()]
        is_for_all = all(isinstance(codes, str | None) for codes in listed.values())
        frames, instructions = self._told(
            *languages, is_for_all=is_for_all, is_framed=add_special_tokens
        )
        both = enumerate(zip(instructions, batch, strict=True))
        bodies = self._vocabulary.encode(
            [self._instructed(index, told, prefix + text) for index, (told, text) in both]
        )
        return self._framed(bodies, frames, max_length, truncation_side, add_special_tokens)

    def token_rows(
        self,
        texts: Iterable[Sequence[str]],
        *,
        max_length: int | None = None,
        truncation_side: str = "right",
        add_special_tokens: bool = True,
    ) -> list[list[int]]:
        """The ids of texts that are lists of the vocabulary's tokens, as `rows` gives them.

        Tokens that the vocabulary lacks are [UNK] for s2s-ft. Raises ValueError for them with
        other models, and as `rows` does.
        """
        bodies = []
        for index, tokens in enumerate(_listed(texts, "lists of tokens")):
            if isinstance(tokens, str) or not hasattr(tokens, "__iter__"):
                raise TextError(index, f"is {shown(tokens)}, not a list of tokens")
            try:
                bodies.append([self._token(token, self._unknown) for token in tokens])
            except ValueError as error:
                raise TextError(index, f": {error}") from None
        unnamed = [None] * len(bodies)
        frames, _ = self._told(unnamed, unnamed, is_for_all=True, is_framed=add_special_tokens)
        return self._framed(bodies, frames, max_length, truncation_side, add_special_tokens)

    def token_ids(self, tokens: Iterable[str]) -> list[int]:
        """The ids of single tokens, such as "." and "[X_SEP]"; ValueError for unknown ones."""
        return [self._token(token) for token in tokens]

    def target_rows(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text as the model writes it, without anything before or behind it.

        They are those of its source for most checkpoints, and others where targets have a
        vocabulary of their own. Raises ValueError as `rows` does.
        """
        rows: list[list[int]] = self._target.encode(_checked(texts))
        return rows

    def has_unknown(self, row: Sequence[int]) -> bool:
        """Whether such ids have one that stands for what has none."""
        return any(self._target.token_id(name) in row for name in self.unknown_names)

    def may_be_tokens(self, strings: Iterable[str]) -> bool:
        """Whether they can be a text's tokens: one is known, or may be a word that is not."""
        return any(
            self._vocabulary.token_id(string) is not None
            or (self._unknown is not None and not _has_space(string))
            for string in strings
        )

    def pad(
        self, rows: Sequence[Sequence[int]], *, pad_id: int, side: str = "left"
    ) -> tuple[Tensor, Tensor]:
        """Rows of ids as int64 ids `[B, L]` and mask `[B, L]`; arguments as for `encode`."""
        if side not in ("left", "right"):
            raise ValueError(f"side is {side!r}: it must be 'left' or 'right'")
        import torch  # here only: a process that works on texts alone does without it

        width = max(map(len, rows))
        ids = torch.full((len(rows), width), pad_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            start = width - len(row) if side == "left" else 0
            ids[index, start : start + len(row)] = torch.tensor(row)
            mask[index, start : start + len(row)] = 1
        return ids, mask

    def decode(
        self,
        rows: Tensor | Sequence[Sequence[int]],
        *,
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The texts of `[B, L]` ids, without special tokens unless these are not to be skipped.

        Negative ids, which fill rows where a model has no pad token, are passed over. With
        `clean_up_tokenization_spaces`, by default what tokenizer_config.json says, there are no
        spaces before punctuation and contracted words; it has no effect on byte-level BPE, as in
        transformers. Raises ValueError, with the place, for what is no id, and for a single row
        that is not in a list.
        """
        if not _is_lists_of_ids(rows):
            rows = read_rows(rows, "ids", single="wrap a single row as [ids]")
        texts = self._vocabulary.decode(
            [[token for token in row if token >= 0] for row in rows],
            skip_special_tokens=skip_special_tokens,
        )
        asked = clean_up_tokenization_spaces
        cleans_up = self._cleans_up if asked is None else asked and self.can_clean_up
        return [_close_up(text) for text in texts] if cleans_up else texts

    def pieces(self) -> dict[int, bytes]:
        """What each token adds to a text, in UTF-8, by its id: with the space before a word, and
        the name of a special token; a token may hold a part of a character."""
        return self._vocabulary.pieces()

    def languages(self) -> list[str]:
        """The codes of the languages that the checkpoint can be asked for."""
        return list(self._languages.codes)

    def language_id(self, code: str) -> int:
        """The id of a language's token; ValueError, with the nearest codes, if there is none."""
        token = self._vocabulary.token_id(self._languages.token(code))
        assert token is not None, "the codes were read from the vocabulary"
        return token

    @property
    def source_language(self) -> str | None:
        """The code of the language that texts are read in unless one is named, if it is known."""
        return self._languages.usual_source

    @property
    def opening(self) -> str | None:
        """A pattern of what a text may start with that is about the whole of it."""
        style = self._languages.style
        if style is None or style.target != "text":
            return None
        return rf"\s*{style.pattern.pattern}\s*"

    def leaves_target_open(self, texts: Iterable[str]) -> bool:
        """Whether the model must be told what language to write, and a text does not do so."""
        return self._languages.has_open_target(texts)

    def target_options(self, tgt_lang: str) -> dict[str, int]:
        """The options of `generate` that make the model write a language."""
        return self._languages.target_options(self.language_id(tgt_lang))

    def _told(
        self,
        src_lang: Sequence[str | None],
        tgt_lang: Sequence[str | None],
        *,
        is_for_all: bool,
        is_framed: bool,
    ) -> tuple[list[Frame], list[str]]:
        """How each text is told its languages: by its frame, and by what comes first.

        Raises ValueError for unknown languages that are those of all texts; TextError for others.
        """
        pairs = list(zip(src_lang, tgt_lang, strict=True))
        told: dict[tuple[str | None, str | None], tuple[Frame, str]] = {}
        for index, (source, target) in enumerate(pairs):
            if (source, target) in told:
                continue
            try:
                instruction = self._languages.instruct(target)
                frame = self._languages.frame(self._vocabulary, source, target)
            except Untold as error:
                if is_framed:
                    raise TextError(index, f": {error}") from None
                frame = [], []  # the text says it itself
            except ValueError as error:
                if is_for_all:
                    raise
                raise TextError(index, f": {error}") from None
            told[source, target] = frame, instruction
        return [told[pair][0] for pair in pairs], [told[pair][1] for pair in pairs]

    def _instructed(self, index: int, instruction: str, text: str) -> str:
        """A text behind what tells its target, which it may also tell itself; TextError if it tells
        another one."""
        body = text.lstrip()
        said = self._languages.said_in(body) if instruction else None
        if said is None:
            return instruction + text
        own, asked = self._languages.token(said), instruction.strip()
        if own != asked:
            raise TextError(
                index, f": it begins with {own}, and tgt_lang says {asked}: leave one of them out"
            )
        return body

    def _framed(
        self,
        bodies: list[list[int]],
        frames: list[Frame],
        max_length: int | None,
        truncation_side: str,
        add_special_tokens: bool,
    ) -> list[list[int]]:
        """Each body within its frame, cut so that both together have at most `max_length` ids.

        Where the vocabulary ends a text once, what stands behind a body is left out if the body
        ends so itself. Raises ValueError for an empty body, and a limit that leaves no room.
        """
        for index, body in enumerate(bodies):
            if not body:
                raise TextError(index, "is empty: every text needs at least one token")
        keeps_end = (self.truncation_side or truncation_side) == "left"
        ends_once = getattr(self._vocabulary, "ends_once", False)
        rows = []
        for body, frame in zip(bodies, frames, strict=True):
            before, behind = frame if add_special_tokens else ([], [])
            room = None if max_length is None else max_length - len(before) - len(behind)
            if room is not None and room < 1:
                raise ValueError(
                    f"a limit of {max_length} tokens leaves no room for a token of text"
                )
            kept = body[-room:] if room is not None and keeps_end else body[:room]
            rows.append([*before, *kept, *(() if ends_once and kept[-1:] == behind else behind)])
        return rows

    def _token(self, token: str, unknown: int | None = None) -> int:
        if not isinstance(token, str):
            raise ValueError(f"{token!r} is not a string")
        found = self._vocabulary.token_id(token)
        if found is None:
            found = unknown
        if found is None:
            raise ValueError(f"{token!r} is no token of the vocabulary")
        return found


def _is_lists_of_ids(rows: Any) -> TypeGuard[list[list[int]]]:
    """Whether it is what `generate` gives in lists, as most rows are."""
    return type(rows) is list and all(
        type(row) is list and all(type(token) is int for token in row) for row in rows
    )


def _has_space(text: str) -> bool:
    """Whether it has a space within, as no word has that a vocabulary does not know."""
    return len(text.split()) > 1


def _close_up(text: str) -> str:
    """`text` as `clean_up_tokenization_spaces` has it, in the order of transformers."""
    for joined in (".", "?", "!", ",", "' ", "n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(f" {joined}", joined.strip())
    return text


def _listed(texts: Iterable[_T], kind: str) -> list[_T]:
    if isinstance(texts, str):
        raise ValueError(f"texts must be a list of {kind}: wrap a single text as [text]")
    if not hasattr(texts, "__iter__"):
        raise ValueError(f"texts must be a list of {kind}, not {texts!r}")
    check_container("texts", texts)
    batch = list(texts)
    if not batch:
        raise ValueError("texts is empty: pass at least one text")
    return batch


def _checked(texts: Iterable[str]) -> list[str]:
    batch = _listed(texts, "strings")
    for index, text in enumerate(batch):
        if not isinstance(text, str):
            raise TextError(index, f"is {shown(text)}, not a string")
        if fault := unicode_fault(text):
            raise TextError(index, f"is not valid Unicode: {fault}")
    return batch
