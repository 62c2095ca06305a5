"""What the configuration of a checkpoint tells before its weights are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.checkpoint.files import find_config, read_json
from tritonseq.checkpoint.hub import snapshot, tokenizer_folder
from tritonseq.models import MODELS, model_class

if TYPE_CHECKING:
    from collections.abc import Mapping


class CheckpointInfo(NamedTuple):
    """What a command line can be checked against."""

    has_encoder: bool
    """Whether it answers its input, rather than continues it."""
    tasks: Mapping[str, Mapping[str, Any]]
    """What it recommends by task."""
    is_unilm: bool = False
    """Whether it is one that only the flags of UniLM's own command speak of."""


def look(checkpoint: Mapping[str, Any]) -> CheckpointInfo:
    """That of the checkpoint that `load` is to be called for; downloads it if it must.

    `checkpoint` holds the arguments of `load`, whose errors come here already if there is no such
    checkpoint.
    """
    at_hub = {name: checkpoint[name] for name in ("cache_dir", "local_files_only")}
    path = snapshot(checkpoint["name_or_path"], revision=checkpoint["revision"], **at_hub)
    found = find_config(path)
    if found is None and checkpoint["tokenizer"] is not None:
        found = find_config(tokenizer_folder(checkpoint["tokenizer"], **at_hub))
    config = {**(read_json(found) if found else {}), **(checkpoint["config"] or {})}
    model_type = checkpoint["model_type"] or config.get("model_type")
    # Other types are what a UniLM was made from; what is none, `load` refuses.
    is_ours, has_encoder = False, True
    if isinstance(model_type, str) and model_type in MODELS:
        is_ours, has_encoder = True, model_class(model_type).is_encoder_decoder
    tasks = config.get("task_specific_params")
    is_unilm = not is_ours or model_type == "unilm"
    return CheckpointInfo(has_encoder, tasks if isinstance(tasks, dict) else {}, is_unilm)
