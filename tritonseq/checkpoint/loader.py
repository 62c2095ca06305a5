"""Loading a checkpoint folder, or a live transformers model, as a network with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tritonseq.models import model_class
from tritonseq.models.config_checks import check_general, compare
from tritonseq.models.matmul import address
from tritonseq.models.network import is_multiplied_by, lay_out, place, quantized

from .devices import DTYPES, check_source_cache, resolve_device, resolve_dtype
from .elsewhere import check_kind
from .files import find_config, is_there, read_config, read_json
from .live import Watch, plain_state, unwrapped_model
from .state_dict import refuse_adapter, refuse_parts, tied, unwrapped
from .unilm import generation_defaults, translate
from .unilm_family import MODEL_TYPES, is_unilm, refuse_bert
from .weights import open_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import nn

    from tritonseq.models.network import TensorSpec

    from .weights import WeightReader


ENDS = ("eos_token_id", "pad_token_id")
"""Keys of a network's configuration that are also parameters of generation."""
GENERATION = "generation_config.json"


def fill(model: Any, weights: Iterator[tuple[list[str], Tensor]]) -> None:
    """Give every parameter of `model` its values, which `weights_of` yields."""
    for names, weight in weights:
        place(model, names, weight)


def weights_of(
    model: Any,
    sources: Mapping[str, TensorSpec],
    reader: WeightReader,
    device: torch.device,
    dtype: torch.dtype,
    *,
    share: bool = False,
) -> Iterator[tuple[list[str], Tensor]]:
    """The weights of `model`, one by one, each with the names of the parameters that it is.

    Parameters of one source share one tensor. With `share`, a tensor of the reader's that can
    serve as it is becomes the parameter itself. What has no source is computed by the model.
    With int8 as `dtype`, weights of products come quantized, and shared with nothing; all else
    is float32.
    """
    as_int8, dtype = dtype == torch.int8, torch.float32 if dtype == torch.int8 else dtype
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    sharing: dict[tuple[TensorSpec | str, bool], list[str]] = {}
    # Largest first: while the embedding is copied, little else has been allocated yet.
    for name in sorted(shapes, key=lambda name: -shapes[name].numel()):
        key = sources.get(name, name), as_int8 and is_multiplied_by(model, name)
        sharing.setdefault(key, []).append(name)
    for (source, quantizes), names in sharing.items():
        if isinstance(source, str):
            yield names, model.computed(source).to(device=device, dtype=dtype)
            continue
        parts = [_read(reader, part, transpose=source.transpose) for part in source.names]
        if share and len(parts) == 1:
            weight = parts[0].to(device=device, dtype=dtype)
        else:
            weight = lay_out(model, names, shapes[names[0]], device=device, dtype=dtype)
            _join(parts, weight, source)
        yield names, quantized(model, names[0], weight) if quantizes else weight


def _join(parts: Sequence[Tensor], weight: Tensor, source: TensorSpec) -> None:
    """Copy `parts` into `weight`, side by side along its last dimension."""
    if len(parts) == 1:
        weight.copy_(parts[0])
        return
    widths = list(source.parts(weight.shape[-1]))
    for part, own in zip(parts, weight.split(widths, dim=-1), strict=True):
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


class Checkpoint(NamedTuple):
    """What a checkpoint says: the network, and the defaults for generating with it."""

    decoder: nn.Module
    generation: dict[str, Any]
    """Generation parameters by transformers' names; those from config.json stand among others."""
    tasks: dict[str, dict[str, Any]]
    """Generation parameters and prefixes by task: `task_specific_params` of config.json."""
    config: dict[str, Any]
    """What config.json says, with the caller's changes; of UniLMs, in one form for all."""
    origin: str = "the checkpoint"
    """Which file says how to generate."""
    watch: Watch | None = None
    """Of a live model: what sees that its weights stay as they are."""


def load_checkpoint(
    path: Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    model_type: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    tokenizer: Path | None = None,
    source_cache: str = "projected",
    fill: Callable[[Any, Iterator[tuple[list[str], Tensor]]], None] = fill,
) -> Checkpoint:
    """Build the network that a folder in Hugging Face format describes, or a file with weights.

    Every weight is copied from its file straight to the wanted device, dtype and memory layout,
    the largest first: the peak of host memory stays near the size of the finished weights.

    device: "auto" is the first GPU if there is one, else the CPU.
    dtype: "auto" is the one that config.json names, else float32; see `resolve_dtype`. Weights are
        quantized to int8 one by one.
    model_type: the architecture, whatever config.json says.
    overrides: keys that count instead of those of config.json.
    tokenizer: the folder of the tokenizer, which tells a UniLM its special tokens, and which may
        hold the configuration as well if there is none beside the weights.
    source_cache: what caches keep of sources, one of `SOURCE_CACHES`.
    fill: what gives the network its weights; see `weights_of`.

    Raises ValueError that names the file, key or tensor at fault.
    """
    check_source_cache(source_cache, dtype)
    if not isinstance(overrides, Mapping | None):
        raise ValueError(f"config is {overrides!r}: pass a mapping from keys of config.json")
    folder = path.parent if path.is_file() else path
    refuse_adapter(folder)
    changes = dict(overrides or {})
    model_type = changes.pop("model_type", None) if model_type is None else model_type
    if path.is_file() and find_config(path) is None and "num_hidden_layers" in changes:
        stated: dict[str, Any] = {}  # the caller says it all
    else:
        stated = read_config(path, tokenizer)
    named = {} if model_type is None else {"model_type": model_type}
    check_kind({**stated, **changes, **named})
    config, reader = _describe(
        stated, changes, model_type, open_weights(path), tokenizer=tokenizer or folder
    )
    if config.get("model_type") != "unilm" and config.get("model_type") in MODEL_TYPES:
        refuse_bert(reader.shapes)
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, {**stated, **changes, **config}, device)
    model, sources = _plan(config, reader, source_cache)
    fill(model, weights_of(model, sources, reader, device, dtype))
    ends = {key: changes[key] for key in ENDS if changes.get(key) is not None}
    generation = read_generation(folder, config) | ends
    origin = GENERATION if is_there(folder / GENERATION) else "config.json"
    return Checkpoint(model, generation, _tasks(config), config, str(folder / origin))


def from_transformers_model(
    hf_model: Any, dtype: str | torch.dtype = "auto", source_cache: str = "projected"
) -> Checkpoint:
    """Build the network around the weights of a live transformers model.

    Parameters are the model's own tensors or transposed views of them wherever that is possible.
    Copied are tensors of another device than the first one's or another dtype than `dtype` ("auto":
    than the first one's), projections that are joined into one product, and weights that are
    packed for the CPU or quantized. transformers itself is not
    imported: all that is used is `config.to_dict()`, `generation_config.to_dict()` and
    `state_dict()`.

    Raises ValueError for anything else than such a model, for an unsupported `model_type`, for
    weights that are quantised or not in memory, and for what was put into the model and counts
    beside its weights: adapters, hooks, modules of other makers.
    """
    check_source_cache(source_cache, dtype)
    hf_model = unwrapped_model(hf_model)
    stated = hf_model.config.to_dict()
    check_kind(stated)
    config, reader = _describe(stated, {}, None, plain_state(hf_model))
    model, sources = _plan(config, reader, source_cache)
    first = reader.read(next(iter(sources.values())).names[0])
    if first.dtype not in DTYPES.values():
        raise ValueError(f"weights of {first.dtype} are not supported: use {', '.join(DTYPES)}")
    chosen = first.dtype if dtype == "auto" else resolve_dtype(dtype, config, first.device)
    fill(model, weights_of(model, sources, reader, first.device, chosen, share=True))
    defaults = getattr(hf_model, "generation_config", None)
    generation = config if defaults is None else defaults.to_dict()
    if config["model_type"] == "unilm":
        generation = generation_defaults(config)
    origin = "the model's generation_config"
    watch = Watch(hf_model, _copied(model, sources, reader))
    return Checkpoint(model, _stated(generation), _tasks(config), config, origin, watch)


def _copied(model: nn.Module, sources: Mapping[str, TensorSpec], reader: WeightReader) -> set[int]:
    """Where the tensors begin that a parameter of `model` holds the values of, but is not."""
    copied = set()
    for name, source in sources.items():
        own = address(model.get_parameter(name))
        read = {reader.read(part).data_ptr() for part in source.names}
        copied |= read - {own}
    return copied


def read_generation(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The generation parameters of a checkpoint.

    Those of generation_config.json, if there is one; older checkpoints keep them in config.json.
    As in transformers, what is left out there is not known, whatever tokens an architecture
    has by default. A UniLM has its own defaults.
    """
    path = folder / GENERATION
    stated = _stated(read_json(path)) if is_there(path) else None
    if config.get("model_type") == "unilm":
        return {**generation_defaults(config), **(stated or {})}
    return _stated(config) if stated is None else stated


def _describe(
    stated: Mapping[str, Any],
    changes: Mapping[str, Any],
    model_type: str | None,
    reader: WeightReader,
    *,
    tokenizer: Path | None = None,
) -> tuple[dict[str, Any], WeightReader]:
    """The configuration and the tensors as the network reads them, whatever the family."""
    config = {**stated, **changes} | ({} if model_type is None else {"model_type": model_type})
    refuse_parts(config, reader.shapes)
    reader = unwrapped(reader, config.get("model_type"))
    if config.get("model_type") in MODEL_TYPES and is_unilm(config, reader.shapes):
        return translate(stated, changes, reader, tokenizer=tokenizer)
    return config, reader


def _plan(
    config: Mapping[str, Any], reader: WeightReader, source_cache: str
) -> tuple[nn.Module, dict[str, TensorSpec]]:
    """The empty network, and the tensor that each of its parameters comes from."""
    cls = model_class(_model_type(config))
    own = cls.Config.from_dict(config)
    if config["model_type"] != "unilm":
        # Which is none of transformers' models: its own code knows no such keys.
        positions = getattr(own, "n_positions", getattr(own, "max_position_embeddings", None))
        check_general(config, has_encoder=cls.is_encoder_decoder, positions=positions)
    names = reader.shapes.keys()
    cut = compare(cls.sizes(names, own), reader.shapes)
    if cut:
        # Whole stacks are missing: in a network of a layer each shows what else is.
        cls.tensor_specs(names, replace(own, **cut))
    model: Any = cls(own)
    model.keep_of_sources(source_cache)
    sources: dict[str, TensorSpec] = cls.tensor_specs(reader.shapes.keys(), own)
    for name, parameter in model.named_parameters():
        if name in sources:
            _check_shape(sources[name], tuple(parameter.shape), reader)
    return model, tied(sources, cls.tied(own), reader, config)


def _model_type(config: Mapping[str, Any]) -> str:
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ValueError(f"config.json: model_type is {model_type!r}, not a name")
    return model_type


def _check_shape(source: TensorSpec, wanted: tuple[int, ...], reader: WeightReader) -> None:
    """Raise ValueError unless the tensors of `source` make up a parameter of shape `wanted`."""
    shapes = [wanted]
    if len(source.names) > 1:
        shapes = [(*wanted[:-1], width) for width in source.parts(wanted[-1])]
    for name, shape in zip(source.names, shapes, strict=True):
        each = shape[::-1] if source.transpose else shape
        if reader.shapes[name] != each:
            raise ValueError(
                f"{name} has shape {list(reader.shapes[name])}, "
                f"but config.json asks for {list(each)}"
            )


def _tasks(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    tasks = config.get("task_specific_params") or {}
    if not isinstance(tasks, dict) or not all(isinstance(task, dict) for task in tasks.values()):
        raise ValueError("config.json: task_specific_params must map names to parameters")
    return tasks


def _stated(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Without the keys whose value is None, which is how transformers writes "not set"."""
    return {key: value for key, value in parameters.items() if value is not None}
