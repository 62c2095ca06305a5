"""Times of day: the task of the embedded UniLM, a sentence made a line of a diary.

``The train to Oslo leaves at a quarter to nine in the evening.`` becomes ``2045 train to Oslo``.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .tasks import Problem, is_held_out, plural, spell

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUR, DAY = 60, 24 * 60
"""In minutes, as all times here are: those that have passed since midnight."""

_VOCABULARY = """
Ada Ben Clara Emil Flora Hugo Ida Karl Mona Otto Rosa Theo
Berlin Cairo Dublin Lima Oslo Paris Quito Rome
boat bus coach ferry train
concert film lecture match play show
bakery bank library market museum shop
baker dentist doctor lawyer teacher
"""
_NAMES, _PLACES, _VEHICLES, _EVENTS, _SHOPS, _EXPERTS = map(
    str.split, _VOCABULARY.strip().splitlines()
)
# What is said, and the line for it. No line holds a mark: marks would come out between spaces.
_FORMS = (
    ("{time}", "{figures}"),
    ("The {vehicle} to {place} leaves at {time}.", "{figures} {vehicle} to {place}"),
    (
        "At {time} the {vehicle} from {place} to {elsewhere} departs.",
        "{figures} {vehicle} from {place} to {elsewhere}",
    ),
    ("The {event} in {place} begins at {time}.", "{figures} {event} in {place}"),
    ("Flight {number} to {place} is due at {time}.", "{figures} flight {number} to {place}"),
    ("{name} will call us from {place} at {time}.", "{figures} call from {name} in {place}"),
    ("Do not forget to meet {name} at {time}!", "{figures} meeting with {name}"),
    ("We dine with {name} and {friend} at {time}.", "{figures} dinner with {name} and {friend}"),
    ("At {time}, {name} has to see the {expert}.", "{figures} {name} at the {expert}"),
    ("The {shop} opens its doors at {time}, I think.", "{figures} {shop} opens"),
    ("Is {time} too late for {name} to come to the {event}?", "{figures} {event} with {name}"),
)
# Which hours each part of the day covers. A time and the time twelve hours later share none.
_PARTS = {
    "in the morning": range(1, 12),
    "in the afternoon": range(12, 18),
    "in the evening": range(17, 22),
    "at night": (21, 22, 23, 0, 1, 2, 3),
}
_LANDMARKS = {0: "midnight", 12: "noon"}


def problems(seed: int, *, unseen: bool) -> Iterator[Problem]:
    """Endless sentences with a time of day; the answer says when in figures, and then what."""
    draw = random.Random(seed)
    while True:
        time = _time(draw)
        if is_unseen(time) == unseen:
            yield _word(draw, time)


def is_unseen(time: int) -> bool:
    """Whether this time is kept from training, in all its phrasings."""
    return is_held_out(figures(time))


def figures(time: int) -> str:
    """The four figures of a time on the 24-hour clock: ``figures(20 * HOUR + 45) == "2045"``."""
    return f"{time // HOUR:02}{time % HOUR:02}"


def _time(draw: random.Random) -> int:
    """Two in five are full, half or quarter hours: they are few, and people try them first."""
    return draw.randrange(0, DAY, 15) if draw.random() < 0.4 else draw.randrange(DAY)


def _word(draw: random.Random, time: int) -> Problem:
    prompt, answer = draw.choice(_FORMS)
    name, friend = draw.sample([*_NAMES, _invented(draw), _invented(draw)], 2)
    place, elsewhere = draw.sample([*_PLACES, _invented(draw)], 2)
    words = {
        "time": _say(draw, time),
        "figures": figures(time),
        "number": draw.randint(10, 999),
        "name": name,
        "friend": friend,
        "place": place,
        "elsewhere": elsewhere,
        "vehicle": draw.choice(_VEHICLES),
        "event": draw.choice(_EVENTS),
        "shop": draw.choice(_SHOPS),
        "expert": draw.choice(_EXPERTS),
    }
    spoken = prompt.format(**words)
    return Problem(spoken[0].upper() + spoken[1:], answer.format(**words))


def _invented(draw: random.Random) -> str:
    """A name that is in no list: ``Kemu``, ``Lurod``. Its letters all differ."""
    first, second, last = draw.sample("bcdfghjklmnprstvwz", 3)
    vowel, other = draw.sample("aeiou", 2)
    return f"{first}{vowel}{second}{other}{draw.choice(('', last))}".capitalize()


def _say(draw: random.Random, time: int) -> str:
    """One of the ways to say a time."""
    hour, minute = divmod(time, HOUR)
    kind = draw.random()
    if kind < 0.2:
        return f"{_digits(draw, time)} {'am' if hour < 12 else 'pm'}"
    if hour > 12 and minute > 9 and kind < 0.25:
        return f"{spell(hour)} {spell(minute)}"
    if kind < 0.6:
        return _relative(draw, time)
    clock = _digits(draw, time) if draw.random() < 0.3 else _spoken(draw, time)
    return f"{clock} {_part(draw, hour)}"


def _relative(draw: random.Random, time: int) -> str:
    """``a quarter to nine in the evening``, ``twenty past noon``: by the distance from an hour."""
    hour, minute = divmod(time, HOUR)
    nearest = (hour + 1) % 24 if minute > 30 else hour
    distance = _distance(draw, minute) + " " if minute else ""
    if nearest in _LANDMARKS and draw.random() < 0.7:
        return distance + _LANDMARKS[nearest]
    full = "" if minute or draw.random() < 0.5 else " o'clock"
    return f"{distance}{spell(_on_the_dial(nearest))}{full} {_part(draw, hour)}"


def _distance(draw: random.Random, minute: int) -> str:
    """From the nearest hour: ``half past``, ``a quarter to``, ``7 minutes after``."""
    if minute == 30:
        return "half past"
    count = min(minute, HOUR - minute)
    side = draw.choice(("past", "after") if minute < 30 else ("to", "before"))
    if count == 15 and draw.random() < 0.8:
        return f"{draw.choice(('a quarter', 'quarter'))} {side}"
    words = spell(count) if draw.random() < 0.7 else str(count)
    unit = "" if count % 5 == 0 and draw.random() < 0.6 else " " + plural("minute", count)
    return f"{words}{unit} {side}"


def _digits(draw: random.Random, time: int) -> str:
    """On the dial, in digits: ``6.30``, ``6:30``; a full hour is ``6`` or ``6.00``."""
    hour, minute = divmod(time, HOUR)
    if minute == 0 and draw.random() < 0.5:
        return str(_on_the_dial(hour))
    return f"{_on_the_dial(hour)}{draw.choice('.:')}{minute:02}"


def _spoken(draw: random.Random, time: int) -> str:
    """On the dial, in words: ``six thirty``, ``six oh five``; a full hour is ``six``."""
    hour, minute = divmod(time, HOUR)
    words = spell(_on_the_dial(hour))
    if minute == 0:
        return words + draw.choice(("", " o'clock"))
    return f"{words} {'oh ' if minute < 10 else ''}{spell(minute)}"


def _on_the_dial(hour: int) -> int:
    return hour % 12 or 12


def _part(draw: random.Random, hour: int) -> str:
    """A part of the day that an hour belongs to."""
    return draw.choice([part for part, hours in _PARTS.items() if hour in hours])
