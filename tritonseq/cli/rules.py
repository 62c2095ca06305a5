"""Rules: which flags of `tritonseq generate` go together, and which numbers make sense."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonseq.jobs.formats import FORMATS
from tritonseq.options.validation import MOST
from tritonseq.stages.run_options import RANGES

from . import fastseq_flags, unilm_flags
from .arguments import flag

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

# Files of texts, by the flags that name one.
_FILES = ("input_file", "prompt_file")

# What only makes sense with a file, what only with one that --input-file or --prompt-file names,
# and what only without.
_OF_FILES = (
    "input_format", "source_field", "id_field", "src_lang_field", "tgt_lang_field", "limit",
    "output_format", "output_field", "keep_source", "scores", "token_scores", "full_text",
    "overwrite", "resume", "reference", "metric", "score_path", "batch_tokens", "window", "refill",
    "preprocess_workers", "postprocess_workers", "devices", "quiet", "verbose", "trace",
    "tokenized_input",
)  # fmt: skip
_OF_NAMED_FILES = ("output_file", "split", "subset", "need_score_traces")
_OF_PROMPTS = ("prompt", *_FILES, "json", "stream", *_OF_NAMED_FILES)

# What speaks of the form of an output, which --json has decided.
_FORMS = (
    "output_format", "output_field", "keep_source", "scores", "token_scores", "full_text",
    "reference",
)  # fmt: skip

# What speaks of fields of an output.
_OF_FIELDS = ("output_field", "keep_source", "token_scores")

# The least and the most that a number may be.
_RANGES = {
    "limit": (1, MOST),
    "subset": (0, MOST),
    "max_source_length": (1, MOST),
    **RANGES,
    # What torch takes for a seed.
    "seed": (-(2**63), 2**64 - 1),
}

# What names something, so that it cannot be empty.
_NAMES = (
    "model", "input", "output", "model_type", "tokenizer", "revision", "cache_dir", "source_field",
    "id_field", "task", "src_lang", "tgt_lang", "src_lang_field", "tgt_lang_field", "output_field",
    "reference", "prompt_file", "input_file", "output_file", "model_path", "model_recover_path",
    "config_path", "tokenizer_name", "bert_model", "split", "device", "dtype",
    "bad_words", "source_cache",
)  # fmt: skip
_PLACES = ("model", "input", "output")


def check_flags(parsed: argparse.Namespace) -> None:
    """Raise ValueError for empty names, for numbers that are too low or too high, and for flags
    that do not go together; what FastSeq's and UniLM's flags say is put where ours say it."""
    if _given(parsed, fastseq_flags.FLAGS):
        fastseq_flags.translate(parsed)
    _check_names(parsed)
    _check_numbers(parsed)
    _check_texts(parsed)
    _check_forms(parsed)
    _check_placement(parsed)
    if _given(parsed, unilm_flags.FLAGS):
        unilm_flags.translate(parsed)
    parsed.input = parsed.prompt_file or parsed.input


def _check_names(parsed: argparse.Namespace) -> None:
    """As a variable of the shell that is not set leaves them."""
    for name in _NAMES:
        if getattr(parsed, name) == "":
            what = name.upper() if name in _PLACES else flag(name)
            raise ValueError(f"{what} is an empty text: name something, or leave it out")


def _check_numbers(parsed: argparse.Namespace) -> None:
    for name, (least, most) in _RANGES.items():
        number = getattr(parsed, name)
        if number is None:
            continue
        if number < least:
            raise ValueError(f"{flag(name)} is {number}: it must be at least {least}")
        if number > most:
            raise ValueError(f"{flag(name)} is {number}: it must be at most {most}")


def _check_texts(parsed: argparse.Namespace) -> None:
    """INPUT, another file, or texts on the command line: one of them, with the flags of it."""
    if parsed.input is not None:
        if strangers := _given(parsed, _OF_PROMPTS):
            raise ValueError(
                f"{strangers} does not go with INPUT ({parsed.input}): drop the one or the other"
            )
        return
    files = _given(parsed, _FILES)
    if files and (parsed.prompt or "," in files):
        raise ValueError(f"{_given(parsed, ('prompt', *_FILES))}: pass one of them at a time")
    if parsed.stream or not files:
        if strangers := _given(parsed, _OF_FILES):
            raise ValueError(f"{strangers} goes with INPUT, a file of texts: name one")
        if strangers := _given(parsed, _OF_NAMED_FILES):
            raise ValueError(f"{strangers} goes with --input-file, a file of texts: name one")
    if parsed.subset and parsed.limit is not None:
        raise ValueError("the number of lines is said twice: drop --subset or --limit")


def _check_forms(parsed: argparse.Namespace) -> None:
    """What is said of fields and forms must have something to be said of."""
    if parsed.json and (strangers := _given(parsed, _FORMS)):
        raise ValueError(
            f"{strangers} does not go with --json, which prints the source and the text of each "
            "output: pass --output-format json instead"
        )
    reads_lines = FORMATS.get(parsed.input_format or "") == "lines"
    if reads_lines and parsed.source_field is not None and not parsed.keep_source:
        raise ValueError(
            f"lines of text have no field {parsed.source_field!r} (--source-field): drop "
            "--input-format lines, or --source-field"
        )
    writes_lines = FORMATS.get(parsed.output_format or "") == "lines"
    if writes_lines and (strangers := _given(parsed, _OF_FIELDS)):
        raise ValueError(
            f"{strangers} speaks of fields, and lines of text have none: drop it, or "
            "--output-format lines"
        )


def _check_placement(parsed: argparse.Namespace) -> None:
    if parsed.no_cuda and not parsed.device.startswith(("auto", "cpu")):
        raise ValueError(f"--no-cuda and --device {parsed.device}: drop the one or the other")
    if parsed.fp16 and parsed.dtype not in ("auto", "float16"):
        raise ValueError(f"--fp16 and --dtype {parsed.dtype}: drop the one or the other")


def _given(parsed: argparse.Namespace, names: Iterable[str]) -> str:
    default = parsed.parser.get_default
    given = (name for name in names if getattr(parsed, name, default(name)) != default(name))
    return ", ".join(map(flag, given))
