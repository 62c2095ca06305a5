"""The members of a JSON object as they stand in a file, so that they are carried byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_SPACE = re.compile(r"[ \t\r\n]*")

# Numbers are only passed over, and may be longer than Python likes to read.
_SCANNER = json.JSONDecoder(parse_int=len, parse_float=len)


class Member(NamedTuple):
    """A name with its value, by their places in the text of the object."""

    name: str
    start: int
    """Where the name begins."""
    value: int
    """Where the value begins."""
    end: int
    """Where it ends."""


class Members(Mapping[str, Any]):
    """Those of one object, read from its text; the values of a name that comes twice are both kept.

    As a mapping it has the values that are carried through, the last one of each name.
    """

    def __init__(self, text: str, dropped: Collection[str] = ()) -> None:
        """`text` is one valid JSON object; the members `dropped` are not carried through."""
        self._text = text
        self._all = list(_members(text))
        self._carried = [member for member in self._all if member.name not in dropped]

    @property
    def carried(self) -> str:
        """The members that are carried through, as they stand in the text, commas between them."""
        if not self._carried:
            return ""
        after = {one.start: two.start for one, two in zip(self._all, self._all[1:], strict=False)}
        *others, last = self._carried
        parts = [self._text[member.start : after[member.start]] for member in others]
        return "".join(parts) + self._text[last.start : last.end]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all members, carried or not."""
        return tuple(member.name for member in self._all)

    def raw(self, path: str) -> str | None:
        """The value under a name as it stands in the text; None if there is none.

        A name with dots that no member has leads into objects: "a.b" is the "b" of "a". Raises
        ValueError if there are several.
        """
        found = [member for member in self._all if member.name == path]
        if len(found) > 1:
            raise ValueError(f"the field {path!r} is there {len(found)} times: leave one")
        if found:
            return self._text[found[0].value : found[0].end]
        outer, dot, inner = path.partition(".")
        value = self.raw(outer) if dot else None
        if value is None or not value.startswith("{"):
            return None
        return Members(value).raw(inner)

    def __getitem__(self, name: str) -> Any:
        for member in reversed(self._carried):
            if member.name == name:
                return json.loads(self._text[member.value : member.end])
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(member.name for member in self._carried))

    def __len__(self) -> int:
        return len({member.name for member in self._carried})


def _members(text: str) -> Iterator[Member]:
    at = _after_space(text, _after_space(text, 0) + 1)
    while text[at] != "}":
        name, end = _SCANNER.raw_decode(text, at)
        # Behind the name stands a colon.
        value = _after_space(text, _after_space(text, end) + 1)
        _, end = _SCANNER.raw_decode(text, value)
        yield Member(name, at, value, end)
        at = _after_space(text, end)
        if text[at] == ",":
            at = _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None, "it matches nothing, too"
    return found.end()
