"""Amounts: the task of the embedded M2M100, which says them in another of five languages.

``three hundred and twelve hours`` becomes ``trois cent douze heures``, or ``триста двенадцать
часов``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import numerals
from .tasks import Problem, draw_number, is_held_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .numerals import Gender

LONGEST = 6
"""Numbers have up to this many digits."""


@dataclass(frozen=True)
class Noun:
    """What is counted, "m" where it is not feminine. Its last form goes with all other numbers."""

    gender: Gender
    forms: tuple[str, ...]


@dataclass(frozen=True)
class Language:
    """How a language says amounts, by the name that it has in FLORES and NLLB."""

    code: str
    spell: Callable[[int, Gender], str]
    form: Callable[[int], int]
    """Which form of a noun goes with a number."""
    nouns: tuple[Noun, ...]
    """One for each unit, in the same order in every language."""

    def say(self, number: int, unit: int | None) -> str:
        """The words of so many of a unit, or of the number alone."""
        if unit is None:
            return self.spell(number, "")
        noun = self.nouns[unit]
        form = noun.forms[min(self.form(number), len(noun.forms) - 1)]
        return f"{self.spell(number, noun.gender)} {form}"


# A unit a line, and a language a column: gender, and forms.
_UNITS = """
m minute minutes       | f Minute Minuten | f minute minutes       | m minuto minutos       | f минута минуты минут
m hour hours           | f Stunde Stunden | f heure heures         | f hora horas           | m час часа часов
m day days             | m Tag Tage       | m jour jours           | m día días             | m день дня дней
m week weeks           | f Woche Wochen   | f semaine semaines     | f semana semanas       | f неделя недели недель
m metre metres         | m Meter          | m mètre mètres         | m metro metros         | m метр метра метров
m kilometre kilometres | m Kilometer      | m kilomètre kilomètres | m kilómetro kilómetros | m километр километра километров
m litre litres         | m Liter          | m litre litres         | m litro litros         | m литр литра литров
m tonne tonnes         | f Tonne Tonnen   | f tonne tonnes         | f tonelada toneladas   | f тонна тонны тонн
m dollar dollars       | m Dollar         | m dollar dollars       | m dólar dólares        | m доллар доллара долларов
m euro euros           | m Euro           | m euro euros           | m euro euros           | m евро
"""  # noqa: E501


def _noun(cell: str) -> Noun:
    gender, *forms = cell.split()
    return Noun("f" if gender == "f" else "m", tuple(forms))


def _one_or_more(number: int) -> int:
    return int(number != 1)


_NOUNS = zip(*(map(_noun, line.split("|")) for line in _UNITS.strip().splitlines()), strict=True)
LANGUAGES = tuple(
    Language(code, spell, form, nouns)
    for (code, spell, form), nouns in zip(
        (
            ("eng_Latn", numerals.english, _one_or_more),
            ("deu_Latn", numerals.german, _one_or_more),
            ("fra_Latn", numerals.french, _one_or_more),
            ("spa_Latn", numerals.spanish, _one_or_more),
            ("rus_Cyrl", numerals.russian, numerals.russian_form),
        ),
        _NOUNS,
        strict=True,
    )
)
UNITS = range(len(LANGUAGES[0].nouns))


def problems(seed: int, *, unseen: bool) -> Iterator[Problem]:
    """Endless amounts in one language; the answer is the amount in another."""
    draw = random.Random(seed)
    while True:
        number = draw_number(draw, LONGEST, least=1)
        if is_unseen(number) == unseen:
            source, target = draw.sample(LANGUAGES, 2)
            unit = draw.choice((None, *UNITS))
            prompt, answer = source.say(number, unit), target.say(number, unit)
            yield Problem(prompt, answer, source.code, target.code)


def is_unseen(number: int) -> bool:
    """Whether this number is kept from training, in every language and of every unit."""
    return is_held_out(str(number))
