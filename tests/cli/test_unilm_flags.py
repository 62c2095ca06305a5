"""Command lines of UniLM's decode_seq2seq.py mean the same to `tritonseq generate`."""

from __future__ import annotations

import io
import json
import pickle
import random
from typing import TYPE_CHECKING, Any

import pytest
import tiny_unilm
import torch

import tritonseq
from tritonseq.cli.main import main
from tritonseq.cli.unilm_flags import source_length
from tritonseq.decoding.completion import Completion
from tritonseq.errors import JobFailed
from tritonseq.jobs.traces import Traces
from tritonseq.jobs.writer import Writer
from tritonseq.stages.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path

Captured = pytest.CaptureFixture[str]
TEXTS = ["a bc d e", "xyz k", "q", "m n o p q r s t u v w x"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ckpt").mkdir()
    return tiny_unilm.tiny(3).write(tmp_path / "ckpt")


def run(folder: Path, *arguments: str) -> list[str]:
    """The lines that a command line writes to a file."""
    output = folder.parent / "answers.txt"
    source = folder.parent / "sources.txt"
    if not source.exists():
        source.write_text("\n".join(TEXTS) + "\n")
    output.unlink(missing_ok=True)
    own = ["--input_file", str(source)] if "--input_file" not in arguments else []
    assert main(["generate", *arguments, *own, "--output_file", str(output)]) == 0
    return output.read_text().splitlines()


def test_a_published_command_line(folder: Path, tmp_path: Path) -> None:
    """As in upstream's README, with underscores, and the vocabulary elsewhere."""
    (tmp_path / "vocabulary").mkdir()
    (folder / "vocab.txt").rename(tmp_path / "vocabulary/vocab.txt")
    found = run(
        folder, "--fp16", "--model_type", "unilm", "--tokenizer_name",
        str(tmp_path / "vocabulary"), "--mode", "s2s", "--split", "test", "--model_path",
        f"{folder}*",
        "--max_seq_length", "24", "--max_tgt_length", "12", "--batch_size", "2", "--beam_size",
        "5", "--length_penalty", "0.9", "--forbid_duplicate_ngrams", "--forbid_ignore_word",
        "a|[sep]", "--ngram_size", "2", "--min_len", "4", "--not_predict_token", "b|##c",
    )  # fmt: skip
    model = tritonseq.load(folder, tokenizer=tmp_path / "vocabulary")
    wanted = model.generate_text(
        TEXTS,
        max_source_length=12,
        num_beams=5,
        length_penalty=0.9,
        no_repeat_ngram_size=2,
        no_repeat_ngram_ignore_ids=model.tokenizer.token_ids(["a", "[SEP]"]),
        min_new_tokens=4,
        suppress_tokens=model.tokenizer.token_ids(["b", "##c"]),
        max_new_tokens=12,
    )
    assert found == wanted
    assert len(set(found)) == len(TEXTS)


def test_version_1_and_a_name_for_the_output(folder: Path, tmp_path: Path) -> None:
    """The bare file beside no configuration, which lies with the vocabulary."""
    (tmp_path / "bert").mkdir()
    for name in ("config.json", "vocab.txt"):
        (folder / name).rename(tmp_path / "bert" / name)
    weights = folder / "model.safetensors"
    sources = tmp_path / "in.txt"
    sources.write_text("\n".join(TEXTS))
    command = [
        "generate", "--bert_model", str(tmp_path / "bert"), "--model_recover_path", str(weights),
        "--input_file", str(sources), "--split", "dev", "--beam_size", "3", "--amp",
        "--max_tgt_length", "8", "--need_score_traces",
    ]  # fmt: skip
    assert main(command) == 0
    model = tritonseq.load(weights, tokenizer=tmp_path / "bert", config={"variant": "v1"})
    assert "min_new_tokens" not in model.generation_config
    found = (folder / "model.safetensors.dev").read_text().splitlines()
    assert found == model.generate_text(TEXTS, num_beams=3, max_new_tokens=8)
    assert (folder / "model.safetensors.dev.trace.pickle").is_file()


def test_another_configuration(folder: Path, tmp_path: Path) -> None:
    """Its sizes and its norm count as little as those of the one beside the weights."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"max_position_embeddings": 3, "layer_norm_eps": 0.5, "target_type_id": 0}
    (tmp_path / "other.json").write_text(json.dumps(config))
    found = run(folder, str(folder), "--config_path", str(tmp_path / "other.json"))
    model = tritonseq.load(folder, config={"target_type_id": 0})
    assert found == model.generate_text(TEXTS)
    assert found != tritonseq.load(folder).generate_text(TEXTS)


def test_flags_that_concern_the_checkpoint(folder: Path) -> None:
    """Its decoder was told so once; now `load` is."""
    found = run(folder, str(folder), "--pos_shift", "--max_tgt_length", "9", "--beam_size", "2")
    shifted = tritonseq.load(folder, config={"pos_shift": True})
    assert shifted.decoder.config.pos_shift
    assert found == shifted.generate_text(TEXTS, max_new_tokens=9, num_beams=2)
    assert found != run(folder, str(folder), "--max_tgt_length", "9", "--beam_size", "2")


def test_version_1_resizes_its_positions(folder: Path) -> None:
    """To --max_seq_length, by tiling; s2s-ft does not."""
    for variant, positions in (("v1", 96), ("s2s", 64)):
        config = {"variant": variant, "max_seq_length": 96}
        model = tritonseq.load(folder, config=config)
        assert model.decoder.config.max_position_embeddings == positions
    long = folder.parent / "long.txt"
    long.write_text("a " * 70)
    flags = ["--max_seq_length", "96", "--max_tgt_length", "8", "--config", '{"variant": "v1"}']
    (answer,) = run(folder, str(folder), "--input_file", str(long), *flags)
    wanted = tritonseq.load(folder, config={"variant": "v1", "max_position_embeddings": 96})
    assert [answer] == wanted.generate_text([long.read_text()], max_new_tokens=8)


def test_own_flags_for_the_same(folder: Path) -> None:
    found = run(folder, str(folder), "--config", '{"layer_norm_eps": 0.1}', "--num_beams", "2")
    wanted = tritonseq.load(folder, config={"layer_norm_eps": 0.1})
    assert wanted.decoder.config.layer_norm_eps == 0.1
    assert found == wanted.generate_text(TEXTS, num_beams=2)


def test_sources_as_texts_and_as_tokens(folder: Path, tmp_path: Path) -> None:
    """Lines of objects may hold either; --tokenized-input splits at white space."""
    model = tritonseq.load(folder)
    tokens = [["a", "##b", "nothing"], ["q"]]
    lines: list[Any] = [TEXTS[0], tokens[0], TEXTS[2], tokens[1]]
    objects = [json.dumps({"src": line}) for line in lines]
    (tmp_path / "test.json").write_text("\n".join([objects[0], "", *objects[1:]]) + "\n")
    found = run(folder, str(folder), "--input_file", str(tmp_path / "test.json"))
    assert found.pop(1) == ""
    assert found == model.generate_text(lines)
    rows = model.tokenizer.token_rows(tokens)
    assert rows[0][1:-1] == [*model.tokenizer.token_ids(["a", "##b"]), tiny_unilm.UNK]
    (tmp_path / "test.txt").write_text("a ##b nothing\nq\n")
    split = run(
        folder, str(folder), "--input_file", str(tmp_path / "test.txt"), "--tokenized_input"
    )
    assert split == [found[1], found[3]]


def test_subset(folder: Path) -> None:
    assert len(run(folder, str(folder), "--subset", "2")) == 2


def test_traces_are_those_of_upstream(folder: Path) -> None:
    """A header, then the whole search of each source, in the order of the sources."""
    steps, beams = 6, 3
    run(
        folder, str(folder), "--need_score_traces", "--beam_size", str(beams), "--max_tgt_length",
        str(steps), "--batch_size", "3",
    )  # fmt: skip
    with (folder.parent / "answers.txt.trace.pickle").open("rb") as file:
        assert pickle.load(file) == {"version": 0.0, "num_samples": len(TEXTS)}
        traces = [pickle.load(file) for _ in TEXTS]
    model = tritonseq.load(folder)
    for text, trace in zip(TEXTS, traces, strict=True):
        ids, mask = model.tokenize([text])
        output = model.generate(
            ids,
            mask,
            num_beams=beams,
            max_new_tokens=steps,
            early_stopping="never",
            output_scores=True,
            return_dict_in_generate=True,
        )
        assert output.beam_trace is not None
        length = output.beam_trace.tokens.shape[1]
        assert trace["wids"][:length] == output.beam_trace.tokens[0].tolist()
        assert trace["ptrs"][:length] == output.beam_trace.parents[0].tolist()
        scores = torch.tensor(trace["scores"][:length])
        torch.testing.assert_close(scores, output.beam_trace.scores[0])


def test_an_output_is_replaced_if_that_is_said(
    folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "in.txt").write_text("a b\nq\n")
    output, trace = tmp_path / "out", tmp_path / "out.trace.pickle"
    command = [
        "generate", str(folder), "--input_file", str(tmp_path / "in.txt"), "--output_file",
        str(output), "--beam_size", "2", "--need_score_traces", "--max_tgt_length", "6",
    ]  # fmt: skip
    for path in (output, trace):
        path.write_bytes(b"precious")
        assert main(command) == 2
        assert f"{path} exists: pass --overwrite" in (told := capsys.readouterr().err) or (
            f"{path} exists: name another, or pass --overwrite" in told
        )
        assert path.read_bytes() == b"precious"
        path.unlink()
    output.write_bytes(b"precious")
    assert main([*command, "--overwrite"]) == 0
    assert len(output.read_text().splitlines()) == 2 and trace.exists()
    assert main([*command, "--resume"]) == 0
    assert "is complete: there is nothing to go on with" in capsys.readouterr().err
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"ckpt", "in.txt", "out", "out.trace.pickle"}


def failing_after(count: int, add: Any) -> Any:
    """As the method `add` of a writer, until it was given so many samples."""
    given: list[Any] = []

    def add_or_fail(writer: Writer, samples: Any) -> int:
        if len(given) >= count:
            raise JobFailed("the disk is full")
        given.extend(samples)
        return int(add(writer, samples))

    return add_or_fail


def test_an_interrupted_command_goes_on_to_the_same_files(
    folder: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rejected lines, blank ones, and the search of every other."""
    monkeypatch.setattr("tritonseq.jobs.job.RECORD", 0.0)
    rng = random.Random(1)
    lines = [" ".join(rng.choices("abcdeqxyz", k=rng.randrange(1, 9))) for _ in range(40)]
    sources = [json.dumps({"src": line}) for line in lines]
    sources[3], sources[7] = "", '{"text": "no source"}'
    (tmp_path / "in.json").write_text("\n".join(sources) + "\n")
    files = []
    for stops in (False, True):
        job = tmp_path / f"stops {stops}"
        job.mkdir()
        command = [
            "generate", str(folder), "--input_file", str(tmp_path / "in.json"), "--output_file",
            str(job / "out"), "--beam_size", "2", "--need_score_traces", "--max_tgt_length", "6",
            "--batch_size", "2", "--device", "cpu",
        ]  # fmt: skip
        if stops:
            with monkeypatch.context() as context:
                context.setattr(Writer, "add", failing_after(20, Writer.add))
                assert main(command) == 1
            names = {path.name for path in job.iterdir()} - {"out.rejected.jsonl"}
            assert names == {"out.journal", "out.partial", "out.trace.pickle.partial"}
            assert (job / "out.trace.pickle.partial").stat().st_size > 0
            assert main(command) == 2
            assert "pass --resume to go on with it" in capsys.readouterr().err
            command.append("--resume")
        assert main(command) == 3
        files.append({path.name: path.read_bytes() for path in job.iterdir()})
    assert files[0] == files[1]
    assert set(files[0]) == {"out", "out.rejected.jsonl", "out.trace.pickle"}
    stream = io.BytesIO(files[0]["out.trace.pickle"])
    assert pickle.load(stream) == {"version": 0.0, "num_samples": 40}
    traces = [pickle.load(stream) for _ in range(40)]
    assert [place for place, trace in enumerate(traces) if not trace["wids"]] == [3, 7]
    assert stream.read() == b""


@pytest.mark.parametrize("change", ["cut", "flip", "gone"])
def test_searches_that_were_changed_are_not_gone_on_with(change: str, tmp_path: Path) -> None:
    path = tmp_path / "out.trace.pickle"
    partial = tmp_path / "out.trace.pickle.partial"
    completions = [Completion(trace=([n], [n], [n])) for n in range(5)]
    samples = [Sample(n, n, "a", completion=each) for n, each in enumerate(completions)]
    traces = Traces(path, 0)
    traces.add(samples)
    traces.sync()
    traces.close()
    data = partial.read_bytes()
    if change == "gone":
        partial.unlink()
    else:
        at = len(data) // 2
        partial.write_bytes(
            data[:at] if change == "cut" else data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        )
    with pytest.raises(ValueError, match="--overwrite instead of --resume"):
        Traces(path, 5)
    if change != "gone":
        traces = Traces(path, 1)
        traces.add(samples[1:])
        traces.finish()
        traces.clean()
        traces.close()
        with path.open("rb") as file:
            pickle.load(file)
            found = [pickle.load(file) for _ in range(5)]
        assert found == [{"scores": [n], "wids": [n], "ptrs": [n]} for n in range(5)]


def test_processes_of_their_own_search_alike(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("\n".join(TEXTS))
    command = ["generate", str(folder), "--input_file", str(tmp_path / "in.txt"), "--beam_size"]
    command += ["2", "--max_tgt_length", "6", "--need_score_traces", "--output_file"]
    found = []
    for place in (["--device", "cpu"], ["--devices", "cpu"]):
        output = tmp_path / place[0]
        assert main([*command, str(output), *place]) == 0
        trace = output.with_name(f"{output.name}.trace.pickle")
        found.append((output.read_bytes(), trace.read_bytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--max_seq_length", "20", "--max_tgt_length", "18"], "--max-tgt-length 18 leaves no"),
        (["--need_score_traces"], "--need-score-traces needs --beam-size above 1"),
        (["--beam_size", "2", "--num-beams", "3"], "num_beams is said twice"),
        (["--not_predict_token", "b|nothing"], "'nothing' is no token of the vocabulary"),
        (["--subset", "-1"], "--subset is -1"),
        (["--model_path", "elsewhere"], "pass one checkpoint"),
        (["--config", "[]"], "is no JSON object"),
        (["--mode", "both"], "invalid choice: 'both'"),
        (["--num_qkv", "2"], "num_qkv=2 is not supported"),
        (["--config_path", "nowhere.json"], "--config-path: there is no file nowhere.json"),
        (["--tokenizer_name", "unilm1.2-base-uncased"], "pass the folder with its vocab.txt"),
        (["--tokenizer_name", "a", "--bert_model", "b"], "pass one tokenizer, not a and b"),
        (
            [
                "--beam_size",
                "2",
                "--num-return-sequences",
                "2",
                "--split",
                "x",
                "--need_score_traces",
            ],
            "drop --num-return-sequences",
        ),
    ],
)
def test_faults(
    folder: Path, tmp_path: Path, capsys: Captured, arguments: list[str], complaint: str
) -> None:
    (tmp_path / "in.txt").write_text("a b\n")
    command = ["generate", str(folder), "--input-file", str(tmp_path / "in.txt"), *arguments]
    try:
        assert main(command) == 2
    except SystemExit as stop:  # argparse's own
        assert stop.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "invalid JSON: "),
        ('{"text": "a"}', "there is no field 'src', only 'text'"),
        ('{"src": 3}', "the field 'src' holds a number"),
        ('{"src": ["a", 3]}', "the field 'src' holds a list with a number"),
        ("plain text", "invalid JSON: "),
    ],
)
def test_a_line_that_is_no_source_is_rejected_alone(
    folder: Path, tmp_path: Path, line: str, reason: str
) -> None:
    (tmp_path / "in.json").write_text(f'{{"src": "a b"}}\n{line}\n{{"src": "a b"}}\n')
    flags = ["--input-file", str(tmp_path / "in.json"), "--output-file", str(tmp_path / "out")]
    assert main(["generate", str(folder), *flags]) == 3
    first, rejected, last = (tmp_path / "out").read_text().split("\n")[:-1]
    assert first == last != rejected == ""
    (told,) = map(json.loads, (tmp_path / "out.rejected.jsonl").read_text().splitlines())
    assert told["line"] == 2 and told["reason"].startswith(reason)


def test_no_checkpoint_at_all(capsys: Captured) -> None:
    assert main(["generate", "--prompt", "a"]) == 2
    assert "pass one checkpoint" in capsys.readouterr().err


def test_the_room_for_sources() -> None:
    """As upstream: all but the target and the frame, which counts here."""
    assert source_length(768, 160) == 608
    assert source_length(512, None) == 384
    assert source_length(None, 160) is None
