"""Reading aloud: the task of the embedded BART, a sentence whose number is put into words."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .tasks import Problem, draw_number, is_held_out, plural, spell

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 6
"""Numbers have up to this many digits."""

_VOCABULARY = """
bridge coin house letter page shell stamp stone ticket tower
crown dollar euro pound
Berlin Cairo Dublin Lima Oslo Paris Quito Rome
"""
_THINGS, _MONEY, _PLACES = map(str.split, _VOCABULARY.strip().splitlines())
_FORMS = (
    "{number}",
    "{number} {things}",
    "The bill is {number} {money}.",
    "The town of {place} has {number} {things}.",
    "They counted {number} {things} in {place}.",
    "It is {number} {miles} from here to {place}.",
    "Of the {number} {things} that we had, none is left.",
    "Ticket {number} to {place} has won.",
    "My number is {number}, and yours?",
    "We sold {number} {things} last year, more than ever.",
)


def problems(seed: int, *, unseen: bool) -> Iterator[Problem]:
    """Endless sentences with a number; the answer is the sentence with the number's words."""
    draw = random.Random(seed)
    while True:
        number = draw_number(draw, LONGEST)
        if is_unseen(number) == unseen:
            yield _word(draw, number)


def is_unseen(number: int) -> bool:
    """Whether this number is kept from training, in every sentence."""
    return is_held_out(str(number))


def _word(draw: random.Random, number: int) -> Problem:
    form = draw.choice(_FORMS)
    words = {
        "things": plural(draw.choice(_THINGS), number),
        "money": plural(draw.choice(_MONEY), number),
        "miles": plural("mile", number),
        "place": draw.choice(_PLACES),
    }
    figures = f"{number:,}" if draw.random() < 0.6 else str(number)
    answer = form.format(number=spell(number, joint=" and "), **words)
    return Problem(form.format(number=figures, **words), answer)
