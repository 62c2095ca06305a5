"""The classes of tokenizers that are known, by the names that checkpoints have for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

REMEDY = (
    "save its tokenizer.json with transformers, by "
    "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER), or call generate with token ids"
)

_SHOWN = 60
"""Characters of a name that a message shows."""

WHOLE = "whole"
"""The family of those that tokenizer.json describes to the end."""

# By what is before "Tokenizer", with or without "Fast" behind it.
_FAMILIES = {
    "Albert": "albert",
    "Bart": "bart",
    "Barthez": "barthez",
    "Bartpho": "bartpho",
    "Bert": "bert",
    "ByT5": "byt5",
    "Camembert": "camembert",
    "CodeGen": "gpt2",
    "DistilBert": "bert",
    "Electra": "bert",
    "GPT2": "gpt2",
    "LED": "bart",
    "Longformer": "bart",
    "Lxmert": "bert",
    "MBart": "mbart",
    "MBart50": "mbart50",
    "MT5": "mt5",
    "Marian": "marian",
    "Minilm": "bert",
    "MobileBert": "bert",
    "Mvp": "bart",
    "Pegasus": "pegasus",
    "Roberta": "bart",
    "SqueezeBert": "bert",
    "T5": "t5",
    "UMT5": "umt5",
    "Unilm": "bert",
    "XLMRoberta": "xlm_roberta",
}

# Their files are read as tokenizer.json only. Others of which that is true are not here, as
# transformers 5 builds them anew around its vocabulary, in ways that are of no use to our models.
_SAVED = frozenset(
    (
        *("Blenderbot", "Bloom", "Cohere", "ConvBert", "Deberta", "FNet", "GPTNeoX", "Llama"),
        *("PreTrained", "Qwen2"),
    )
)
_BACKENDS = frozenset(("TokenizersBackend", "PythonBackend", "SentencePieceBackend"))

# Where no class is named, that of the type of the model.
_OF_MODELS = {
    "albert": "albert",
    "bart": "bart",
    "barthez": "barthez",
    "bartpho": "bartpho",
    "bert": "bert",
    "byt5": "byt5",
    "camembert": "camembert",
    "distilbert": "bert",
    "electra": "bert",
    "gpt2": "gpt2",
    "led": "bart",
    "longformer": "bart",
    "marian": "marian",
    "mbart": "mbart",
    "mbart50": "mbart50",
    "mt5": "mt5",
    "mvp": "bart",
    "pegasus": "pegasus",
    "roberta": "bart",
    "t5": "t5",
    "umt5": "umt5",
    "xlm-roberta": "xlm_roberta",
}

# Those of other models, whose tokenizer may stand in for the one of ours.
_OTHERS = {
    "blenderbot": "Blenderbot",
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


def family_of(
    config: Mapping[str, Any], model: Mapping[str, Any], has: Collection[str]
) -> tuple[str | None, str]:
    """The family of a tokenizer, and what it is named by.

    `config` is tokenizer_config.json, whose `tokenizer_class` counts before that of the network's
    configuration `model`, and that before the type of the model; `has` names the files. The family
    is None if nothing is named at all. Raises ValueError for a class that is not known.
    """
    for source, where in ((config, "tokenizer_config.json"), (model, "the configuration")):
        name = source.get("tokenizer_class")
        if name is not None:
            return _named(name, where, has), str(name)
    kind = model.get("model_type")
    if kind is None:
        return None, "no tokenizer_class and no model_type"
    family = _OF_MODELS.get(kind) if isinstance(kind, str) else None
    if family is None and "tokenizer.json" in has:
        return WHOLE, str(kind)
    if family is None:
        raise ValueError(
            f"model_type {str(kind)[:_SHOWN]!r} names no tokenizer that is known here, and there "
            f"is neither tokenizer_class nor tokenizer.json: {REMEDY}"
        )
    return family, str(kind)


def class_within(family: str | None, name: str, model: Mapping[str, Any]) -> str | None:
    """Whose way with a tokenizer.json counts: a family's, a class's, or None's.

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
    said = f"{where} says tokenizer_class {str(name)[:_SHOWN]!r}"
    if not isinstance(name, str):
        raise ValueError(f"{said}: it must be the name of a class")
    base = name.removesuffix("Fast").removesuffix("Tokenizer")
    is_class = name.removesuffix("Fast").endswith("Tokenizer")
    if is_class and base in _FAMILIES:
        return _FAMILIES[base]
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
