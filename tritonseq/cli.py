"""The command line: `tritonseq generate | demo | bench | env`."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import sys
import warnings
from dataclasses import fields
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .bench.options import add_bench
from .cli_unilm import add_flags
from .config import GenerationConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Options that only change the form of a result that the command line does not show.
_HIDDEN = {"return_dict_in_generate", "output_scores", "output_logits"}

# The values of the one flag that may also stand alone.
_BARE = "--early-stopping"
_BARE_VALUES = ("true", "false", "never")

_PIPE_CLOSED = 141
"""What a shell reports for a program that SIGPIPE ended."""

_GENERATE = """\
Answer texts with a model that has an encoder, or continue them with one that has none.

  tritonseq generate facebook/bart-large-cnn --prompt-file articles.txt --truncation
  tritonseq generate t5-base --task translation_en_to_de --prompt "That is good."
  tritonseq generate gpt2 --prompt "Once upon a time" --max-new-tokens 40 --json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 2 with one line on stderr for bad input."""
    parsed = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code: int = parsed.command(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return _PIPE_CLOSED
    except (ValueError, OSError) as error:
        print(f"tritonseq: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Without the file and line that Python adds, which say nothing to a user."""
    print(f"tritonseq: warning: {message}", file=sys.stderr)


def _silence_stdout() -> None:
    """Whoever read us has left: let the interpreter's last flush go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse, or exit with the usage and, for an unknown flag, the nearest known one."""
    parser = build_parser()
    parsed, unknown = parser.parse_known_args(_spell_out(arguments))
    if unknown:
        parsed.parser.error(_complaint(unknown, parsed.parser))
    return parsed


def _spell_out(arguments: Sequence[str]) -> Iterator[str]:
    """Write flags with dashes, as they are declared, and give a bare --early-stopping its value,
    lest it take what follows, MODEL say, for it."""
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument.startswith("--"):
            flag, sign, value = argument.partition("=")
            argument = flag.replace("_", "-") + sign + value
        if argument == _BARE:
            given = bool(rest) and rest[0].lower() in _BARE_VALUES
            argument = f"{_BARE}={rest.pop(0).lower() if given else 'true'}"
        yield argument


def _complaint(unknown: Sequence[str], parser: argparse.ArgumentParser) -> str:
    known = [flag for action in parser._actions for flag in action.option_strings]
    for argument in unknown:
        flag = argument.partition("=")[0]
        if flag.startswith("--"):
            nearest = difflib.get_close_matches(flag, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "--help lists what there is"
            return f"unknown flag {flag}: {hint}"
    return f"unrecognized arguments: {' '.join(unknown)}"


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    parser = argparse.ArgumentParser(
        prog="tritonseq",
        description="Fast exact generation with encoder-decoder and small decoder models.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tritonseq {version('tritonseq')}")
    commands = parser.add_subparsers(metavar="command", required=True)
    _add_generate(commands)
    demo = commands.add_parser(
        "demo",
        help="solve small tasks with the embedded models and check every answer",
        allow_abbrev=False,
    )
    _add_placement(demo)
    demo.add_argument("--problems", type=int, default=200, metavar="N", help="default: 200")
    demo.set_defaults(command=_demo, parser=demo)
    add_bench(commands)
    env = commands.add_parser(
        "env", help="print versions and hardware, for bug reports", allow_abbrev=False
    )
    env.set_defaults(command=_env, parser=env)
    return parser


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser(
        "generate",
        usage="tritonseq generate MODEL --prompt TEXT [options]",
        help="answer or continue texts with a checkpoint from a folder or the Hugging Face Hub",
        description=_GENERATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help='a folder, a file, or a Hub id such as "gpt2"'
    )
    text = parser.add_argument_group("texts and output")
    text.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="repeatable")
    text.add_argument(
        "--prompt-file", metavar="F", help="one text a line; - reads stdin; blank lines stay blank"
    )
    text.add_argument("--task", help="options and prefix that the checkpoint has for it")
    text.add_argument("--prefix", metavar="TEXT", help="put before every text")
    text.add_argument("--src-lang", metavar="CODE", help="language of the texts, such as en_XX")
    text.add_argument("--tgt-lang", metavar="CODE", help="language to write")
    text.add_argument("--truncation", action="store_true", help="cut texts that are too long")
    text.add_argument(
        "--max-source-length", type=int, metavar="N", help="cut texts to so many tokens"
    )
    text.add_argument("--batch-size", type=int, default=16, metavar="N", help="default: 16")
    text.add_argument("--seed", type=int, metavar="N", help="makes sampling repeatable")
    text.add_argument("--json", action="store_true", help="print lines of {prompt or source, text}")
    text.add_argument("--stream", action="store_true", help="print one prompt's text as it grows")
    _add_placement(parser)
    parser.add_argument("--model-type", metavar="NAME", help="in place of what config.json says")
    parser.add_argument(
        "--config", type=_object, metavar="JSON", help="keys in place of those of config.json"
    )
    parser.add_argument("--tokenizer", metavar="DIR", help="folder or Hub id with its files")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--cache-dir", metavar="DIR", help="where downloads are kept")
    parser.add_argument("--local-files-only", action="store_true", help="never use the network")
    options = parser.add_argument_group(
        "generation", "transformers' parameters; lists as 1,2,3 or JSON; default: the model's own"
    )
    for name, annotation in _generation_options():
        flag = f"--{name.replace('_', '-')}"
        options.add_argument(flag, default=argparse.SUPPRESS, **_argument(annotation))
    add_flags(parser)
    parser.set_defaults(command=_generate, parser=parser)


def _add_placement(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1; default: auto")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")


def _generation_options() -> Iterator[tuple[str, str]]:
    for field in fields(GenerationConfig):
        if field.name not in _HIDDEN and not field.name.startswith("_"):
            yield field.name, str(field.type)


def _argument(annotation: str) -> dict[str, Any]:
    """How argparse reads a field of this annotation."""
    kinds = {kind.strip() for kind in annotation.split("|")} - {"None"}
    if kinds == {"bool"}:
        return {"action": argparse.BooleanOptionalAction}
    if kinds == {"int"}:
        return {"type": int, "metavar": "N"}
    if kinds == {"float"}:
        return {"type": float, "metavar": "X"}
    if "bool" in kinds:
        return {"type": _value, "nargs": "?", "const": True, "metavar": "VALUE"}
    if "Sequence[Sequence[int]]" in kinds:
        return {"type": _words, "metavar": "VALUE"}
    if "Sequence[int]" in kinds:
        return {"type": _tokens, "metavar": "VALUE"}
    return {"type": _value, "metavar": "VALUE"}


def _value(text: str) -> Any:
    """JSON; or integers between commas; or else the text itself."""
    for candidate in (text, f"[{text}]" if "," in text else text):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    return text


def _object(text: str) -> dict[str, Any]:
    value = _value(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no JSON object such as {{"pos_shift": true}}'
        )
    return value


def _tokens(text: str) -> Any:
    """As `_value`, with a single token as a list of one."""
    value = _value(text)
    return [value] if isinstance(value, int) else value


def _words(text: str) -> Any:
    """As `_value`, with a single word such as 1,2 as a list of one word."""
    value = _value(text)
    if isinstance(value, int):
        return [[value]]
    flat = isinstance(value, list) and all(isinstance(item, int) for item in value)
    return [value] if value and flat else value


def _generate(parsed: argparse.Namespace) -> int:
    from .cli_generate import run

    given = vars(parsed)
    return run(parsed, {name: given[name] for name, _ in _generation_options() if name in given})


def _demo(parsed: argparse.Namespace) -> int:
    from .demo import run

    return run(device=parsed.device, dtype=parsed.dtype, count=parsed.problems)


def _env(parsed: argparse.Namespace) -> int:
    from .env import describe

    for name, value in describe():
        print(f"{name:<18}{value}")
    return 0
