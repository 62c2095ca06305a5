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

    from tritonseq.sentences import Splitting

    from .tokenizer import Tokenizer

Text = str | Sequence[str]
"""A text, or the list of tokens of one that is tokenized already."""

T = TypeVar("T")
R = TypeVar("R")


class TextOfLanguages(NamedTuple):
    """A text that names its languages itself; None where those of all texts count."""

    text: Text
    src_lang: str | None = None
    tgt_lang: str | None = None


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

    def ids(self, texts: Iterable[Text | TextOfLanguages]) -> list[list[int]]:
        """The ids of each text, of any number; ValueError, as from `Tokenizer.rows`, if one cannot
        be had."""
        if isinstance(texts, str) or not hasattr(texts, "__iter__"):
            return self._rows(texts)
        texts = list(texts)
        tokenized = [place for place, text in enumerate(texts) if isinstance(bare(text), list)]
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

    def encode(self, texts: Sequence[Text | TextOfLanguages]) -> list[list[int] | Fault]:
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

    def open_target(self, texts: Iterable[Text | TextOfLanguages]) -> str | None:
        """What to tell a user who has left it open which of several languages to write."""
        unnamed = [
            bare(text)
            for text in texts
            if not isinstance(text, TextOfLanguages) or text.tgt_lang is None
        ]
        if not unnamed:
            return None
        plain = [self.encoding.prefix + text for text in unnamed if isinstance(text, str)]
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
        languages: dict[str, Any] = {"src_lang": how.src_lang, "tgt_lang": how.tgt_lang}
        if isinstance(texts, list) and any(isinstance(text, TextOfLanguages) for text in texts):
            told = [self._told(text) for text in texts]
            texts = [text.text for text in told]
            languages = {name: [getattr(text, name) for text in told] for name in languages}
        return self.tokenizer.rows(texts, **languages, prefix=how.prefix, **self._cut)

    def _token_rows(self, texts: Any) -> list[list[int]]:
        for index, text in enumerate(map(self._told, texts)):
            if self.encoding.prefix or text.src_lang is not None or text.tgt_lang is not None:
                raise TextError(
                    index, "is a list of tokens, which takes no prefix and no languages"
                )
        return self.tokenizer.token_rows([bare(text) for text in texts], **self._cut)

    def _told(self, text: Any) -> TextOfLanguages:
        """A text with the languages that count for it."""
        own = text if isinstance(text, TextOfLanguages) else TextOfLanguages(text)
        how = self.encoding
        source = how.src_lang if own.src_lang is None else own.src_lang
        target = how.tgt_lang if own.tgt_lang is None else own.tgt_lang
        return TextOfLanguages(own.text, source, target)

    @property
    def _cut(self) -> dict[str, Any]:
        return {
            "max_length": self.encoding.max_length,
            "truncation_side": self.encoding.truncation_side,
            "add_special_tokens": self.encoding.add_special_tokens,
        }


def bare(text: Text | TextOfLanguages) -> Text:
    """A text without the languages that it names."""
    return text.text if isinstance(text, TextOfLanguages) else text


def with_languages(
    texts: Sequence[Text], src_lang: Sequence[str | None], tgt_lang: Sequence[str | None]
) -> list[Text | TextOfLanguages]:
    """Texts with the languages that they name, where they name one."""
    return [
        text if source is None and target is None else TextOfLanguages(text, source, target)
        for text, source, target in zip(texts, src_lang, tgt_lang, strict=True)
    ]


def is_blank(text: object) -> bool:
    """Whether it is a text, or a list of tokens, of white space only, and so its outputs."""
    if isinstance(text, TextOfLanguages):
        text = text.text
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


def banned_ids(tokenizer: Tokenizer, words: Any) -> list[list[int]]:
    """What `bad_words_ids` are for texts that must not be written.

    A text is banned as it is written behind a space and as it is written without one: where
    tokens hold their spaces these are two, and the second is also found within longer words. One
    that begins with a space is banned there alone. Where tokens hold none, and in sentencepiece
    models, both are the same: a word of its own. Raises ValueError for what is no list of texts,
    and for a text that the vocabulary has no tokens for.
    """
    if isinstance(words, str) or not isinstance(words, list | tuple | set | frozenset):
        raise ValueError(f"bad_words is {shown(words)}: it must be a list of texts")
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise ValueError(f"bad_words has {shown(word)}: each must be a text that is not blank")
        try:
            forms = tokenizer.target_rows([word] if word[0] == " " else [f" {word}", word])
        except TextError as error:
            raise ValueError(error.of(f"bad_words has {shown(word)}, which")) from None
        for form in forms:
            is_said = any(name in word for name in tokenizer.unknown_names)
            if not form or (tokenizer.has_unknown(form) and not is_said):
                raise ValueError(
                    f"bad_words has {shown(word)}, which the vocabulary has no tokens for, so that "
                    "it cannot be written in any case: leave it out"
                )
            found[tuple(form)] = None
    return [list(form) for form in found]


def at_places(
    read: Callable[[list[Any]], list[list[int]]], texts: Sequence[Any], places: Sequence[int]
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
        # What follows a colon speaks of something else of the text, such as its language.
        named = error.reason.startswith(":")
        return Fault(error.reason.removeprefix(":").strip() if named else error.of("the text"))
    return Fault(f"the tokenizer fails at it: {type(error).__name__}: {error}")
