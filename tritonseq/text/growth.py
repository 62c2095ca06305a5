"""How much longer the steps of a tokenizer.json can make a text: a few of them, beyond memory."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

MOST_TIMES = 4096
"""Those of published tokenizers make texts up to two or three times longer."""


def refuse_growth(path: Path, backend: Any) -> None:
    """Raise ValueError if what changes texts, or what joins tokens, can make them too long.

    By what the steps would put there, at every place where they could.
    """
    for name in ("normalizer", "decoder"):
        part = getattr(backend, name)
        times = 1 if part is None else _times(json.loads(part.__getstate__()))
        if times > MOST_TIMES:
            raise ValueError(
                f"{path} is refused: its {name} can make texts more than {MOST_TIMES} times "
                "longer, which no tokenizer does: fetch it again, or call generate with token ids"
            )


def _times(step: dict[str, Any]) -> float:
    """By how much a step can multiply the length of a text that is not empty."""
    kind = step.get("type")
    if kind == "Sequence":
        return math.prod(map(_times, step.get("normalizers") or step.get("decoders") or ()))
    if kind == "Prepend":
        return 1 + len(step["prepend"])
    if kind == "Replace":
        return _replaced(step["pattern"], len(step["content"]))
    return 1


def _replaced(pattern: dict[str, str], length: int) -> float:
    """A pattern of no length is found between all characters, which stay."""
    if shown := pattern.get("String"):
        return max(1, length / len(shown))
    return 1 + length if _finds_nothing(pattern.get("Regex", "")) else max(1, length)


def _finds_nothing(pattern: str) -> bool:
    try:
        return re.search(pattern, "") is not None
    except re.error:  # of Oniguruma's own syntax
        return False
