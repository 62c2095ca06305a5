"""The flags of decode_seq2seq.py, the command of UniLM and s2s-ft, for `tritonseq generate`.

A command line that was published for either decoder runs with its flags as they are; those that
only told upstream how to run (--amp) or that it parses and ignores are accepted and do nothing.
"""

from __future__ import annotations

import json
import pickle
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from .outputs import BeamTrace
    from .text import Tokenizer

_SWITCHES = {
    "new_segment_ids": "token types 4 and 5 (UniLM v1)",
    "s2s_special_token": "frame sources by [S2S_CLS] and [S2S_SEP] (v1)",
    "s2s_add_segment": "a token type of its own for the first token (v1)",
    "s2s_share_segment": "with --s2s-add-segment: types 0, 1 and 5 (v1)",
    "pos_shift": "the model was tuned without [MASK]",
    "do_lower_case": "the vocabulary is in lower case",
}
_NO_EFFECT = ("--amp", "--new-pos-ids")
_FAMILIES = ("bert", "minilm", "roberta", "unilm", "xlm-roberta", "electra")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `tritonseq generate` does not have by another name already."""
    group = parser.add_argument_group(
        "UniLM and s2s-ft", "the flags of decode_seq2seq.py, also with _ for -"
    )
    checkpoint = group.add_mutually_exclusive_group()
    for flag in ("--model-path", "--model-recover-path"):
        checkpoint.add_argument(flag, dest="model_path", metavar="PATH", help="in place of MODEL")
    for flag in ("--tokenizer-name", "--bert-model"):
        group.add_argument(flag, dest="tokenizer", metavar="DIR", help="as --tokenizer")
    for name, what in _SWITCHES.items():
        group.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=what)
    group.add_argument("--beam-size", type=int, metavar="N", help="as --num-beams")
    group.add_argument("--max-tgt-length", type=int, metavar="N", help="as --max-new-tokens")
    group.add_argument(
        "--max-seq-length", type=int, metavar="N", help="cut sources to leave room for the target"
    )
    group.add_argument("--min-len", type=int, metavar="N", help="as --min-new-tokens")
    group.add_argument("--forbid-duplicate-ngrams", action="store_true")
    group.add_argument("--ngram-size", type=int, default=3, metavar="N", help="default: 3")
    group.add_argument("--forbid-ignore-word", metavar="W|W", help="tokens that may repeat")
    group.add_argument("--not-predict-token", metavar="W|W", help="tokens that are never written")
    group.add_argument(
        "--input-file", metavar="F", help='as --prompt-file; or lines of {"src": text or tokens}'
    )
    group.add_argument("--tokenized-input", action="store_true", help="texts are tokens already")
    group.add_argument("--subset", type=int, default=0, metavar="N", help="the first N texts only")
    group.add_argument("--output-file", metavar="F", help="write texts there, not to stdout")
    group.add_argument(
        "--need-score-traces", action="store_true", help="write F.trace.pickle: all beams"
    )
    group.add_argument("--fp16", action="store_true", help="--dtype float16, on a GPU")
    group.add_argument("--no-cuda", action="store_true", help="--device cpu")
    group.add_argument("--mode", choices=("s2s",), help="what is done in any case")
    for flag in _NO_EFFECT:
        group.add_argument(flag, action="store_true", help="no effect")


def load_options(parsed: argparse.Namespace) -> dict[str, Any]:
    """What the flags say to `load`: which checkpoint, of what kind, and where it runs."""
    if (parsed.model is None) == (parsed.model_path is None):
        raise ValueError("pass one checkpoint: MODEL, or --model-path (--model-recover-path)")
    config: dict[str, Any] = dict(parsed.config or {})
    config |= {name: True for name in _SWITCHES if getattr(parsed, name)}
    if parsed.max_seq_length is not None:
        config["max_seq_length"] = parsed.max_seq_length
    model_type = "unilm" if parsed.model_type in _FAMILIES else parsed.model_type
    return {
        "name_or_path": parsed.model if parsed.model_path is None else parsed.model_path,
        "model_type": model_type,
        "config": config or None,
        "tokenizer": parsed.tokenizer,
        **_placement(parsed),
    }


def _placement(parsed: argparse.Namespace) -> dict[str, str]:
    from .devices import resolve_device

    device = "cpu" if parsed.no_cuda else parsed.device
    if not parsed.fp16:
        return {"device": device, "dtype": parsed.dtype}
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
    parsed: argparse.Namespace, options: dict[str, Any], tokenizer: Tokenizer
) -> dict[str, Any]:
    """`options` of `generate` with what the flags say, by the names of `generate`."""
    said = {
        "num_beams": parsed.beam_size,
        "max_new_tokens": parsed.max_tgt_length,
        "min_new_tokens": parsed.min_len,
        "no_repeat_ngram_size": parsed.ngram_size if parsed.forbid_duplicate_ngrams else None,
        "no_repeat_ngram_ignore_ids": _word_ids(parsed.forbid_ignore_word, tokenizer),
        "suppress_tokens": _word_ids(parsed.not_predict_token, tokenizer),
        # A trace is of the whole search.
        "early_stopping": "never" if parsed.need_score_traces else None,
    }
    if not parsed.forbid_duplicate_ngrams and parsed.forbid_ignore_word:
        del said["no_repeat_ngram_ignore_ids"]
    said = {name: value for name, value in said.items() if value is not None}
    for name in said.keys() & options.keys():
        raise ValueError(f"{name} is said twice: by --{name.replace('_', '-')} and another flag")
    return options | said


def _word_ids(words: str | None, tokenizer: Tokenizer) -> list[int] | None:
    """The ids of tokens between bars; those in brackets are in capitals, as upstream has it."""
    if words is None:
        return None
    names = [word for word in words.split("|") if word]
    return tokenizer.token_ids(
        name.upper() if name.startswith("[") and name.endswith("]") else name for name in names
    )


def read_sources(lines: Sequence[str], *, tokenized: bool) -> list[str | list[str]]:
    """The text, or the tokens, of every line: of `{"src": ...}` if the first one is an object."""
    if any(line.strip() for line in lines) and next(filter(str.strip, lines)).startswith("{"):
        return [_source(line, number) for number, line in enumerate(lines, start=1)]
    return [line.split() if tokenized and line.strip() else line for line in lines]


def _source(line: str, number: int) -> str | list[str]:
    try:
        source = json.loads(line)["src"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f'line {number} of --input-file is no JSON object with "src": {line[:60]!r}'
        ) from None
    plain = isinstance(source, str)
    if not plain and not (isinstance(source, list) and all(isinstance(s, str) for s in source)):
        raise ValueError(
            f'line {number} of --input-file: "src" must be a text or a list of tokens, not '
            f"{source!r}"
        )
    return source if plain else list(source)


def check_traces(parsed: argparse.Namespace, beams: int) -> None:
    """Raise ValueError if traces are asked for and there will be none, or nowhere to write."""
    if parsed.need_score_traces and (beams == 1 or parsed.output_file is None):
        raise ValueError("--need-score-traces needs --beam-size above 1, and --output-file")


def write_traces(path: Path, traces: Iterable[BeamTrace | None], count: int) -> None:
    """Every sample's search in the format of upstream's traces, which its tools re-score."""
    with path.open("wb") as file:
        pickle.dump({"version": 0.0, "num_samples": count}, file)
        for trace in traces:
            fields = ([], [], []) if trace is None else (frame.tolist() for frame in trace)
            pickle.dump(dict(zip(("scores", "wids", "ptrs"), fields, strict=True)), file)
