"""Fast exact generation with encoder-decoder and small decoder models: T5, BART, GPT-2.

The names below are imported when they are first used: torch is a slow import, which `--help` and
the processes that work on texts alone do without.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritonseq.decoding.outputs import GenerateOutput
    from tritonseq.decoding.trie import Trie
    from tritonseq.engine.pool import DoesNotFit
    from tritonseq.options.config import GenerationConfig
    from tritonseq.stages.pipeline import Pipeline, Result, pipeline

    from .model import Model, from_transformers, load

__version__ = _version("tritonseq")
__all__ = [
    "DoesNotFit", "GenerateOutput", "GenerationConfig", "Model", "Pipeline", "Result", "Trie",
    "from_transformers", "load", "pipeline",
]  # fmt: skip

_HOMES = {
    "DoesNotFit": ".engine.pool",
    "GenerateOutput": ".decoding.outputs",
    "GenerationConfig": ".options.config",
    "Model": ".model",
    "Pipeline": ".stages.pipeline",
    "Result": ".stages.pipeline",
    "Trie": ".decoding.trie",
    "from_transformers": ".model",
    "load": ".model",
    "pipeline": ".stages.pipeline",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(_import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
