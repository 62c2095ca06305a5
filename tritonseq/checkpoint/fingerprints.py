"""What tells one model from another, beside its weights: the files that are read with them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from .hub import SMALL_FILES
from .json_files import is_there, read_bytes

if TYPE_CHECKING:
    from pathlib import Path


def of_files(folder: Path) -> str:
    """A checksum of the configuration and the tokenizer in a folder, by name and content.

    Other files may come and go: an output of a job, a README.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(SMALL_FILES):
        path = folder / name
        if is_there(path):
            content = read_bytes(path)
            digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()
