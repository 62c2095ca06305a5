"""What changes a model beside its plain weights, and is refused: adapters and quantisation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .files import find_config, is_there, read_json

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

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
