"""State dicts that are not plain: adapters and quantised weights, names of wrappers, tied tensors.

What changes a model beside its plain weights is refused. Names that begin with the name of what a
model was wrapped in lose it. Which parameters are one tensor, the weights say: a configuration says
that tables are tied, or says nothing, which means the same. As in transformers, a table that
differs from the one it should be is a weight of its own, whatever config.json says, and a warning
tells it.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch

from tritonseq.callers import warn
from tritonseq.models.network import OTHER_HEADS

from .files import find_config, is_there, read_json
from .weights import RenamedTensors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from tritonseq.models.network import TensorSpec

    from .weights import WeightReader

ADAPTER_CONFIG = "adapter_config.json"
MERGE = "merge_and_unload() of peft, then save_pretrained"
# Adapters of peft that are no change of weights, but tokens or states put before the input.
PROMPTS = ("PROMPT", "PREFIX", "P_TUNING", "CARTRIDGE")

_ADAPTER_PART = re.compile(
    r"(^|\.)(base_layer|lora_\w+|loras|ia3_\w+|hada_\w+|lokr_\w+|oft_\w+|boft_\w+|vera_\w+"
    r"|randlora_\w+|fourierft_\w+|modules_to_save|prompt_encoder|prompt_embeddings|prompt_tuning"
    r"|prefix_tuning|prefix_encoder|soft_prompt\w*|adapters?|adapter_\w+|invertible_adapters)(\.|$)"
    r"|^base_model\.model\."
)
_QUANTISED_PART = re.compile(
    r"\.(qweight|qzeros|g_idx|SCB|CB|absmax|quant_map|quant_state\S*|nested_absmax|weight_scale"
    r"|weight_packed|weight_zero_point|_packed_params\S*|scales)$|\.weight\.(absmax|quant_\S+)$"
)

# DistributedDataParallel, torch.compile, Lightning, value heads of reinforcement learning, and
# what transformers calls the body of a classifier that is made of a T5.
WRAPPERS = ("module.", "_orig_mod.", "model.", "pretrained_model.", "transformer.")
# What models call their own body.
_OF_BART = (
    "bart", "blenderbot", "fsmt", "m2m_100", "marian", "mbart", "mvp", "pegasus", "plbart",
)  # fmt: skip
BODIES = {"gpt2": "transformer."} | dict.fromkeys(_OF_BART, "model.")


def refuse_adapter(folder: Path) -> None:
    """Raise ValueError with the remedy if a folder holds an adapter, with a whole model or alone.

    Whether weights beside it hold the adapter already, no file says.
    """
    path = folder / ADAPTER_CONFIG
    if not is_there(path):
        return
    stated = _read(path)
    kind, base = stated.get("peft_type"), stated.get("base_model_name_or_path")
    of = f" for {base}" if isinstance(base, str) and base else ""
    what = f"{folder} holds an adapter ({kind or 'LoRA'}){of}"
    if isinstance(kind, str) and any(word in kind for word in PROMPTS):
        raise ValueError(
            f"{what}, which stands before the input instead of changing weights: that cannot be "
            f"merged and is not supported; a whole model beside it is taken without "
            f"{ADAPTER_CONFIG}"
        )
    remedy = f"merge the adapter into its base model first ({MERGE}), and pass what is saved"
    if find_config(folder) is None:
        raise ValueError(f"{what} and no whole checkpoint: {remedy}")
    raise ValueError(
        f"{what} beside a whole model, and nothing says whether that has it already: {remedy}; "
        f"if it is merged, remove {ADAPTER_CONFIG}"
    )


def refuse_parts(config: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise ValueError if the configuration or names of tensors show adapters or quantisation."""
    method = config.get("quantization_config") or config.get("compression_config")
    if method:
        name = method.get("quant_method") if isinstance(method, dict) else None
        raise ValueError(
            "quantised checkpoints are not supported: use one with plain weights; config.json has "
            f"quantization_config{f' ({name})' if name else ''}, and dequantize() in transformers, "
            "then save_pretrained, makes weights plain"
        )
    for name in names:
        if _ADAPTER_PART.search(name):
            raise ValueError(
                f"{name} is a part of an adapter, not of a plain model: merge it first ({MERGE})"
            )
        if _QUANTISED_PART.search(name):
            raise ValueError(
                f"{name} is a part of a quantised weight, and quantised checkpoints are not "
                "supported: use one with plain weights (dequantize() in transformers, then "
                "save_pretrained)"
            )


def _read(path: Path) -> dict[str, Any]:
    """What it says, for the message; nothing, if it cannot be read."""
    try:
        return read_json(path)
    except (ValueError, OSError):
        return {}


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
    if all(new == old for new, old in names.items()):
        return reader
    return RenamedTensors({new: (reader, old) for new, old in names.items()})


def _common(names: dict[str, str]) -> str | None:
    own = [name for name in names if not name.startswith(OTHER_HEADS)]
    found = (prefix for prefix in WRAPPERS if all(name.startswith(prefix) for name in own))
    return next(found, None) if own else None


def tied(
    sources: Mapping[str, TensorSpec],
    groups: Sequence[Sequence[str]],
    reader: WeightReader,
    config: Mapping[str, Any],
) -> dict[str, TensorSpec]:
    """Point the parameters of each group that are copies of each other to the same tensor.

    Checkpoints may repeat a shared embedding under every name it has. Warns of those that are no
    copies, unless the configuration has said so.
    """
    found = dict(sources)
    for group in groups:
        distinct: list[TensorSpec] = []
        for name in group:
            source = sources[name]
            copies = (other for other in distinct if _is_copy(source, other, reader))
            same = next(copies, None)
            if same is None:
                distinct.append(source)
            else:
                found[name] = same
        if len(distinct) > 1 and _is_said_to_be_tied(config):
            names = " and ".join(source.names[0] for source in distinct)
            warn(
                f"{names} differ, and are one tensor by what config.json says or leaves open: "
                "each is used for its own part, as the weights have it; "
                "tie_word_embeddings=false in config.json would say so",
            )
    return found


def _is_said_to_be_tied(config: Mapping[str, Any]) -> bool:
    # Since version 5, transformers writes true for every T5, and this in place of false.
    scales = config.get("scale_decoder_outputs")
    return config.get("tie_word_embeddings") is not False and scales is not False


def _is_copy(one: TensorSpec, other: TensorSpec, reader: WeightReader) -> bool:
    if one == other:
        return True
    (a,), (b,) = one.names, other.names
    return one.transpose == other.transpose and is_same_tensor(a, b, reader)


def is_same_tensor(one: str, other: str, reader: WeightReader) -> bool:
    """Whether two tensors of a checkpoint are equal; they are compared piece by piece."""
    if reader.shapes[one] != reader.shapes[other]:
        return False
    pairs = zip_longest(reader.pieces(one), reader.pieces(other))
    return all(_is_equal(*pair) for pair in pairs)


def _is_equal(one: Tensor | None, other: Tensor | None) -> bool:
    assert one is not None and other is not None  # of one shape, and so in as many pieces
    if one.dtype != other.dtype:
        one, other = one.double(), other.double()
    return torch.equal(one, other)
