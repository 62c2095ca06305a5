"""Reading a JSON file, unless a pointer of Git LFS stands in its place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError that names the file if there is none."""
    refuse_pointer(path)
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object but a {type(value).__name__}")
    return value


def refuse_pointer(path: Path) -> None:
    """Raise ValueError if a clone without Git LFS left a pointer where the file should be."""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(20)
        if start.startswith(b"version https://git-"):
            raise ValueError(f"{path} is only a Git LFS pointer: run `git lfs pull` in its folder")
