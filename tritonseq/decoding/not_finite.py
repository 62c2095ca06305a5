"""Scores that are no numbers: where they come from, told once a search has met them.

Nothing is looked at beforehand: a scan of all weights costs a part of the time that loading them
takes, for every model that is well. A search notes what it has chosen by, and asks at its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 3


class NotFinite(ValueError):
    """The scores of a step are NaN, or infinite where nobody made them so."""


def refuse(scores: Tensor, *, infinite: bool = False) -> None:
    """Raise NotFinite if NaN is among the `scores`, or with `infinite`, infinity.

    Waits for the device.
    """
    strange = scores.isnan() | (scores == torch.inf) if infinite else scores.isnan()
    if bool(strange.any()):
        raise NotFinite("the scores of the model are no numbers (NaN or infinite)")


def explain(decoder: Any, dtype: torch.dtype) -> NotFinite:
    """What to tell of a `Network`: which weights are broken, or what outgrows the dtype."""
    broken = decoder.broken_weights()
    start = "the scores of the model are no numbers (NaN or infinite): "
    name = str(dtype).removeprefix("torch.")
    if broken:
        more = len(broken) - _SHOWN
        names = ", ".join(broken[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        outgrown = "" if dtype == torch.float32 else f', or pass dtype="float32" if {name} is why'
        return NotFinite(f"{start}its weights hold such in {names}: fetch them again{outgrown}")
    if dtype == torch.float32:
        return NotFinite(
            f"{start}its weights are finite, and what is computed of them is not; "
            "is the checkpoint damaged, or do the options leave no token at all?"
        )
    return NotFinite(
        f'{start}they outgrow {name} on their way: load the model with dtype="float32"'
        + (', or "bfloat16"' if dtype == torch.float16 else "")
    )
