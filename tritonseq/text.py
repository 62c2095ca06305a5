"""Text to ids and back, with the tokenizer files that lie beside a checkpoint's weights."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from .fast_vocabulary import FastVocabulary
from .vocabularies import (
    MBART50_LANGUAGES,
    MBART_LANGUAGES,
    Bytes,
    marian_pieces,
    mbart_pieces,
    pegasus_pieces,
    t5_pieces,
)
from .weights import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .vocabularies import Vocabulary

    Style = Literal["mbart", "mbart50", "marian"]


class Languages(NamedTuple):
    """How a model is told its languages."""

    style: Style
    source: str | None
    """The language of texts unless another is named."""


class Tokenizer:
    """A checkpoint's vocabulary, with its special tokens, that speaks in padded batches.

    Made by `from_folder`. Where the `tokenizers` library does the work, `backend` is its object.
    """

    def __init__(self, vocabulary: Vocabulary, languages: Languages | None = None) -> None:
        self._vocabulary = vocabulary
        self._languages = languages
        self.backend: Any = getattr(vocabulary, "backend", None)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read the tokenizer of a checkpoint.

        That is `tokenizer.json`; else a sentencepiece model (`spiece.model` of T5 and Pegasus,
        `sentencepiece.bpe.model` of mBART, `source.spm` and `target.spm` with `vocab.json` of
        Marian); else byte-level BPE of `vocab.json` and `merges.txt`; and for ByT5 nothing at
        all. Raises ValueError if files are missing or damaged, or the `text` extra is.
        """
        folder = Path(folder)
        config, model = (
            _optional(folder / name) for name in ("tokenizer_config.json", "config.json")
        )
        family = str(config.get("tokenizer_class") or "").removesuffix("Fast")
        family = family.removesuffix("Tokenizer").lower() or str(model.get("model_type"))
        style = _STYLES.get(family)
        if style is None and model.get("model_type") in ("mbart", "marian"):
            style = _STYLES[model["model_type"]]
        languages = None if style is None else Languages(style, config.get("src_lang"))
        return cls(_vocabulary(folder, family, style, config), languages)

    def encode(
        self,
        texts: Iterable[str],
        *,
        pad_id: int,
        side: str = "left",
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        prefix: str = "",
        max_length: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokenize any iterable of strings: int64 ids `[B, L]` and mask `[B, L]`, 0 on padding.

        L is the longest text; shorter ones are filled with `pad_id` on `side`, "left" or "right".
        `prefix` is put before every text. Texts of more than `max_length` ids are cut, their
        special tokens kept. Languages are codes of `languages()`. Raises ValueError for an empty
        batch, for a single text that is not in a list, for one that is no string or has no
        tokens, and for languages that the checkpoint does not know.
        """
        if side not in ("left", "right"):
            raise ValueError(f"side is {side!r}: it must be 'left' or 'right'")
        batch = _checked(texts, prefix)
        rows = self._rows(batch, src_lang, tgt_lang, max_length)
        for index, row in enumerate(rows):
            if not row:
                raise ValueError(f"text {index} is empty: every prompt needs at least one token")
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), pad_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            start = width - len(row) if side == "left" else 0
            ids[index, start : start + len(row)] = torch.tensor(row)
            mask[index, start : start + len(row)] = 1
        return ids, mask

    def decode(self, rows: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """The texts of `[B, L]` ids, without special tokens.

        Negative ids, which fill rows where a model has no pad token, are passed over.
        """
        lists = rows.tolist() if isinstance(rows, Tensor) else rows
        kept = [[token for token in row if token >= 0] for row in lists]
        return [self._vocabulary.decode(row) for row in kept]

    def languages(self) -> list[str]:
        """The codes of the languages that the checkpoint can be asked for."""
        if self._languages is None:
            return []
        if self._languages.style == "marian" or isinstance(self._vocabulary, FastVocabulary):
            codes: list[str] = self._vocabulary.languages()  # type: ignore[attr-defined]
            return codes
        known = MBART50_LANGUAGES if self._languages.style == "mbart50" else MBART_LANGUAGES
        return list(known)

    def language_id(self, code: str) -> int:
        """The id of a language's token; ValueError, with the nearest codes, if there is none."""
        marian = self._languages is not None and self._languages.style == "marian"
        found = self._vocabulary.token_id(f">>{code}<<" if marian else code)
        known = self.languages()
        if found is None or code not in known:
            near = difflib.get_close_matches(code, known, n=3) or known[:8]
            hint = f"such as {', '.join(near)}" if near else "it has none; name the task in prefix="
            raise ValueError(f"{code!r} is no language of this checkpoint: {hint}")
        return found

    def target_options(self, tgt_lang: str) -> dict[str, int]:
        """The options of `generate` that make the model write a language."""
        token = self.language_id(tgt_lang)
        assert self._languages is not None, "language_id refuses codes where there are none"
        # Marian is told the language in its source.
        return {
            "mbart50": {"forced_bos_token_id": token},
            "mbart": {"decoder_start_token_id": token},
            "marian": {},
        }[self._languages.style]

    def _rows(
        self, texts: list[str], src_lang: str | None, tgt_lang: str | None, max_length: int | None
    ) -> list[list[int]]:
        if tgt_lang is not None:
            self.language_id(tgt_lang)
        before, after, texts = self._frame(texts, src_lang, tgt_lang)
        if before is None:
            assert isinstance(self._vocabulary, FastVocabulary)
            return self._vocabulary.encode_framed(texts, max_length)
        bodies = [self._vocabulary.encode(text) for text in texts]
        if max_length is not None:
            room = max(0, max_length - len(before) - len(after))
            bodies = [body[:room] for body in bodies]
        return [[*before, *body, *after] for body in bodies]

    def _frame(
        self, texts: list[str], src_lang: str | None, tgt_lang: str | None
    ) -> tuple[list[int] | None, list[int], list[str]]:
        """Ids before and behind every text, and the texts; None for the tokenizer's own frame."""
        style = None if self._languages is None else self._languages.style
        if src_lang is not None and style not in ("mbart", "mbart50"):
            raise ValueError(
                f"src_lang={src_lang!r}: this checkpoint is not told the language of its source"
            )
        if style == "marian" and tgt_lang is not None:
            texts = [f">>{tgt_lang}<< {text}" for text in texts]
        if style in ("mbart", "mbart50"):
            assert self._languages is not None
            code = self.language_id(src_lang or self._languages.source or "en_XX")
            end = self._end()
            return ([], [end, code], texts) if style == "mbart" else ([code], [end], texts)
        if isinstance(self._vocabulary, FastVocabulary):
            return None, [], texts
        return [], [self._end()], texts

    def _end(self) -> int:
        end = self._vocabulary.token_id("</s>")
        if end is None:
            raise ValueError("the vocabulary has no </s>, which ends every text of this family")
        return end


_STYLES: dict[str, Style] = {"mbart": "mbart", "mbart50": "mbart50", "marian": "marian"}


def _vocabulary(
    folder: Path, family: str, style: Style | None, config: dict[str, Any]
) -> Vocabulary:
    """By the files that there are, and the family where they do not say enough."""
    if family == "byt5":
        return Bytes()
    has = {name for name in _FILES if (folder / name).is_file()}
    if "tokenizer.json" in has:
        return FastVocabulary.from_folder(folder, config)
    if {"source.spm", "target.spm", "vocab.json"} <= has:
        return marian_pieces(folder)
    if "spiece.model" in has:
        if family == "pegasus":
            return pegasus_pieces(folder / "spiece.model")
        # mT5 and UMT5 have their sentinels inside the model.
        extra_ids = config.get("extra_ids", 100 if family == "t5" else 0)
        return t5_pieces(folder / "spiece.model", extra_ids=extra_ids)
    if "sentencepiece.bpe.model" in has:
        codes = MBART50_LANGUAGES if style == "mbart50" else MBART_LANGUAGES
        return mbart_pieces(folder / "sentencepiece.bpe.model", codes)
    if {"vocab.json", "merges.txt"} <= has:
        return FastVocabulary.from_folder(folder, config, framed=family == "bart")
    raise ValueError(
        f"{folder} has no tokenizer: tokenizer.json, a sentencepiece model, or vocab.json and "
        "merges.txt, must lie beside the weights; without them, call generate with token ids"
    )


_FILES = (
    "tokenizer.json",
    "source.spm",
    "target.spm",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "merges.txt",
)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _checked(texts: Iterable[str], prefix: str) -> list[str]:
    if isinstance(texts, str):
        raise ValueError("texts must be a list of strings: wrap a single text as [text]")
    if not hasattr(texts, "__iter__"):
        raise ValueError(f"texts must be a list of strings, not {texts!r}")
    batch = list(texts)
    if not batch:
        raise ValueError("texts is empty: pass at least one text")
    for index, text in enumerate(batch):
        if not isinstance(text, str):
            raise ValueError(f"text {index} is {text!r}, not a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"text {index} is not valid Unicode: {error}") from None
    return [prefix + text for text in batch]
