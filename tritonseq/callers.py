"""Warnings at the line of the caller, however deep inside they come up."""

from __future__ import annotations

import sys
import warnings

_OURS = frozenset(("tritonseq", "torch", "contextlib"))
"""Packages whose lines say nothing to a caller: this one, and what wraps its functions."""

_THREADS = frozenset(("threading", "concurrent"))
_NOWHERE = 1 << 20
"""More frames than there are; Python then names no line at all."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """As `warnings.warn`, at the caller's line; in a thread of ours, at no line."""
    warnings.warn(message, category, stacklevel=_level())


def _level() -> int:
    """How far up from `warn` the first frame is that is not ours."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _package(frame.f_globals) in _OURS:
        frame, level = frame.f_back, level + 1
    return _NOWHERE if _package(frame.f_globals) in _THREADS else level


def _package(names: dict[str, object]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]
