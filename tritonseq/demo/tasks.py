"""What the tasks of the embedded checkpoints share: problems whose every answer can be checked.

Nothing here is a data set. A task draws its problems from a seed; one tenth of all that there is
to ask, told apart by a checksum, is kept from training, however it is worded.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Problem:
    """A prompt and its one right answer: what follows the prompt, or what it becomes."""

    prompt: str
    answer: str


class Problems(Protocol):
    """Endless problems of one side of the split: ``unseen`` ones never occur in training."""

    def __call__(self, seed: int, *, unseen: bool) -> Iterator[Problem]: ...


def is_held_out(key: str) -> bool:
    """Is what this names kept from training? True for one key in ten, the same ones for ever."""
    return zlib.crc32(key.encode()) % 10 == 0
