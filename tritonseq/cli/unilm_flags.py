"""The flags of decode_seq2seq.py, the command of UniLM and s2s-ft, for `tritonseq generate`.

A command line that was published for either decoder runs with its flags as they are; those that
only told upstream how to run (--amp), or that it takes and does not heed, are taken here as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonseq.checkpoint.files import read_json

from .arguments import flag, one_match

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from tritonseq.text.tokenizer import Tokenizer

TITLE = "UniLM and s2s-ft"
DESCRIPTION = "the flags of decode_seq2seq.py, also with _ for -"

_NETWORK = {
    "new_segment_ids": "token types 4 and 5 (UniLM v1)",
    "s2s_special_token": "frame sources by [S2S_CLS] and [S2S_SEP] (v1)",
    "s2s_add_segment": "a token type of its own for the first token (v1)",
    "s2s_share_segment": "with --s2s-add-segment: types 0, 1 and 5 (v1)",
    "pos_shift": "the model was tuned without [MASK]",
    "do_lower_case": "the vocabulary is in lower case",
}
_NO_EFFECT = ("amp", "new_pos_ids")
_PARTS = ("num_qkv", "seg_emb", "ffn_type")
# Names that upstream has addresses for, of vocabularies that are on the Hub as well.
_VOCABULARIES = {
    "unilm1-base-cased": "microsoft/unilm-base-cased",
    "unilm1-large-cased": "microsoft/unilm-large-cased",
    "minilm-l12-h384-uncased": "microsoft/MiniLM-L12-H384-uncased",
}
# What config.json says of sizes and norms is not asked for by naming the file.
_NOT_ASKED = (
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "layer_norm_epsilon",
)
_SWITCH = {"action": "store_true"}

FLAGS: dict[str, dict[str, Any]] = {
    "model_path": {"metavar": "PATH", "help": "in place of MODEL"},
    "model_recover_path": {"metavar": "FILE", "help": "the same, for UniLM v1"},
    "config_path": {"metavar": "F", "help": "in place of the config.json of MODEL"},
    "tokenizer_name": {"metavar": "DIR", "help": "as --tokenizer"},
    "bert_model": {"metavar": "DIR", "help": "the same, for UniLM v1"},
    **{name: {**_SWITCH, "help": what} for name, what in _NETWORK.items()},
    "beam_size": {"type": int, "metavar": "N", "help": "as --num-beams"},
    "max_tgt_length": {
        "type": int, "metavar": "N",
        "help": "as --max-new-tokens; default: 128, at most a quarter of the positions",
    },
    "max_seq_length": {
        "type": int, "metavar": "N", "help": "cut sources to leave room for the target",
    },
    "min_len": {"type": int, "metavar": "N", "help": "as --min-new-tokens"},
    "forbid_duplicate_ngrams": {**_SWITCH, "help": "no n-gram comes twice"},
    "ngram_size": {"type": int, "default": 3, "metavar": "N", "help": "default: 3"},
    "forbid_ignore_word": {"metavar": "W|W", "help": "tokens that may repeat"},
    "not_predict_token": {"metavar": "W|W", "help": "tokens that are never written"},
    "input_file": {"metavar": "F", "help": 'as INPUT; or lines of {"src": text or tokens}'},
    "tokenized_input": {**_SWITCH, "help": "texts are tokens already"},
    "subset": {"type": int, "default": 0, "metavar": "N", "help": "as --limit; 0 for all"},
    "output_file": {"metavar": "F", "help": "as OUTPUT"},
    "split": {
        "metavar": "NAME", "help": "as OUTPUT MODEL.NAME, unless there is --output-file",
    },
    "need_score_traces": {
        **_SWITCH, "help": "write the whole search of each text into OUTPUT.trace.pickle",
    },
    "fp16": {**_SWITCH, "help": "--dtype float16, on a GPU"},
    "no_cuda": {**_SWITCH, "help": "--device cpu"},
    "mode": {"choices": ("s2s", "l2r"), "help": "no effect"},
    **{name: {**_SWITCH, "help": "no effect"} for name in _NO_EFFECT},
    **{
        name: {"type": int, "default": 0, "metavar": "0", "help": "parts of no known model"}
        for name in _PARTS
    },
}  # fmt: skip
"""Those that `tritonseq generate` does not have by the same name, as argparse takes them."""


def translate(parsed: argparse.Namespace) -> None:
    """Put what UniLM's flags say where ours say it; options that hold ids of tokens, which only a
    tokenizer knows, into `parsed.token_names`.

    Raises ValueError if something is said twice, or does not go together.
    """
    paths = [path for path in (parsed.model, parsed.model_path, parsed.model_recover_path) if path]
    if len(paths) > 1:
        raise ValueError("pass one checkpoint: MODEL, or --model-path (--model-recover-path)")
    names = [name for name in (parsed.tokenizer, parsed.tokenizer_name, parsed.bert_model) if name]
    if len({*names}) > 1:
        raise ValueError(f"pass one tokenizer, not {' and '.join(names)}")
    parsed.model, parsed.tokenizer = next(iter(paths), None), next(iter(names), None)
    parsed.config = _config(parsed)
    parsed.unilm_network = next((flag(name) for name in _NETWORK if getattr(parsed, name)), None)
    parsed.max_source_length = parsed.max_source_length or source_length(
        parsed.max_seq_length, parsed.max_tgt_length
    )
    _translate_options(parsed)
    _translate_places(parsed)


def _config(parsed: argparse.Namespace) -> dict[str, Any]:
    """Keys in place of those of config.json."""
    config = _config_file(parsed.config_path)
    if parsed.bert_model or parsed.model_recover_path:
        config["variant"] = "v1"
    for name in (*_PARTS, "max_seq_length", *_NETWORK):
        if getattr(parsed, name):
            config[name] = getattr(parsed, name)
    return config | (parsed.config or {})


def _config_file(path: str | None) -> dict[str, Any]:
    """What another config.json says of the network, but for what is read off its tensors."""
    if path is None:
        return {}
    if not Path(path).is_file():
        raise ValueError(f"--config-path: there is no file {path}")
    return {key: value for key, value in read_json(Path(path)).items() if key not in _NOT_ASKED}


def source_length(sequence: int | None, target: int | None) -> int | None:
    """To how many ids sources are cut, by --max-seq-length; None if nothing is said."""
    if sequence is None:
        return None
    target = 128 if target is None else target
    if target >= sequence - 2:
        raise ValueError(
            f"--max-tgt-length {target} leaves no room for a source within --max-seq-length "
            f"{sequence}: it must be less than that by more than 2"
        )
    return sequence - target


def _translate_options(parsed: argparse.Namespace) -> None:
    """The options of `generate`, by their names there."""
    said: dict[str, Any] = {
        "num_beams": parsed.beam_size,
        "max_new_tokens": parsed.max_tgt_length,
        "min_new_tokens": parsed.min_len,
        # A trace is of the whole search.
        "early_stopping": "never" if parsed.need_score_traces else None,
        "no_repeat_ngram_size": parsed.ngram_size if parsed.forbid_duplicate_ngrams else None,
    }
    said = {name: value for name, value in said.items() if value is not None}
    words = {"suppress_tokens": parsed.not_predict_token}
    if parsed.forbid_duplicate_ngrams:
        words["no_repeat_ngram_ignore_ids"] = parsed.forbid_ignore_word
    parsed.token_names = {name: _names(text) for name, text in words.items() if text}
    for name in (*said, *parsed.token_names):
        if hasattr(parsed, name):
            raise ValueError(f"{name} is said twice: by {flag(name)} and another flag")
    vars(parsed).update(said)


def _names(words: str) -> list[str]:
    """The tokens between bars; those in brackets are in capitals, as upstream has it."""
    return [
        word.upper() if word.startswith("[") and word.endswith("]") else word
        for word in words.split("|")
        if word
    ]


def token_ids(names: Mapping[str, Sequence[str]], tokenizer: Tokenizer) -> dict[str, list[int]]:
    """The options `parsed.token_names` as `generate` takes them. Raises ValueError for tokens that
    the vocabulary does not have."""
    return {name: tokenizer.token_ids(words) for name, words in names.items()}


def _translate_places(parsed: argparse.Namespace) -> None:
    """Where texts are read and written.

    Sources of --input-file are objects with "src" if the first line is one, as upstream has it.
    """
    if parsed.input_file is not None:
        parsed.input = parsed.input_file
        parsed.input_format = parsed.input_format or "any"
        parsed.source_field = parsed.source_field or "src"
    parsed.limit = parsed.subset or parsed.limit
    if parsed.output_file is not None:
        parsed.output = parsed.output_file
    elif parsed.split and parsed.model:
        parsed.output = f"{one_match(parsed.model)}.{parsed.split}"
    if parsed.need_score_traces:
        if parsed.output in (None, "-"):
            raise ValueError(
                "--need-score-traces needs --beam-size above 1, and --output-file (or --split)"
            )
        parsed.traces = Path(f"{parsed.output}.trace.pickle")


def vocabulary(name: str) -> str:
    """The Hub id of a vocabulary that upstream has an address for; other names as they are."""
    name = _VOCABULARIES.get(name, name)
    if name.startswith(("unilm", "minilm")):
        raise ValueError(
            f"{name} is a name that only UniLM's own command knows: pass the folder with its "
            "vocab.txt"
        )
    return name
