"""Vocabulary: what a tokenizer asks of one, and ByT5's, which needs no file: bytes.

Tokens that are no pieces of text (end, padding, sentinels, languages) are special: found in a
text they stay whole, and decoding leaves them out (but see UniLM's).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence


SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""The mark of a space in the pieces of sentencepiece."""

FRAME = ("<pad>", "</s>", "<unk>")
"""The tokens before the bytes of ByT5."""


class Vocabulary(Protocol):
    """The ids of texts and the texts of ids."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of every text, without anything before or behind it."""
        ...

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        """The text of every row of ids; unknown ids are passed over."""
        ...

    def frame(self) -> tuple[list[int], list[int]]:
        """The ids that stand before and behind every text."""
        ...

    def token_id(self, token: str) -> int | None:
        """The id of a token that stands for itself, such as "</s>"; None if there is none."""
        ...

    def pieces(self) -> dict[int, bytes]:
        """What each token adds to a text that it does not start, in UTF-8; special ones their
        names."""
        ...


class SplitVocabulary:
    """What vocabularies share that cut their own tokens out of a text, and read what is between."""

    def __init__(self, own: Mapping[str, int], **sides: Collection[str]) -> None:
        """`own` are special and added tokens, by their ids; `sides` are those of `splitter`."""
        self._own = own
        self._cut = splitter(own, **sides)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            [
                token
                for part in self._cut(text)
                for token in ([self._own[part]] if part in self._own else self._between(part))
            ]
            for text in texts
        ]

    def token_id(self, token: str) -> int | None:
        return self._own.get(token)

    def _between(self, text: str) -> list[int]:
        """The ids of a text without such tokens."""
        raise NotImplementedError


def spaced(name: str) -> bytes:
    """The text of a piece of sentencepiece."""
    return name.replace(SPACE, " ").encode()


class Bytes(SplitVocabulary):
    """ByT5: every byte of UTF-8 is a token. Xue et al., "ByT5", 2022."""

    ends_once = True
    """A text that says </s> at its end is given no second one."""

    def __init__(self, sentinels: Iterable[str], special: Mapping[str, int] | None = None) -> None:
        """`sentinels` stand behind the bytes, in order; other tokens of `special` have ids."""
        self._offset = len(FRAME)
        own = {name: token for token, name in enumerate(FRAME)}
        own |= {name: 259 + n for n, name in enumerate(sentinels)} | dict(special or {})
        super().__init__(own, left=FRAME, right=FRAME)
        self._names = {token: name.encode() for name, token in own.items()}

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        names = {} if skip_special_tokens else self._names
        return [
            b"".join(names.get(token, self._byte(token)) for token in row).decode(errors="ignore")
            for row in rows
        ]

    def frame(self) -> tuple[list[int], list[int]]:
        return [], [self._own["</s>"]]

    def pieces(self) -> dict[int, bytes]:
        return {**{n + self._offset: bytes((n,)) for n in range(256)}, **self._names}

    def name(self, token: int) -> str | None:
        """What an id stands for, if it is in use."""
        if token in self._names:
            return self._names[token].decode()
        byte = self._byte(token)
        return f"the byte {byte[0]}" if byte else None

    def _byte(self, token: int) -> bytes:
        value = token - self._offset
        return bytes((value,)) if 0 <= value < 256 and token not in self._names else b""

    def _between(self, text: str) -> list[int]:
        return [byte + self._offset for byte in text.encode()]


def splitter(
    names: Iterable[str],
    *,
    left: Collection[str] = (),
    right: Collection[str] = (),
    words: Collection[str] = (),
    alone: Collection[str] = (),
) -> Callable[[str], list[str]]:
    """A function that cuts a text into the tokens `names` and what is between them.

    Of these, those of `left` and `right` swallow the white space on that side, those of `words`
    are found only where no letter or digit touches them, and those of `alone` only where white
    space, or nothing, is around them. The longest token that begins at a place is taken.
    """

    def form(name: str) -> str:
        text = re.escape(name)
        if name in alone:
            return rf"(?<!\S){text}(?!\S)"
        return rf"(?<!\w){text}(?!\w)" if name in words else text

    ordered = sorted((name for name in dict.fromkeys(names) if name), key=len, reverse=True)
    pattern = re.compile("|".join(map(form, ordered)) or r"(?!)")
    space = re.compile(r"\s*")

    def cut(text: str) -> list[str]:
        # White space is looked at only beside tokens that were found, and once: searching for it
        # with them would take a time that grows with the square of its length.
        parts, start = [], 0
        while match := pattern.search(text, start):
            name, before = match.group(), text[start : match.start()]
            parts += [before.rstrip() if name in left else before, name]
            start = match.end()
            if name in right:
                behind = space.match(text, start)
                start = behind.end() if behind else start
        return [part for part in (*parts, text[start:]) if part]

    return cut
