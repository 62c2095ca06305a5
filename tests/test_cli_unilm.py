"""Command lines of UniLM's decode_seq2seq.py mean the same to `tritonseq generate`."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import tiny_unilm
import torch

import tritonseq
from tritonseq.cli import main
from tritonseq.cli_unilm import source_length

if TYPE_CHECKING:
    import argparse
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
    import argparse

    def length(sequence: int | None, target: int | None) -> int | None:
        flags: argparse.Namespace = argparse.Namespace(
            max_seq_length=sequence, max_tgt_length=target
        )
        return source_length(flags)

    assert length(768, 160) == 608
    assert length(512, None) == 384
    assert length(None, 160) is None
