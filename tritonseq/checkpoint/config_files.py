"""Which file holds the configuration of a network: config.json, unless the model is older."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .json_files import is_there, read_json

if TYPE_CHECKING:
    from pathlib import Path

USUAL = ("config.json", "bert_config.json")
# Those of other things.
OTHERS = frozenset(
    f"{thing}_config.json"
    for thing in ("adapter", "generation", "preprocessor", "processor", "quantize", "tokenizer")
)


def find_config(path: Path) -> Path | None:
    """The configuration in a checkpoint folder, or beside a file with weights.

    `config.json` or `bert_config.json`, else the only file whose name ends in `config.json`.
    Before all comes one that is named after the file: `NAME-config.json` beside `NAME.bin`.
    Raises ValueError for what has such a name and is no file.
    """
    folder = path.parent if path.is_file() else path
    own = (f"{path.stem}-config.json", f"{path.stem}_config.json") if path.is_file() else ()
    for name in (*own, *USUAL):
        if is_there(folder / name):
            return folder / name
    found = [file for file in folder.glob("*config.json") if file.name not in OTHERS]
    return found[0] if len(found) == 1 and is_there(found[0]) else None


def read_config(path: Path, other: Path | None = None) -> dict[str, Any]:
    """What `find_config` finds; ValueError if there is none, there and in the folder `other`."""
    for place in (path, other):
        found = None if place is None else find_config(place)
        if found is not None:
            return read_json(found)
    raise ValueError(
        f"{path.parent if path.is_file() else path} has no config.json, and no single other file "
        "with the configuration of a network: put it there, or name a folder that has it by "
        "tokenizer= (--tokenizer), or pass all of its keys as config="
    )
