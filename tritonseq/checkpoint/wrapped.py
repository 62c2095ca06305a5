"""Weights whose names begin with the name of what the model was wrapped in while it was saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonseq.models.network import OTHER_HEADS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from .weights import WeightReader

# DistributedDataParallel, torch.compile, Lightning, value heads of reinforcement learning, and
# what transformers calls the body of a classifier that is made of a T5.
WRAPPERS = ("module.", "_orig_mod.", "model.", "pretrained_model.", "transformer.")
# What models call their own body.
BODIES = {"gpt2": "transformer."} | dict.fromkeys(("bart", "marian", "mbart", "pegasus"), "model.")


def unwrapped(reader: WeightReader, model_type: object) -> WeightReader:
    """`reader` with names that begin with no wrapper of a model of this type.

    A prefix goes if every tensor has it; heads of other tasks, which stand outside, do not count.
    """
    names = {name: name for name in reader.shapes}
    body = BODIES.get(model_type, "") if isinstance(model_type, str) else ""
    while prefix := _common(names):
        if prefix == body and not any(name.startswith(body * 2) for name in names):
            break
        names = {name.removeprefix(prefix): old for name, old in names.items()}
    return reader if all(new == old for new, old in names.items()) else _Renamed(reader, names)


def _common(names: dict[str, str]) -> str | None:
    own = [name for name in names if not name.startswith(OTHER_HEADS)]
    found = (prefix for prefix in WRAPPERS if all(name.startswith(prefix) for name in own))
    return next(found, None) if own else None


class _Renamed:
    """The tensors of another reader under other names."""

    def __init__(self, reader: WeightReader, names: dict[str, str]) -> None:
        self._reader = reader
        self._names = names
        self.shapes = {new: reader.shapes[old] for new, old in names.items()}

    def read(self, name: str) -> Tensor:
        return self._reader.read(self._names[name])

    def pieces(self, name: str) -> Iterator[Tensor]:
        return self._reader.pieces(self._names[name])
