"""Tasks of the embedded checkpoints: problems whose every answer can be checked.

Nothing here is a data set. A task draws its problems from a seed; one tenth of all that there is
to ask, told apart by a checksum, is kept from training, however it is worded. Numbers in English
words are what all tasks share.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator


@dataclass(frozen=True)
class Problem:
    """A prompt and its one right answer: what follows the prompt, or what it becomes.

    Of a translation, the codes of the languages of both.
    """

    prompt: str
    answer: str
    src_lang: str | None = None
    tgt_lang: str | None = None


class Problems(Protocol):
    """Endless problems of one side of the split: ``unseen`` ones never occur in training."""

    def __call__(self, seed: int, *, unseen: bool) -> Iterator[Problem]: ...


def is_held_out(key: str) -> bool:
    """Whether what this names is kept from training: one key in ten, the same ones for ever."""
    return zlib.crc32(key.encode()) % 10 == 0


def draw_number(draw: random.Random, longest: int, *, least: int = 0) -> int:
    """A number of up to so many digits, 0 or 1 the `least` of them.

    Every length is as likely; every other number has zeros, which are what is hard to read.
    """
    length, zeros = draw.randint(1, longest), draw.choice((0.0, 0.5))
    digits = [draw.randint(least if length == 1 else 1, 9)]
    digits += [0 if draw.random() < zeros else draw.randint(0, 9) for _ in range(length - 1)]
    return int("".join(map(str, digits)))


LARGEST = 999_999
"""The largest number that `spell` has words for."""

_VOCABULARY = """
zero one two three four five six seven eight nine
ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
twenty thirty forty fifty sixty seventy eighty ninety
"""
_DIGITS, _TEENS, _TENS = map(str.split, _VOCABULARY.strip().splitlines())
_IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def spell(number: int, *, joint: str = " ") -> str:
    """The words of a number from 0 to 999,999: ``spell(141) == "one hundred forty-one"``.

    ``joint`` stands before the last two digits: ``spell(40_017, joint=" and ")`` is "forty thousand
    and seventeen".
    """
    if not 0 <= number <= LARGEST:
        raise ValueError(f"spell: {number} is outside 0 to {LARGEST}; split it into groups")
    if number < 20:
        return (_DIGITS + _TEENS)[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return f"{_TENS[tens - 2]}-{_DIGITS[ones]}" if ones else _TENS[tens - 2]
    unit, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    count, rest = divmod(number, unit)
    words = f"{spell(count, joint=joint)} {name}"
    if not rest:
        return words
    return words + (joint if rest < 100 else " ") + spell(rest, joint=joint)


def spell_ordinal(number: int) -> str:
    """The ordinal of a number: ``spell_ordinal(21) == "twenty-first"``."""
    words = spell(number)
    last = re.split("[- ]", words)[-1]
    ending = last.removesuffix("y") + "ieth" if last.endswith("y") else last + "th"
    return words.removesuffix(last) + _IRREGULAR_ORDINALS.get(last, ending)


def plural(thing: str, count: int) -> str:
    """The noun after a number, for nouns that take an s."""
    return thing if count == 1 else thing + "s"
