"""What a config.json says of sizes beside what the weights show: compared before a network is made.

A network of 50,000 layers takes half a minute to be put together, and one of 10**9 never ends. The
header of the weights says at once that there are 12.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Shapes = Mapping[str, tuple[int, ...]]

MOST_COMPUTED = 2**26
"""Numbers in a table that no file holds and that is computed: 65,536 positions of width 1024."""


class Size(NamedTuple):
    """A key of config.json, and where the weights show it."""

    key: str
    wanted: int
    """What the key asks of the dimension, which may be more than it says itself."""
    dim: int
    names: Sequence[str]
    """The tensors that may show it; the first that is there is asked."""


class Layers(NamedTuple):
    """A key that counts layers, whose tensors are named `PREFIX.0.`, `PREFIX.1.` and so on."""

    key: str
    wanted: int
    prefix: str


def compare(sizes: Iterable[Size | Layers], shapes: Shapes) -> dict[str, int]:
    """Raise ValueError, which names key and tensor, for a size that the weights do not have.

    Takes the time of a look at every name, whatever is asked for. Returns by their keys the
    numbers of layers that no tensor at all has been found for, each cut down to 1: what else is
    wrong shows in a network of so many.
    """
    cut = {}
    for size in sizes:
        if isinstance(size, Size):
            _compare_size(size, shapes)
        elif (found := _count_layers(size.prefix, shapes)) == 0:
            cut[size.key] = 1
        elif size.wanted > found:
            first, last = f"{size.prefix}.{found}", f"{size.prefix}.{size.wanted - 1}"
            missing = f"{first}.*" if first == last else f"{first}.* to {last}.*"
            raise ValueError(
                f"the checkpoint does not fit its config.json: {size.key} is {size.wanted}, and "
                f"the weights have {found} layers; missing: {missing}"
            )
    return cut


def refuse_large_table(key: str, count: int, width: int) -> None:
    """Raise ValueError if a table that is to be computed is larger than any model's."""
    if count * width > MOST_COMPUTED:
        raise ValueError(
            f"config.json: {key} is {count}, and the weights hold no table of positions: one of "
            f"up to {MOST_COMPUTED // width} is computed; is {key} damaged?"
        )


def _compare_size(size: Size, shapes: Shapes) -> None:
    name = next((name for name in size.names if name in shapes), None)
    if name is None:
        return  # which shows when names are compared
    shape = list(shapes[name])
    if size.dim >= len(shape):
        raise ValueError(f"{name} has shape {shape}: too few dimensions to show {size.key}")
    if shape[size.dim] != size.wanted:
        asked = [*shape[: size.dim], size.wanted, *shape[size.dim + 1 :]]
        raise ValueError(
            f"{name} has shape {shape}, but config.json asks for {asked} by {size.key}"
        )


def _count_layers(prefix: str, shapes: Shapes) -> int:
    numbered = re.compile(re.escape(prefix) + r"\.([0-9]+)\.")
    return len({found[1] for name in shapes if (found := numbered.match(name))})
