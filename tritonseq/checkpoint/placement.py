"""From the tensors of a checkpoint to the memory of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tritonseq.models.parameters import lay_out, place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tritonseq.models.parameters import Source

    from .weights import WeightReader


def fill(
    model: Any,
    sources: Mapping[str, Source],
    reader: WeightReader,
    device: torch.device,
    dtype: torch.dtype,
    *,
    share: bool = False,
) -> None:
    """Give every parameter of `model` its memory and its values; see `weights_of`."""
    for names, weight in weights_of(model, sources, reader, device, dtype, share=share):
        place(model, names, weight)


def weights_of(
    model: Any,
    sources: Mapping[str, Source],
    reader: WeightReader,
    device: torch.device,
    dtype: torch.dtype,
    *,
    share: bool = False,
) -> Iterator[tuple[list[str], Tensor]]:
    """The weights of `model`, one by one, each with the names of the parameters that it is.

    Parameters of one source share one tensor. With `share`, a tensor of the reader's that can
    serve as it is becomes the parameter itself. What has no source is computed by the model.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    sharing: dict[Source | str, list[str]] = {}
    # Largest first: while the embedding is copied, little else has been allocated yet.
    for name in sorted(shapes, key=lambda name: -shapes[name].numel()):
        sharing.setdefault(sources.get(name, name), []).append(name)
    for source, names in sharing.items():
        if isinstance(source, str):
            yield names, model.computed(source).to(device=device, dtype=dtype)
            continue
        parts = [_read(reader, part, transpose=source.transpose) for part in source.names]
        if share and len(parts) == 1:
            yield names, parts[0].to(device=device, dtype=dtype)
            continue
        weight = lay_out(model, names, shapes[names[0]], device=device, dtype=dtype)
        _join(parts, weight)
        yield names, weight


def _join(parts: Sequence[Tensor], weight: Tensor) -> None:
    """Copy `parts` into `weight`, side by side along its last dimension."""
    if len(parts) == 1:
        weight.copy_(parts[0])
        return
    width = weight.shape[-1] // len(parts)
    for part, own in zip(parts, weight.split(width, dim=-1), strict=True):
        own.copy_(part)


def _read(reader: WeightReader, name: str, *, transpose: bool) -> Tensor:
    """A tensor of the checkpoint, turned its way; ValueError unless it is plain numbers.

    No gradient leads back to it, though a file may hold the parameters of a model in training.
    """
    tensor = reader.read(name)
    # Subclasses, integers and one-byte floats keep a part of their values elsewhere: the scales.
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.is_floating_point()
    if not plain or tensor.itemsize < 2:
        kind = f"{type(tensor).__name__} of {tensor.dtype}"
        raise ValueError(f"{name} is a {kind}: only plain float weights are supported")
    if tensor.layout is not torch.strided or tensor.is_meta:
        kind = "a tensor without values" if tensor.is_meta else f"a {tensor.layout} tensor"
        raise ValueError(f"{name} is {kind}: only plain float weights are supported")
    tensor = tensor.detach()
    return tensor.t() if transpose else tensor
