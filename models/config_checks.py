"""Checks of config.json: values, keys that every family heeds, and sizes beside the weights'.

Sizes are compared before a network is made: one of 50,000 layers takes half a minute to be put
together, and one of 10**9 never ends. The header of the weights says at once that there are 12.
"""

from __future__ import annotations

import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Shapes = Mapping[str, tuple[int, ...]]


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


WINDOWS = ("sliding_window", "attention_chunk_size")
"""Tokens that a layer looks back at."""

# "attention" is what it was called before version 5.
FULL = ("full_attention", "attention")

LAYERED = ("kv_sharing_modes", "per_layer_config")
"""What layers have otherwise than the rest of the network."""


def own_names(config: Mapping[str, Any], general: Mapping[str, str]) -> dict[str, Any]:
    """A configuration by the names that its family has for `general` ones.

    Where both stand, the general one counts, as in transformers; one that is null says nothing.
    """
    named = {key: value for key, value in config.items() if key not in general}
    for key, own in general.items():
        if key in config and (config[key] is not None or own not in named):
            named[own] = config[key]
    return named


def check_general(config: Mapping[str, Any], *, has_encoder: bool, positions: int | None) -> None:
    """Raise ValueError for what transformers would do otherwise than all networks here.

    positions: how many tokens the network can read; None is any number.
    """
    _check_direction(config, has_encoder)
    _check_masks(config, positions)
    for key in LAYERED:
        if config.get(key):
            raise ValueError(
                f"config.json: {key} is {shown(config[key])}: all layers are alike here, and "
                f"none reads the keys of another; {_without(key)}"
            )


def _check_direction(config: Mapping[str, Any], has_encoder: bool) -> None:
    stated = config.get("is_encoder_decoder", has_encoder)
    if stated is not has_encoder:
        does = "reads sources with an encoder" if has_encoder else "has no encoder"
        raise ValueError(
            f"config.json: is_encoder_decoder is {shown(stated)}, and a "
            f"{config.get('model_type')} {does} here: only {str(has_encoder).lower()} is supported"
        )


def _check_masks(config: Mapping[str, Any], positions: int | None) -> None:
    causal, kinds = config.get("is_causal"), config.get("layer_types")
    if causal is not None and causal is not True:
        raise ValueError(
            f"config.json: is_causal is {shown(causal)}: no token here sees those behind it; "
            f"{_without('is_causal')}"
        )
    if kinds is None:
        for key in WINDOWS:
            _check_window(key, config.get(key), positions)
    elif not isinstance(kinds, list | tuple) or not all(kind in FULL for kind in kinds):
        raise ValueError(
            f"config.json: layer_types is {shown(kinds)}: every layer here reads all tokens that "
            f"came before, as 'full_attention' does; {_without('layer_types')}"
        )


def _check_window(key: str, window: Any, positions: int | None) -> None:
    """Raise ValueError for a window that hides any token of those that can be read."""
    if window is None or (positions is not None and type(window) is int and window >= positions):
        return
    wide = "" if positions is None else f", as with a window of {positions} positions or more"
    raise ValueError(
        f"config.json: {key} is {shown(window)}: every layer here reads all tokens that came "
        f"before{wide}; {_without(key)}"
    )


def _without(key: str) -> str:
    return f"take the key out, or pass config={{{key!r}: None}}, to have it so"


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
