"""tokenizer_config.json: the keys that are known, and the classes of tokenizers that it names.

The keys are those of special_tokens_map.json too. A key that could change ids or texts is honoured
or refused; those of no consequence are listed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tritonseq.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
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
chat_control_tokens chat_template cls_token_box cls_token_id code_revision default_to_square device
device_map dtype eos_token_id errors feature_extractor_type files_loaded force_download from_flax
from_slow from_tf full_tokenizer_file gguf_file image_processor_type init_inputs init_kwargs is_fast
is_local is_split_into_words language languages local_files_only low_cpu_mem_usage mask_token_id
max_length max_seq_length max_source_length max_target_length merges merges_file mirror model_id
model_input_names model_name model_type monolingual_vocab_file name name_or_path num_madeup_words
only_label_first_subword pad_to_max_length pad_to_multiple_of pad_token_box pad_token_id
pad_token_label pad_token_type_id padding processor_class proxies response_schema response_template
resume_download return_attention_mask return_length return_offsets_mapping return_overflowing_tokens
return_special_tokens_mask return_tensors return_token_type_ids revision sep_token_box sep_token_id
source_lang source_spm special_tokens_map_file src_vocab_file stride subfolder target_lang
target_spm target_vocab_file task tgt_vocab_file token tokenizer_file tokenizer_type
tokenizer_version tokenizers_version torch_dtype transformers_version truncation truncation_strategy
trust_remote_code unk_token_id use_auth_token use_default_system_prompt use_fast use_safetensors
verbose version vocab vocab_file vocab_size
"""
_HARMLESS = frozenset(_NAMED.split())


class _Kind(NamedTuple):
    """Keys whose values are of one kind."""

    keys: Collection[str]
    fits: Callable[[Any], bool]
    what: str
    """What a value must be."""


_TOKEN = _Kind(
    (),
    lambda value: isinstance(value, str | dict),
    "a token, which is a string or an object with 'content'",
)
"""Of the keys that `is_token_key` knows."""

_KINDS = (
    _Kind(
        frozenset(
            (
                *("add_bos_token", "add_eos_token", "add_prefix_space"),
                *("clean_up_tokenization_spaces", "do_basic_tokenize", "do_lower_case"),
                "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
                *("fix_mistral_regex", "keep_accents", "legacy", "legacy_behaviour"),
                "remove_space",
                *("separate_vocabs", "spaces_between_special_tokens", "split_special_tokens"),
                *("strip_accents", "tokenize_chinese_chars", "trim_offsets"),
            )
        ),
        lambda value: isinstance(value, bool),
        "true or false",
    ),
    _Kind(
        ("padding_side", "truncation_side"),
        lambda value: value in ("left", "right"),
        "'left' or 'right'",
    ),
    _Kind(
        ("extra_ids", "offset"),
        # As many sentinels as that are in no vocabulary.
        lambda value: type(value) is int and 0 <= value < 2**20,
        "a number of tokens from 0 to 2**20",
    ),
    _Kind(
        ("max_len", "model_max_length"),
        # transformers writes 10**30 where there is no limit, as an integer or as 1e30.
        lambda value: type(value) in (int, float) and value >= 1 and value == value // 1,
        "a number of tokens",
    ),
    _Kind(
        ("langs",),
        lambda value: isinstance(value, list) and len(value) == 2,
        "two languages, such as ['en', 'de']",
    ),
    _Kind(
        ("language_codes", "src_lang", "tgt_lang", "tokenizer_class"),
        lambda value: isinstance(value, str),
        "a string",
    ),
    # Read elsewhere: as tokens, and by the families that have them.
    _Kind(
        (*_ONLY, *ROLES, *LISTS, "added_tokens_decoder", "auto_map", "mask_token_sent"),
        lambda _: True,
        "",
    ),
)

REMEDY = (
    "save its tokenizer.json with transformers, by "
    "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER), or call generate with token ids"
)

WHOLE = "whole"
"""The family of those that tokenizer.json describes to the end."""

# By families: classes, by what is before "Tokenizer" (with or without "Fast" behind it), and types
# of models, which count where no class is named.
_KNOWN = {
    "albert": ("Albert", "albert"),
    "bart": ("Bart LED Longformer Mvp Roberta", "bart led longformer mvp roberta"),
    "barthez": ("Barthez", "barthez"),
    "bartpho": ("Bartpho", "bartpho"),
    "bert": (
        "Bert DistilBert Electra Lxmert Minilm MobileBert SqueezeBert Unilm",
        "bert distilbert electra",
    ),
    "blenderbot": ("Blenderbot", "blenderbot"),
    "byt5": ("ByT5", "byt5"),
    "camembert": ("Camembert", "camembert"),
    "fsmt": ("FSMT", "fsmt"),
    "gpt2": ("CodeGen GPT2", "gpt2"),
    "m2m100": ("M2M100", "m2m_100"),
    "marian": ("Marian", "marian"),
    "mbart": ("MBart", "mbart"),
    "mbart50": ("MBart50", "mbart50"),
    "mt5": ("MT5", "mt5"),
    "nllb": ("Nllb", "nllb nllb-moe"),
    "pegasus": ("Pegasus", "pegasus"),
    "plbart": ("PLBart", "plbart"),
    "small100": ("SMALL100", ""),
    "prophetnet": ("ProphetNet", "prophetnet"),
    "t5": ("T5", "t5"),
    "umt5": ("UMT5", "umt5"),
    "xlm_prophetnet": ("XLMProphetNet", "xlm-prophetnet"),
    "xlm_roberta": ("XLMRoberta", "xlm-roberta"),
}
_OF_CLASSES, _OF_MODELS = (
    {name: family for family, names in _KNOWN.items() for name in names[place].split()}
    for place in (0, 1)
)

# Their files are read as tokenizer.json only. Others of which that is true are not here, as
# transformers 5 builds them anew around its vocabulary, in ways that are of no use to our models.
_SAVED = frozenset(
    (
        *("Bloom", "Cohere", "ConvBert", "Deberta", "FNet", "GPTNeoX", "Llama"),
        *("PreTrained", "Qwen2"),
    )
)
_BACKENDS = frozenset(("TokenizersBackend", "PythonBackend", "SentencePieceBackend"))

# Without a word about it, their Chinese models have nothing but the vocab.txt of a BERT.
_CHINESE = frozenset(("bart", "t5"))
_OWN_FILES = frozenset(("tokenizer.json", "vocab.json", "spiece.model", "sentencepiece.bpe.model"))

# Those of other models, whose tokenizer may stand in for the one of ours.
_OTHERS = {
    "codegen": "gpt2",
    "cohere": "Cohere",
    "cohere2": "Cohere",
    "deberta": "Deberta",
    "gpt_neo": "gpt2",
    "gpt_neox": "GPTNeoX",
    "gptj": "gpt2",
    "opt": "gpt2",
    "phi": "gpt2",
    "qwen2": "Qwen2",
    "qwen3": "Qwen2",
}


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
        usual = _TOKEN if is_token_key(key) else None
        kind = next((kind for kind in _KINDS if key in kind.keys), usual)
        if kind is None:
            raise ValueError(
                f"{path} has the key {shown(key)}, which is not known here and could change ids or "
                "texts: remove it if it does neither, else call generate with token ids"
            )
        if not kind.fits(value):
            raise ValueError(f"{path} says {key} is {shown(value)}: it must be {kind.what}")
    _refuse_code(path, content.get("auto_map"))


def is_token_key(key: str) -> bool:
    """Whether a key names a single special token; those of images and tools are such."""
    return key.endswith("_token")


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


def family_of(
    config: Mapping[str, Any], model: Mapping[str, Any], has: Collection[str]
) -> tuple[str | None, str]:
    """The family of a tokenizer, and what it is named by.

    `config` is tokenizer_config.json, whose `tokenizer_class` counts before that of the network's
    configuration `model`, and that before the type of the model; `has` names the files. A vocab.txt
    alone is BERT's. The family is None if nothing is named at all. Raises ValueError for a class
    that is not known.
    """
    for source, where in ((config, "tokenizer_config.json"), (model, "the configuration")):
        name = source.get("tokenizer_class")
        if name is not None:
            return _named(name, where, has), str(name)
    kind = model.get("model_type")
    if kind is None:
        return None, "no tokenizer_class and no model_type"
    family = _OF_MODELS.get(kind) if isinstance(kind, str) else None
    if family in _CHINESE and "vocab.txt" in has and not _OWN_FILES & set(has):
        return "bert", "vocab.txt"
    if family is None and "tokenizer.json" in has:
        return WHOLE, str(kind)
    if family is None:
        raise ValueError(
            f"model_type {shown(kind)} names no tokenizer that is known here, and there "
            f"is neither tokenizer_class nor tokenizer.json: {REMEDY}"
        )
    return family, str(kind)


def class_within(family: str | None, name: str, model: Mapping[str, Any]) -> str | None:
    """The family or class whose way with a tokenizer.json counts; None: it is read as it is.

    `name` is what the family was named by, `model` the configuration of the network.
    """
    if model.get("model_type") == "umt5" or family == "umt5":
        return None  # transformers reads all of them as they are
    if family == "mt5":
        return "t5" if name == "mt5" else None
    if family != WHOLE:
        return family
    return _OTHERS.get(name, name.removesuffix("Fast").removesuffix("Tokenizer"))


def _named(name: Any, where: str, has: Collection[str]) -> str:
    said = f"{where} says tokenizer_class {shown(name)}"
    if not isinstance(name, str):
        raise ValueError(f"{said}: it must be the name of a class")
    base = name.removesuffix("Fast").removesuffix("Tokenizer")
    is_class = name.removesuffix("Fast").endswith("Tokenizer")
    if is_class and base in _OF_CLASSES:
        return _OF_CLASSES[base]
    is_saved = "tokenizer.json" in has
    if name not in _BACKENDS and not (is_class and base in _SAVED):
        remedy = (
            "if tokenizer.json describes this tokenizer to the end, say 'TokenizersBackend' there; "
            "else call generate with token ids"
        )
        raise ValueError(f"{said}, which is not known here: {remedy if is_saved else REMEDY}")
    if not is_saved:
        raise ValueError(f"{said}, which is read as tokenizer.json, and there is none: {REMEDY}")
    return WHOLE
