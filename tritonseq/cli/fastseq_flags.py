"""FastSeq's names for flags of `tritonseq generate`: command lines that were published for it run.

FastSeq cuts texts that are too long unless it is told not to. So a flag that only FastSeq has
makes that the default here too, for models with an encoder.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_TASKS = ("summarization", "translation")
"""What FastSeq's --task may be, and how it may begin, for checkpoints without tasks of their own:
there it only chooses the metric."""


def _or_none(text: str) -> int | None:
    """A number, or nothing for those below 1."""
    number = int(text)
    return number if number > 0 else None


_NUMBERS: dict[str, tuple[str, Callable[[str], int | None], str]] = {
    "bs": ("batch_size", int, "as --batch-size"),
    "beam": ("num_beams", int, "as --num-beams"),
    "n_obs": ("limit", _or_none, "as --limit; -1 for all"),
    "max_tokenizer_length": ("max_source_length", int, "as --max-source-length"),
    "max_gen_length": ("max_length", int, "as --max-length"),
    "min_gen_length": ("min_length", _or_none, "as --min-length; -1 for none"),
}
_SWITCHES = {
    "output_summaries_only": ("full_text", False, "as --no-full-text"),
    "output_sequence_scores": ("scores", True, "as --scores"),
    "include_special_tokens": ("skip_special_tokens", False, "as --no-skip-special-tokens"),
}
_NO_EFFECT = ("padding", "return_tensors", "padding_side")
_ALONE = ("without_fastseq_opt", "use_slow_tokenizer")
_OURS = {
    **{name: ours for name, (ours, _, _) in (_NUMBERS | _SWITCHES).items()},
    "reference_path": "reference",
}
"""The flags that mean the same here, by name."""

_CUT_NOTHING = {"beam", "include_special_tokens"}
"""Flags that do not ask for FastSeq's cutting of sources: fairseq has the first as well, and the
second is about what is written."""

FAIRSEQ = {
    "--lenpen": "--length-penalty",
    "--nbest": "--n-best",
    "--max-len-b": "--max-new-tokens",
    "--max-len": "--max-new-tokens",
    "--sampling": "--do-sample",
    "--sampling-topk": "--top-k",
    "--sampling-topp": "--top-p",
    "--unkpen": "--suppress-tokens with the id of the unknown token",
    "--truncate-source": "--truncation",
    "--max-tokens": "--batch-tokens",
    "--path": "MODEL, a folder in the format of transformers",
    "--gen-subset": "INPUT, a file of texts",
    "--remove-bpe": "nothing, for outputs are texts",
    "--bpe": "--tokenizer, a folder with its files",
    "--num-workers": "--preprocess-workers",
}
"""Flags of fairseq, which FastSeq's other command has, and what is said here instead."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `tritonseq generate` does not have by the same name already."""
    group = parser.add_argument_group(
        "FastSeq", "its names, also with _ for -; with any of them, --truncation is the default"
    )
    for name, (_, kind, what) in _NUMBERS.items():
        group.add_argument(
            _flag(name), type=kind, default=argparse.SUPPRESS, metavar="N", help=what
        )
    group.add_argument(
        "--reference-path", default=argparse.SUPPRESS, metavar="F", help="as --reference"
    )
    for name, (_, _, what) in _SWITCHES.items():
        group.add_argument(_flag(name), action="store_true", default=argparse.SUPPRESS, help=what)
    group.add_argument(
        "--causal-lm", action="store_true", help="the model is one without an encoder"
    )
    for name in _NO_EFFECT:
        group.add_argument(_flag(name), default=argparse.SUPPRESS, metavar="X", help="no effect")
    for name in _ALONE:
        group.add_argument(
            _flag(name), action="store_true", default=argparse.SUPPRESS, help="no effect"
        )


def translate(parsed: argparse.Namespace) -> None:
    """Put what FastSeq's flags say where ours say it, and note whether there are any.

    Raises ValueError if both say something, and not the same.
    """
    names = {*_OURS, *_NO_EFFECT, *_ALONE} - _CUT_NOTHING
    parsed.fastseq = any(hasattr(parsed, name) for name in names)
    for name, ours in _OURS.items():
        if not hasattr(parsed, name):
            continue
        value = _SWITCHES[name][1] if name in _SWITCHES else getattr(parsed, name)
        default = parsed.parser.get_default(ours)
        before = getattr(parsed, ours, default)
        if before not in (default, value):
            raise ValueError(
                f"{_flag(name)} and {_flag(ours)} mean the same, and are {value} and {before}: "
                "drop one"
            )
        setattr(parsed, ours, value)


def truncation(parsed: argparse.Namespace, *, has_encoder: bool) -> bool:
    """Are texts that are too long to be cut?"""
    if parsed.truncation is None:
        return bool(parsed.fastseq) and has_encoder
    return bool(parsed.truncation)


def task(parsed: argparse.Namespace, known: Collection[str]) -> str | None:
    """The task as the checkpoint has it; None if it has no tasks at all and this is a usual one."""
    name: str | None = parsed.task
    if name is not None and not known and name.startswith(_TASKS):
        return None
    return name


def metric(parsed: argparse.Namespace) -> str:
    """What outputs are compared by: as is said, or as it is usual for the task."""
    usual = "bleu" if (parsed.task or "").startswith("translation") else "rouge"
    return parsed.metric or usual


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
