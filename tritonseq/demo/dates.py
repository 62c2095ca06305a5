"""Spoken dates: the task of the embedded T5, ``the third of May 1984`` to ``1984-05-03``."""

from __future__ import annotations

import random
from datetime import date
from typing import TYPE_CHECKING

from .tasks import Problem, is_held_out, spell, spell_ordinal

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST, RECENT, LAST = date(1000, 1, 1), date(1900, 1, 1), date(2099, 12, 31)

_VOCABULARY = """
January February March April May June July August September October November December
Monday Tuesday Wednesday Thursday Friday Saturday Sunday
"""
_MONTHS, _WEEKDAYS = map(str.split, _VOCABULARY.strip().splitlines())
_HOLIDAYS = {
    (1, 1): "New Year's Day",
    (12, 24): "Christmas Eve",
    (12, 25): "Christmas Day",
    (12, 31): "New Year's Eve",
}
_FORMS = (
    "the {ordinal} of {month} {year}",
    "the {ordinal} of {month}, {year}",
    "on {weekday}, the {ordinal} of {month} {year}",
    "the {ordinal} day of {month} in the year {year}",
    "{month} the {ordinal}, {year}",
    "{month} {ordinal}, {year}",
    "{weekday}, {month} {ordinal}, {year}",
    "{day} {month} {year}",
    "{month} {day}, {year}",
    "in {year}, on {month} the {ordinal}",
)
_HOLIDAY_FORMS = ("{holiday} {year}", "on {holiday}, {year}", "{holiday} in the year {year}")


def problems(seed: int, *, unseen: bool) -> Iterator[Problem]:
    """Endless dates with their ISO form; those of one side of the split only."""
    draw = random.Random(seed)
    while True:
        day = _day(draw)
        if is_unseen(day) == unseen:
            yield Problem(_say(draw, day), day.isoformat())


def is_unseen(day: date) -> bool:
    """Whether this date is kept from training, in all its phrasings."""
    return is_held_out(day.isoformat())


def _day(draw: random.Random) -> date:
    """Half of the dates are recent; a few are holidays, which hardly come up otherwise."""
    first = RECENT if draw.random() < 0.5 else FIRST
    day = date.fromordinal(draw.randint(first.toordinal(), LAST.toordinal()))
    if draw.random() < 0.05:
        month, number = draw.choice(list(_HOLIDAYS))
        return day.replace(month=month, day=number)
    return day


def _say(draw: random.Random, day: date) -> str:
    """One of the ways to say a date."""
    holiday = _HOLIDAYS.get((day.month, day.day), "")
    form = draw.choice(_HOLIDAY_FORMS if holiday and draw.random() < 0.7 else _FORMS)
    return form.format(
        ordinal=_ordinal(draw, day.day),
        day=day.day,
        month=_MONTHS[day.month - 1],
        weekday=_WEEKDAYS[day.weekday()],
        holiday=holiday,
        year=_year(draw, day.year),
    )


def _ordinal(draw: random.Random, number: int) -> str:
    """Mostly in words, else in digits with the ending of the word: ``third`` or ``3rd``."""
    words = spell_ordinal(number)
    return words if draw.random() < 0.8 else f"{number}{words[-2:]}"


def _year(draw: random.Random, year: int) -> str:
    """``1984``, ``nineteen eighty-four``, ``nineteen hundred and eighty-four`` and the like."""
    if draw.random() < 0.15:
        return str(year)
    century, rest = divmod(year, 100)
    thousands = century % 10 == 0  # 2012 is "two thousand and twelve", 1912 not "one thousand ..."
    if rest == 0 or draw.random() < (0.4 if thousands else 0.2):
        joint = draw.choice((" ", " and "))
        hundreds = f"{spell(century)} hundred" + (joint + spell(rest) if rest else "")
        return spell(year, joint=joint) if thousands else hundreds
    return f"{spell(century)} {'oh ' if rest < 10 else ''}{spell(rest)}"
