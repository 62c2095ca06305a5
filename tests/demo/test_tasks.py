"""The tasks of the embedded checkpoints: right answers, and a split that holds."""

from __future__ import annotations

import re
from datetime import date, timedelta
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from tritonseq.demo import amounts, dates, diary
from tritonseq.demo import numbers as numerals
from tritonseq.demo import sums as words
from tritonseq.demo.tasks import plural, spell, spell_ordinal

if TYPE_CHECKING:
    from tritonseq.demo.tasks import Problem, Problems

TASKS = pytest.mark.parametrize(
    "problems",
    [words.problems, dates.problems, numerals.problems, diary.problems, amounts.problems],
    ids=["sums", "dates", "numbers", "times", "amounts"],
)


def draw(problems: Problems, seed: int, count: int, *, unseen: bool) -> list[Problem]:
    return list(islice(problems(seed, unseen=unseen), count))


@pytest.mark.parametrize(
    ("number", "joint", "spoken"),
    [
        (0, " ", "zero"),
        (17, " ", "seventeen"),
        (40, " ", "forty"),
        (41, " and ", "forty-one"),
        (100, " and ", "one hundred"),
        (101, " ", "one hundred one"),
        (112, " and ", "one hundred and twelve"),
        (199, " ", "one hundred ninety-nine"),
        (2005, " and ", "two thousand and five"),
        (40_317, " and ", "forty thousand three hundred and seventeen"),
        (300_200, " and ", "three hundred thousand two hundred"),
        (117_030, " and ", "one hundred and seventeen thousand and thirty"),
        (999_999, " ", "nine hundred ninety-nine thousand nine hundred ninety-nine"),
    ],
)
def test_spelling(number: int, joint: str, spoken: str) -> None:
    assert spell(number, joint=joint) == spoken


def test_every_number_has_words_of_its_own() -> None:
    numbers = [*range(10_000), *range(10_000, 1_000_000, 89)]
    assert len({spell(number, joint=" and ") for number in numbers}) == len(numbers)


@pytest.mark.parametrize("number", [-1, 1_000_000])
def test_numbers_out_of_range(number: int) -> None:
    with pytest.raises(ValueError, match=f"{number} is outside"):
        spell(number)


def test_ordinals() -> None:
    spoken = (
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth "
        "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth "
        "twenty-first twenty-second twenty-third twenty-fourth twenty-fifth twenty-sixth "
        "twenty-seventh twenty-eighth twenty-ninth thirtieth thirty-first"
    )
    assert [spell_ordinal(number) for number in range(1, 32)] == spoken.split(" ")
    assert (spell_ordinal(100), spell_ordinal(112)) == ("one hundredth", "one hundred twelfth")


def test_plurals() -> None:
    assert [plural("mile", count) for count in (0, 1, 2)] == ["miles", "mile", "miles"]


@TASKS
def test_problems_are_the_same_for_the_same_seed(problems: Problems) -> None:
    first = draw(problems, 99, 50, unseen=True)
    assert first == draw(problems, 99, 50, unseen=True)
    assert first != draw(problems, 98, 50, unseen=True)


@TASKS
def test_nothing_unseen_occurs_in_training(problems: Problems) -> None:
    trained = {problem.prompt for problem in draw(problems, 1, 50_000, unseen=False)}
    assert not trained & {problem.prompt for problem in draw(problems, 99, 5_000, unseen=True)}


def test_sums_stand_or_fall_with_their_order() -> None:
    for a in range(1, 100):
        for b in range(1, a):
            assert words.is_unseen(a, b, "+") == words.is_unseen(b, a, "+")


def test_dates_numbers_and_times_are_split_by_their_answers() -> None:
    """However a date or time is worded or a number written, it is on one side only."""
    for unseen in (True, False):
        for problem in draw(dates.problems, 3, 2_000, unseen=unseen):
            assert dates.is_unseen(date.fromisoformat(problem.answer)) == unseen
        for problem in draw(numerals.problems, 3, 2_000, unseen=unseen):
            assert numerals.is_unseen(figure(problem.prompt)) == unseen
        for problem in draw(diary.problems, 3, 2_000, unseen=unseen):
            assert diary.is_unseen(minutes(problem.answer)) == unseen


def test_one_tenth_is_held_out() -> None:
    sums = [words.is_unseen(a, b, "-") for a in range(1, 100) for b in range(1, a + 1)]
    numbers = [numerals.is_unseen(number) for number in range(10_000)]
    days = [dates.is_unseen(dates.FIRST + timedelta(days=7 * week)) for week in range(50_000)]
    times = [diary.is_unseen(time) for time in range(diary.DAY)]
    counts = [amounts.is_unseen(number) for number in range(1, 10_000)]
    for sides in (sums, numbers, days, times, counts):
        assert 0.08 < sum(sides) / len(sides) < 0.12


def test_numbers_are_put_into_words_and_nothing_else_is_changed() -> None:
    for problem in draw(numerals.problems, 4, 2_000, unseen=True):
        spoken = spell(figure(problem.prompt), joint=" and ")
        assert problem.answer == re.sub(r"\d[\d,]*(?<!,)", spoken, problem.prompt)


def test_the_weekday_and_the_year_fit_the_date() -> None:
    for problem in draw(dates.problems, 5, 3_000, unseen=True):
        day = date.fromisoformat(problem.answer)
        assert dates.FIRST <= day <= dates.LAST
        for spoken in re.findall(r"\b\w+day\b(?= *,)", problem.prompt):
            assert spoken in (f"{day:%A}", "Day")
        for digits in re.findall(r"\d{4}", problem.prompt):
            assert int(digits) == day.year


@pytest.mark.parametrize(
    ("year", "spoken"),
    [
        (1000, {"1000", "one thousand"}),
        (1066, {"1066", "ten sixty-six", "one thousand sixty-six", "one thousand and sixty-six"}),
        (1900, {"1900", "nineteen hundred"}),
        (1907, {"1907", "nineteen oh seven", "nineteen hundred seven",
                "nineteen hundred and seven"}),
        (2012, {"2012", "twenty twelve", "two thousand twelve", "two thousand and twelve"}),
    ],
)  # fmt: skip
def test_a_year_is_said_in_every_way_there_is(
    year: int, spoken: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dates, "_day", lambda draw: date(year, 5, 3))
    monkeypatch.setattr(dates, "_FORMS", ("{year}",))
    monkeypatch.setattr(dates, "is_unseen", lambda day: True)
    assert {problem.prompt for problem in draw(dates.problems, 6, 300, unseen=True)} == spoken


PM = "in the afternoon"


@pytest.mark.parametrize(
    ("time", "spoken"),
    [
        ("0000", {"12 am", "12.00 am", "12:00 am", "Midnight", "Twelve at night",
                  "Twelve o'clock at night", "12 at night", "12.00 at night", "12:00 at night"}),
        ("0019", {"12.19 am", "12:19 am", "12.19 at night", "12:19 at night",
                  "Twelve nineteen at night"}
                 | {f"{n} minutes {side} {hour}" for n in ("19", "Nineteen")
                    for side in ("past", "after") for hour in ("midnight", "twelve at night")}),
        ("1159", {"11.59 am", "11:59 am", "11.59 in the morning", "11:59 in the morning",
                  "Eleven fifty-nine in the morning"}
                 | {f"{n} minute {side} {hour}" for n in ("1", "One")
                    for side in ("to", "before") for hour in ("noon", "twelve in the morning")}),
        ("1305", {"1.05 pm", "1:05 pm", f"1.05 {PM}", f"1:05 {PM}", f"One oh five {PM}"}
                 | {f"{n} {side} one {PM}" for n in ("5", "Five", "5 minutes", "Five minutes")
                    for side in ("past", "after")}),
        ("2045", {"8.45 pm", "8:45 pm", "Twenty forty-five", "8.45 in the evening",
                  "8:45 in the evening", "Eight forty-five in the evening"}
                 | {f"{n} {side} nine in the evening" for side in ("to", "before")
                    for n in ("A quarter", "Quarter", "15", "Fifteen", "15 minutes",
                              "Fifteen minutes")}),
        ("2130", {"9.30 pm", "9:30 pm", "Twenty-one thirty"}
                 | {f"{diary} {part}" for part in ("in the evening", "at night")
                    for diary in ("Half past nine", "Nine thirty", "9.30", "9:30")}),
    ],
)  # fmt: skip
def test_a_time_is_said_in_every_way_there_is(
    time: str, spoken: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diary, "_time", lambda draw: minutes(time))
    monkeypatch.setattr(diary, "_FORMS", (("{time}", "{figures}"),))
    monkeypatch.setattr(diary, "is_unseen", lambda time: True)
    problems = draw(diary.problems, 6, 1_000, unseen=True)
    assert {problem.prompt for problem in problems} == spoken
    assert {problem.answer for problem in problems} == {time}


def test_no_words_mean_two_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine in the morning is not nine in the evening, whatever part of the day is named."""
    monkeypatch.setattr(diary, "_FORMS", (("{time}", "{figures}"),))
    problems = [p for side in (True, False) for p in draw(diary.problems, 7, 30_000, unseen=side)]
    meanings = {(problem.prompt, problem.answer) for problem in problems}
    assert len({answer for _, answer in meanings}) == diary.DAY
    assert len({prompt for prompt, _ in meanings}) == len(meanings)


def test_a_diary_line_says_who_and_where() -> None:
    for problem in draw(diary.problems, 8, 2_000, unseen=True):
        figures, *line = problem.answer.split(" ")
        assert re.fullmatch(r"\d{4}", figures)
        for word in line:
            assert re.fullmatch(r"[A-Za-z]+|\d{2,3}", word)
            if not word.islower():  # a name, a place, a number of a flight
                assert re.search(rf"\b{word}\b", problem.prompt)


HOUR, DAY = 1, 2
"""Units. An hour is feminine in German, French and Spanish, but not in Russian; a day nowhere."""


@pytest.mark.parametrize(
    ("number", "unit", "said"),
    [
        (1, None, "one, eins, un, uno, один"),
        (1, HOUR, "one hour, eine Stunde, une heure, una hora, один час"),
        (1, DAY, "one day, ein Tag, un jour, un día, один день"),
        (2, 7, "two tonnes, zwei Tonnen, deux tonnes, dos toneladas, две тонны"),
        (4, 9, "four euros, vier Euro, quatre euros, cuatro euros, четыре евро"),
        (11, 3, "eleven weeks, elf Wochen, onze semaines, once semanas, одиннадцать недель"),
        (21, HOUR, "twenty-one hours, einundzwanzig Stunden, vingt et une heures, "
                   "veintiuna horas, двадцать один час"),
        (21, DAY, "twenty-one days, einundzwanzig Tage, vingt et un jours, veintiún días, "
                  "двадцать один день"),
        (22, 0, "twenty-two minutes, zweiundzwanzig Minuten, vingt-deux minutes, "
                "veintidós minutos, двадцать две минуты"),
        (71, None, "seventy-one, einundsiebzig, soixante et onze, setenta y uno, семьдесят один"),
        (80, 8, "eighty dollars, achtzig Dollar, quatre-vingts dollars, ochenta dólares, "
                "восемьдесят долларов"),
        (81, HOUR, "eighty-one hours, einundachtzig Stunden, quatre-vingt-une heures, "
                   "ochenta y una horas, восемьдесят один час"),
        (97, None, "ninety-seven, siebenundneunzig, quatre-vingt-dix-sept, noventa y siete, "
                   "девяносто семь"),
        (100, None, "one hundred, einhundert, cent, cien, сто"),
        (101, HOUR, "one hundred and one hours, einhunderteins Stunden, cent une heures, "
                    "ciento una horas, сто один час"),
        (200, HOUR, "two hundred hours, zweihundert Stunden, deux cents heures, "
                    "doscientas horas, двести часов"),
        (391, None, "three hundred and ninety-one, dreihunderteinundneunzig, "
                    "trois cent quatre-vingt-onze, trescientos noventa y uno, "
                    "триста девяносто один"),
        (1000, None, "one thousand, eintausend, mille, mil, одна тысяча"),
        (1100, None, "one thousand one hundred, eintausendeinhundert, mille cent, mil cien, "
                     "одна тысяча сто"),
        (1016, None, "one thousand and sixteen, eintausendsechzehn, mille seize, "
                     "mil dieciséis, одна тысяча шестнадцать"),
        (2512, HOUR, "two thousand five hundred and twelve hours, "
                     "zweitausendfünfhundertzwölf Stunden, deux mille cinq cent douze heures, "
                     "dos mil quinientas doce horas, две тысячи пятьсот двенадцать часов"),
        (21_000, HOUR, "twenty-one thousand hours, einundzwanzigtausend Stunden, "
                       "vingt et un mille heures, veintiún mil horas, двадцать одна тысяча часов"),
        (80_080, None, "eighty thousand and eighty, achtzigtausendachtzig, "
                       "quatre-vingt mille quatre-vingts, ochenta mil ochenta, "
                       "восемьдесят тысяч восемьдесят"),
        (200_200, HOUR, "two hundred thousand two hundred hours, zweihunderttausendzweihundert "
                        "Stunden, deux cent mille deux cents heures, doscientas mil doscientas "
                        "horas, двести тысяч двести часов"),
        (431_001, DAY, "four hundred and thirty-one thousand and one days, "
                       "vierhunderteinunddreißigtausendeins Tage, "
                       "quatre cent trente et un mille un jours, "
                       "cuatrocientos treinta y un mil un días, "
                       "четыреста тридцать одна тысяча один день"),
        (999_913, None, "nine hundred and ninety-nine thousand nine hundred and thirteen, "
                        "neunhundertneunundneunzigtausendneunhundertdreizehn, "
                        "neuf cent quatre-vingt-dix-neuf mille neuf cent treize, "
                        "novecientos noventa y nueve mil novecientos trece, "
                        "девятьсот девяносто девять тысяч девятьсот тринадцать"),
    ],
)  # fmt: skip
def test_an_amount_is_said_by_the_rules_of_each_language(
    number: int, unit: int | None, said: str
) -> None:
    found = [language.say(number, unit) for language in amounts.LANGUAGES]
    assert found == said.split(", ")


def test_a_number_is_said_alone_or_before_a_noun_without_a_word_for_another() -> None:
    numbers = [*range(1, 3_000), *range(3_000, 1_000_000, 487)]
    for language in amounts.LANGUAGES:
        for unit in (None, HOUR, DAY):
            assert len({language.say(number, unit) for number in numbers}) == len(numbers)


@pytest.mark.parametrize("number", [-1, 0, 1_000_000])
def test_amounts_out_of_range(number: int) -> None:
    for language in amounts.LANGUAGES:
        with pytest.raises(ValueError, match=f"{number} is outside 1 to 999999"):
            language.say(number, None)


def test_an_amount_is_on_one_side_in_every_language() -> None:
    first = {
        language.say(number, unit): number
        for language in amounts.LANGUAGES
        for number in range(1, 100)
        for unit in (None, *amounts.UNITS)
    }
    met = set()
    for unseen in (True, False):
        for problem in draw(amounts.problems, 3, 4_000, unseen=unseen):
            if number := first.get(problem.prompt):
                assert amounts.is_unseen(number) == unseen
                assert first[problem.answer] == number
            assert problem.src_lang != problem.tgt_lang
            met.add((problem.src_lang, problem.tgt_lang))
    assert len(met) == 20


def minutes(figures: str) -> int:
    """The minutes since midnight of the four figures that an answer starts with."""
    hour, minute = divmod(int(figures[:4]), 100)
    return diary.HOUR * hour + minute


def figure(prompt: str) -> int:
    """The number that stands in a prompt in digits."""
    (digits,) = re.findall(r"\d[\d,]*(?<!,)", prompt)
    return int(digits.replace(",", ""))
