"""Moses: texts into words and back, as statistical translation had it, by `sacremoses`.

Koehn et al., "Moses: Open Source Toolkit for Statistical Machine Translation", 2007.
"""

# ruff: noqa: RUF001 (characters that look like others are what this is about)

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

# Punctuation and digits of other scripts, each beside what it becomes.
_REPLACED = {
    **dict(zip("，、∶：？）！（；～’━〈〉【】％", ",,::?)!(;~'-<>[]%", strict=True)),
    **dict.fromkeys("”“《》」「", '"'),
    **dict(zip("０１２３４５６７８９", "0123456789", strict=True)),
    "…": "...",
}  # fmt: skip
_TABLE = str.maketrans(_REPLACED)
_FULL_STOP = re.compile(r"[。．]\s*")


class Moses:
    """The words of texts in one language."""

    def __init__(self, language: str) -> None:
        """`language`: a code such as "en"; of one that sacremoses does not know, English's rules.

        Raises ValueError if the `moses` extra is missing.
        """
        library = _library()
        self._normalizer = library.MosesPunctNormalizer(lang=language)
        self._tokenizer = library.MosesTokenizer(lang=language)
        self._detokenizer = library.MosesDetokenizer(lang=language)
        # The library makes sets of a hundred thousand letters for every word that a full stop
        # ends, which is most of its time: these say the same.
        lower, letters = frozenset(self._tokenizer.IsLower), frozenset(self._tokenizer.IsAlpha)
        self._tokenizer.islower = lower.issuperset
        self._tokenizer.isanyalpha = lambda text: not letters.isdisjoint(text)

    def split(self, text: str) -> list[str]:
        """The words of a text; "-" within one is "@-@", and what XML escapes is escaped."""
        text = _FULL_STOP.sub(". ", text.translate(_TABLE))
        text = _printing(self._normalizer.normalize(text))
        words: list[str] = self._tokenizer.tokenize(
            text, aggressive_dash_splits=True, return_str=False, escape=True
        )
        return words

    def join(self, words: Sequence[str]) -> str:
        """The text of such words."""
        text: str = self._detokenizer.detokenize(words)
        return text


def _printing(text: str) -> str:
    """Without control characters, line breaks too, and what Unicode has not assigned."""
    return "".join(char for char in text if unicodedata.category(char)[0] != "C")


def _library() -> Any:
    try:
        import sacremoses
    except ImportError:
        raise ValueError(
            "this checkpoint's text needs the sacremoses library: pip install 'tritonseq[moses]' "
            "(generate and stream take token ids without it)"
        ) from None
    return sacremoses
