"""FastSeq's names for flags of `tritonseq generate`: command lines that were published for it run.

FastSeq cuts texts that are too long unless it is told not to. So a flag that only FastSeq has
makes that the default here too, for models with an encoder.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

_TASKS = ("summarization", "translation")
"""What FastSeq's --task may be, and how it may begin, for checkpoints without tasks of their own:
there it only chooses the metric."""


class _Renamed(argparse.Action):
    """Keeps the value under our name, and notes that FastSeq's was used."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        namespace.fastseq = True
        setattr(namespace, self.dest, values if self.const is None else self.const)


class _Ignored(argparse.Action):
    """Only notes that FastSeq's flag was used."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        namespace.fastseq = True


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `tritonseq generate` does not have by the same name already."""
    group = parser.add_argument_group(
        "FastSeq", "its names, also with _ for -; with any of them, --truncation is the default"
    )
    parser.set_defaults(fastseq=False)
    for flag, name, kind, what in (
        ("--bs", "batch_size", int, "as --batch-size"),
        ("--n-obs", "limit", _or_none, "as --limit; -1 for all"),
        ("--max-tokenizer-length", "max_source_length", int, "as --max-source-length"),
        ("--max-gen-length", "max_length", int, "as --max-length"),
        ("--min-gen-length", "min_length", _or_none, "as --min-length; -1 for none"),
    ):
        group.add_argument(
            flag, dest=name, type=kind, default=argparse.SUPPRESS, metavar="N", help=what,
            action=_Renamed,
        )  # fmt: skip
    group.add_argument(
        "--reference-path", dest="reference", default=argparse.SUPPRESS, metavar="F",
        help="as --reference", action=_Renamed,
    )  # fmt: skip
    group.add_argument(
        "--causal-lm", action="store_true", help="the model is one without an encoder"
    )
    group.add_argument(
        "--include-special-tokens", dest="skip_special_tokens", const=False, nargs=0,
        default=argparse.SUPPRESS, help="as --no-skip-special-tokens", action=_Renamed,
    )  # fmt: skip
    for flag in ("--padding", "--return-tensors"):
        group.add_argument(flag, action=_Ignored, metavar="X", help="no effect")
    group.add_argument("--without-fastseq-opt", action=_Ignored, nargs=0, help="no effect")


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


def _or_none(text: str) -> int | None:
    """A number, or nothing for those below 1."""
    number = int(text)
    return number if number > 0 else None
