"""What a tokenizer asks of a vocabulary, and the vocabulary that needs no file: bytes.

Tokens that are no pieces of text (end, padding, sentinels, languages) are special: found in a
text they stay whole, and decoding leaves them out (but see UniLM's).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


class Vocabulary(Protocol):
    """The ids of texts and the texts of ids."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of every text, without anything before or behind it."""
        ...

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of every row of ids, without special tokens; unknown ids are passed over."""
        ...

    def frame(self) -> tuple[list[int], list[int]]:
        """The ids that stand before and behind every text."""
        ...

    def token_id(self, token: str) -> int | None:
        """The id of a token that stands for itself, such as "</s>"; None if there is none."""
        ...


class Bytes:
    """ByT5: every byte of UTF-8 is a token. Xue et al., "ByT5", 2022."""

    def __init__(self, extra_ids: int = 125) -> None:
        frame = ("<pad>", "</s>", "<unk>")
        sentinels = [f"<extra_id_{n}>" for n in range(extra_ids)]
        self._offset = len(frame)
        self._special = {name: token for token, name in enumerate(frame)}
        self._special |= {name: 259 + n for n, name in enumerate(sentinels)}
        self._cut = splitter(sentinels, spaced=frame)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._ids(text) for text in texts]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [
            bytes(token - self._offset for token in row if 0 <= token - self._offset < 256).decode(
                errors="ignore"
            )
            for row in rows
        ]

    def frame(self) -> tuple[list[int], list[int]]:
        return [], [self._special["</s>"]]

    def token_id(self, token: str) -> int | None:
        return self._special.get(token)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self._cut(text):
            if part in self._special:
                ids.append(self._special[part])
            else:
                ids += [byte + self._offset for byte in part.encode()]
        return ids


def splitter(
    names: Iterable[str], *, spaced: Iterable[str] = (), alone: Iterable[str] = ()
) -> Callable[[str], list[str]]:
    """A function that cuts a text into the tokens `names` and what is between them.

    The tokens `spaced` swallow the white space around them; the tokens `alone` are found only
    where white space, or nothing, is around them.
    """
    alternatives = [re.escape(name) for name in sorted(names, key=len, reverse=True)]
    alternatives += [rf"\s*{re.escape(name)}\s*" for name in spaced]
    alternatives += [rf"(?<!\S){re.escape(name)}(?!\S)" for name in alone]
    pattern = re.compile("|".join(alternatives))

    def cut(text: str) -> list[str]:
        parts, start = [], 0
        for match in pattern.finditer(text):
            parts += [text[start : match.start()], match.group().strip()]
            start = match.end()
        return [part for part in (*parts, text[start:]) if part]

    return cut


def framed(
    bodies: Sequence[list[int]], frame: tuple[list[int], list[int]], max_length: int | None
) -> list[list[int]]:
    """Each body within its frame, cut so that both together have at most `max_length` ids.

    Raises ValueError for an empty body, and a limit that leaves no room for any.
    """
    before, behind = frame
    for index, body in enumerate(bodies):
        if not body:
            raise ValueError(f"text {index} is empty: every text needs at least one token")
    room = None if max_length is None else max_length - len(before) - len(behind)
    if room is not None and room < 1:
        raise ValueError(f"a limit of {max_length} tokens leaves no room for a token of text")
    return [[*before, *body[:room], *behind] for body in bodies]
