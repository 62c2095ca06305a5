"""FastSeq's names for flags of `tritonseq generate`: command lines that were published for it run.

FastSeq cuts texts that are too long unless it is told not to. So a flag that only FastSeq has
makes that the default here too, for models with an encoder.
"""

from __future__ import annotations

from argparse import SUPPRESS
from typing import TYPE_CHECKING, Any

from .arguments import flag

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

TITLE = "FastSeq"
DESCRIPTION = "its names, also with _ for -; with any of them, --truncation is the default"


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
    "use_el_attn": ("source_cache", "states", "as --source-cache states"),
}
_NO_EFFECT = ("padding", "return_tensors", "padding_side")
_ALONE = ("without_fastseq_opt", "use_slow_tokenizer")
_SWITCH = {"action": "store_true", "default": SUPPRESS}
FLAGS: dict[str, dict[str, Any]] = {
    **{
        name: {"type": kind, "default": SUPPRESS, "metavar": "N", "help": what}
        for name, (_, kind, what) in _NUMBERS.items()
    },
    "reference_path": {"default": SUPPRESS, "metavar": "F", "help": "as --reference"},
    **{name: {**_SWITCH, "help": what} for name, (_, _, what) in _SWITCHES.items()},
    "causal_lm": {"action": "store_true", "help": "the model is one without an encoder"},
    **{name: {"default": SUPPRESS, "metavar": "X", "help": "no effect"} for name in _NO_EFFECT},
    **{name: {**_SWITCH, "help": "no effect"} for name in _ALONE},
}
"""Those that `tritonseq generate` has by other names, as argparse takes them."""

_OURS = {
    **{name: ours for name, (ours, _, _) in (_NUMBERS | _SWITCHES).items()},
    "reference_path": "reference",
}
"""The flags that mean the same here, by name."""

_CUT_NOTHING = {"beam", "include_special_tokens", "use_el_attn"}
"""Flags that do not ask for FastSeq's cutting of sources: fairseq has the first as well, the second
is about what is written, and the third was for FastSeq's command in place of fairseq's, which
cuts nothing."""

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


def translate(parsed: argparse.Namespace) -> None:
    """Put what FastSeq's flags say where ours say it, and note whether it cuts sources by default.

    Raises ValueError if both say something, and not the same.
    """
    names = {*_OURS, *_NO_EFFECT, *_ALONE} - _CUT_NOTHING
    parsed.cuts_sources = any(hasattr(parsed, name) for name in names)
    for name, ours in _OURS.items():
        if not hasattr(parsed, name):
            continue
        value = _SWITCHES[name][1] if name in _SWITCHES else getattr(parsed, name)
        default = parsed.parser.get_default(ours)
        before = getattr(parsed, ours, default)
        if before not in (default, value):
            raise ValueError(
                f"{flag(name)} and {flag(ours)} mean the same, and are {value} and {before}: "
                "drop one"
            )
        setattr(parsed, ours, value)
