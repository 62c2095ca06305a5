"""Arrivals: texts of a caller, and the languages that go with them, as samples."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

from tritonseq.options.containers import check_first, is_token_list
from tritonseq.text.encoding import check_tokens, is_blank

from .sample import Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .workers import Workers

_NOTHING = object()


def check_languages(name: str, codes: Any, texts: Any) -> None:
    """Raise ValueError for what cannot be the languages of each of the texts."""
    if not hasattr(codes, "__iter__") or isinstance(codes, (bytes, Mapping, Set)):
        raise ValueError(f"{name} is {codes!r}: it must be a string, or one for each text")
    if hasattr(codes, "__len__") and hasattr(texts, "__len__") and len(codes) != len(texts):
        raise _unequal(name, len(codes), len(texts))


def _unequal(name: str, count: int, texts: object) -> ValueError:
    return ValueError(
        f"{name} lists {count} languages for {texts} texts: pass one, or one for each"
    )


def samples_of(
    texts: Iterable[Any], workers: Workers, languages: Mapping[str, Iterable[Any]]
) -> Iterator[Sample]:
    """A sample for every text; what is no text is rejected.

    `languages`: those of each text, by the names of fields of `Sample`. Raises ValueError if there
    are fewer or more of them than texts.
    """
    own = {name: iter(codes) for name, codes in languages.items()}
    count = 0
    for count, sample in enumerate(_unlabelled(texts, workers), start=1):
        for name, codes in own.items():
            code = next(codes, _NOTHING)
            if code is _NOTHING:
                raise _unequal(name, count - 1, "more")
            if not isinstance(code, str | None):
                sample.reject(f"{name} is {code!r}: it must be a string, or None")
            setattr(sample, name, code)
        yield sample
    for name, codes in own.items():
        if next(codes, _NOTHING) is not _NOTHING:
            raise _unequal(name, count + 1, count)


def _unlabelled(texts: Iterable[Any], workers: Workers) -> Iterator[Sample]:
    for number, text in enumerate(texts):
        if number == 0:
            check_first("texts", text)
            check_tokens(lambda: workers.encoder.tokenizer, text)
        sample = Sample(number, 0, text)
        if is_blank(text):
            sample.finish([""] * workers.info.copies)
        elif not isinstance(text, str) and not is_token_list(text):
            sample.reject(f"it is {text!r}, no text and no list of tokens")
        yield sample
