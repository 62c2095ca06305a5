"""Numbers in English words."""

from __future__ import annotations

import re

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
