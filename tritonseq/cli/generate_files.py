"""`tritonseq generate MODEL INPUT OUTPUT`: from the flags to a job, and what is said of its end."""

from __future__ import annotations

import json
import os
import stat
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonseq.errors import JobFailed
from tritonseq.jobs.input import Source
from tritonseq.jobs.lines import format_of
from tritonseq.jobs.metrics import Reference, best_outputs
from tritonseq.jobs.output import Target
from tritonseq.jobs.places import is_same
from tritonseq.jobs.summary import summary
from tritonseq.options.validation import CHECKS
from tritonseq.progress import note
from tritonseq.stages.run_options import FLAGS, RunOptions

from . import fastseq_flags
from .arguments import special_tokens
from .standard_streams import refuse_closed
from .unilm_flags import (
    generation_options,
    load_options,
    names_tokens,
    network_flag,
    source_length,
    trace_path,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from tritonseq.jobs.summary import JobSummary
    from tritonseq.text.tokenizer import Tokenizer

    from .checkpoint_info import CheckpointInfo

    Options = dict[str, Any] | Callable[[Tokenizer], dict[str, Any]]

_REJECTED = 3
_INTERRUPTED = 130

# Arguments of Source, Target and JobOptions that are flags by the same name.
_OF_SOURCE = ("source_field", "id_field", "keep_source", "limit")
_OF_TARGET = ("output_field", "id_field", "resume", "overwrite")
_OF_JOB = ("verbose", "quiet", "trace")


def run(parsed: argparse.Namespace, options: dict[str, Any]) -> int:
    """Run the job of a parsed command line under the given generation options.

    Returns the exit code. What can be found wrong before the model is loaded is found then.
    """
    generation, traces = _generation(parsed, options), trace_path(parsed)
    refuse_closed(0, parsed.input)
    refuse_closed(1, parsed.output or "-")
    copies = options.get("num_return_sequences") or 1
    target = _target(parsed, copies, traces)
    source = _source(parsed, target, copies)
    _check_others(parsed, target, traces)
    is_done = parsed.resume and target.is_complete and not parsed.overwrite
    if not is_done:
        target.check(source)
    reference = _reference(parsed, source, target)
    if is_done:
        _look(checkpoint_arguments(parsed))
        _refuse_other_lines(target, source)
        _say(f"{target.name} is complete: there is nothing to go on with")
        return _judge(parsed, target, reference, has_rejected=target.has_rejected)
    source.look()
    checkpoint = checkpoint_arguments(parsed)

    # These import torch.
    from tritonseq.jobs.job import JobOptions, run_job
    from tritonseq.stages.workers import ModelSource

    info = _look(checkpoint)
    check_kind(parsed, info)
    try:
        done = run_job(
            source,
            _for_model(target, parsed, has_encoder=info.has_encoder),
            ModelSource(checkpoint.pop("name_or_path"), checkpoint),
            text_options(parsed, info),
            generation,
            JobOptions(
                RunOptions(**_given(parsed, FLAGS)),
                **_given(parsed, _OF_JOB),
                traces=traces,
                # What is compared with a reference may still be interrupted.
                when_done=parsed.when_done if reference is None else None,
            ),
            report=_say,
        )
    except KeyboardInterrupt:
        _say(f"interrupted{_goes_on(target)}")
        return _INTERRUPTED
    return _end(parsed, done, target, reference)


def _look(checkpoint: dict[str, Any]) -> CheckpointInfo:
    from .checkpoint_info import look  # imports torch

    return look(checkpoint)


def _refuse_other_lines(target: Target, source: Source) -> None:
    """Raise ValueError if a complete output cannot be that of this input."""
    lines, wanted = target.count_lines(), source.count_all()
    if wanted is not None and lines != wanted * target.lines_each:
        each = f" of {target.lines_each} lines each" if target.lines_each > 1 else ""
        raise ValueError(
            f"{target.name} is complete with {lines:,} lines, and {source.name} asks for "
            f"{wanted:,}{each}: give it the input that it was made from, or pass --overwrite "
            "instead of --resume to make it anew"
        )


def _generation(parsed: argparse.Namespace, options: dict[str, Any]) -> Options:
    """What to generate by; a function if that takes the ids of tokens."""
    for name, value in options.items():
        if value is not None:
            CHECKS[name](name, value)
    if names_tokens(parsed):
        return partial(generation_options, parsed, options)
    return generation_options(parsed, options, None)


def _target(parsed: argparse.Namespace, copies: int, traces: Path | None) -> Target:
    path = parsed.output or "-"
    has_fields = parsed.keep_source or parsed.output_field is not None
    format = format_of(path, parsed.output_format, has_fields=has_fields)
    if parsed.full_text and format == "json":
        raise ValueError(
            f"--full-text is for lines of text, and {path} holds JSON lines: drop it, or pass "
            "--keep-source"
        )
    pairs = {"format": "json", "output_field": "text", "pair_field": "source"}
    return Target(
        path,
        copies=copies,
        with_scores=parsed.scores,
        traces=traces,
        **(pairs if parsed.json else {"format": format}),
        **_given(parsed, _OF_TARGET),
    )


def _for_model(target: Target, parsed: argparse.Namespace, *, has_encoder: bool) -> Target:
    """The target with what depends on the kind of model."""
    if has_encoder:
        return target
    pair_field = None if target.pair_field is None else "prompt"
    return replace(target, whole=parsed.full_text is not False, pair_field=pair_field)


def _source(parsed: argparse.Namespace, target: Target, copies: int) -> Source:
    return Source(
        parsed.input,
        format=parsed.input_format,
        has_fields=parsed.input_format is None and _speaks_of_fields(parsed),
        trims_blanks=parsed.prompt_file is not None,
        taken=target.layout.taken,
        tokenized=parsed.tokenized_input,
        copies=copies,
        **_given(parsed, _OF_SOURCE),
    )


def _speaks_of_fields(parsed: argparse.Namespace) -> bool:
    """Do the flags say where in an object its source or its name is?"""
    return parsed.source_field is not None or parsed.id_field is not None


def _reference(parsed: argparse.Namespace, source: Source, target: Target) -> Reference | None:
    """What outputs are compared with; ValueError if that will not be possible."""
    if parsed.reference is None:
        for name in ("metric", "score_path"):
            if getattr(parsed, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} goes with --reference: name a file")
        return None
    if target.is_pipe:
        raise ValueError(f"--reference compares an OUTPUT that is a file, not {target.name}")
    if parsed.score_path is None and sys.stdout is None:
        raise ValueError("stdout is closed, where the figures go: name a file by --score-path")
    reference = Reference(Path(parsed.reference), fastseq_flags.metric(parsed), parsed.limit)
    reference.check(source.count_lines())
    return reference


def _check_others(parsed: argparse.Namespace, target: Target, traces: Path | None) -> None:
    """Raise ValueError if one of the smaller outputs would replace a file, or cannot be."""
    if parsed.reference is not None and any(is_same(parsed.reference, p) for p in target.paths):
        raise ValueError(
            f"--reference {parsed.reference} is a file of the job itself, and would be lost: name "
            "another OUTPUT"
        )
    taken = [parsed.input, parsed.reference, *target.paths]
    others = (
        ("--score-path", parsed.score_path),
        ("--trace", parsed.trace),
        ("--need-score-traces", traces),
    )
    for flag, path in others:
        if path is None:
            continue
        if not path.parent.is_dir():
            raise ValueError(f"{path} is in a folder that is not there: mkdir -p {path.parent}")
        if any(other and is_same(path, other) for other in taken):
            raise ValueError(f"{flag} {path} is a file of the job itself: name another")
        if path.is_dir():
            raise ValueError(f"{flag} {path} is a folder: name a file in it")
        if flag == "--trace" and os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError(f"{flag} {path} is a link, a pipe or a device: name a file")
        taken.append(path)
        if path.is_file() and not (parsed.overwrite or parsed.resume):
            raise ValueError(f"{flag}: {path} exists: name another, or pass --overwrite")


def checkpoint_arguments(parsed: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `load`."""
    if parsed.devices:
        if parsed.device != "auto" or parsed.no_cuda:
            raise ValueError("say where it runs by --devices alone: drop --device and --no-cuda")
        parsed.device = parsed.devices[0]
    at_hub = {name: getattr(parsed, name) for name in ("revision", "cache_dir", "local_files_only")}
    options = load_options(parsed)
    if parsed.revision is not None and os.path.exists(options["name_or_path"]):
        raise ValueError(
            f"--revision is for the Hub, and {options['name_or_path']} is a folder: drop it"
        )
    return {**options, **at_hub}


def check_kind(parsed: argparse.Namespace, info: CheckpointInfo) -> None:
    """Raise ValueError for flags that are for another kind of model."""
    if not info.is_unilm and (flag := network_flag(parsed)):
        raise ValueError(f"{flag} is for UniLM models: drop it")
    if info.has_encoder:
        for name in ("causal_lm", "full_text"):
            if getattr(parsed, name):
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} is for models without an encoder: drop it")


def text_options(parsed: argparse.Namespace, info: CheckpointInfo) -> dict[str, Any]:
    """How texts are read, as `Model.text_job` takes it."""
    return {
        "src_lang": parsed.src_lang,
        "tgt_lang": parsed.tgt_lang,
        "prefix": parsed.prefix,
        "truncation": fastseq_flags.truncation(parsed, has_encoder=info.has_encoder),
        "max_source_length": parsed.max_source_length or source_length(parsed),
        **special_tokens(parsed),
        "task": fastseq_flags.task(parsed, info.tasks),
    }


def _end(
    parsed: argparse.Namespace, done: JobSummary, target: Target, reference: Reference | None
) -> int:
    """Tell how the job ended; the exit code."""
    if not parsed.quiet:
        for line in summary(done).splitlines():
            _say(line)
    if done.interrupted:
        _say(f"interrupted after {done.lines:,} lines{_goes_on(target)}")
        return _INTERRUPTED
    return _judge(parsed, target, reference, has_rejected=done.rejected > 0)


def _goes_on(target: Target) -> str:
    return "" if target.is_pipe else ": the same command with --resume goes on"


def _judge(
    parsed: argparse.Namespace,
    target: Target,
    reference: Reference | None,
    *,
    has_rejected: bool,
) -> int:
    """Compare the whole output with the reference, if there is one; the exit code."""
    if reference is not None:
        layout = target.layout
        outputs = best_outputs(
            Path(target.path),
            field=layout.output_field if layout.format == "json" else None,
            copies=layout.copies,
            scored=layout.with_scores,
        )
        figures = json.dumps(reference.score(outputs))
        print(figures)
        if parsed.score_path is not None:
            _write_figures(parsed.score_path, figures)
    return _REJECTED if has_rejected else 0


def _write_figures(path: Path, figures: str) -> None:
    try:
        path.write_text(figures + "\n", encoding="utf-8")
    except OSError as error:
        # An empty file would pass for figures.
        if path.is_file() and path.stat().st_size == 0:
            path.unlink()
        raise JobFailed(
            f"--score-path {path} cannot be written ({error.strerror}), and the output is "
            "complete: put that in order, then run the same command with --resume"
        ) from error


def _given(parsed: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """The flags that were given, or have a default."""
    values = {name: getattr(parsed, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _say(message: str) -> None:
    """A line for the user, on stderr: stdout is for outputs."""
    note(f"tritonseq: {message}", sys.stderr)
