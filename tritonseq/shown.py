"""Values and errors as messages show them: in one line, and short, whatever they are."""

from __future__ import annotations

import re
import reprlib
from typing import Any

_LARGE = 10**30


def shown(value: Any, most: int = 60) -> str:
    """What `repr` says of a value, cut after `most` characters; never raises an error."""
    text = re.sub(r"\s*\n\s*", " ", _Short(most).repr(value))
    return text if len(text) <= most else f"{text[: most - 3]}..."


def first_line(error: BaseException) -> str:
    """What an error says, as far as its first line."""
    return str(error).partition("\n")[0]


class _Short(reprlib.Repr):
    """No more of what is long than can be shown, and in its order."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.maxlist = self.maxtuple = self.maxarray = self.maxdeque = most
        self.maxset = self.maxfrozenset = most

    def repr_str(self, x: str, level: int) -> str:
        return repr(x[: self.most])

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x[: self.most])

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write thousands of digits, and a hundred say no more to a reader.
        return f"an integer of {x.bit_length()} bits" if abs(x) >= _LARGE else repr(x)

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        if level <= 0:
            return "{...}"
        some = list(x.items())[: self.most]
        pairs = (f"{self.repr1(key, level - 1)}: {self.repr1(v, level - 1)}" for key, v in some)
        return "{" + ", ".join(pairs) + ", ..." * (len(x) > len(some)) + "}"

    def repr_instance(self, x: Any, level: int) -> str:
        try:
            return repr(x)
        except Exception:
            return f"<{type(x).__name__}>"
