"""What the stages around a model have to know of it; the model may be in another process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.checkpoint.origin import of_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tritonseq.models.network import Network
    from tritonseq.options.config import GenerationConfig

    from .text_worker import TextSetup


class Facts(NamedTuple):
    """Of one model under the options of a job."""

    text: TextSetup
    """What texts are read and written by."""
    copies: int
    """The outputs of every sample."""
    has_scores: bool
    """Do outputs have scores?"""
    has_traces: bool
    """Is there a whole search to keep of each sample, that of UniLM?"""
    unit: int
    """So many consecutive samples are answered together in any case."""
    batch: int
    """The samples that are answered at once, if their sources are short."""
    settings: Mapping[str, Any]
    """What decides about the outputs, as JSON values."""
    batches: Mapping[str, Any]
    """Likewise what decides which samples are answered together, where that matters."""
    plan: str
    """The memory that it takes, in words."""
    asks_for_language: bool
    """Is it for the texts to say which of several languages to write?"""
    is_drawn: bool = False
    """Is a unit answered as a whole or not at all, as what is drawn at random is?"""


def checksum(network: Network, folder: Path) -> str:
    """What tells a model from another: all of its weights, and the files of its tokenizer."""
    return f"{network.checksum()} {of_files(folder)}"


def settings_of(config: GenerationConfig, **others: Any) -> dict[str, Any]:
    """All options of generation, and others, as JSON values."""
    given = {name: getattr(config, name) for name in sorted(config.option_names)} | others
    settings: dict[str, Any] = json.loads(json.dumps(given, default=repr))
    return settings
