"""Command lines with files: flags reach the job as they mean, and faults come before the model."""

from __future__ import annotations

import gzip
import io
import json
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import tritonseq
from tritonseq.cli.main import main
from tritonseq.demo.run import EMBEDDED
from tritonseq.errors import JobFailed
from tritonseq.jobs.job import JobOptions, JobSummary
from tritonseq.stages.run_options import RunOptions

if TYPE_CHECKING:
    from pathlib import Path

DATES = str(EMBEDDED / "t5-dates")
WORDS = str(EMBEDDED / "gpt2-words")
BART = "bart-numerals"
Captured = pytest.CaptureFixture[str]
SOURCES = ["3 May 2012", "", "the first of June 1999", "twenty-fifth December 1984"]


class Jobs(list[SimpleNamespace]):
    """The jobs that a command line asked for; none of them is run."""

    lines = 4
    rejected = 0
    interrupted = False

    def run(
        self,
        source: Any,
        target: Any,
        model: Any,
        text_options: dict[str, Any],
        generation_options: Any,
        options: Any,
        *,
        report: Any,
    ) -> Any:
        job = SimpleNamespace(
            source=source, target=target, model=model, text=text_options,
            generation=generation_options, options=options,
        )  # fmt: skip
        self.append(job)
        return JobSummary(self.lines, self.rejected, 9, 0, 0, 2.0, [], self.interrupted)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    jobs = Jobs()
    monkeypatch.setattr("tritonseq.jobs.job.run_job", jobs.run)
    return jobs


@pytest.fixture
def sources(tmp_path: Path) -> str:
    (tmp_path / "in.txt").write_text("".join(f"{source}\n" for source in SOURCES))
    return str(tmp_path / "in.txt")


def files(folder: Path) -> tuple[str, str]:
    return str(folder / "in.txt"), str(folder / "out.txt")


def test_a_file_is_answered_line_by_line(tmp_path: Path, sources: str, capsys: Captured) -> None:
    output = tmp_path / "out.txt"
    assert main(["generate", DATES, sources, str(output), "--device", "cpu"]) == 0
    model = tritonseq.load(DATES, device="cpu")
    wanted = [model.generate_text([text])[0] if text else "" for text in SOURCES]
    assert output.read_text().splitlines() == wanted
    assert wanted[0] == "2012-05-03"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "tritonseq: lines: 4, rejected: 0, tokens: " in captured.err


def test_stdout_holds_outputs_alone(sources: str, capsys: Captured) -> None:
    assert main(["generate", DATES, sources, "--device", "cpu", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("2012-05-03\n\n")
    assert captured.err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [DATES, "IN", "OUT", "--device", "cpu", "--num-beams", "2"],
        [DATES, "--device", "cpu", "IN", "--num-beams", "2", "OUT"],
        ["--device", "cpu", DATES, "IN", "--num-beams", "2", "OUT"],
        ["--device", "cpu", "--num-beams", "2", DATES, "IN", "OUT"],
    ],
)
def test_flags_may_stand_between_the_places(
    arguments: list[str], jobs: Jobs, sources: str, tmp_path: Path
) -> None:
    places = {"IN": sources, "OUT": str(tmp_path / "out.txt")}
    assert main(["generate", *(places.get(argument, argument) for argument in arguments)]) == 0
    (job,) = jobs
    assert (job.source.path, job.target.path) == (sources, places["OUT"])
    assert job.generation == {"num_beams": 2}


def test_minus_is_stdin_and_stdout(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("3 May 2012\n"))
    assert main(["generate", DATES, "-", "--quiet", "-"]) == 0
    assert (jobs[0].source.path, jobs[0].target.path) == ("-", "-")


def test_every_flag_goes_where_it_belongs(jobs: Jobs, tmp_path: Path) -> None:
    sources = tmp_path / "in.jsonl"
    sources.write_text('{"id": 1, "x": "3 May 2012"}\n')
    command = [
        "generate", DATES, str(sources), str(tmp_path / "out.jsonl"), "--source-field", "x",
        "--id-field", "id", "--output-field", "y", "--keep-source", "--limit", "3", "--scores",
        "--n-best", "2", "--num-beams", "4", "--batch-size", "5", "--batch-tokens", "600",
        "--window", "70", "--no-refill", "--preprocess-workers", "0", "--postprocess-workers", "2",
        "--devices", "cpu:2", "--seed", "8", "--quiet", "--verbose", "--trace",
        str(tmp_path / "trace"), "--truncation", "--max-source-length", "9", "--prefix", "p",
    ]  # fmt: skip
    assert main(command) == 0
    (job,) = jobs
    run = RunOptions(
        batch_size=5, batch_tokens=600, window=70, refill=False, preprocess_workers=0,
        postprocess_workers=2, devices=("cpu", "cpu"), seed=8,
    )  # fmt: skip
    assert job.options == JobOptions(run, verbose=True, quiet=True, timeline=tmp_path / "trace")
    assert job.generation == {"num_beams": 4, "num_return_sequences": 2}
    assert job.text == {
        "src_lang": None, "tgt_lang": None, "prefix": "p", "truncation": True,
        "max_source_length": 9, "task": None,
    }  # fmt: skip
    formatter = job.target.formatter
    assert (formatter.format, formatter.copies, formatter.output_field) == ("json", 2, "y")
    assert (formatter.with_scores, formatter.id_field, formatter.whole) == (True, "id", False)
    (sample,) = job.source
    assert (sample.text, sample.fields) == ("3 May 2012", {"id": 1, "x": "3 May 2012"})


def test_formats_can_be_named(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text('{"source": ["3", "May"]}\n')
    formats = ["--input-format", "json", "--output-format", "json"]
    assert main(["generate", DATES, *files(tmp_path), *formats]) == 0
    assert next(iter(jobs[0].source)).text == ["3", "May"]
    assert jobs[0].target.formatter.format == "json"


@pytest.mark.parametrize(
    ("model", "flags", "whole"),
    [
        (WORDS, [], True),
        (WORDS, ["--full-text"], True),
        (WORDS, ["--no-full-text"], False),
        (DATES, [], False),
        (DATES, ["--no-full-text"], False),
    ],
)
def test_prompts_stand_before_what_continues_them(
    model: str, flags: list[str], whole: bool, jobs: Jobs, sources: str
) -> None:
    assert main(["generate", model, sources, "-", *flags]) == 0
    assert jobs[0].target.whole is whole


def test_tokens_by_name_wait_for_the_tokenizer(jobs: Jobs, sources: str) -> None:
    assert main(["generate", WORDS, sources, "--not-predict-token", "a|b"]) == 0
    tokenizer: Any = SimpleNamespace(token_ids=lambda names: [ord(name) for name in names])
    assert jobs[0].generation(tokenizer) == {"suppress_tokens": [97, 98]}


def copied(folder: Path, **changes: Any) -> str:
    """The configuration of a checkpoint, with other entries; there are no weights beside it."""
    folder.mkdir()
    config = json.loads((EMBEDDED / "t5-dates" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return str(folder)


def test_a_published_command_line_of_fastseq(jobs: Jobs, tmp_path: Path) -> None:
    """As in its README, but for the model; without a GPU --fp16 warns."""
    pytest.importorskip("rouge_score")
    (tmp_path / "val.source").write_text("one\ntwo\n")
    (tmp_path / "val.target").write_text("1\n2\n")
    (tmp_path / "out.summary").write_text("1\n3\n")
    model = copied(tmp_path / "model")
    score = tmp_path / "out.score"
    command = [
        "generate", model, str(tmp_path / "val.source"), str(tmp_path / "out.summary"),
        "--reference_path", str(tmp_path / "val.target"), "--device", "cpu", "--bs", "128",
        "--fp16", "--score_path", str(score), "--task", "summarization",
        "--no_repeat_ngram_size", "3", "--overwrite",
    ]  # fmt: skip
    assert main(command) == 0
    (job,) = jobs
    assert job.options.run.batch_size == 128
    assert job.generation == {"no_repeat_ngram_size": 3}
    assert job.text["truncation"] is True
    assert job.text["task"] is None
    assert json.loads(score.read_text())["rouge1"] == 0.5


def test_all_names_of_fastseq(jobs: Jobs, sources: str) -> None:
    command = [
        "generate", DATES, sources, "-", "--max_tokenizer_length", "30", "--max_gen_length", "20",
        "--min_gen_length", "2", "--n_obs", "3", "--preprocess_workers", "2",
        "--postprocess_workers", "3", "--without_fastseq_opt", "--padding", "max_length",
        "--return_tensors", "pt", "--no_truncation", "--decoder_start_token_id", "0",
    ]  # fmt: skip
    assert main(command) == 0
    (job,) = jobs
    assert job.text["max_source_length"] == 30
    assert job.text["truncation"] is False
    wanted = {"max_length": 20, "min_length": 2, "decoder_start_token_id": 0}
    # They go before what the checkpoint says of new tokens.
    assert job.generation == {**wanted, "max_new_tokens": None, "min_new_tokens": None}
    assert (job.options.run.preprocess_workers, job.options.run.postprocess_workers) == (2, 3)
    assert len(list(job.source)) == 3


def test_minus_one_is_no_limit_to_fastseq(jobs: Jobs, sources: str) -> None:
    assert main(["generate", DATES, sources, "--n_obs", "-1", "--min_gen_length", "-1"]) == 0
    assert len(list(jobs[0].source)) == len(SOURCES)
    assert jobs[0].generation.get("min_length") is None


@pytest.mark.parametrize(
    ("model", "flags", "cuts"),
    [
        (DATES, [], False),
        (DATES, ["--truncation"], True),
        (DATES, ["--padding", "longest"], True),
        (DATES, ["--bs", "4", "--no-truncation"], False),
        (WORDS, ["--bs", "4"], False),
        (WORDS, ["--bs", "4", "--causal-lm"], False),
    ],
)
def test_a_flag_of_fastseq_cuts_sources_as_it_does(
    model: str, flags: list[str], cuts: bool, jobs: Jobs, sources: str
) -> None:
    assert main(["generate", model, sources, *flags]) == 0
    assert jobs[0].text["truncation"] is cuts


def test_a_task_of_the_checkpoint_stays(jobs: Jobs, sources: str, tmp_path: Path) -> None:
    """Without tasks of its own, usual names choose the metric alone; others are handed on."""
    tasks = {"summarization": {"prefix": "summarize: "}}
    with_tasks = copied(tmp_path / "tasks", task_specific_params=tasks)
    without = copied(tmp_path / "none", task_specific_params=None)
    for model, task, wanted in (
        (with_tasks, "summarization", "summarization"),
        (with_tasks, "translation_en_to_ro", "translation_en_to_ro"),
        (without, "summarization", None),
        (without, "translation_en_to_ro", None),
        (without, "chat", "chat"),
    ):
        assert main(["generate", model, sources, "--task", task]) == 0
        assert jobs[-1].text["task"] == wanted


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ([], {"rouge1", "rouge2", "rougeL", "rougeLsum"}),
        (["--task", "translation_en_to_ro"], {"bleu", "signature"}),
        (
            ["--task", "translation", "--metric", "rouge"],
            {"rouge1", "rouge2", "rougeL", "rougeLsum"},
        ),
        (["--metric", "bleu"], {"bleu", "signature"}),
    ],
)
def test_the_metric_goes_by_the_task(
    flags: list[str], names: set[str], jobs: Jobs, sources: str, tmp_path: Path, capsys: Captured
) -> None:
    model = copied(tmp_path / "model", task_specific_params=None)
    (tmp_path / "wanted.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "out.txt").write_text("a\nb\nc\nx\n")
    command = ["generate", model, *files(tmp_path), "--overwrite"]
    assert main([*command, "--reference", str(tmp_path / "wanted.txt"), *flags]) == 0
    assert json.loads(capsys.readouterr().out).keys() == names


@pytest.mark.parametrize(
    ("name", "text", "flags"),
    [
        ("out.txt", "a\nx\nb\nx\n\n\nd\nx\n", ["--n-best", "2"]),
        ("out.txt", "-0.1\ta\n-0.2\tb\n\n-0.4\td\n", ["--scores"]),
        (
            "out.jsonl",
            '{"y": ["a"]}\n{"y": "b"}\n{"y": ""}\n{"y": ["d"]}\n',
            ["--output-field", "y"],
        ),
    ],
)
def test_outputs_of_every_form_are_compared(
    name: str, text: str, flags: list[str], jobs: Jobs, sources: str, tmp_path: Path,
    capsys: Captured,
) -> None:  # fmt: skip
    (tmp_path / "wanted.txt").write_text("a\nb\nc\nd\n")
    output = tmp_path / name
    output.write_text(text)
    command = ["generate", DATES, sources, str(output), "--overwrite", "--num-beams", "2", *flags]
    assert main([*command, "--reference", str(tmp_path / "wanted.txt")]) == 0
    assert json.loads(capsys.readouterr().out)["rouge1"] == 0.75


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt", "a"], "--prompt does not go with INPUT ("),
        (["--json", "--stream"], "--json, --stream does not go with INPUT ("),
        (["--output-file", "o"], "--output-file does not go with INPUT ("),
        (["--limit", "0"], "--limit is 0: it must be at least 1"),
        (["--batch-tokens", "-1"], "--batch-tokens is -1: it must be at least 1"),
        (["--postprocess-workers", "-1"], "--postprocess-workers is -1: it must be at least 0"),
        (["--preprocess-workers", "257"], "--preprocess-workers is 257: it must be at most 256"),
        (["--postprocess-workers", "1" + "0" * 31], "it must be at most 256"),
        (["--batch-size", "1" + "0" * 31], "--batch-size is 1"),
        (["--limit", "1" + "0" * 31], "it must be at most 4611686018427387904"),
        (["--seed", "1" + "0" * 31], "it must be at most 18446744073709551615"),
        *(
            ([flag, ""], f"{flag} is an empty text: name something, or leave it out")
            for flag in ("--output-field", "--source-field", "--id-field", "--tokenizer")
        ),
        (["--num-beams", "0"], "num_beams"),
        (["--n-best", "0"], "num_return_sequences"),
        (["--beam-size", "2", "--num-beams", "3"], "num_beams is said twice"),
        (["--devices", "cpu", "--device", "cpu"], "by --devices alone"),
        (["--id-field", "id"], "lines of text have no field 'id'"),
        (["--reference", "/no/such/file"], "/no/such/file"),
        (["--score-path", "s"], "--score-path goes with --reference"),
        (["--metric", "bleu"], "--metric goes with --reference"),
        (["--trace", "/no/such/folder/t"], "mkdir -p /no/such/folder"),
    ],
)
def test_faults_are_told_before_the_model_is_looked_for(
    flags: list[str], message: str, jobs: Jobs, sources: str, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["generate", "/no/such/model/", *files(tmp_path), *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("tritonseq: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not jobs
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_references_are_counted_beforehand(sources: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "wanted.txt").write_text("a\nb\n")
    reference = ["--reference", str(tmp_path / "wanted.txt")]
    assert main(["generate", "/no/model/", *files(tmp_path), *reference]) == 2
    assert "wanted.txt has 2 lines and the input 4" in capsys.readouterr().err
    assert main(["generate", "/no/model/", sources, "-", *reference]) == 2
    assert "--reference compares an OUTPUT that is a file, not stdout" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--causal-lm", "--full-text"])
def test_flags_for_the_other_kind_of_model(
    flag: str, jobs: Jobs, sources: str, capsys: Captured
) -> None:
    assert main(["generate", DATES, sources, flag]) == 2
    assert f"{flag} is for models without an encoder" in capsys.readouterr().err
    assert not jobs


@pytest.mark.parametrize(
    "flags",
    [
        ["--source-field", "text"],
        ["--id-field", "text"],
        ["--source-field", "text", "--output-field", "y", "--keep-source"],
    ],
)
def test_a_flag_of_fields_makes_json_lines_of_any_name(
    flags: list[str], jobs: Jobs, tmp_path: Path
) -> None:
    """By process substitution, too, where there is no name at all."""
    line = b'{"text": "3 May 2012", "source": "4 May 2012"}\n'
    (tmp_path / "in.txt").write_bytes(line)
    reading, writing = os.pipe()
    os.write(writing, line)
    os.close(writing)
    for name in (str(tmp_path / "in.txt"), f"/dev/fd/{reading}"):
        assert main(["generate", DATES, name, "-", *flags]) == 0
        (sample,) = jobs[-1].source
        assert sample.text == ("3 May 2012" if "--source-field" in flags else "4 May 2012")
        said = "--output-field" in flags
        assert jobs[-1].target.formatter.format == ("json" if said else "lines")
    os.close(reading)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--source-field", "x"], "lines of text have no field 'x': name JSON lines, or pass"),
        (["--input-format", "lines", "--source-field", "x"], "lines of text have no field 'x'"),
        (["--input-format", "json"], "is taken for JSON lines, and begins '3 May 2012'"),
        (["--output-format", "lines", "--keep-source"], "--keep-source speaks of fields"),
        (["--output-format", "text", "--output-field", "y"], "--output-field speaks of fields"),
        (["--full-text", "--output-format", "json"], "--full-text is for lines of text"),
        (["--no-cuda", "--device", "cuda"], "--no-cuda and --device cuda: drop"),
        (["--fp16", "--dtype", "bfloat16"], "--fp16 and --dtype bfloat16: drop"),
        (["--beam", "2", "--num-beams", "3"], "--beam and --num-beams mean the same"),
        (["--bs", "2", "--batch-size", "3"], "--bs and --batch-size mean the same"),
        (["--n-obs", "-1", "--limit", "3"], "--n-obs and --limit mean the same"),
        (["--output-summaries-only", "--full-text"], "mean the same, and are False and True"),
        (["--beam", "2", "--beam-size", "3"], "num_beams is said twice"),
        (["--subset", "2"], "--subset does not go with INPUT"),
        (["--bad-words-ids", "[" * 100_000], "bad_words_ids"),
    ],
)
def test_flags_without_an_effect_are_refused(
    flags: list[str], message: str, jobs: Jobs, sources: str, capsys: Captured
) -> None:
    assert main(["generate", "/no/such/model/", sources, "-", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tritonseq: error: ") and error.count("\n") == 1
    assert message in error
    assert not jobs


@pytest.mark.parametrize("flag", ["--pos-shift", "--s2s-add-segment", "--new-segment-ids"])
def test_flags_of_unilm_networks_are_for_them(
    flag: str, jobs: Jobs, sources: str, capsys: Captured
) -> None:
    assert main(["generate", DATES, sources, "-", flag]) == 2
    assert f"{flag} is for UniLM models: drop it" in capsys.readouterr().err
    assert not jobs


def test_a_revision_is_for_the_hub(jobs: Jobs, sources: str, capsys: Captured) -> None:
    assert main(["generate", DATES, sources, "-", "--revision", "main"]) == 2
    assert "--revision is for the Hub" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--no-refill"], "--refill goes with INPUT"),
        (["--no-full-text"], "--full-text goes with INPUT"),
        (["--tokenized-input"], "--tokenized-input goes with INPUT"),
        (["--output-file", "o"], "--output-file goes with --input-file"),
        (["--subset", "2"], "--subset goes with --input-file"),
        (["--need-score-traces"], "--need-score-traces goes with --input-file"),
        (["--prompt-file", "f"], "--prompt, --prompt-file: pass one of them"),
        (["--input-file", "f"], "--prompt, --input-file: pass one of them"),
        (["--causal-lm"], "--causal-lm is for models without an encoder"),
    ],
)
def test_flags_that_a_prompt_does_not_heed(
    flags: list[str], message: str, capsys: Captured
) -> None:
    assert main(["generate", DATES, "--prompt", "3 May 2012", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag", ["--scores", "--token-scores", "--output-field=y", "--keep-source"]
)
def test_pairs_have_their_own_form(flag: str, sources: str, capsys: Captured) -> None:
    assert main(["generate", DATES, "--prompt-file", sources, "--json", flag]) == 2
    assert "does not go with --json" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--resume"])
def test_streams_are_no_jobs(flag: str, sources: str, capsys: Captured) -> None:
    assert main(["generate", DATES, "--prompt-file", sources, "--stream", flag]) == 2
    assert f"{flag} goes with INPUT" in capsys.readouterr().err


def test_a_prompt_file_is_a_job(jobs: Jobs, sources: str, tmp_path: Path) -> None:
    output = str(tmp_path / "out.txt")
    flags = ["--output-file", output, "--resume", "--subset", "2", "--devices", "cpu:2"]
    assert main(["generate", WORDS, "--prompt-file", sources, *flags]) == 0
    (job,) = jobs
    assert (job.source.path, job.target.path) == (sources, output)
    assert job.target.resume and job.target.whole and not job.target.overwrite
    assert len(list(job.source)) == 2
    assert main(["generate", WORDS, "--prompt-file", sources, "--json"]) == 0
    formatter = jobs[1].target.formatter
    assert (formatter.format, formatter.output_field, formatter.pair_field) == (
        "json",
        "text",
        "prompt",
    )


def test_fairseq_has_other_names(sources: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["generate", DATES, sources, "-", "--lenpen", "2.0"])
    assert stop.value.code == 2
    assert "--lenpen is a flag of fairseq's: here say --length-penalty" in capsys.readouterr().err


def test_the_other_switches_of_fastseq(jobs: Jobs, sources: str) -> None:
    flags = ["--output_summaries_only", "--output_sequence_scores", "--padding_side", "left"]
    flags += ["--use_slow_tokenizer", "--no_truncation", "--beam", "4"]
    assert main(["generate", WORDS, sources, "-", *flags]) == 0
    (job,) = jobs
    assert job.target.whole is False and job.target.with_scores is True
    assert job.generation == {"num_beams": 4}


def test_el_attention_by_the_name_of_fastseq(jobs: Jobs, sources: str, capsys: Captured) -> None:
    """That is of its command for fairseq, which cuts no sources."""
    for flags in (["--use-el-attn"], ["--use_el_attn"], ["--source-cache", "states"]):
        assert main(["generate", DATES, sources, "-", *flags]) == 0
        assert jobs[-1].model.arguments["source_cache"] == "states"
        assert jobs[-1].text["truncation"] is False
    assert main(["generate", DATES, sources, "-"]) == 0
    assert jobs[-1].model.arguments["source_cache"] == "projected"
    command = ["generate", DATES, sources, "-", "--use-el-attn", "--source-cache", "projected"]
    assert main(command) == 2
    told = "--use-el-attn and --source-cache mean the same, and are states and projected"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        (DATES, "state", "source_cache is 'state': say 'projected' or 'states'"),
        (DATES, "", "--source-cache is an empty text"),
        (WORDS, "states", "is for models with cross-attention, and a GPT2 has none"),
    ],
)
def test_a_source_cache_that_cannot_be(
    model: str, kind: str, words: str, sources: str, capsys: Captured
) -> None:
    command = ["generate", model, sources, "-", "--device", "cpu", "--source-cache", kind]
    assert main(command) == 2
    assert words in capsys.readouterr().err


def test_a_job_over_states_of_sources(tmp_path: Path, sources: str, capsys: Captured) -> None:
    """It writes the same bytes."""
    outputs = []
    for kind in ("projected", "states"):
        output = tmp_path / kind
        command = ["generate", DATES, sources, str(output), "--device", "cpu"]
        assert main([*command, "--num-beams", "3", "--source-cache", kind]) == 0
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1] != b""


def test_beams_by_the_name_of_fastseq(tmp_path: Path, sources: str, capsys: Captured) -> None:
    outputs = []
    for flag in ("--beam", "--num-beams"):
        assert main(["generate", DATES, sources, "-", "--device", "cpu", flag, "3"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != ""


@pytest.mark.parametrize("flag", [["--resume"], ["--n-obs", "3"], ["--devices", "cpu:2"]])
def test_flags_of_files_need_one(flag: list[str], capsys: Captured) -> None:
    assert main(["generate", DATES, "--prompt", "3 May 2012", *flag]) == 2
    assert "goes with INPUT, a file of texts: name one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cpu", ("cpu",)),
        ("cpu:3", ("cpu",) * 3),
        ("cuda", ("cuda",)),
        ("cuda:2", ("cuda:2",)),
        ("cuda:0, cuda:1,cuda:0", ("cuda:0", "cuda:1", "cuda:0")),
    ],
)
def test_devices(text: str, names: tuple[str, ...]) -> None:
    from tritonseq.cli.arguments import devices

    assert devices(text) == names


@pytest.mark.parametrize(
    "text",
    [
        "", "cpu:0", "cpu:x", "cpu:", "cuda:", "gpu", "cuda:0,", "cpu,cuda", "cpu:257",
        "cpu:1000000000", "cpu:" + "9" * 5000, "cpu:200,cpu:200", "cpu:00",
        "cpu:\N{ARABIC-INDIC DIGIT TWO}",
    ],
)  # fmt: skip
def test_no_devices(text: str, sources: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["generate", DATES, sources, f"--devices={text}"])
    assert stop.value.code == 2
    assert "argument --devices: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("places", "name"),
    [(("", "a", "b"), "MODEL"), (("m", "", "b"), "INPUT"), (("m", "a", ""), "OUTPUT")],
)
def test_empty_places_are_none(places: tuple[str, ...], name: str, capsys: Captured) -> None:
    assert main(["generate", *places]) == 2
    assert f"{name} is an empty text" in capsys.readouterr().err


def test_how_a_job_ends_is_the_exit_code(
    jobs: Jobs, sources: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["generate", DATES, *files(tmp_path)]
    jobs.rejected = 2
    assert main(command) == 3
    assert "rejected: 2, " in capsys.readouterr().err
    jobs.interrupted = True
    assert main(command) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "tritonseq: interrupted after 4 lines: the same command with --resume goes on"

    def fail(*_: Any, **__: Any) -> None:
        raise JobFailed("the disk is full:\nrun it again with --resume")

    monkeypatch.setattr("tritonseq.jobs.job.run_job", fail)
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error == "tritonseq: error: the disk is full: run it again with --resume\n"


def test_quiet_has_no_summary(jobs: Jobs, sources: str, capsys: Captured) -> None:
    assert main(["generate", DATES, sources, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("flag", ["--trace", "--score-path"])
@pytest.mark.parametrize("name", ["in.txt", "ref.txt", "out.txt", "out.txt.journal", "mine.json"])
def test_no_flag_replaces_a_file(
    flag: str, name: str, tmp_path: Path, jobs: Jobs, sources: str, capsys: Captured
) -> None:
    (tmp_path / "ref.txt").write_text("a\n" * len(SOURCES))
    (tmp_path / "mine.json").write_text("{}")
    command = ["generate", DATES, sources, str(tmp_path / "out.txt"), flag, str(tmp_path / name)]
    assert main([*command, "--reference", str(tmp_path / "ref.txt")]) == 2
    error = capsys.readouterr().err
    assert flag in error and ("of the job itself" in error) != (name == "mine.json")
    assert not jobs


def test_a_job_that_is_complete_is_compared_all_the_same(
    tmp_path: Path, jobs: Jobs, sources: str, capsys: Captured
) -> None:
    output, reference = tmp_path / "out.txt", tmp_path / "ref.txt"
    for path in (output, reference):
        path.write_text("one two\n" * len(SOURCES))
    command = ["generate", DATES, sources, str(output), "--resume", "--reference", str(reference)]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["rouge1"] == 1.0
    assert "complete" in captured.err and not jobs
    (tmp_path / "out.txt.rejected.jsonl").write_text("{}\n")
    assert main(command) == 3


@pytest.mark.parametrize("name", ["out.txt", "out.txt.gz", "out.jsonl"])
def test_a_complete_output_is_that_of_its_input(
    name: str, tmp_path: Path, jobs: Jobs, sources: str, capsys: Captured
) -> None:
    """As far as its lines tell."""
    output, count = tmp_path / name, len(SOURCES)
    flags = ("--num-beams", "2", "--n-best", "2", "--resume")
    each = 1 if "json" in name else 2
    data = b"{}\n" * (each * count)
    output.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    command = ["generate", DATES, sources, str(output), *flags]
    assert main(command) == 0
    assert "is complete" in capsys.readouterr().err
    assert main([*command, "--limit", "2"]) == 2
    assert f"is complete with {each * count} lines" in capsys.readouterr().err
    with open(sources, "a") as file:
        file.write("one more\n")
    assert main(command) == 2
    told = capsys.readouterr().err
    assert f"asks for {count + 1}" in told and "--overwrite" in told
    assert main(["generate", "/no/such/model/", *command[2:]]) == 2
    assert "/no/such/model" in capsys.readouterr().err
    assert main(["generate", DATES, str(tmp_path / "none"), *command[3:]]) == 2
    assert not jobs


def test_the_command_line_goes_before_the_checkpoint(tmp_path: Path, sources: str) -> None:
    """Its own max_new_tokens is larger."""
    output = tmp_path / "out.txt"
    command = ["generate", DATES, sources, str(output), "--device", "cpu", "--max-length", "4"]
    assert main([*command, "--quiet"]) == 0
    model = tritonseq.load(DATES, device="cpu")
    wanted = model.generate_text(SOURCES[:1], max_length=4, max_new_tokens=None)
    assert output.read_text().splitlines()[0] == wanted[0] != model.generate_text(SOURCES[:1])[0]
