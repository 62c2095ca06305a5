"""How texts become ids: what is put before them, where they are cut, what fits; and ids texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tritonseq.errors import TextError
from tritonseq.options.containers import is_token_list
from tritonseq.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .tokenizer import Tokenizer

Text = str | Sequence[str]
"""A text, or the list of tokens of one that is tokenized already."""


@dataclass(frozen=True)
class Encoding:
    """The same for all texts of a job; plain values, which another process can be handed."""

    src_lang: str | None = None
    tgt_lang: str | None = None
    prefix: str = ""
    max_length: int | None = None
    """Longer sources are cut to so many ids; None cuts nothing."""
    truncation_side: str = "right"
    """Where, unless the checkpoint says it."""
    add_special_tokens: bool = True
    """Do those of the checkpoint stand around sources?"""
    skip_special_tokens: bool = True
    """Are they left out of texts that were generated?"""
    clean_up_tokenization_spaces: bool | None = None
    """Are spaces before punctuation? None is what the checkpoint says."""
    room: int | None = None
    """The most ids that the model takes; None for any number."""
    tokens: int | None = None
    """The size of the vocabulary that the network reads; None for any."""
    remedy: str = ""
    """What ends the sentence "the text has N tokens, ..." where there is no room for them."""

    def ids(self, tokenizer: Tokenizer, texts: Iterable[Text]) -> list[list[int]]:
        """The ids of each text; ValueError, as from `Tokenizer.rows`, if one cannot be had."""
        if isinstance(texts, str) or not hasattr(texts, "__iter__"):
            return self._rows(tokenizer, texts)
        texts = list(texts)
        tokenized = [place for place, text in enumerate(texts) if isinstance(text, list)]
        if not tokenized:
            return self._rows(tokenizer, texts)
        whole = sorted(set(range(len(texts))).difference(tokenized))
        rows: dict[int, list[int]] = {}
        for places, read in ((whole, self._rows), (tokenized, self._token_rows)):
            if places:
                found = at_places(partial(read, tokenizer), texts, places)
                rows |= zip(places, found, strict=True)
        return [rows[place] for place in range(len(texts))]

    def texts(self, tokenizer: Tokenizer, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of ids."""
        return tokenizer.decode(
            rows,
            skip_special_tokens=self.skip_special_tokens,
            clean_up_tokenization_spaces=self.clean_up_tokenization_spaces,
        )

    def excess(self, ids: Sequence[int]) -> str | None:
        """What to say of a text whose ids the network cannot read; None of others.

        These are more than there is room for, or not all of its vocabulary.
        """
        highest = max(ids, default=0)
        if self.tokens is not None and highest >= self.tokens:
            return (
                f"has the token id {highest}, and the vocabulary of the network has {self.tokens} "
                "tokens: is the tokenizer that of another model?"
            )
        if self.room is None or len(ids) <= self.room:
            return None
        return f"has {len(ids)} tokens, {self.remedy}"

    def _rows(self, tokenizer: Tokenizer, texts: Any) -> list[list[int]]:
        return tokenizer.rows(
            texts,
            src_lang=self.src_lang,
            tgt_lang=self.tgt_lang,
            prefix=self.prefix,
            **self._cut,
        )

    def _token_rows(self, tokenizer: Tokenizer, texts: Any) -> list[list[int]]:
        if self.prefix or self.src_lang is not None or self.tgt_lang is not None:
            raise TextError(0, "is a list of tokens, which takes no prefix and no languages")
        return tokenizer.token_rows(texts, **self._cut)

    @property
    def _cut(self) -> dict[str, Any]:
        return {
            "max_length": self.max_length,
            "truncation_side": self.truncation_side,
            "add_special_tokens": self.add_special_tokens,
        }


def is_blank(text: object) -> bool:
    """Is it a text, or a list of tokens, of white space only? The answer to it is blank as well."""
    if is_token_list(text):
        text = "".join(text)
    return isinstance(text, str) and not text.strip()


def check_tokens(tokenizer: Callable[[], Tokenizer], text: Text) -> None:
    """Raise ValueError if the first of many texts is a list, and not one of tokens.

    So are the others then. `tokenizer` is called for it only where it is needed.
    """
    if not isinstance(text, str) and not is_blank(text) and not tokenizer().may_be_tokens(text):
        raise ValueError(
            f"texts holds lists, such as {shown(text)}, none of whose strings is a token of "
            "the vocabulary: pass a flat list of texts"
        )


def at_places(
    read: Callable[[list[Text]], list[list[int]]], texts: Sequence[Text], places: Sequence[int]
) -> list[list[int]]:
    """The ids of the texts at `places`; an error tells the place that a text has among all."""
    try:
        return read([texts[place] for place in places])
    except TextError as error:
        raise error.at(places[error.index]) from None
