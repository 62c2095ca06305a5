"""Checks of what a config.json says, with errors that name the key."""

from __future__ import annotations

import math
from typing import Any


def check_sizes(config: Any, *names: str) -> None:
    """Demand positive integers."""
    for name in names:
        value = getattr(config, name)
        # True, which Python counts as an integer, is none.
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise ValueError(f"config.json: {name} must be a positive integer, not {value!r}")


def check_number(config: Any, name: str) -> None:
    """Demand a positive number."""
    value = getattr(config, name)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"config.json: {name} must be a positive number, not {value!r}")


def check_name(config: Any, name: str) -> None:
    """Demand a string."""
    value = getattr(config, name)
    if not isinstance(value, str):
        raise ValueError(f"config.json: {name} must be a name, not {value!r}")
