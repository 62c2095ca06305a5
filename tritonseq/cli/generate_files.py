"""`tritonseq generate MODEL INPUT OUTPUT`: from the flags to a job, and what is said of its end."""

from __future__ import annotations

import json
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonseq.errors import JobFailed
from tritonseq.jobs.formats import format_of
from tritonseq.jobs.input import InputFile
from tritonseq.jobs.metrics import Reference, best_outputs
from tritonseq.jobs.output import OutputFile
from tritonseq.options.validation import CHECKS
from tritonseq.progress import note
from tritonseq.stages.run_options import FLAGS, RunOptions

from .arguments import flag
from .checkpoint_flags import check_kind, load_arguments, look, text_options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from tritonseq.jobs.job import JobSummary
    from tritonseq.text.tokenizer import Tokenizer

    Options = dict[str, Any] | Callable[[Tokenizer], dict[str, Any]]

_REJECTED = 3
_INTERRUPTED = 130

# Arguments of InputFile, OutputFile and JobOptions that are flags by the same name.
_FIELDS = ("source_field", "id_field", "src_lang_field", "tgt_lang_field")
_OF_SOURCE = (*_FIELDS, "keep_source", "limit")
_OF_TARGET = ("output_field", "id_field", "resume", "overwrite")
_OF_JOB = ("verbose", "quiet")


def run(parsed: argparse.Namespace, options: dict[str, Any]) -> int:
    """Run the job of a parsed command line under the given generation options.

    Returns the exit code. What can be found wrong before the model is loaded is found then.
    """
    for name, value in options.items():
        if value is not None:
            CHECKS[name](name, value)
    copies = options.get("num_return_sequences") or 1
    target = _output_file(parsed, copies)
    source = input_file(parsed, taken=target.formatter.taken, copies=copies)
    _check_others(parsed, target)
    is_done = parsed.resume and target.is_complete and not parsed.overwrite
    if not is_done:
        target.check(source)
    reference = _reference(parsed, source, target)
    if is_done:
        look(load_arguments(parsed))
        _refuse_other_lines(target, source)
        _say(f"{target.name} is complete: there is nothing to go on with")
        return _judge(parsed, target, reference, has_rejected=target.has_rejected)
    source.look()
    checkpoint = load_arguments(parsed)

    # These import torch.
    from tritonseq.jobs.job import JobOptions, run_job
    from tritonseq.stages.workers import ModelSource

    info = look(checkpoint)
    check_kind(parsed, info)
    try:
        done = run_job(
            source,
            _for_model(target, parsed, has_encoder=info.has_encoder),
            ModelSource(checkpoint.pop("name_or_path"), checkpoint),
            text_options(parsed, info),
            _generation(parsed, options),
            JobOptions(
                RunOptions(**_given(parsed, FLAGS)),
                **_given(parsed, _OF_JOB),
                timeline=parsed.trace,
                searches=parsed.traces,
                # What is compared with a reference may still be interrupted.
                when_done=parsed.when_done if reference is None else None,
            ),
            report=_say,
        )
    except KeyboardInterrupt:
        _say(f"interrupted{_goes_on(target)}")
        return _INTERRUPTED
    return _end(parsed, done, target, reference)


def _refuse_other_lines(target: OutputFile, source: InputFile) -> None:
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
    if not parsed.token_names:
        return options
    from .unilm_flags import token_ids

    return lambda tokenizer: options | token_ids(parsed.token_names, tokenizer)


def _output_file(parsed: argparse.Namespace, copies: int) -> OutputFile:
    path = parsed.output or "-"
    speaks = parsed.keep_source or parsed.token_scores
    has_fields = speaks or parsed.output_field is not None
    format = format_of(path, parsed.output_format, has_fields=has_fields)
    if parsed.full_text and format == "json":
        raise ValueError(
            f"--full-text is for lines of text, and {path} holds JSON lines: drop it, or pass "
            "--keep-source"
        )
    pairs = {"format": "json", "output_field": "text", "pair_field": "source"}
    return OutputFile(
        path,
        copies=copies,
        with_scores=parsed.scores,
        with_token_scores=parsed.token_scores,
        traces=parsed.traces,
        **(pairs if parsed.json else {"format": format}),
        **_given(parsed, _OF_TARGET),
    )


def _for_model(target: OutputFile, parsed: argparse.Namespace, *, has_encoder: bool) -> OutputFile:
    """The target with what depends on the kind of model."""
    if has_encoder:
        return target
    pair_field = None if target.pair_field is None else "prompt"
    return replace(target, whole=parsed.full_text is not False, pair_field=pair_field)


def input_file(parsed: argparse.Namespace, **others: Any) -> InputFile:
    """INPUT, with what the flags say of it and `others` of its settings."""
    says_fields = any(getattr(parsed, name) is not None for name in _FIELDS)
    return InputFile(
        parsed.input,
        format=parsed.input_format,
        has_fields=parsed.input_format is None and says_fields,
        trims_blanks=parsed.prompt_file is not None,
        tokenized=parsed.tokenized_input,
        **_given(parsed, _OF_SOURCE),
        **others,
    )


def _reference(
    parsed: argparse.Namespace, source: InputFile, target: OutputFile
) -> Reference | None:
    """What outputs are compared with; ValueError if that will not be possible."""
    if parsed.reference is None:
        for name in ("metric", "score_path"):
            if getattr(parsed, name) is not None:
                raise ValueError(f"{flag(name)} goes with --reference: name a file")
        return None
    if target.is_pipe:
        raise ValueError(f"--reference compares an OUTPUT that is a file, not {target.name}")
    if parsed.score_path is None and sys.stdout is None:
        raise ValueError("stdout is closed, where the figures go: name a file by --score-path")
    usual = "bleu" if (parsed.task or "").startswith("translation") else "rouge"
    reference = Reference(Path(parsed.reference), parsed.metric or usual, parsed.limit)
    reference.check(source.count_lines())
    return reference


def _check_others(parsed: argparse.Namespace, target: OutputFile) -> None:
    """Raise ValueError if one of the smaller outputs would replace a file, or cannot be."""
    if parsed.reference is not None and any(_is_same(parsed.reference, p) for p in target.paths):
        raise ValueError(
            f"--reference {parsed.reference} is a file of the job itself, and would be lost: name "
            "another OUTPUT"
        )
    taken = [parsed.input, parsed.reference, *target.paths]
    others = (
        ("--score-path", parsed.score_path),
        ("--trace", parsed.trace),
        ("--need-score-traces", parsed.traces),
    )
    for name, path in others:
        if path is None:
            continue
        if not path.parent.is_dir():
            raise ValueError(f"{path} is in a folder that is not there: mkdir -p {path.parent}")
        if any(other and _is_same(path, other) for other in taken):
            raise ValueError(f"{name} {path} is a file of the job itself: name another")
        if path.is_dir():
            raise ValueError(f"{name} {path} is a folder: name a file in it")
        if name == "--trace" and os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError(f"{name} {path} is a link, a pipe or a device: name a file")
        taken.append(path)
        if path.is_file() and not (parsed.overwrite or parsed.resume):
            raise ValueError(f"{name}: {path} exists: name another, or pass --overwrite")


def _is_same(path: str | Path, other: str | Path) -> bool:
    """Whether they are one file, through links or by two names of it."""
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def _end(
    parsed: argparse.Namespace, done: JobSummary, target: OutputFile, reference: Reference | None
) -> int:
    """Tell how the job ended; the exit code."""
    if not parsed.quiet:
        for line in str(done).splitlines():
            _say(line)
    if done.interrupted:
        _say(f"interrupted after {done.lines:,} lines{_goes_on(target)}")
        return _INTERRUPTED
    return _judge(parsed, target, reference, has_rejected=done.rejected > 0)


def _goes_on(target: OutputFile) -> str:
    return "" if target.is_pipe else ": the same command with --resume goes on"


def _judge(
    parsed: argparse.Namespace,
    target: OutputFile,
    reference: Reference | None,
    *,
    has_rejected: bool,
) -> int:
    """Compare the whole output with the reference, if there is one; the exit code."""
    if reference is not None:
        formatter = target.formatter
        outputs = best_outputs(
            Path(target.path),
            field=formatter.output_field if formatter.format == "json" else None,
            copies=formatter.copies,
            scored=formatter.with_scores,
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
