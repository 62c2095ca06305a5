"""Whatever a message shows is one short line."""

from __future__ import annotations

from typing import Any

import pytest

from tritonseq.shown import shown


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError


class Wide:
    def __repr__(self) -> str:
        return "tensor([1,\n        2])"


DEEP: list[Any] = []
DEEP.append(DEEP)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"), (True, "True"), (None, "None"), (1.5, "1.5"), ("a  b\n", r"'a  b\n'"),
        ([1, "x", (2,)], "[1, 'x', (2,)]"), ({"b": 1, "a": [2]}, "{'b': 1, 'a': [2]}"),
        (list(range(9)), "[0, 1, 2, 3, 4, 5, 6, 7, 8]"), (b"x", "b'x'"), ({1}, "{1}"),
        (10**31, "an integer of 103 bits"), (-(10**5000), "an integer of 16610 bits"),
        ([10**5000], "[an integer of 16610 bits]"),
        ({1: 10**5000}, "{1: an integer of 16610 bits}"),
        (Hostile(), "<Hostile>"), ([Hostile()], "[<Hostile>]"), (Wide(), "tensor([1, 2])"),
    ],
    ids=lambda _: "value",
)  # fmt: skip
def test_plain_values_are_as_python_has_them(value: Any, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize("value", ["x" * 10**6, list(range(10**5)), {i: i for i in range(99)}])
def test_what_is_long_is_cut(value: Any) -> None:
    assert shown(value)[:9] == repr(value[:9] if isinstance(value, str) else value)[:9]
    assert len(shown(value)) <= 60 and len(shown(value, 20)) <= 20


def test_what_holds_itself_ends() -> None:
    assert shown(DEEP) == "[[[[[[[...]]]]]]]"
