"""Which flags of `tritonseq generate` go together, and which numbers make sense."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

# What only makes sense with INPUT, and what only without.
_OF_FILES = (
    "input_format", "source_field", "id_field", "limit", "output_format", "output_field",
    "keep_source", "scores", "full_text", "overwrite", "resume", "reference", "metric",
    "score_path", "batch_tokens", "window", "refill", "preprocess_workers", "postprocess_workers",
    "devices", "quiet", "verbose", "trace",
)  # fmt: skip
_OF_PROMPTS = (
    "prompt", "prompt_file", "json", "stream", "input_file", "output_file", "split", "subset",
    "need_score_traces",
)  # fmt: skip

# The least that a number may be.
_LEAST = {
    "limit": 1,
    "batch_size": 1,
    "batch_tokens": 1,
    "window": 1,
    "max_source_length": 1,
    "preprocess_workers": 0,
    "postprocess_workers": 0,
}


def check_flags(parsed: argparse.Namespace) -> None:
    """Raise ValueError for numbers that are too low, and for flags that do not go together."""
    for name, least in _LEAST.items():
        number = getattr(parsed, name)
        if number is not None and number < least:
            raise ValueError(f"{_flag(name)} is {number}: it must be at least {least}")
    if parsed.input is None:
        if strangers := _given(parsed, _OF_FILES):
            raise ValueError(f"{strangers} goes with INPUT, a file of texts: name one")
    elif strangers := _given(parsed, _OF_PROMPTS):
        raise ValueError(
            f"{strangers} does not go with INPUT ({parsed.input}): drop the one or the other"
        )


def _given(parsed: argparse.Namespace, names: Iterable[str]) -> str:
    return ", ".join(_flag(name) for name in names if getattr(parsed, name))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
