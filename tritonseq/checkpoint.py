"""From a checkpoint folder, or a live transformers model, to a network with its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tritonseq.models import MODELS, model_class
from tritonseq.models.weights import Source, empty_weight, place_parameter

from .weights import open_weights, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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
    tasks: dict[str, dict[str, Any]]
    """Generation parameters and prefixes by task: `task_specific_params` of config.json."""


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
    return Checkpoint(model, read_generation(folder, config), _tasks(config))


def from_transformers_model(hf_model: Any) -> Checkpoint:
    """Build the network around the weights of a live transformers model.

    Parameters are the model's own tensors or transposed views of them wherever that is possible.
    Copied are tensors of another dtype or device than the first one's, projections that are
    joined into one product, and weights that are packed for the CPU. transformers itself is not
    imported: all that is used is `config.to_dict()`, `generation_config.to_dict()` and
    `state_dict()`.

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
    first = reader.read(next(iter(sources.values())).names[0])
    if first.dtype not in DTYPES.values():
        raise ValueError(f"weights of {first.dtype} are not supported: use {', '.join(DTYPES)}")
    _fill(model, sources, reader, first.device, first.dtype, share=True)
    defaults = getattr(hf_model, "generation_config", None)
    generation = config if defaults is None else defaults.to_dict()
    return Checkpoint(model, _stated(generation), _tasks(config))


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json, so it is no checkpoint folder")
    return read_json(path)


def read_generation(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The generation parameters of a checkpoint.

    Those of generation_config.json, if there is one; older checkpoints keep them in config.json,
    and leave to their architecture what is left out there.
    """
    path = folder / "generation_config.json"
    if path.is_file():
        return _stated(read_json(path))
    defaults = getattr(model_class(_model_type(config)), "GENERATION", {})
    return _stated({**defaults, **config})


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
    Models that were trained in bfloat16 (T5) get it on GPUs that have it.
    """
    if dtype != "auto":
        name = str(dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is not supported: say 'auto', {', '.join(DTYPES)}")
        return DTYPES[name]
    if _was_trained_in_bfloat16(config) and _has_bfloat16(device):
        return torch.bfloat16
    stated = str(config.get("dtype") or config.get("torch_dtype"))
    found = DTYPES.get(stated.removeprefix("torch."), torch.float32)
    return torch.float32 if found == torch.float16 and device.type == "cpu" else found


def _was_trained_in_bfloat16(config: Mapping[str, Any]) -> bool:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODELS:
        return False
    return getattr(model_class(model_type), "TRAINED_IN_BFLOAT16", False)


def _has_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


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
    cls = model_class(_model_type(config))
    if config.get("quantization_config"):
        raise ValueError("quantised checkpoints are not supported: use one with plain weights")
    own = cls.Config.from_dict(config)
    model: nn.Module = cls(own)
    sources: dict[str, Source] = cls.sources(reader.shapes.keys(), own)
    for name, parameter in model.named_parameters():
        if name in sources:
            _check_shape(sources[name], tuple(parameter.shape), reader)
    return model, _tied(sources, getattr(cls, "TIED", ()), reader)


def _model_type(config: Mapping[str, Any]) -> str:
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ValueError(f"config.json: model_type is {model_type!r}, not a name")
    return model_type


def _check_shape(source: Source, wanted: tuple[int, ...], reader: WeightReader) -> None:
    """Raise ValueError unless the tensors of `source` make up a parameter of shape `wanted`."""
    parts = len(source.names)
    each = (*wanted[:-1], wanted[-1] // parts) if parts > 1 else wanted
    each = each[::-1] if source.transpose else each
    for name in source.names:
        if reader.shapes[name] != each:
            raise ValueError(
                f"{name} has shape {list(reader.shapes[name])}, "
                f"but config.json asks for {list(each)}"
            )


def _tied(
    sources: dict[str, Source], groups: Sequence[Sequence[str]], reader: WeightReader
) -> dict[str, Source]:
    """Point parameters that are copies of each other to the same tensor.

    Checkpoints may repeat a shared embedding under every name it has. As in transformers, a copy
    that differs is a weight of its own, whatever config.json says.
    """
    tied = dict(sources)
    for group in groups:
        first, *others = (name for name in group if name in sources)
        for other in others:
            a, b = tied[first], tied[other]
            if a != b and a.transpose == b.transpose and _same(a, b, reader):
                tied[other] = a
    return tied


def _same(a: Source, b: Source, reader: WeightReader) -> bool:
    (one,), (other,) = a.names, b.names
    return reader.shapes[one] == reader.shapes[other] and torch.equal(
        reader.read(one), reader.read(other)
    )


def _fill(
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
    """A tensor of the checkpoint, turned its way; ValueError unless it is plain numbers."""
    tensor = reader.read(name)
    # Subclasses, integers and one-byte floats keep a part of their values elsewhere: the scales.
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.is_floating_point()
    if not plain or tensor.itemsize < 2:
        kind = f"{type(tensor).__name__} of {tensor.dtype}"
        raise ValueError(f"{name} is a {kind}: only plain float weights are supported")
    return tensor.t() if transpose else tensor


def _tasks(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    tasks = config.get("task_specific_params") or {}
    if not isinstance(tasks, dict) or not all(isinstance(task, dict) for task in tasks.values()):
        raise ValueError("config.json: task_specific_params must map names to parameters")
    return tasks


def _stated(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Without the keys whose value is None, which is how transformers writes "not set"."""
    return {key: value for key, value in parameters.items() if value is not None}
