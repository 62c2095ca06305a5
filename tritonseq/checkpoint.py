"""From a checkpoint folder, or a live transformers model, to a network with its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tritonseq.models import model_class
from tritonseq.models.layers import Source, empty_weight, set_parameter

from .weights import open_weights, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from .weights import WeightReader

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Checkpoint(NamedTuple):
    """What a checkpoint says: the network, and the defaults for generating with it."""

    decoder: nn.Module
    generation: dict[str, Any]
    """Generation parameters by transformers' names; those from config.json stand among others."""


def load_checkpoint(
    folder: Path, *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
) -> Checkpoint:
    """Build the network that a folder in Hugging Face format describes.

    Every weight is copied from its file straight to the wanted device, dtype and memory layout,
    the largest first: the peak of host memory stays near the size of the finished weights.

    device: "auto" is the first GPU if there is one, else the CPU.
    dtype: "auto" is the one that config.json names, else float32; see `resolve_dtype`.

    Raises ValueError that names the file, key or tensor at fault.
    """
    config = read_config(folder)
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, config, device)
    reader = open_weights(folder)
    model, sources = _plan(config, reader)
    _fill(model, sources, reader, device, dtype)
    return Checkpoint(model, read_generation(folder, config))


def from_transformers_model(hf_model: Any) -> Checkpoint:
    """Build the network around the weights of a live transformers model.

    Parameters are the model's own tensors or transposed views of them; only a tensor of another
    dtype or device than the first one's is copied. transformers itself is not imported: all that
    is used is `config.to_dict()`, `generation_config.to_dict()` and `state_dict()`.

    Raises ValueError for anything else than such a model, for an unsupported `model_type`, and
    for weights that are quantised or not in memory.
    """
    if not hasattr(getattr(hf_model, "config", None), "to_dict") or not hasattr(
        hf_model, "state_dict"
    ):
        raise ValueError(f"a {type(hf_model).__name__} is not a transformers model")
    # torch.compile wraps the model that it compiles.
    hf_model = getattr(hf_model, "_orig_mod", hf_model)
    config = hf_model.config.to_dict()
    reader = _Live(hf_model.state_dict())
    model, sources = _plan(config, reader)
    first = reader.read(next(iter(sources.values())).name)
    if first.dtype not in DTYPES.values():
        raise ValueError(f"weights of {first.dtype} are not supported: use {', '.join(DTYPES)}")
    for name, source in sources.items():
        value = _read(reader, source)
        set_parameter(model, name, value.to(device=first.device, dtype=first.dtype))
    defaults = getattr(hf_model, "generation_config", None)
    return Checkpoint(model, _stated(config if defaults is None else defaults.to_dict()))


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json, so it is no checkpoint folder")
    return read_json(path)


def read_generation(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The generation parameters of a checkpoint.

    Those of generation_config.json, if there is one; older checkpoints keep them in config.json.
    """
    path = folder / "generation_config.json"
    return _stated(read_json(path) if path.is_file() else config)


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that a user named; "auto" is the first GPU if there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not known: say 'auto', 'cpu' or 'cuda'") from error
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"device {str(device)!r} is not here: torch sees {count} GPUs")
    return resolved


def resolve_dtype(
    dtype: str | torch.dtype, config: Mapping[str, Any], device: torch.device
) -> torch.dtype:
    """The dtype of the weights in memory.

    "auto" takes what config.json states, else float32. On the CPU it turns float16 into float32:
    processors compute in float16 slowly where they can at all, and float32 holds the same values.
    """
    if dtype == "auto":
        stated = str(config.get("dtype") or config.get("torch_dtype"))
        found = DTYPES.get(stated.removeprefix("torch."), torch.float32)
        return torch.float32 if found == torch.float16 and device.type == "cpu" else found
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not supported: say 'auto', {', '.join(DTYPES)}")
    return DTYPES[name]


class _Live:
    """The state of a model in memory, read like a file."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = state
        self.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}

    def read(self, name: str) -> Tensor:
        tensor = self._state[name].detach()
        if tensor.is_meta:
            raise ValueError(f"{name} is not in memory: load the model without offloading")
        return tensor


def _plan(config: Mapping[str, Any], reader: WeightReader) -> tuple[nn.Module, dict[str, Source]]:
    """The empty network, and the tensor that each of its parameters comes from."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ValueError(f"config.json: model_type is {model_type!r}, not a name")
    if config.get("quantization_config"):
        raise ValueError("quantised checkpoints are not supported: use one with plain weights")
    cls = model_class(model_type)
    own = cls.Config.from_dict(config)
    model: nn.Module = cls(own)
    sources: dict[str, Source] = cls.sources(reader.shapes.keys(), own)
    for name, parameter in model.named_parameters():
        source = sources[name]
        found, wanted = reader.shapes[source.name], tuple(parameter.shape)
        wanted = wanted[::-1] if source.transpose else wanted
        if found != wanted:
            raise ValueError(
                f"{source.name} has shape {list(found)}, but config.json asks for {list(wanted)}"
            )
    return model, sources


def _fill(
    model: Any,
    sources: Mapping[str, Source],
    reader: WeightReader,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Give every parameter of `model` its memory and its values."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    # Largest first: while the embedding is copied, little else has been allocated yet.
    for name in sorted(shapes, key=lambda name: -shapes[name].numel()):
        weight = empty_weight(shapes[name], model.input_dim(name), device=device, dtype=dtype)
        weight.copy_(_read(reader, sources[name]))
        set_parameter(model, name, weight)


def _read(reader: WeightReader, source: Source) -> Tensor:
    """The tensor a parameter comes from, turned its way; ValueError unless it is plain numbers."""
    tensor = reader.read(source.name)
    # Subclasses, integers and one-byte floats keep a part of their values elsewhere: the scales.
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.is_floating_point()
    if not plain or tensor.itemsize < 2:
        kind = f"{type(tensor).__name__} of {tensor.dtype}"
        raise ValueError(f"{source.name} is a {kind}: only plain float weights are supported")
    return tensor.t() if source.transpose else tensor


def _stated(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Without the keys whose value is None, which is how transformers writes "not set"."""
    return {key: value for key, value in parameters.items() if value is not None}
