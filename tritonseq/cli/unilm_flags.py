"""The flags of decode_seq2seq.py, the command of UniLM and s2s-ft, for `tritonseq generate`.

A command line that was published for either decoder runs with its flags as they are; those that
only told upstream how to run (--amp), or that it takes and does not heed, are taken here as well.
"""

from __future__ import annotations

import glob
import os.path
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonseq.checkpoint.files import read_json

if TYPE_CHECKING:
    import argparse

    from tritonseq.text.tokenizer import Tokenizer

_SWITCHES = {
    "new_segment_ids": "token types 4 and 5 (UniLM v1)",
    "s2s_special_token": "frame sources by [S2S_CLS] and [S2S_SEP] (v1)",
    "s2s_add_segment": "a token type of its own for the first token (v1)",
    "s2s_share_segment": "with --s2s-add-segment: types 0, 1 and 5 (v1)",
    "pos_shift": "the model was tuned without [MASK]",
    "do_lower_case": "the vocabulary is in lower case",
}
_NO_EFFECT = ("--amp", "--new-pos-ids")
_PARTS = ("--num-qkv", "--seg-emb", "--ffn-type")
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
_FAMILIES = ("bert", "minilm", "roberta", "unilm", "xlm-roberta", "electra")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `tritonseq generate` does not have by another name already."""
    group = parser.add_argument_group(
        "UniLM and s2s-ft", "the flags of decode_seq2seq.py, also with _ for -"
    )
    group.add_argument("--model-path", metavar="PATH", help="in place of MODEL")
    group.add_argument("--model-recover-path", metavar="FILE", help="the same, for UniLM v1")
    group.add_argument("--config-path", metavar="F", help="in place of the config.json of MODEL")
    group.add_argument("--tokenizer-name", metavar="DIR", help="as --tokenizer")
    group.add_argument("--bert-model", metavar="DIR", help="the same, for UniLM v1")
    for name, what in _SWITCHES.items():
        group.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=what)
    group.add_argument("--beam-size", type=int, metavar="N", help="as --num-beams")
    group.add_argument(
        "--max-tgt-length",
        type=int,
        metavar="N",
        help="as --max-new-tokens; default: 128, at most a quarter of the positions",
    )
    group.add_argument(
        "--max-seq-length", type=int, metavar="N", help="cut sources to leave room for the target"
    )
    group.add_argument("--min-len", type=int, metavar="N", help="as --min-new-tokens")
    group.add_argument(
        "--forbid-duplicate-ngrams", action="store_true", help="no n-gram comes twice"
    )
    group.add_argument("--ngram-size", type=int, default=3, metavar="N", help="default: 3")
    group.add_argument("--forbid-ignore-word", metavar="W|W", help="tokens that may repeat")
    group.add_argument("--not-predict-token", metavar="W|W", help="tokens that are never written")
    group.add_argument(
        "--input-file", metavar="F", help='as INPUT; or lines of {"src": text or tokens}'
    )
    group.add_argument("--tokenized-input", action="store_true", help="texts are tokens already")
    group.add_argument("--subset", type=int, default=0, metavar="N", help="as --limit; 0 for all")
    group.add_argument("--output-file", metavar="F", help="as OUTPUT")
    group.add_argument(
        "--split", metavar="NAME", help="as OUTPUT MODEL.NAME, unless there is --output-file"
    )
    group.add_argument(
        "--need-score-traces",
        action="store_true",
        help="write the whole search of each text into OUTPUT.trace.pickle",
    )
    group.add_argument("--fp16", action="store_true", help="--dtype float16, on a GPU")
    group.add_argument("--no-cuda", action="store_true", help="--device cpu")
    group.add_argument("--mode", choices=("s2s", "l2r"), help="no effect")
    for flag in _NO_EFFECT:
        group.add_argument(flag, action="store_true", help="no effect")
    for flag in _PARTS:
        group.add_argument(flag, type=int, default=0, metavar="0", help="parts of no known model")


def load_options(parsed: argparse.Namespace) -> dict[str, Any]:
    """What the flags say to `load`: which checkpoint, of what kind, and where it runs."""
    config: dict[str, Any] = _config_file(parsed.config_path)
    if parsed.bert_model or parsed.model_recover_path:
        config["variant"] = "v1"
    for name in ("num_qkv", "seg_emb", "ffn_type", "max_seq_length", *_SWITCHES):
        if getattr(parsed, name):
            config[name] = getattr(parsed, name)
    config |= parsed.config or {}
    model_type = "unilm" if parsed.model_type in _FAMILIES else parsed.model_type
    return {
        "name_or_path": checkpoint(parsed),
        "model_type": model_type,
        "config": config or None,
        "tokenizer": _tokenizer(parsed),
        **_placement(parsed),
    }


def network_flag(parsed: argparse.Namespace) -> str | None:
    """A flag that was given and says what only networks of UniLM can be told."""
    names = (name for name in _SWITCHES if getattr(parsed, name))
    return next((f"--{name.replace('_', '-')}" for name in names), None)


def checkpoint(parsed: argparse.Namespace) -> str:
    """MODEL, by whichever flag; a pattern must fit one file or folder."""
    given = [path for path in (parsed.model, parsed.model_path, parsed.model_recover_path) if path]
    if len(given) != 1:
        raise ValueError("pass one checkpoint: MODEL, or --model-path (--model-recover-path)")
    (path,) = given
    if not glob.has_magic(path):
        return path
    found = sorted(glob.glob(path))
    if len(found) != 1:
        fits = ", ".join(found) or "nothing"
        raise ValueError(f"{path} fits {fits}: pass one checkpoint at a time")
    return found[0]


def name_places(parsed: argparse.Namespace) -> None:
    """Give INPUT and OUTPUT the files that --input-file, or --prompt-file, and --output-file name.

    Sources of the former are objects with "src" if the first line is one, as upstream has it.
    """
    file = parsed.input_file or parsed.prompt_file
    if file is None:
        return
    parsed.input, parsed.output = file, _output_path(parsed)
    parsed.limit = parsed.subset or parsed.limit
    if parsed.input_file is not None:
        parsed.input_format = parsed.input_format or "any"
        parsed.source_field = parsed.source_field or "src"


def trace_path(parsed: argparse.Namespace) -> Path | None:
    """Where the whole search is written; None if nobody asks for it."""
    if not parsed.need_score_traces:
        return None
    if _output_path(parsed) == "-":
        raise ValueError(
            "--need-score-traces needs --beam-size above 1, and --output-file (or --split)"
        )
    return Path(f"{parsed.output}.trace.pickle")


def _output_path(parsed: argparse.Namespace) -> str:
    """OUTPUT, by its name or by the end of a name; stdout if neither is given."""
    if parsed.output_file is not None:
        return str(parsed.output_file)
    return f"{checkpoint(parsed)}.{parsed.split}" if parsed.split else "-"


def _tokenizer(parsed: argparse.Namespace) -> str | None:
    given = [name for name in (parsed.tokenizer, parsed.tokenizer_name, parsed.bert_model) if name]
    if len(set(given)) > 1:
        raise ValueError(f"pass one tokenizer, not {' and '.join(given)}")
    if not given or os.path.isdir(given[0]):
        return given[0] if given else None
    name = _VOCABULARIES.get(given[0], given[0])
    if name.startswith(("unilm", "minilm")):
        raise ValueError(
            f"{name} is a name that only UniLM's own command knows: pass the folder with its "
            "vocab.txt"
        )
    return name


def _config_file(path: str | None) -> dict[str, Any]:
    """What another config.json says of the network, but for what is read off its tensors."""
    if path is None:
        return {}
    if not Path(path).is_file():
        raise ValueError(f"--config-path: there is no file {path}")
    return {key: value for key, value in read_json(Path(path)).items() if key not in _NOT_ASKED}


def _placement(parsed: argparse.Namespace) -> dict[str, str]:
    device = "cpu" if parsed.no_cuda else parsed.device
    if not parsed.fp16:
        return {"device": device, "dtype": parsed.dtype}

    from tritonseq.checkpoint.devices import resolve_device

    if resolve_device(device).type == "cpu":
        warnings.warn("--fp16 has no effect on the CPU, which computes in float32", stacklevel=2)
        return {"device": device, "dtype": parsed.dtype}
    return {"device": device, "dtype": "float16"}


def source_length(parsed: argparse.Namespace) -> int | None:
    """To how many ids sources are cut, by --max-seq-length; None if nothing is said."""
    if parsed.max_seq_length is None:
        return None
    target = 128 if parsed.max_tgt_length is None else parsed.max_tgt_length
    if target >= parsed.max_seq_length - 2:
        raise ValueError(
            f"--max-tgt-length {target} leaves no room for a source within --max-seq-length "
            f"{parsed.max_seq_length}: it must be less than that by more than 2"
        )
    length: int = parsed.max_seq_length - target
    return length


def generation_options(
    parsed: argparse.Namespace, options: dict[str, Any], tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """`options` of `generate` with what the flags say, by the names of `generate`.

    The tokenizer is needed if `names_tokens(parsed)`.
    """
    said = {
        "num_beams": parsed.beam_size,
        "max_new_tokens": parsed.max_tgt_length,
        "min_new_tokens": parsed.min_len,
        "suppress_tokens": _word_ids(parsed.not_predict_token, tokenizer),
        # A trace is of the whole search.
        "early_stopping": "never" if parsed.need_score_traces else None,
    }
    if parsed.forbid_duplicate_ngrams:
        said["no_repeat_ngram_size"] = parsed.ngram_size
        said["no_repeat_ngram_ignore_ids"] = _word_ids(parsed.forbid_ignore_word, tokenizer)
    said = {name: value for name, value in said.items() if value is not None}
    for name in said.keys() & options.keys():
        raise ValueError(f"{name} is said twice: by --{name.replace('_', '-')} and another flag")
    return options | said


def names_tokens(parsed: argparse.Namespace) -> bool:
    """Are there tokens among the flags that only a tokenizer has the ids of?"""
    return bool(parsed.not_predict_token or parsed.forbid_ignore_word)


def _word_ids(words: str | None, tokenizer: Tokenizer | None) -> list[int] | None:
    """The ids of tokens between bars; those in brackets are in capitals, as upstream has it."""
    if not words:
        return None
    assert tokenizer is not None, "names_tokens says that it is needed"
    names = [word for word in words.split("|") if word]
    return tokenizer.token_ids(
        name.upper() if name.startswith("[") and name.endswith("]") else name for name in names
    )
