"""Checks of what a config.json says, with errors that name the key."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from tritonseq.shown import shown

MOST = 2**40
"""What no size of a network reaches. The product of any two fits into 128 bits, not into 64, so
products are checked where weights are made."""


def check_types(config: Any) -> None:
    """Demand of every field of a dataclass the type that it is declared with.

    As transformers does, no number passes for a flag, and no flag for a number; where a float
    is wanted an integer is one too. Raises ValueError that names the key.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        kind, _, rest = str(field.type).partition(" | ")
        if value is None and rest == "None":
            continue
        types, wanted = _TYPES[kind]
        if type(value) not in types:
            raise ValueError(f"config.json: {field.name} must be {wanted}, not {shown(value)}")


_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "true or false"),
    "int": ((int,), "an integer"),
    "float": ((int, float), "a number"),
    "str": ((str,), "a name"),
}


def check_flag(config: Any, key: str) -> bool:
    """The flag `key` of a config.json, False if it is not there; ValueError if it is none."""
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"config.json: {key} must be true or false, not {shown(value)}")
    return bool(value)


def check_sizes(config: Any, *names: str) -> None:
    """Demand positive integers, and none that only a damaged file can hold."""
    for name in names:
        value = getattr(config, name)
        # True, which Python counts as an integer, is none.
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise ValueError(f"config.json: {name} must be a positive integer, not {shown(value)}")
        if value >= MOST:
            raise ValueError(f"config.json: {name} is {shown(value)}: no network has such a size")


def check_number(config: Any, name: str) -> None:
    """Demand a positive number."""
    value = getattr(config, name)
    if type(value) not in (int, float) or not 0 < value < MOST:
        raise ValueError(f"config.json: {name} must be a positive number, not {shown(value)}")


def check_name(config: Any, name: str) -> None:
    """Demand a string."""
    value = getattr(config, name)
    if not isinstance(value, str):
        raise ValueError(f"config.json: {name} must be a name, not {shown(value)}")
