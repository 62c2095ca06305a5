"""Unsupported options: those of transformers that GenerationConfig does not hold, and why not."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from tritonseq.callers import warn
from tritonseq.shown import shown

if TYPE_CHECKING:
    from collections.abc import Collection

# They tune how transformers runs; the engine does what they ask for, or has no such knob.
IGNORED = (
    "use_cache",
    "cache_implementation",
    "cache_config",
    "max_cache_len",
    "compile_config",
    "disable_compile",
    "prefill_chunk_size",
)

LATER = (
    "top_h",
    "eta_cutoff",
    "output_attentions",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "penalty_alpha",
    "constraints",
    "force_words_ids",
)

_ASSISTANT = "there is no assisted generation: every token comes from the model itself"

_HEADS = "all heads of the checkpoint take part: leave it out"

REFUSED = {
    "use_mtp": "no supported model has heads that predict several tokens",
    "token_healing": "prompts are continued exactly as they are given",
    "guidance_scale": "classifier-free guidance would run the model twice per token",
    "watermarking_config": "outputs carry no watermark; pass a logits_processor that adds one",
    "output_hidden_states": "steps keep no hidden states; run the model itself on the output",
    "is_assistant": _ASSISTANT,
    "num_assistant_tokens": _ASSISTANT,
    "num_assistant_tokens_schedule": _ASSISTANT,
    "assistant_confidence_threshold": _ASSISTANT,
    "assistant_early_exit": _ASSISTANT,
    "assistant_lookbehind": _ASSISTANT,
    "target_lookbehind": _ASSISTANT,
    "assistant_ensemble_weight": _ASSISTANT,
    "speculation_type": _ASSISTANT,
    "continuous_batching_config": "it configures a scheduler of transformers",
    "low_memory": "beams already share the caches, and no cache is ever copied",
    "dola_layers": "contrasting layers (DoLa) needs the hidden states of every layer",
}

CHANGING = frozenset(
    (
        "constraints",
        "dola_layers",
        "eta_cutoff",
        "force_words_ids",
        "guidance_scale",
        "penalty_alpha",
        "token_healing",
        "top_h",
        "watermarking_config",
    )
)
"""Of the above, what makes transformers find other tokens: the rest is about speed and results."""

_CACHES = "a request makes its own caches: pass the whole prompt as input_ids"

REFUSED_ARGUMENTS = {
    "assistant_model": _ASSISTANT,
    "custom_generate": "no code is fetched or run from elsewhere",
    "negative_prompt_ids": REFUSED["guidance_scale"],
    "negative_prompt_attention_mask": REFUSED["guidance_scale"],
    "synced_gpus": "a model runs on one device",
    "inputs_embeds": "prompts are token ids: pass input_ids",
    "cache": _CACHES,
    "past_key_values": _CACHES,
    "tokenizer": "stop_strings and generate_text use the checkpoint's own: leave it out",
    "use_model_defaults": "what generation_config leaves open always takes the model's default",
    "trust_remote_code": "no code is fetched or run from elsewhere",
    "token_type_ids": "GPT-2 would add the embedding of each as that of another token, UniLM "
    "numbers its segments itself, and the others have none: leave it out",
    "decoder_inputs_embeds": "targets start with token ids: pass decoder_input_ids",
    "labels": "they are for a loss, and nothing is trained here; targets start with "
    "decoder_input_ids",
    "head_mask": _HEADS,
    "decoder_head_mask": _HEADS,
    "cross_attn_head_mask": _HEADS,
    "position_ids": "positions follow from attention_mask: leave it out",
}
"""Arguments of transformers' `generate` itself that ask for something we do not do."""

ARGUMENTS = (
    "input_ids",
    "attention_mask",
    "inputs",
    "encoder_outputs",
    "decoder_input_ids",
    "decoder_attention_mask",
    "generation_config",
    "task",
    "logits_processor",
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "streamer",
)
"""What `Model.generate` takes beside options."""

TEXT_ARGUMENTS = (
    "texts",
    "src_lang",
    "tgt_lang",
    "prefix",
    "split_sentences",
    "truncation",
    "max_source_length",
    "add_special_tokens",
    "skip_special_tokens",
    "clean_up_tokenization_spaces",
    "bad_words",
    "batch_size",
    "progress",
)
"""What only `Model.generate_text` takes, which has texts to tokenize."""

LOAD_ARGUMENTS = ("source_cache",)
"""What a model is loaded with, and might be taken for an option of each call."""

_HARMLESS = {
    "eta_cutoff": 0.0,
    "penalty_alpha": 0.0,
    "guidance_scale": 1.0,
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.4,
    "assistant_lookbehind": 10,
    "target_lookbehind": 10,
    "use_model_defaults": True,
}
"""Values that change nothing in transformers, besides None and (where it is not True) False."""


def refusal(name: str, value: Any) -> str | None:
    """Why a known option may not have this value; None where it changes nothing."""
    harmless = _HARMLESS.get(name)
    if value is None or (value is False and harmless is not True):
        return None
    # An array of several items is equal to nothing here, and must not be asked.
    if harmless is not None and getattr(value, "ndim", 0) == 0 and value == harmless:
        return None
    if name in LATER:
        return f"{name}={_shown(value)} is not yet supported"
    reason = REFUSED.get(name) or REFUSED_ARGUMENTS.get(name)
    return f"{name}={_shown(value)} is not supported: {reason}" if reason else None


def settle(name: str, value: Any, known: Collection[str]) -> None:
    """Accept an option that no field stands for, or raise ValueError with the reason.

    `known`: the options that do have a field, for the suggestion when `name` is none at all.
    """
    if name in IGNORED:
        if name == "use_cache" and value is False:
            warn("use_cache=False is ignored: the caches are always used")
        return
    if name in ARGUMENTS:
        raise ValueError(f"{name} is no generation option: it is an argument of Model.generate")
    if name in LOAD_ARGUMENTS:
        raise ValueError(
            f"{name} is no generation option: say it to load or from_transformers, which lay out "
            "weights by it"
        )
    if name in TEXT_ARGUMENTS:
        if value is not None and value is not False:
            raise ValueError(f"{name}={_shown(value)} is for generate_text: ids are not tokenized")
        return
    if name not in LATER and name not in REFUSED and name not in REFUSED_ARGUMENTS:
        raise ValueError(f"unknown option {name!r}: {_suggestion(name, known)}")
    reason = refusal(name, value)
    if reason:
        raise ValueError(reason)


UPSTREAM = {
    "alpha": "length_penalty",
    "beam_size": "num_beams",
    "forbid_duplicate_ngrams": "no_repeat_ngram_size",
    "forbid_ignore_set": "no_repeat_ngram_ignore_ids",
    "forbid_ignore_word": "no_repeat_ngram_ignore_ids",
    "max_tgt_length": "max_new_tokens",
    "min_len": "min_new_tokens",
    "ngram_size": "no_repeat_ngram_size",
    "not_predict_set": "suppress_tokens",
    "not_predict_token": "suppress_tokens",
}
"""Options of UniLM's own decoders, by other names than here."""


def _suggestion(name: str, known: Collection[str]) -> str:
    if name in UPSTREAM:
        return f"here it is {UPSTREAM[name]!r}"
    near = difflib.get_close_matches(name, [*known, *ARGUMENTS, *TEXT_ARGUMENTS], n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return "GenerationConfig.option_names lists what there is"


def _shown(value: Any) -> str:
    """Plain values as they are written, cut; of others, tensors and modules say, the type."""
    if not isinstance(value, bool | int | float | str | list | tuple | dict):
        return f"<{type(value).__name__}>"
    return shown(value)
