"""Checkpoint folders: a configuration and weights in the formats that are found in the wild."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_T5 = ("shared.", "encoder.embed_tokens.", "decoder.embed_tokens.", "lm_head.")
_BART = ("model.shared.", "model.encoder.embed_tokens.", "model.decoder.embed_tokens.", "lm_head.")
EMBEDDINGS = {
    family: tuple(f"{name}weight" for name in names)
    for names, families in ((_BART, "bart mbart pegasus marian"), (_T5, "t5 mt5 umt5"))
    for family in families.split()
}
"""The names of the table of tokens, by families."""


def save(path: Path, state: Mapping[str, Any], *, zipped: bool = True) -> None:
    """Save weights in the format that the name of `path` says, or as torch did before 1.6."""
    if path.suffix == ".safetensors":
        tensors: dict[str, Tensor] = {name: t.clone().contiguous() for name, t in state.items()}
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        torch.save(dict(state), path, _use_new_zipfile_serialization=zipped)


def write(
    folder: Path,
    state: Mapping[str, Any],
    keys: Mapping[str, Any],
    *,
    weights: str = "pytorch_model.bin",
    config: str = "config.json",
    zipped: bool = True,
) -> Path:
    """A checkpoint folder with two files of these names; `keys` are those of the configuration."""
    folder.mkdir(exist_ok=True)
    (folder / config).write_text(json.dumps(keys))
    save(folder / weights, state, zipped=zipped)
    return folder
