"""The flags of `tritonseq generate`, and how their values are read."""

from __future__ import annotations

import argparse
import glob
import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonseq.jobs.formats import FORMATS
from tritonseq.options.config import GenerationConfig
from tritonseq.options.validation import MOST_PROCESSES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


_SHOWN = 60
"""Characters of a value that a message shows."""


def argument(annotation: str) -> dict[str, Any]:
    """What argparse is told of a flag for a field of this annotation."""
    kinds = {kind.strip() for kind in annotation.split("|")} - {"None"}
    if kinds == {"bool"}:
        return {"action": argparse.BooleanOptionalAction}
    if kinds == {"int"}:
        return {"type": int, "metavar": "N"}
    if kinds == {"float"}:
        return {"type": float, "metavar": "X"}
    if "bool" in kinds:
        return {"type": value, "nargs": "?", "const": True, "metavar": "VALUE"}
    if "Sequence[Sequence[int]]" in kinds:
        return {"type": words, "metavar": "VALUE"}
    if "Sequence[str]" in kinds:
        return {"type": strings, "metavar": "TEXT"}
    if "Sequence[int]" in kinds:
        return {"type": tokens, "metavar": "VALUE"}
    return {"type": value, "metavar": "VALUE"}


def flag(name: str) -> str:
    """The flag whose value `parsed` has by this name."""
    return f"--{name.replace('_', '-')}"


def value(text: str) -> Any:
    """JSON; or integers between commas; or else the text itself."""
    for candidate in (text, f"[{text}]" if "," in text else text):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    return text


def mapping(text: str) -> dict[str, Any]:
    """A JSON object."""
    found = value(text)
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(
            f'{text[:_SHOWN]!r} is no JSON object such as {{"pos_shift": true}}'
        )
    return found


def tokens(text: str) -> Any:
    """As `value`, with a single token as a list of one."""
    found = value(text)
    return [found] if isinstance(found, int) else found


def strings(text: str) -> Any:
    """A JSON string or a JSON list of them, such as "\\n" in quotes; or else the text itself."""
    found = value(text) if text[:1] in ("[", '"') else text
    return found if isinstance(found, str | list) else text


def words(text: str) -> Any:
    """As `value`, with a single word such as 1,2 as a list of one word."""
    found = value(text)
    if isinstance(found, int):
        return [[found]]
    flat = isinstance(found, list) and all(isinstance(item, int) for item in found)
    return [found] if found and flat else found


def one_match(path: str) -> str:
    """The path itself; of a pattern, the one file or folder that fits it."""
    if not glob.has_magic(path):
        return path
    found = sorted(glob.glob(path))
    if len(found) != 1:
        fits = ", ".join(found) or "nothing"
        raise ValueError(f"{path} fits {fits}: pass one checkpoint at a time")
    return found[0]


def devices(text: str) -> tuple[str, ...]:
    """Names between commas, one for each process; "cpu:2" stands for two on the CPU.

    All are of one kind: a text must not come out differently by the device that it met.
    """
    names: list[str] = []
    for name in text.split(","):
        kind, colon, number = name.strip().partition(":")
        is_numbered = number.isascii() and number.isdecimal()
        is_none = kind == "cpu" and is_numbered and not number.strip("0")
        if kind not in ("cpu", "cuda") or (colon and not is_numbered) or is_none:
            raise argparse.ArgumentTypeError(
                f"{name!r} is no device: say cuda:0,cuda:1 for two GPUs, or cpu:2"
            )
        names += ["cpu"] * _processes(name, number) if kind == "cpu" else [name.strip()]
    if len(names) > MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"{len(names)} processes: the most are {MOST_PROCESSES}")
    if len({name.partition(":")[0] for name in names}) > 1:
        raise argparse.ArgumentTypeError(
            f"{text} mixes the CPU with GPUs, whose results differ in the last digits: name one "
            "kind of device"
        )
    return tuple(names)


def _processes(name: str, number: str) -> int:
    """How many "cpu:NUMBER" asks for, looked at before as many names are made."""
    number = number.lstrip("0")
    if len(number) > len(str(MOST_PROCESSES)) or int(number or 1) > MOST_PROCESSES:
        raise argparse.ArgumentTypeError(
            f"{name[:_SHOWN]} asks for more than {MOST_PROCESSES} processes: pass fewer"
        )
    return int(number or 1)


# Options that only change the form of a result that the command line does not show.
_HIDDEN = {"return_dict_in_generate", "output_scores", "output_logits", "output_token_scores"}

_USAGE = """\
tritonseq generate MODEL INPUT [OUTPUT] [options]
       tritonseq generate MODEL --prompt TEXT [options]"""

_DESCRIPTION = """\
Answer texts with a model that has an encoder, or continue them with one that has none.

  tritonseq generate facebook/bart-large-cnn val.source out.summary --truncation
  tritonseq generate t5-base in.jsonl out.jsonl.gz --source-field text --task translation_en_to_de
  tritonseq generate gpt2 --prompt "Once upon a time" --max-new-tokens 40

INPUT and OUTPUT have a text a line, or JSON lines, gzipped or not; - is stdin or stdout. OUTPUT
has a line for each line of INPUT. A line that fails is left empty, and OUTPUT.rejected.jsonl says
why. A job that was interrupted goes on where it was with the same command and --resume.
"""

_EPILOG = """\
exit status: 0 done; 1 failed, --resume goes on; 2 wrong arguments or input; 3 done, but lines
were rejected; 130 interrupted, --resume goes on
"""


def add_generate(commands: Any) -> argparse.ArgumentParser:
    """Declare `generate` among the commands of `commands`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "generate",
        usage=_USAGE,
        help="answer or continue texts with a checkpoint from a folder or the Hugging Face Hub",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help='a folder, a file, or a Hub id such as "gpt2"'
    )
    parser.add_argument("input", nargs="?", metavar="INPUT", help="texts, one a line; - is stdin")
    parser.add_argument("output", nargs="?", metavar="OUTPUT", help="default: -, which is stdout")
    _add_checkpoint(parser)
    _add_input(parser)
    _add_output(parser)
    _add_running(parser)
    _add_command_line_texts(parser)
    _add_options(parser)
    return parser


def add_group(
    parser: argparse.ArgumentParser, title: str, description: str, flags: Mapping[str, Any]
) -> None:
    """Declare flags by their names, each with what argparse is told of it."""
    group = parser.add_argument_group(title, description)
    for name, settings in flags.items():
        group.add_argument(flag(name), **settings)


def add_placement(parser: argparse._ActionsContainer) -> None:
    """Where a model runs."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1; default: auto")
    parser.add_argument(
        "--dtype", default="auto", help="auto, float32, bfloat16, float16 or int8 (on the CPU)"
    )


def generation_options(parsed: argparse.Namespace) -> dict[str, Any]:
    """The parameters of generation that were given."""
    given = vars(parsed)
    return {name: given[name] for name, _ in _parameters() if name in given}


def _parameters() -> Iterator[tuple[str, str]]:
    for field in fields(GenerationConfig):
        if field.name not in _HIDDEN and not field.name.startswith("_"):
            yield field.name, str(field.type)


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the model")
    add_placement(group)
    group.add_argument(
        "--source-cache",
        metavar="KIND",
        help="projected (keys and values of every layer), or states: much less memory for "
        "sources, more work a step; default: projected",
    )
    group.add_argument("--model-type", metavar="NAME", help="in place of what config.json says")
    group.add_argument(
        "--config", type=mapping, metavar="JSON", help="keys in place of those of config.json"
    )
    group.add_argument("--tokenizer", metavar="DIR", help="folder or Hub id with its files")
    group.add_argument("--revision", help="branch, tag or commit on the Hub")
    group.add_argument("--cache-dir", metavar="DIR", help="where downloads are kept")
    group.add_argument("--local-files-only", action="store_true", help="never use the network")


def _add_input(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("texts in")
    group.add_argument(
        "--input-format",
        choices=tuple(FORMATS),
        metavar="FORMAT",
        help="lines (of text) or json (lines); default: json by the name or with a flag of fields",
    )
    group.add_argument("--source-field", metavar="NAME", help="default: source; a.b is the b of a")
    group.add_argument("--id-field", metavar="NAME", help="names a line where it is rejected")
    for side in ("src", "tgt"):
        group.add_argument(
            f"--{side}-lang-field", metavar="NAME",
            help=f"the field of a line's own --{side}-lang; default: {side}_lang",
        )  # fmt: skip
    group.add_argument("--limit", type=int, metavar="N", help="the first N lines only")
    group.add_argument("--task", help="options and prefix that the checkpoint has for it")
    group.add_argument("--prefix", metavar="TEXT", help="put before every text")
    group.add_argument("--src-lang", metavar="CODE", help="language of texts, such as en_XX")
    group.add_argument("--tgt-lang", metavar="CODE", help="language to write")
    group.add_argument(
        "--split-sentences",
        nargs="?",
        const=True,
        metavar="CODE",
        help="answer sentence by sentence; CODE, if --src-lang does not say the language",
    )
    group.add_argument(
        "--truncation", action=argparse.BooleanOptionalAction, help="cut texts that are too long"
    )
    group.add_argument(
        "--max-source-length", type=int, metavar="N", help="cut texts to so many tokens"
    )
    group.add_argument(
        "--add-special-tokens",
        action=argparse.BooleanOptionalAction,
        help="around texts, those of the checkpoint; default: yes",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("texts out")
    group.add_argument(
        "--output-format", choices=tuple(FORMATS), metavar="FORMAT", help="default: likewise"
    )
    group.add_argument("--output-field", metavar="NAME", help="default: output")
    group.add_argument("--keep-source", action="store_true", help="sources in JSON lines, too")
    group.add_argument(
        "--n-best", dest="num_return_sequences", type=int, default=argparse.SUPPRESS, metavar="N",
        help="so many for every text, the best first: as --num-return-sequences",
    )  # fmt: skip
    group.add_argument("--scores", action="store_true", help="what the beams scored, too")
    group.add_argument(
        "--token-scores",
        action="store_true",
        help="in JSON lines, the ids of each output's tokens and their log-probabilities",
    )
    group.add_argument(
        "--full-text",
        action=argparse.BooleanOptionalAction,
        help="the text and how it goes on, in lines of models without an encoder; default: yes",
    )
    group.add_argument(
        "--skip-special-tokens",
        action=argparse.BooleanOptionalAction,
        help="leave them out of texts; default: yes",
    )
    group.add_argument(
        "--clean-up-tokenization-spaces",
        action=argparse.BooleanOptionalAction,
        help="none before punctuation; default: as tokenizer_config.json says",
    )
    group.add_argument("--bad-words", metavar="F", help="texts that are not written, one a line")
    group.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    group.add_argument("--resume", action="store_true", help="go on with an interrupted job")
    group.add_argument("--reference", metavar="F", help="compare OUTPUT with the lines of F")
    group.add_argument(
        "--metric", choices=("rouge", "bleu"), help="default: bleu for a --task of translation"
    )
    group.add_argument("--score-path", type=Path, metavar="F", help="write the figures as JSON")


def _add_running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "how it runs",
        "which changes nothing that greedy and beam search write in float32; in half precision "
        "and int8 batches and --refill change the last bits, and so now and then a token",
    )
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="default: what fits; 16 with --prompt or sampling",
    )
    group.add_argument("--batch-tokens", type=int, metavar="N", help="source tokens in a batch")
    group.add_argument("--window", type=int, metavar="N", help="lines sorted by length together")
    group.add_argument(
        "--refill",
        action=argparse.BooleanOptionalAction,
        help="texts that are done make room for others; default: if it is faster",
    )
    group.add_argument(
        "--preprocess-workers",
        type=int,
        metavar="N",
        help="processes that tokenize; default: 0, a thread does",
    )
    group.add_argument(
        "--postprocess-workers",
        type=int,
        metavar="N",
        help="processes that detokenize; default: 0, a thread does",
    )
    group.add_argument(
        "--devices", type=devices, default=(), metavar="A,B",
        help="a process each: cuda:0,cuda:1, or cpu:2 for two on the CPU",
    )  # fmt: skip
    group.add_argument("--quiet", action="store_true", help="no bar and no summary")
    group.add_argument("--verbose", action="store_true", help="tell how memory is planned")
    group.add_argument("--trace", type=Path, metavar="F", help="write when each stage did what")


def _add_command_line_texts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("texts without INPUT")
    group.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="repeatable")
    group.add_argument(
        "--prompt-file", metavar="F", help="one text a line; - reads stdin; blank lines stay blank"
    )
    group.add_argument(
        "--json", action="store_true", help="print lines of {prompt or source, text}"
    )
    group.add_argument("--stream", action="store_true", help="print one prompt's text as it grows")


def _add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "generation", "transformers' parameters; lists as 1,2,3 or JSON; default: the model's own"
    )
    group.add_argument("--seed", type=int, metavar="N", help="makes sampling repeatable")
    for name, annotation in _parameters():
        group.add_argument(flag(name), default=argparse.SUPPRESS, **argument(annotation))
