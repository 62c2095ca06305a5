"""Sums in words: the task of the embedded GPT-2."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .tasks import Problem, is_held_out, plural, spell

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 99
"""The largest number in a prompt; answers reach twice as far."""

_VOCABULARY = """
Ada Ben Clara Emil Flora Hugo Ida Karl Mona Otto Rosa Theo
apple book button coin egg lemon marble pear plum shell stamp stone
"""
_NAMES, _THINGS = map(str.split, _VOCABULARY.strip().splitlines())

# Sign -> templates of (prompt, answer). No answer shares a run of three tokens with its prompt, so
# a search that forbids repeated 3-grams can still say it.
_FORMS = {
    "+": (
        ("{a} plus {b} =", " {c}"),
        ("Add {a} to {b} and you have", " {c}."),
        ("{name} had {a_things} and bought {b} more. Now {name} has", " {c_things}."),
    ),
    "-": (
        ("{a} minus {b} =", " {c}"),
        ("Take {b} from {a} and you have", " {c}."),
        ("{name} had {a_things} and sold {b}. Now {name} has", " {c_things}."),
    ),
}


def problems(seed: int, *, unseen: bool) -> Iterator[Problem]:
    """Endless sums and differences; those of one side of the split only."""
    draw = random.Random(seed)
    while True:
        a, b, sign = _operand(draw), _operand(draw), draw.choice("+-")
        if sign == "-" and a < b:
            a, b = b, a
        if is_unseen(a, b, sign) == unseen:
            yield _word(draw, a, b, sign)


def is_unseen(a: int, b: int, sign: str) -> bool:
    """Whether this pair is kept from training; the two orders of a sum stand or fall together."""
    return is_held_out(f"{max(a, b)}{sign}{min(a, b)}")


def _operand(draw: random.Random) -> int:
    """Dozens and small numbers are drawn more often: they are few, and people try them first."""
    kind = draw.random()
    if kind < 0.2:
        return 12 * draw.randint(1, LARGEST // 12)
    return draw.randint(1, 20 if kind < 0.4 else LARGEST)


def _word(draw: random.Random, a: int, b: int, sign: str) -> Problem:
    c = a + b if sign == "+" else a - b
    prompt, answer = draw.choice(_FORMS[sign])
    thing = draw.choice(_THINGS)
    a_words, b_words = _phrase(draw, a), _phrase(draw, b)
    words = {
        "a": a_words,
        "b": b_words,
        "c": spell(c),
        "a_things": f"{a_words} {plural(thing, a)}",
        "c_things": f"{spell(c)} {plural(thing, c)}",
        "name": draw.choice(_NAMES),
    }
    return Problem(prompt.format(**words), answer.format(**words))


def _phrase(draw: random.Random, number: int) -> str:
    """One of the ways to say an operand; answers are always spelt out."""
    dozens, rest = divmod(number, 12)
    if number == 6 and draw.random() < 0.5:
        return "half a dozen"
    if rest or draw.random() < 0.3:
        return spell(number)
    return "a dozen" if dozens == 1 else f"{spell(dozens)} dozen"
