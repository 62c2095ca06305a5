"""Sentences: long texts are cut into them for translation models, and what is written is joined.

Marian, NLLB and M2M100 were trained on sentences, and drop some of a text that has several. Where
one ends, `sentencex` says (Wikimedia's, by rules and abbreviations for some 30 languages and their
relatives; it downloads nothing, and what it cuts is the text to the last space).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.options.containers import unicode_fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    Text = str | Sequence[str]

# Codes of three letters, as NLLB has them, with rules or relatives that have rules, in the letters
# that the library knows them by. Others are handed on as they are: English serves for those, of
# whose abbreviations it knows none.
_SHORTER = """
ace:id acm:ar acq:ar aeb:ar ajp:ar amh:am apc:ar arb:ar ars:ar ary:ar arz:ar ast:ast awa:hi azb:fa
bak:ba bam:bm ban:id ben:bn bjn:id bug:id bul:bg cat:ca ces:cs crh:tr dan:da deu:de dyu:fr ell:el
eng:en fin:fi fon:fr fra:fr fur:it glg:gl grn:es guj:gu hat:ht hin:hi hne:hi hye:hy ind:id ita:it
jav:jv jpn:ja kab:fr kan:kn kas:hi kaz:kk kea:pt kir:ru lij:it lim:li lin:ln lmo:it ltz:lb mag:hi
mai:hi mal:ml mar:mr min:id mya:my nld:nl nno:nn nob:nb npi:hi oci:oc pan:pa plt:mg pol:pl por:pt
quy:qu rus:ru sag:sg san:sa scn:it shn:my slk:sk spa:es sun:su szl:pl tam:ta tat:tt tel:te tgk:ru
tuk:tr ukr:uk urd:ur vec:it wol:wo ydd:yi yue:yue zho:zh
"""
_SHORT = dict(pair.split(":") for pair in _SHORTER.split())

_UNMARKED = {
    **dict.fromkeys(("th", "tha"), "Thai"),
    **dict.fromkeys(("lo", "lao"), "Lao"),
    **dict.fromkeys(("km", "khm"), "Khmer"),
    **dict.fromkeys(("bo", "bod"), "Tibetan"),
    **dict.fromkeys(("dz", "dzo"), "Dzongkha"),
}
"""Languages whose ends of sentences the library does not find."""

_UNSPACED = (
    r"[\u2e80-\u303f\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\uff01-\uff60\U00020000-\U0003ffff]"
)
"""A character of Chinese or Japanese, which have no spaces between sentences."""
_SEAM = re.compile(rf"{_UNSPACED}$"), re.compile(rf"^{_UNSPACED}")


class Splitting(NamedTuple):
    """How texts are cut into sentences; plain values, which another process can be handed."""

    language: str
    """As `sentencex` names it."""
    repeated: str | None = None
    """A pattern: what stands so at the start of a text is put before each of its sentences."""
    is_usual: bool = False
    """Whether texts that name another language are cut by the rules of that one."""

    def of(self, code: str | None) -> Splitting:
        """How a text is cut that names the language with this code, or none; ValueError as from
        `splitting`."""
        return self if code is None or not self.is_usual else splitting(code, self.repeated)


class Parts(NamedTuple):
    """A text in sentences."""

    sentences: Sequence[Text]
    gaps: Sequence[str] = ()
    """The white space between them, one less than there are sentences."""

    def joined(self, outputs: Sequence[str]) -> str:
        return joined(outputs, self.gaps)


def splitting(code: str, repeated: str | None = None, *, is_usual: bool = False) -> Splitting:
    """For texts in a language, by its code of any checkpoint: "en", "en_XX", "eng_Latn".

    Raises ValueError for what is no such code, for languages whose sentences cannot be told
    apart, and if the `sentences` extra is missing.
    """
    found = re.fullmatch(r"([a-z]{2,3})([_-]\w+)*", code)
    if found is None:
        raise ValueError(
            f"split_sentences: {code!r} is no code of a language such as 'en', 'en_XX' or "
            "'eng_Latn': pass one, split_sentences='en'"
        )
    language = found[1]
    if language in _UNMARKED:
        raise ValueError(
            f"split_sentences: {code!r} is {_UNMARKED[language]}, whose sentences end without a "
            "mark that the splitter knows: cut the texts yourself, and leave it out"
        )
    _library()
    return Splitting(_SHORT.get(language, language), repeated, is_usual)


def split(text: Any, how: Splitting | None) -> Parts:
    """The sentences of a text; what is no text, or tokens already, is one part."""
    if how is None or not isinstance(text, str) or unicode_fault(text):
        return Parts([text])
    opening = re.match(how.repeated, text) if how.repeated is not None else None
    said = opening.group() if opening else ""
    sentences: list[str] = []
    gaps, gap = list[str](), ""
    for piece in _library().segment(how.language, text[len(said) :]):
        body = piece.strip()
        if not body:
            gap += piece
            continue
        if sentences:
            gaps.append(gap + piece[: len(piece) - len(piece.lstrip())])
        sentences.append(said + body)
        gap = piece[len(piece.rstrip()) :]
    return Parts(sentences, gaps) if sentences else Parts([text])


def joined(outputs: Sequence[str], gaps: Sequence[str]) -> str:
    """What was written for sentences, as one text.

    What stood between two sentences stands between what was written for them; a space where that
    was nothing, and nothing in place of spaces beside a character of Chinese or Japanese. Line
    ends stay in any case. What is empty takes the space behind it along.
    """
    text = ""
    for output, gap in zip(outputs, ("", *gaps), strict=True):
        output = output.strip() if gaps else output
        text += (_between(text, output, gap) if text and output else "") + output
    return text


def _between(before: str, behind: str, gap: str) -> str:
    if "\n" in gap or "\r" in gap:
        return gap
    ends, starts = _SEAM
    return "" if ends.search(before) or starts.search(behind) else gap or " "


def _library() -> Any:
    try:
        import sentencex
    except ImportError:
        raise ValueError(
            "split_sentences needs the sentencex library: pip install 'tritonseq[sentences]'"
        ) from None
    return sentencex
