"""The command line: options reach generate, output is as asked, faults are one line."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

import tritonseq
from tritonseq.cli.arguments import argument
from tritonseq.cli.env import driver_version
from tritonseq.cli.main import build_parser, main
from tritonseq.demo.run import EMBEDDED
from tritonseq.options.config import GenerationConfig

if TYPE_CHECKING:
    from pathlib import Path

PROMPT = "four dozen minus seven ="
FOLDER = EMBEDDED / "gpt2-words"
MODEL = str(FOLDER)
Captured = pytest.CaptureFixture[str]


def generate(*arguments: str) -> int:
    return main(["generate", MODEL, "--device", "cpu", *arguments])


def test_prompts_are_continued(capsys: Captured) -> None:
    assert generate("--prompt", PROMPT, "--prompt", "two plus two =") == 0
    assert capsys.readouterr().out.splitlines() == [f"{PROMPT} forty-one", "two plus two = four"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "meta"], "device 'meta' holds no weights"),
        (["--tokenizer", "a" * 5000], "tokenizer is 'aaa"),
    ],
)
def test_what_nothing_can_be_loaded_with_is_one_line(
    capsys: Captured, flags: list[str], message: str
) -> None:
    assert main(["generate", MODEL, "--prompt", PROMPT, *flags]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_json_lines_with_several_returned_sequences(capsys: Captured) -> None:
    options = ["--num-beams", "4", "--num-return-sequences", "2", "--batch-size", "1", "--json"]
    assert generate("--prompt", PROMPT, "--prompt", "two plus two =", *options) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["prompt"] for line in lines] == [PROMPT] * 2 + ["two plus two ="] * 2
    assert lines[0]["text"] == " forty-one"
    assert lines[2]["text"] == " four"
    assert lines[0] != lines[1]


def test_prompt_file_and_stdin(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line by line: a blank one stays where it is. The mark of UTF-8 is no text."""
    prompts = f"\ufeff{PROMPT}\r\n\n  \r\ntwo plus two =\n"
    (tmp_path / "prompts.txt").write_text(prompts, encoding="utf-8")
    assert generate("--prompt-file", str(tmp_path / "prompts.txt")) == 0
    from_file = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(prompts))
    assert generate("--prompt-file", "-") == 0
    assert capsys.readouterr().out == from_file == f"{PROMPT} forty-one\n\n\ntwo plus two = four\n"


def test_blank_lines_with_json_and_several_sequences(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "prompts.txt").write_text(f"\n{PROMPT}\n")
    options = ["--num-beams", "2", "--num-return-sequences", "2", "--json"]
    assert generate("--prompt-file", str(tmp_path / "prompts.txt"), *options) == 0
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert lines[:2] == [{"prompt": "", "text": ""}] * 2
    assert [line["prompt"] for line in lines[2:]] == [PROMPT] * 2
    assert lines[2]["text"] == " forty-one"
    assert "lines: 2, rejected: 0" in captured.err


def test_a_file_of_blank_lines_alone(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "prompts.txt").write_bytes(b"\n\r\n")
    assert generate("--prompt-file", str(tmp_path / "prompts.txt")) == 0
    assert capsys.readouterr().out == "\n\n"
    (tmp_path / "prompts.txt").write_bytes(b"\n")
    assert generate("--prompt-file", str(tmp_path / "prompts.txt"), "--stream") == 0
    assert capsys.readouterr().out == "\n"
    for flags in ([], ["--stream"]):
        assert generate("--prompt", "  ", *flags) == 0
        assert capsys.readouterr().out == "  \n"


def test_answers_stand_in_the_order_of_the_lines(tmp_path: Path, capsys: Captured) -> None:
    """Texts of many lengths, in batches of two and over several windows."""
    numbers = ["one", "two", "seventy-seven", "forty-one", "five", "ninety-nine", "ten", "twelve"]
    others = ["one", "sixty-six", "thirteen"]
    lines = [f"{number} plus {other} =" for number in numbers for other in others]
    (tmp_path / "prompts.txt").write_text("\n".join(lines))
    alone = []
    for line in lines:
        assert generate("--prompt", line) == 0
        alone.append(capsys.readouterr().out)
    assert generate("--prompt-file", str(tmp_path / "prompts.txt"), "--batch-size", "2") == 0
    assert capsys.readouterr().out == "".join(alone)


def test_stream_prints_what_generate_prints(capsys: Captured) -> None:
    for options in ([], ["--do-sample", "--temperature", "3.0", "--seed", "5"]):
        assert generate("--prompt", PROMPT, *options) == 0
        whole = capsys.readouterr().out
        assert generate("--prompt", PROMPT, "--stream", *options) == 0
        assert capsys.readouterr().out == whole


def test_seed_repeats_and_changes_samples(capsys: Captured) -> None:
    outputs = []
    for seed in ("1", "1", "2"):
        options = ["--do-sample", "--temperature", "5.0", "--top-k", "0", "--seed", seed]
        assert generate("--prompt", PROMPT, *options) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_options_change_the_result(capsys: Captured) -> None:
    assert generate("--prompt", PROMPT, "--max-new-tokens", "1") == 0
    assert capsys.readouterr().out == f"{PROMPT} forty\n"
    banned = tritonseq.load(FOLDER).tokenizer.backend.encode(" forty").ids
    assert generate("--prompt", PROMPT, "--bad-words-ids", json.dumps([banned])) == 0
    assert " forty" not in capsys.readouterr().out


def test_every_option_of_generation_is_a_flag() -> None:
    line = (
        "generate M --num-beams 3 --no-do-sample --length-penalty -0.5 --early-stopping "
        "--eos-token-id 1,2 --bad-words-ids [[3],[4,5]]"
    )
    parsed = vars(build_parser().parse_args(line.split()))
    expected = {
        "num_beams": 3,
        "do_sample": False,
        "length_penalty": -0.5,
        "early_stopping": True,
        "eos_token_id": [1, 2],
        "bad_words_ids": [[3], [4, 5]],
    }
    assert {name: parsed[name] for name in expected} == expected
    never = build_parser().parse_args(["generate", "M", "--early-stopping", "never"])
    assert never.early_stopping == "never"
    names = {field.name for field in fields(GenerationConfig)}
    assert names & parsed.keys() == expected.keys()


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("int | None", "7", 7),
        ("float", "7", 7.0),
        ("TokenIds", "7", 7),
        ("TokenIds", "7,8", [7, 8]),
        ("Sequence[int] | None", "7", [7]),
        ("Sequence[int] | None", "7,8", [7, 8]),
        ("bool | str", "never", "never"),
        ("bool | str", "false", False),
        ("Sequence[Sequence[int]] | None", "[[7],[8,9]]", [[7], [8, 9]]),
        ("Sequence[Sequence[int]] | None", "7,8", [[7, 8]]),
        ("Sequence[Sequence[int]] | None", "7", [[7]]),
    ],
)
def test_annotations_say_how_a_value_is_read(annotation: str, text: str, value: object) -> None:
    read = argument(annotation)["type"](text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pass --prompt TEXT or --prompt-file F"),
        (["--prompt", PROMPT, "--num-beams", "0"], "num_beams"),
        (["--prompt", PROMPT, "--stream", "--json"], "--stream prints the text of one prompt"),
        (["--prompt", PROMPT, "--stream", "--num-beams", "2"], "pass --num-beams 1"),
        (["--prompt", PROMPT, "--batch-size", "0"], "--batch-size is 0"),
        (["--prompt", PROMPT, "--dtype", "float13"], "float13"),
        (["--prompt-file", "/no/such/file"], "/no/such/file cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    arguments: list[str], message: str, capsys: Captured
) -> None:
    assert generate(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tritonseq: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def copied(folder: Path, source: str, **changes: object) -> str:
    """An embedded checkpoint with other entries in its config.json."""
    shutil.copytree(EMBEDDED / source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return str(folder)


def test_a_task_is_handed_on(tmp_path: Path, capsys: Captured) -> None:
    """Its own max_length is no fault of a command with --max-new-tokens."""
    tasks = {"date": {"prefix": "", "max_length": 40, "num_beams": 2}}
    model = copied(tmp_path / "dates", "t5-dates", task_specific_params=tasks)
    arguments = ["generate", model, "--device", "cpu", "--prompt", "3 May 2012", "--task", "date"]
    for options, text in (([], "2012-05-03"), (["--max-new-tokens", "1"], "")):
        assert main([*arguments, *options]) == 0
        captured = capsys.readouterr()
        assert captured.out.startswith(text)
        assert "warning" not in captured.err
    assert main([*arguments[:-1], "time"]) == 2
    assert "'time' is not among" in capsys.readouterr().err
    assert main([*arguments, "--stream"]) == 2
    assert "num_beams is 2, given or by default of the checkpoint" in capsys.readouterr().err
    assert main([*arguments, "--stream", "--num-beams", "1"]) == 0
    assert capsys.readouterr().out == "2012-05-03\n"


def test_sources_are_cut_when_asked(tmp_path: Path, capsys: Captured) -> None:
    arguments = ["generate", str(EMBEDDED / "t5-dates"), "--device", "cpu"]
    arguments += ["--prompt", "3 May 2012 or so, as far as anybody can tell"]
    assert main([*arguments, "--max-source-length", "2"]) == 0
    cut = capsys.readouterr().out
    assert main(arguments) == 0
    assert capsys.readouterr().out != cut


def test_a_warning_is_one_line(capsys: Captured) -> None:
    assert generate("--prompt", PROMPT, "--top-p", "0.5") == 0
    captured = capsys.readouterr()
    assert captured.out == f"{PROMPT} forty-one\n"
    warning, _ = captured.err.splitlines()
    assert warning == "tritonseq: warning: without do_sample=True, no effect of: top_p"


def test_the_summary_counts_tokens(capsys: Captured) -> None:
    """The end token counts, padding does not: three rows, the longest of them of four tokens."""
    model = tritonseq.load(FOLDER)
    prompts = [PROMPT, "two plus two =", "Take eleven from seventy-two and you have"]
    wanted = 0
    for prompt in prompts:
        ids, mask = model.tokenizer.encode([prompt], pad_id=0)
        wanted += len(list(model.stream(ids, mask)))
    arguments = [part for prompt in prompts for part in ("--prompt", prompt)]
    pad_is_end = ["--pad-token-id", str(model.generation_config.eos_token_ids[0])]
    for options in ([], pad_is_end, ["--batch-size", "1"]):
        assert generate(*arguments, *options) == 0
        assert f"prompts: 3, new tokens: {wanted}, seconds: " in capsys.readouterr().err
    assert generate("--prompt", PROMPT, "--stream") == 0
    assert re.search(r"prompts: 1, .*tokens/s: [\d,]+\.\d\n$", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"four " * 500, "line 3 is rejected: the text has 501 tokens"),
        (b"\xff", "line 3 is rejected: invalid UTF-8: byte 1"),
    ],
)
def test_a_bad_line_of_a_prompt_file_spoils_no_other(
    bad: bytes, message: str, tmp_path: Path, capsys: Captured
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"two plus two =\n\n%b\n%b\n" % (bad, PROMPT.encode()))
    assert generate("--prompt-file", str(file), "--batch-size", "1") == 3
    captured = capsys.readouterr()
    assert captured.out == f"two plus two = four\n\n\n{PROMPT} forty-one\n"
    assert message in captured.err
    assert generate("--prompt-file", str(file), "--batch-size", "1", "--json") == 3
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == [" four", "", "", " forty-one"]
    assert [rows[0]["prompt"], rows[1]["prompt"]] == ["two plus two =", ""]


def test_an_empty_prompt_file_has_an_empty_output(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "prompts.txt").touch()
    assert generate("--prompt-file", str(tmp_path / "prompts.txt")) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("fault", [ConnectionError("the Hub is away"), PermissionError(13, "no")])
def test_faults_of_network_and_disk_are_one_line(
    fault: OSError, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr("tritonseq.cli.generate_prompts.load", load)
    assert generate("--prompt", PROMPT) == 2
    assert capsys.readouterr().err == f"tritonseq: error: {fault}\n"


def test_a_closed_pipe_ends_quietly() -> None:
    command = [sys.executable, "-m", "tritonseq", "generate", MODEL, "--device", "cpu"]
    with subprocess.Popen(
        [*command, "--prompt", PROMPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_version_of_the_module_run_as_a_program() -> None:
    command = [sys.executable, "-m", "tritonseq", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"tritonseq {tritonseq.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--numbeams", "4"], "unknown flag --numbeams: did you mean --num-beams?"),
        (["--num-beam=4"], "unknown flag --num-beam: did you mean --num-beams?"),
        (["--xyzzy"], "unknown flag --xyzzy: --help lists what there is"),
        (["in.txt", "out.txt", "stray"], "unrecognized arguments: stray"),
    ],
)
def test_an_unknown_flag_names_the_nearest(
    arguments: list[str], message: str, capsys: Captured
) -> None:
    with pytest.raises(SystemExit) as stop:
        generate("--prompt", PROMPT, *arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("value", [[], ["never"], ["False"]], ids=str)
def test_early_stopping_leaves_the_model_alone(value: list[str], capsys: Captured) -> None:
    options = ["--num-beams", "2", "--device", "cpu", "--prompt", PROMPT]
    assert main(["generate", *options, "--early-stopping", *value, MODEL]) == 0
    assert capsys.readouterr().out == f"{PROMPT} forty-one\n"


def test_missing_model(tmp_path: Path, capsys: Captured) -> None:
    missing = str(tmp_path / "missing")
    assert main(["generate", missing, "--prompt", "a", "--local-files-only"]) == 2
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["compose"],
        ["generate", MODEL, "--num-beam-hypotheses", "3"],
        ["generate", MODEL, "--num-beams", "many"],
    ],
)
def test_the_parser_refuses(arguments: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: tritonseq" in capsys.readouterr().err


def test_help_names_every_command(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("generate", "demo", "bench", "env"))


def test_env_names_what_a_bug_report_needs(capsys: Captured) -> None:
    assert main(["env"]) == 0
    names = {line.split("  ")[0] for line in capsys.readouterr().out.splitlines()}
    assert {"tritonseq", "installed in", "python", "system", "torch", "triton", "tqdm"} <= names
    assert {"huggingface_hub", "tokenizers", "sentencepiece", "CPU", "memory"} <= names
    assert any(name.startswith("GPU") for name in names)


def test_env_finds_the_version_of_the_driver() -> None:
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC"
    assert driver_version(text) == "570.86.15"
    assert driver_version("NVRM version: 535.54 Tue") == "535.54"
    assert driver_version("who knows\n") == "who knows"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["generate", "--help"], ["generate", "M", "/no/such/file"]]
)
def test_help_and_early_faults_come_without_torch(arguments: list[str]) -> None:
    program = "import sys; sys.modules['torch'] = None\n"
    program += "from tritonseq.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "--help" in arguments:
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: tritonseq")
    else:
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("tritonseq: error: /no/such/file cannot be read")


@pytest.mark.parametrize("count", ["0", "100001", "1" + "0" * 31])
def test_the_demo_makes_its_problems_beforehand(count: str, capsys: Captured) -> None:
    assert main(["demo", "--problems", count]) == 2
    assert "the demo takes from 1 to 100000 problems" in capsys.readouterr().err


def test_demo_runs_as_a_process_without_transformers() -> None:
    program = (
        "import sys; sys.modules['transformers'] = None; "
        "from tritonseq.cli.main import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, "demo", "--problems", "10", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "10/10" in done.stdout
