"""Text encoder: how texts become ids, what is cut and what fits; and ids texts again."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tritonseq.errors import TextError
from tritonseq.options.containers import is_token_list
from tritonseq.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .sentences import Splitting
    from .tokenizer import Tokenizer

Text = str | Sequence[str]
"""A text, or the list of tokens of one that is tokenized already."""

T = TypeVar("T")
R = TypeVar("R")


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
    """Whether those of the checkpoint stand around sources."""
    skip_special_tokens: bool = True
    """Whether they are left out of texts that were generated."""
    sentences: Splitting | None = None
    """How texts are cut into sentences, each of which is read by itself; None leaves them whole."""
    clean_up_tokenization_spaces: bool | None = None
    """Whether spaces before punctuation are removed; None is what the checkpoint says."""
    room: int | None = None
    """The most ids that the model takes; None for any number."""
    tokens: int | None = None
    """The size of the vocabulary that the network reads; None for any."""
    remedy: str = ""
    """What ends the sentence "the text has N tokens, ..." where there is no room for them."""


class Fault(NamedTuple):
    """What stands in the place of a result that cannot be had."""

    reason: str


class TextEncoder:
    """A tokenizer, with how the texts of a job are read and written by it.

    It works without torch, so that it can do so in a small child process.
    """

    def __init__(self, tokenizer: Tokenizer, encoding: Encoding) -> None:
        self.tokenizer = tokenizer
        self.encoding = encoding

    def check(self) -> None:
        """Raise ValueError if no text at all could be read: for a language that is not known, or
        a length that leaves no room."""
        room = self.encoding.room
        if room is not None and room < 1:
            raise ValueError(f"every text has at least one token, {self.encoding.remedy}")
        with contextlib.suppress(TextError):
            self.ids(["a"])

    def ids(self, texts: Iterable[Text]) -> list[list[int]]:
        """The ids of each text, of any number; ValueError, as from `Tokenizer.rows`, if one cannot
        be had."""
        if isinstance(texts, str) or not hasattr(texts, "__iter__"):
            return self._rows(texts)
        texts = list(texts)
        tokenized = [place for place, text in enumerate(texts) if isinstance(text, list)]
        if not tokenized:
            return self._rows(texts)
        whole = sorted(set(range(len(texts))).difference(tokenized))
        rows: dict[int, list[int]] = {}
        for places, read in ((whole, self._rows), (tokenized, self._token_rows)):
            if places:
                rows |= zip(places, at_places(read, texts, places), strict=True)
        return [rows[place] for place in range(len(texts))]

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of ids."""
        return self.tokenizer.decode(
            rows,
            skip_special_tokens=self.encoding.skip_special_tokens,
            clean_up_tokenization_spaces=self.encoding.clean_up_tokenization_spaces,
        )

    def encode(self, texts: Sequence[Text]) -> list[list[int] | Fault]:
        """The ids of each text, or why the model cannot be given it."""
        return [self._fitting(row) for row in _each(self.ids, texts)]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str | Fault]:
        """The text of each row of ids, or why it has none."""
        return _each(self.texts, rows)

    def excess(self, ids: Sequence[int]) -> str | None:
        """What to say of a text whose ids the network cannot read; None of others.

        These are more than there is room for, or not all of its vocabulary.
        """
        highest, size, room = max(ids, default=0), self.encoding.tokens, self.encoding.room
        if size is not None and highest >= size:
            return (
                f"has the token id {highest}, and the vocabulary of the network has {size} "
                "tokens: is the tokenizer that of another model?"
            )
        if room is None or len(ids) <= room:
            return None
        return f"has {len(ids)} tokens, {self.encoding.remedy}"

    def open_target(self, texts: Iterable[Text]) -> str | None:
        """What to tell a user who has left it open which of several languages to write."""
        plain = [self.encoding.prefix + text for text in texts if isinstance(text, str)]
        if not self.tokenizer.leaves_target_open(plain):
            return None
        codes = self.tokenizer.languages()
        return (
            f"this checkpoint writes {len(codes)} languages and was not told which one: pass "
            f"tgt_lang (--tgt-lang), such as {codes[0]!r}"
        )

    def _fitting(self, row: list[int] | Fault) -> list[int] | Fault:
        if isinstance(row, Fault):
            return row
        excess = self.excess(row)
        return row if excess is None else Fault(f"the text {excess}")

    def _rows(self, texts: Any) -> list[list[int]]:
        how = self.encoding
        return self.tokenizer.rows(
            texts, src_lang=how.src_lang, tgt_lang=how.tgt_lang, prefix=how.prefix, **self._cut
        )

    def _token_rows(self, texts: Any) -> list[list[int]]:
        how = self.encoding
        if how.prefix or how.src_lang is not None or how.tgt_lang is not None:
            raise TextError(0, "is a list of tokens, which takes no prefix and no languages")
        return self.tokenizer.token_rows(texts, **self._cut)

    @property
    def _cut(self) -> dict[str, Any]:
        return {
            "max_length": self.encoding.max_length,
            "truncation_side": self.encoding.truncation_side,
            "add_special_tokens": self.encoding.add_special_tokens,
        }


def is_blank(text: object) -> bool:
    """Whether it is a text, or a list of tokens, of white space only, and so its outputs."""
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


def _each(work: Callable[[Sequence[T]], list[R]], things: Sequence[T]) -> list[R | Fault]:
    """What `work` makes of a list: at once if that goes well, else of each thing alone."""
    if not things:
        return []
    try:
        return [*work(things)]
    except BaseException as error:
        fault = _fault(error)
    if len(things) == 1:
        return [fault]
    return [result for thing in things for result in _each(work, [thing])]


def _fault(error: BaseException) -> Fault:
    """The fault that an error of a tokenizer is; raises what is none."""
    # So the libraries in Rust report their own bugs, and derive it from nothing narrower.
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    # These are about the machine, and pass.
    if isinstance(error, (MemoryError, OSError)):
        raise error
    if isinstance(error, TextError):
        return Fault(error.of("the text"))
    return Fault(f"the tokenizer fails at it: {type(error).__name__}: {error}")
