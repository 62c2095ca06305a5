"""How values on the command line are read."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tritonseq.options.values import MOST_PROCESSES

_SHOWN = 60
"""Characters of a value that a message shows."""


def argument(annotation: str) -> dict[str, Any]:
    """What argparse is told of a flag for a field of this annotation."""
    kinds = {kind.strip() for kind in annotation.split("|")} - {"None"}
    if kinds == {"bool"}:
        return {"action": argparse.BooleanOptionalAction}
    if kinds == {"int"}:
        return {"type": int, "metavar": "N"}
    if kinds == {"float"}:
        return {"type": float, "metavar": "X"}
    if "bool" in kinds:
        return {"type": value, "nargs": "?", "const": True, "metavar": "VALUE"}
    if "Sequence[Sequence[int]]" in kinds:
        return {"type": words, "metavar": "VALUE"}
    if "Sequence[int]" in kinds:
        return {"type": tokens, "metavar": "VALUE"}
    return {"type": value, "metavar": "VALUE"}


def value(text: str) -> Any:
    """JSON; or integers between commas; or else the text itself."""
    for candidate in (text, f"[{text}]" if "," in text else text):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    return text


def mapping(text: str) -> dict[str, Any]:
    """A JSON object."""
    found = value(text)
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(
            f'{text[:_SHOWN]!r} is no JSON object such as {{"pos_shift": true}}'
        )
    return found


def tokens(text: str) -> Any:
    """As `value`, with a single token as a list of one."""
    found = value(text)
    return [found] if isinstance(found, int) else found


def words(text: str) -> Any:
    """As `value`, with a single word such as 1,2 as a list of one word."""
    found = value(text)
    if isinstance(found, int):
        return [[found]]
    flat = isinstance(found, list) and all(isinstance(item, int) for item in found)
    return [found] if found and flat else found


def devices(text: str) -> tuple[str, ...]:
    """Names between commas, one for each process; "cpu:2" stands for two on the CPU.

    All are of one kind: a text must not come out differently by the device that it met.
    """
    names: list[str] = []
    for name in text.split(","):
        kind, colon, number = name.strip().partition(":")
        is_numbered = number.isascii() and number.isdecimal()
        is_none = kind == "cpu" and is_numbered and not number.strip("0")
        if kind not in ("cpu", "cuda") or (colon and not is_numbered) or is_none:
            raise argparse.ArgumentTypeError(
                f"{name!r} is no device: say cuda:0,cuda:1 for two GPUs, or cpu:2"
            )
        names += ["cpu"] * _processes(name, number) if kind == "cpu" else [name.strip()]
    if len(names) > MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"{len(names)} processes: the most are {MOST_PROCESSES}")
    if len({name.partition(":")[0] for name in names}) > 1:
        raise argparse.ArgumentTypeError(
            f"{text} mixes the CPU with GPUs, whose results differ in the last digits: name one "
            "kind of device"
        )
    return tuple(names)


def _processes(name: str, number: str) -> int:
    """How many "cpu:NUMBER" asks for, looked at before as many names are made."""
    number = number.lstrip("0")
    if len(number) > len(str(MOST_PROCESSES)) or int(number or 1) > MOST_PROCESSES:
        raise argparse.ArgumentTypeError(
            f"{name[:_SHOWN]} asks for more than {MOST_PROCESSES} processes: pass fewer"
        )
    return int(number or 1)


def special_tokens(parsed: argparse.Namespace) -> dict[str, bool]:
    """What is said about special tokens and spaces, as `Model.text_job` takes it."""
    names = ("add_special_tokens", "skip_special_tokens", "clean_up_tokenization_spaces")
    given = {name: getattr(parsed, name) for name in names}
    return {name: flag for name, flag in given.items() if flag is not None}
