"""The languages of a checkpoint, and how its models are told them."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .vocabulary import Vocabulary

Target = Literal["text", "before", "forced_bos_token_id", "decoder_start_token_id"]


class LanguageStyle(NamedTuple):
    """How the models of a kind are told languages."""

    form: str = "{}"
    """What the token of a language is called, by its code."""
    source: Literal["before", "behind"] | None = None
    """Where the token of a text's language stands: before the text, or behind its end."""
    target: Target = "text"
    """Where that of the language to write stands: at the start of the text, before the text in its
    frame, or it is an option of `generate`."""
    usual: str | None = None
    """The language that stands in the frame if nothing says another."""
    needs_source: bool = False
    """Whether there must be one."""
    is_first: bool = False
    """Whether a text tells its target by its very first character only, not behind spaces."""

    def codes(self, tokens: Iterable[str]) -> list[str]:
        """The languages that there are tokens of."""
        return [code[1] for code in map(self.pattern.fullmatch, tokens) if code]

    @property
    def pattern(self) -> re.Pattern[str]:
        """What matches the token of a language, with its code as a group."""
        return re.compile(re.escape(self.form).replace(r"\{\}", "(.+?)"))


_FIRST: Target = "forced_bos_token_id"
_START: Target = "decoder_start_token_id"

TARGET_OPTIONS = (_FIRST, _START)
"""The options of `generate` that can name a language."""

STYLES = {
    "mbart": LanguageStyle("{}", "behind", _START, "en_XX"),
    "mbart50": LanguageStyle("{}", "before", _FIRST, "en_XX"),
    "nllb": LanguageStyle("{}", "before", _FIRST, "eng_Latn"),
    "m2m100": LanguageStyle("__{}__", "before", _FIRST, "en"),
    # Mohammadshahi et al., "SMaLL-100", 2022: only the encoder is told, and only the target.
    "small100": LanguageStyle("__{}__", None, "before", "en"),
    "plbart": LanguageStyle("__{}__", "behind", _START),
    # Dabre et al., "IndicBART", 2022.
    "indicbart": LanguageStyle("<2{}>", "behind", _START, needs_source=True),
    "marian": LanguageStyle(">>{}<<", is_first=True),
    # Kudugunta et al., "MADLAD-400", 2023.
    "madlad": LanguageStyle("<2{}>"),
}


_UNTOLD = "(of JSON lines name a field that they do not have: --src-lang-field, --tgt-lang-field)"
"""How lines that name languages are read as if they named none."""


def each_language(name: str, languages: Any, count: int | None = None) -> list[str | None]:
    """One language for each of `count` texts, of what is passed as the argument `name`: one for
    all of them, or a list. Raises ValueError for other things, and lists of another length."""
    if isinstance(languages, str | None) and count is not None:
        return [languages] * count
    if not isinstance(languages, (list, tuple)):
        raise ValueError(f"{name} is {languages!r}: it must be a string, or a list of strings")
    for index, code in enumerate(languages):
        if not isinstance(code, str | None):
            raise ValueError(f"{name}[{index}] is {code!r}: it must be a string, or None")
    if count is not None and len(languages) != count:
        raise ValueError(
            f"{name} lists {len(languages)} languages for {count} texts: pass one, or one for each"
        )
    return list(languages)


class Untold(ValueError):
    """A text whose language must be told, and is not."""


class Languages(NamedTuple):
    """What can be asked for, and in which way."""

    style: LanguageStyle | None = None
    codes: Sequence[str] = ()
    framed: str | None = None
    """The language in the frame unless another is named: by most styles that of texts. Without a
    style, that of texts."""

    def token(self, code: str) -> str:
        """The token of a language; ValueError, with the nearest codes, if there is none."""
        if self.style is None or not self.codes:
            raise ValueError(
                f"{code!r}: this checkpoint has no languages to choose from; leave it out "
                f"{_UNTOLD}, and if it wants an instruction before every text, pass prefix= "
                "(--prefix)"
            )
        # Some say the token itself.
        for known in (code, *self.style.codes([code])):
            if known in self.codes:
                return self.style.form.format(known)
        near = self._nearest(code)
        others = " and others" if len(near) < len(self.codes) else ""
        raise ValueError(
            f"{code!r} is no language of this checkpoint: it has {', '.join(near)}{others}"
        )

    @property
    def usual_source(self) -> str | None:
        """The language of texts that are read without naming one; None if it is not known."""
        if self.style is None:
            return self.framed
        if self.style.target == "before":
            return None  # the frame names the target
        return self.framed or self.style.usual

    def instruct(self, tgt_lang: str | None) -> str:
        """What to put before a text, so that it is translated to `tgt_lang`."""
        if tgt_lang is None:
            return ""
        token = self.token(tgt_lang)
        return f"{token} " if self.style is not None and self.style.target == "text" else ""

    def frame(
        self, vocabulary: Vocabulary, src_lang: str | None, tgt_lang: str | None
    ) -> tuple[list[int], list[int]]:
        """The ids before and behind a text in `src_lang` that is translated to `tgt_lang`.

        Raises ValueError for unknown languages; Untold if one is missing.
        """
        style = self.style
        if src_lang is not None and (style is None or style.source is None):
            raise ValueError(
                f"src_lang={src_lang!r}: this checkpoint is not told the language of its source; "
                f"leave src_lang out {_UNTOLD}"
            )
        if style is None or (style.source is None and style.target != "before"):
            return vocabulary.frame()
        code = tgt_lang if style.target == "before" else src_lang
        code = self.framed or style.usual if code is None else code
        end = vocabulary.token_id("</s>")
        assert end is not None, "checked when the tokenizer was read"
        if code is None and style.needs_source:
            raise Untold(
                "this checkpoint must be told the language of its source: pass src_lang "
                f"(--src-lang), such as {self.codes[0]!r}"
            )
        if code is None:
            return [], [end]
        token = vocabulary.token_id(self.token(code))
        assert token is not None, "the codes were read from the vocabulary"
        return ([], [end, token]) if style.source == "behind" else ([token], [end])

    def has_open_target(self, texts: Iterable[str]) -> bool:
        """Whether a target can be chosen, and there is a text that does not name one."""
        if self.style is None or len(self.codes) < 2:
            return False
        if self.style.target != "text":
            is_framed = self.style.target == "before" and self.framed is None
            return is_framed or self.style.target == "forced_bos_token_id"
        begins = (text if self.style.is_first else text.lstrip() for text in texts)
        return any(self.said_in(text) is None for text in begins)

    def said_in(self, text: str) -> str | None:
        """The language to write whose token a text begins with, where models are told it so."""
        if self.style is None or self.style.target != "text":
            return None
        code = self.style.pattern.match(text)
        return code[1] if code and code[1] in self.codes else None

    def target_options(self, token_id: int) -> dict[str, int]:
        """The options of `generate` that make a model write the language with this token."""
        if self.style is None or self.style.target not in TARGET_OPTIONS:
            return {}  # it is told in its source
        return {self.style.target: token_id}

    def _nearest(self, code: str) -> list[str]:
        """Other forms of the same language first: "fr_XX" for "fr"."""
        found = [known for known in self.codes if known[:2] == code[:2]]
        found += difflib.get_close_matches(code, self.codes, n=3)
        return list(dict.fromkeys(found))[:3] or list(self.codes[:8])
