"""The checkpoint of a command line: what its flags say to `load`, and what is read of it first."""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.checkpoint.files import find_config, read_json, read_text

from .arguments import flag, one_match

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

_SPECIAL_TOKENS = ("add_special_tokens", "skip_special_tokens", "clean_up_tokenization_spaces")
_UNILM_FAMILIES = ("bert", "minilm", "roberta", "unilm", "xlm-roberta", "electra")
"""What UniLM's own command calls its networks: by what they were made from."""
_TASKS = ("summarization", "translation")
"""What FastSeq's --task may be, and how it may begin, for checkpoints without tasks of their own:
there it only chooses the metric."""


class CheckpointInfo(NamedTuple):
    """What a command line can be checked against."""

    has_encoder: bool
    """Whether it answers its input, rather than continues it."""
    tasks: Mapping[str, Mapping[str, Any]]
    """What it recommends by task."""
    is_unilm: bool = False
    """Whether it is one that only the flags of UniLM's own command speak of."""


def load_arguments(parsed: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `load`."""
    if parsed.devices:
        if parsed.device != "auto" or parsed.no_cuda:
            raise ValueError("say where it runs by --devices alone: drop --device and --no-cuda")
        parsed.device = parsed.devices[0]
    if parsed.model is None:
        raise ValueError("pass one checkpoint: MODEL, or --model-path (--model-recover-path)")
    path, tokenizer = one_match(parsed.model), parsed.tokenizer
    if parsed.revision is not None and os.path.exists(path):
        raise ValueError(f"--revision is for the Hub, and {path} is a folder: drop it")
    if tokenizer is not None and not os.path.isdir(tokenizer):
        from .unilm_flags import vocabulary

        tokenizer = vocabulary(tokenizer)
    is_family = parsed.model_type in _UNILM_FAMILIES
    return {
        "name_or_path": path,
        "model_type": "unilm" if is_family else parsed.model_type,
        "config": parsed.config or None,
        "tokenizer": tokenizer,
        **_placement(parsed),
        "source_cache": parsed.source_cache or "projected",
        **{name: getattr(parsed, name) for name in ("revision", "cache_dir", "local_files_only")},
    }


def _placement(parsed: argparse.Namespace) -> dict[str, str]:
    device, dtype = "cpu" if parsed.no_cuda else parsed.device, parsed.dtype
    if parsed.fp16:
        from tritonseq.checkpoint.devices import resolve_device  # imports torch

        if resolve_device(device).type == "cpu":
            warnings.warn(
                "--fp16 has no effect on the CPU, which computes in float32", stacklevel=2
            )
        else:
            dtype = "float16"
    return {"device": device, "dtype": dtype}


def look(checkpoint: Mapping[str, Any]) -> CheckpointInfo:
    """That of the checkpoint that `load` is to be called for; downloads it if it must.

    `checkpoint` holds the arguments of `load`, whose errors come here already if there is no such
    checkpoint.
    """
    # These import torch.
    from tritonseq.checkpoint.elsewhere import check_folder
    from tritonseq.checkpoint.hub import snapshot, tokenizer_folder
    from tritonseq.models import MODELS, model_class

    at_hub = {name: checkpoint[name] for name in ("cache_dir", "local_files_only")}
    stated = {"model_type": checkpoint["model_type"], "overrides": checkpoint["config"]}
    check = partial(check_folder, **stated)
    path = snapshot(
        checkpoint["name_or_path"], revision=checkpoint["revision"], check=check, **at_hub
    )
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


def check_kind(parsed: argparse.Namespace, info: CheckpointInfo) -> None:
    """Raise ValueError for flags that are for another kind of model."""
    if parsed.unilm_network and not info.is_unilm:
        raise ValueError(f"{parsed.unilm_network} is for UniLM models: drop it")
    if info.has_encoder:
        for name in ("causal_lm", "full_text"):
            if getattr(parsed, name):
                raise ValueError(f"{flag(name)} is for models without an encoder: drop it")


def text_options(parsed: argparse.Namespace, info: CheckpointInfo) -> dict[str, Any]:
    """How texts are read, as `Model.text_job` takes it."""
    special = {name: getattr(parsed, name) for name in _SPECIAL_TOKENS}
    truncation = parsed.truncation
    if truncation is None:
        truncation = parsed.cuts_sources and info.has_encoder
    is_usual = not info.tasks and (parsed.task or "").startswith(_TASKS)
    return {
        "src_lang": parsed.src_lang,
        "tgt_lang": parsed.tgt_lang,
        "prefix": parsed.prefix,
        "truncation": truncation,
        "max_source_length": parsed.max_source_length,
        **({"split_sentences": parsed.split_sentences} if parsed.split_sentences else {}),
        **{name: value for name, value in special.items() if value is not None},
        "task": None if is_usual else parsed.task,
        **({} if parsed.bad_words is None else {"bad_words": _lines(parsed.bad_words)}),
    }


def _lines(path: str) -> list[str]:
    """The lines of a file that are not blank."""
    return [line for line in read_text(Path(path), "utf-8-sig").split("\n") if line.strip()]
