"""The models: one file per architecture, found by the `model_type` of its configuration."""

from __future__ import annotations

import importlib
from typing import Any

# model_type -> (module, class), imported on demand.
MODELS = {
    "bart": ("tritonseq.models.bart", "Bart"),
    "blenderbot": ("tritonseq.models.bart", "Blenderbot"),
    "fsmt": ("tritonseq.models.bart", "FSMT"),
    "gpt2": ("tritonseq.models.gpt2", "GPT2"),
    "m2m_100": ("tritonseq.models.bart", "M2M100"),
    "marian": ("tritonseq.models.bart", "Marian"),
    "mbart": ("tritonseq.models.bart", "MBart"),
    "mt5": ("tritonseq.models.t5", "T5"),
    "mvp": ("tritonseq.models.bart", "Mvp"),
    "pegasus": ("tritonseq.models.bart", "Pegasus"),
    "plbart": ("tritonseq.models.bart", "PLBart"),
    "prophetnet": ("tritonseq.models.prophetnet", "ProphetNet"),
    "t5": ("tritonseq.models.t5", "T5"),
    "umt5": ("tritonseq.models.t5", "T5"),
    "unilm": ("tritonseq.models.unilm", "UniLM"),
    "xlm-prophetnet": ("tritonseq.models.prophetnet", "ProphetNet"),
}


def model_class(model_type: str) -> Any:
    """The class that implements a `model_type`; ValueError lists the supported ones."""
    if model_type not in MODELS:
        supported = ", ".join(sorted(MODELS))
        raise ValueError(f"model_type {model_type!r} is not supported; supported: {supported}")
    module, name = MODELS[model_type]
    return getattr(importlib.import_module(module), name)
