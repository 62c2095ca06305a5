"""From the tensors of a checkpoint to the memory of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tritonseq.models.weights import empty_weight, place_parameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritonseq.models.weights import Source

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
    """Give every parameter of `model` its memory and its values.

    Parameters of one source share one tensor. With `share`, a tensor of the reader's that can
    serve as it is becomes the parameter itself. What has no source is computed by the model.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    placed: dict[Source, Tensor] = {}
    # Largest first: while the embedding is copied, little else has been allocated yet.
    for name in sorted(shapes, key=lambda name: -shapes[name].numel()):
        source = sources.get(name)
        if source is None:
            place_parameter(model, name, model.computed(name).to(device=device, dtype=dtype))
        elif source in placed:
            place_parameter(model, name, placed[source], pack=False)
        else:
            sharing = [other for other in shapes if sources.get(other) == source]
            parts = [_read(reader, part, transpose=source.transpose) for part in source.names]
            if share and len(parts) == 1:
                weight = parts[0].to(device=device, dtype=dtype)
            else:
                # An embedding that is also the head is laid out for the product.
                dims = (model.input_dim(other) for other in sharing)
                dim = next((dim for dim in dims if dim is not None), None)
                weight = empty_weight(shapes[name], dim, device=device, dtype=dtype)
                _join(parts, weight)
            placed[source] = place_parameter(model, name, weight, pack=len(sharing) == 1)


def _join(parts: Sequence[Tensor], weight: Tensor) -> None:
    """Copy `parts` into `weight`, side by side along its last dimension."""
    if len(parts) == 1:
        weight.copy_(parts[0])
        return
    width = weight.shape[-1] // len(parts)
    for part, place in zip(parts, weight.split(width, dim=-1), strict=True):
        place.copy_(part)


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
