"""Device and dtype of the weights, and what is kept of sources, as the caller asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tritonseq.models import MODELS, model_class
from tritonseq.models.matmul import check_int8
from tritonseq.models.network import SOURCE_CACHES
from tritonseq.shown import first_line

if TYPE_CHECKING:
    from collections.abc import Mapping

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that a user named; "auto" is the first GPU if there is one, else the CPU.

    Raises ValueError for what names none, and for one that is not here or computes nothing.
    """
    if not isinstance(device, str | int | torch.device) or isinstance(device, bool):
        raise ValueError(f"device is {device!r}: say 'auto', 'cpu' or 'cuda'")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not known: say 'auto', 'cpu' or 'cuda'") from error
    if resolved.type == "meta":
        raise ValueError("device 'meta' holds no weights: say 'auto', 'cpu' or 'cuda'")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"device {str(device)!r} is not here: torch sees {count} GPUs")
    try:
        # One process does not touch the GPU that its children are for.
        if resolved.type not in ("cpu", "cuda"):
            torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        first = first_line(error).partition(". ")[0]
        raise ValueError(f"device {str(device)!r} is not to be had here: {first}") from error
    return resolved


def resolve_dtype(
    dtype: str | torch.dtype, config: Mapping[str, Any], device: torch.device
) -> torch.dtype:
    """The dtype of the weights in memory.

    "auto" takes what config.json states, else float32. On the CPU it turns float16 into float32:
    processors compute in float16 slowly where they can at all, and float32 holds the same values.
    Models that were trained in bfloat16 (T5) get it on GPUs that have it. int8 is for the weights
    of products alone, and only taken if it is asked for.

    Raises ValueError for what is not supported, and for int8 where it cannot be computed exactly.
    """
    if dtype != "auto":
        name = str(dtype).removeprefix("torch.")
        if name == "int8":
            return _int8(device)
        if name not in DTYPES:
            known = ", ".join((*DTYPES, "int8"))
            raise ValueError(f"dtype {dtype!r} is not supported: say 'auto', {known}")
        return DTYPES[name]
    if _is_trained_in_bfloat16(config) and _has_bfloat16(device):
        return torch.bfloat16
    found = _stated_dtype(config)
    return torch.float32 if found == torch.float16 and device.type == "cpu" else found


def check_source_cache(source_cache: str, dtype: str | torch.dtype) -> None:
    """Raise ValueError for what is none of `SOURCE_CACHES`, and for states beside int8."""
    if not isinstance(source_cache, str) or source_cache not in SOURCE_CACHES:
        known = " or ".join(map(repr, SOURCE_CACHES))
        raise ValueError(f"source_cache is {source_cache!r}: say {known}")
    if source_cache == "states" and str(dtype).removeprefix("torch.") == "int8":
        raise ValueError(
            "source_cache='states' multiplies by the weights of keys and values head by head, and "
            "those of dtype 'int8' can only be multiplied by whole: say dtype='bfloat16' or "
            "'float32', or leave source_cache out"
        )


def _int8(device: torch.device) -> torch.dtype:
    if device.type != "cpu":
        raise ValueError(
            f"dtype 'int8' is for the CPU, and the device is {str(device)!r}: say device='cpu', or "
            "dtype='bfloat16' or 'float16' on a GPU"
        )
    check_int8()
    return torch.int8


def _stated_dtype(config: Mapping[str, Any]) -> torch.dtype:
    """What config.json names, float32 if nothing; ValueError for what is not supported."""
    for key in ("dtype", "torch_dtype"):
        stated = config.get(key)
        if stated is None:
            continue
        # A live configuration holds the dtype itself.
        name = str(stated).removeprefix("torch.")
        # Float32 is the widest there is here, and what others widen for training.
        if name not in DTYPES and name not in ("auto", "float64"):
            raise ValueError(
                f"config.json: {key} is {stated!r}, not one of {', '.join(DTYPES)}: pass dtype="
            )
        return DTYPES.get(name, torch.float32)
    return torch.float32


def _is_trained_in_bfloat16(config: Mapping[str, Any]) -> bool:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODELS:
        return False
    return getattr(model_class(model_type), "TRAINED_IN_BFLOAT16", False)


def _has_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
