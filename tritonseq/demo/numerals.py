"""Numbers from 1 to 999,999 in the words of five languages, as they stand before a noun.

Where a language leaves a choice, the formal one is taken: *einhundert*, *vingt et un*, *одна
тысяча*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from .tasks import LARGEST, spell

if TYPE_CHECKING:
    from collections.abc import Callable

Gender = Literal["", "m", "f"]
"""Of the noun behind a number; none where the number stands alone."""


class NumeralWords(NamedTuple):
    """The words that all others are made of."""

    small: list[str]
    """0 to 19, or further as long as each is one word."""
    tens: list[str]
    """By how many tens there are: two empty ones, and 20 to 90."""
    hundreds: list[str]
    """By how many hundreds there are, for a language that says each in one word."""


def _numerals(vocabulary: str) -> NumeralWords:
    small, teens, tens, *hundreds = map(str.split, vocabulary.strip().splitlines())
    return NumeralWords(small + teens, ["", "", *tens], ["", *(hundreds[0] if hundreds else [])])


def _in_thousands(
    number: int, below_1000: Callable[[int], list[str]], thousands: Callable[[int], list[str]]
) -> list[str]:
    """The words of the thousands, if there are any, and those of what is left."""
    count, rest = divmod(_checked(number), 1000)
    return (thousands(count) if count else []) + (below_1000(rest) if rest else [])


def _checked(number: int) -> int:
    if not 1 <= number <= LARGEST:
        raise ValueError(f"{number} is outside 1 to {LARGEST}, the numbers that have words here")
    return number


def english(number: int, gender: Gender = "") -> str:
    """``forty thousand and seventeen``, whatever is counted."""
    return spell(_checked(number), joint=" and ")


_GERMAN = _numerals("""
null ein zwei drei vier fünf sechs sieben acht neun
zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn
zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig
""")


def german(number: int, gender: Gender = "") -> str:
    """One word, ones before tens: ``siebenundneunzig``. A one agrees with its noun if alone."""
    if number == 1 and gender:
        return {"m": "ein", "f": "eine"}[gender]
    words = _in_thousands(
        number, _german_below_1000, lambda count: [*_german_below_1000(count), "tausend"]
    )
    return "".join(words) + "s" * (number % 100 == 1)


def _german_below_1000(number: int) -> list[str]:
    hundreds, rest = divmod(number, 100)
    words = [_GERMAN.small[hundreds], "hundert"] if hundreds else []
    if 0 < rest < 20:
        return [*words, _GERMAN.small[rest]]
    tens, ones = divmod(rest, 10)
    return words + ([_GERMAN.small[ones], "und"] if ones else []) + [_GERMAN.tens[tens]]


_FRENCH = _numerals("""
zéro un deux trois quatre cinq six sept huit neuf
dix onze douze treize quatorze quinze seize dix-sept dix-huit dix-neuf
vingt trente quarante cinquante soixante soixante quatre-vingt quatre-vingt
""")


def french(number: int, gender: Gender = "") -> str:
    """``quatre-vingt-dix-sept``. Several cents and vingts have an s, but only at the end."""
    words = _in_thousands(
        number,
        _french_below_1000,
        lambda count: [*(_french_below_1000(count) if count > 1 else []), "mille"],
    )
    said = " ".join(words)
    if words[-1] == "quatre-vingt" or (words[-1] == "cent" and number % 1000 > 100):
        return said + "s"
    return said + "e" * (gender == "f" and words[-1].endswith("un"))


def _french_below_1000(number: int) -> list[str]:
    hundreds, rest = divmod(number, 100)
    words = [_FRENCH.small[hundreds]] if hundreds > 1 else []
    return words + ["cent"] * (hundreds > 0) + (_french_below_100(rest) if rest else [])


def _french_below_100(number: int) -> list[str]:
    if number < 20:
        return [_FRENCH.small[number]]
    tens, ones = divmod(number, 10)
    ten = _FRENCH.tens[tens]
    if tens in (7, 9):  # said from 60 and 80 on: soixante-dix, quatre-vingt-dix
        ones += 10
    if ones in (1, 11) and tens < 8:
        return [ten, "et", _FRENCH.small[ones]]
    return [f"{ten}-{_FRENCH.small[ones]}" if ones else ten]


_SPANISH = _numerals("""
cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince
dieciséis diecisiete dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete veintiocho veintinueve
veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa
ciento doscientos trescientos cuatrocientos quinientos seiscientos setecientos ochocientos novecientos
""")  # noqa: E501


def spanish(number: int, gender: Gender = "") -> str:
    """``doscientas veintiún mil una horas``: hundreds and a last one agree with the noun."""

    def below_1000(number: int) -> list[str]:
        return _spanish_below_1000(number, gender)

    def thousands(count: int) -> list[str]:
        return [*(_with_one(below_1000(count), "m") if count > 1 else []), "mil"]

    return " ".join(_with_one(_in_thousands(number, below_1000, thousands), gender))


def _with_one(words: list[str], gender: Gender) -> list[str]:
    """A one at the end as it stands before a noun: "un", "veintiún", "una"."""
    *before, last = words
    if gender == "m":
        last = {"uno": "un", "veintiuno": "veintiún"}.get(last, last)
    elif gender == "f" and last.endswith("uno"):
        last = last.removesuffix("o") + "a"
    return [*before, last]


def _spanish_below_1000(number: int, gender: Gender) -> list[str]:
    if number == 100:
        return ["cien"]
    hundreds, rest = divmod(number, 100)
    hundred = _SPANISH.hundreds[hundreds]
    if gender == "f" and hundreds > 1:
        hundred = hundred.removesuffix("os") + "as"
    return ([hundred] if hundreds else []) + (_spanish_below_100(rest) if rest else [])


def _spanish_below_100(number: int) -> list[str]:
    if number < 30:
        return [_SPANISH.small[number]]
    tens, ones = divmod(number, 10)
    return [_SPANISH.tens[tens], *(["y", _SPANISH.small[ones]] if ones else [])]


_RUSSIAN = _numerals("""
ноль один два три четыре пять шесть семь восемь девять
десять одиннадцать двенадцать тринадцать четырнадцать пятнадцать шестнадцать семнадцать восемнадцать девятнадцать
двадцать тридцать сорок пятьдесят шестьдесят семьдесят восемьдесят девяносто
сто двести триста четыреста пятьсот шестьсот семьсот восемьсот девятьсот
""")  # noqa: E501
_THOUSAND = "тысяча", "тысячи", "тысяч"


def russian(number: int, gender: Gender = "") -> str:
    """``двадцать две тысячи один час``: one and two agree, with the feminine тысяча too."""
    words = _in_thousands(
        number,
        lambda rest: _russian_below_1000(rest, gender),
        lambda count: [*_russian_below_1000(count, "f"), _THOUSAND[russian_form(count)]],
    )
    return " ".join(words)


def russian_form(number: int) -> int:
    """Which form of a noun a number asks for: 0 after one, 1 after two to four, 2 after others."""
    if 10 < number % 100 < 20:
        return 2
    return {1: 0, 2: 1, 3: 1, 4: 1}.get(number % 10, 2)


def _russian_below_1000(number: int, gender: Gender) -> list[str]:
    hundreds, rest = divmod(number, 100)
    tens, ones = (0, rest) if rest < 20 else divmod(rest, 10)
    one = _RUSSIAN.small[ones] if ones else ""
    if gender == "f":
        one = {"один": "одна", "два": "две"}.get(one, one)
    return [word for word in (_RUSSIAN.hundreds[hundreds], _RUSSIAN.tens[tens], one) if word]
