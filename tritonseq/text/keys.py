"""The keys of tokenizer_config.json and special_tokens_map.json that are known, and their values.

A key that could change ids or texts is honoured or refused; those of no consequence are listed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritonseq.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

ROLES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
LISTS = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")

_BOOLS = frozenset(
    (
        *("add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces"),
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
        *("do_basic_tokenize", "do_lower_case", "fix_mistral_regex", "keep_accents", "legacy"),
        *("remove_space", "separate_vocabs", "spaces_between_special_tokens"),
        *("split_special_tokens", "strip_accents", "tokenize_chinese_chars", "trim_offsets"),
    )
)
_SIDES = frozenset(("padding_side", "truncation_side"))
_COUNTS = frozenset(("extra_ids", "offset"))
_LENGTHS = frozenset(("max_len", "model_max_length"))
_NAMES = frozenset(("src_lang", "tgt_lang", "tokenizer_class"))

# Only these values leave ids and texts as they are here.
_ONLY: dict[str, tuple[Any, ...]] = {
    "do_basic_tokenize": (True,),
    "fix_mistral_regex": (False,),
    "never_split": ([],),
    "remove_space": (True,),
    "sp_model_kwargs": ({},),
    "wordpieces_prefix": ("##",),
}

# They say where files were, how a class was called, or what this kind of model has no use for.
_NAMED = """
_auto_class _commit_hash _from_auto _name_or_path adapter_kwargs backend bos_token_id cache_dir
chat_control_tokens chat_template cls_token_box cls_token_id code_revision default_to_square
device device_map dtype eos_token_id errors feature_extractor_type files_loaded force_download
from_flax from_slow from_tf full_tokenizer_file gguf_file image_processor_type init_inputs
init_kwargs is_fast is_local is_split_into_words language language_codes languages
local_files_only low_cpu_mem_usage mask_token_id max_length max_seq_length max_source_length
max_target_length merges merges_file mirror model_id model_input_names model_name model_type
monolingual_vocab_file name name_or_path only_label_first_subword pad_to_max_length
pad_to_multiple_of pad_token_box pad_token_id pad_token_label pad_token_type_id padding
processor_class proxies response_schema response_template resume_download return_attention_mask
return_length return_offsets_mapping return_overflowing_tokens return_special_tokens_mask
return_tensors return_token_type_ids revision sep_token_box sep_token_id source_lang source_spm
special_tokens_map_file stride subfolder target_lang target_spm target_vocab_file task token
tokenizer_file tokenizer_type tokenizer_version tokenizers_version torch_dtype
transformers_version truncation truncation_strategy trust_remote_code unk_token_id use_auth_token
use_default_system_prompt use_fast use_safetensors verbose version vocab vocab_file vocab_size
"""
_HARMLESS = frozenset(_NAMED.split())

# Read elsewhere: as tokens, and by the families that have them.
_ELSEWHERE = frozenset((*ROLES, *LISTS, "added_tokens_decoder", "auto_map", "mask_token_sent"))


def check_keys(path: Path, content: Mapping[str, Any]) -> None:
    """Raise ValueError for a key of the file that is not known, and for values that it cannot have.

    Tokens are checked where they are read. None says nothing, and any key may have it.
    """
    for key, value in content.items():
        if value is None or key in _HARMLESS:
            continue
        if key in _ONLY and value not in _ONLY[key]:
            raise ValueError(
                f"{path} says {key} is {shown(value)}, which is not supported: if the checkpoint "
                f"does without it, put {_ONLY[key][0]!r} there; else call generate with token ids"
            )
        check = _check_of(key)
        if check is None:
            raise ValueError(
                f"{path} has the key {shown(key)}, which is not known here and could change ids or "
                "texts: remove it if it does neither, else call generate with token ids"
            )
        what = check(value)
        if what is not None:
            raise ValueError(f"{path} says {key} is {shown(value)}: it must be {what}")
    _refuse_code(path, content.get("auto_map"))


def _check_of(key: str) -> Callable[[Any], str | None] | None:
    """What tells what a value must be, if it is not; None for keys that are not known."""
    for keys, check in (
        (_BOOLS, _bool),
        (_SIDES, _side),
        (_COUNTS, _count),
        (_LENGTHS, _length),
        (_NAMES, _name),
        (_ONLY.keys() | _ELSEWHERE, _anything),
    ):
        if key in keys:
            return check
    return _token if is_token_key(key) else None


def is_token_key(key: str) -> bool:
    """Does a key name a single special token? Those of images and tools are such."""
    return key.endswith("_token")


def _bool(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _side(value: Any) -> str | None:
    return None if value in ("left", "right") else "'left' or 'right'"


def _count(value: Any) -> str | None:
    # As many sentinels as that are in no vocabulary.
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**20
    return None if fits else "a number of tokens from 0 to 2**20"


def _length(value: Any) -> str | None:
    # transformers writes 10**30 where there is no limit, as an integer of 31 digits or as 1e30.
    fits = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return None if fits and not isinstance(value, bool) and value >= 1 else "a number of tokens"


def _token(value: Any) -> str | None:
    fits = isinstance(value, str | dict)
    return None if fits else "a token, which is a string or an object with 'content'"


def _name(value: Any) -> str | None:
    return None if isinstance(value, str) else "a string"


def _anything(_: Any) -> None:
    return None


def _refuse_code(path: Path, auto_map: Any) -> None:
    """Code that comes with a checkpoint is never run."""
    if isinstance(auto_map, dict):
        auto_map = auto_map.get("AutoTokenizer")
    if auto_map is not None:
        raise ValueError(
            f"{path} says auto_map: the tokenizer is {shown(auto_map)}, code of the checkpoint, "
            "which is never run here: tokenize with it yourself and call generate with token ids, "
            "or remove auto_map if tokenizer.json does the same"
        )
