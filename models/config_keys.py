"""Keys of a config.json that transformers heeds in every family, whatever its own code reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritonseq.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

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
