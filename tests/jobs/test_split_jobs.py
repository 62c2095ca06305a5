"""Jobs that answer sentence by sentence count, write and resume lines."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest
from commands import Job, kill_at_random

from tritonseq.cli.main import main
from tritonseq.demo.run import EMBEDDED

if TYPE_CHECKING:
    from pathlib import Path

MODEL = EMBEDDED / "bart-numbers"
FLAGS = ("--split-sentences", "en", "--num-beams", "2")


def line(draw: random.Random) -> str:
    count = draw.randint(0, 4)
    return " ".join(f"The bill is {draw.randrange(100000):,} euros." for _ in range(count))


def test_a_line_of_input_is_a_line_of_output(tmp_path: Path) -> None:
    draw = random.Random(1)
    lines = [line(draw) for _ in range(9)]
    lines[4] = "The bill is 3 euros. " + "euros " * 150 + ". The bill is 4 euros."
    source = tmp_path / "in.txt"
    source.write_text("".join(f"{text}\n" for text in lines))
    output = tmp_path / "out.txt"
    flags = [*FLAGS, "--scores", "--quiet", "--device", "cpu"]
    assert main(["generate", str(MODEL), str(source), str(output), *flags]) == 3
    written = output.read_text().split("\n")[:-1]
    assert len(written) == len(lines)
    for text, told in zip(lines, written, strict=True):
        if text != lines[4]:
            assert told.count("euros.") == text.count("euros.")
            assert bool(told.strip()) == bool(text)
    rejected = json.loads((tmp_path / "out.txt.rejected.jsonl").read_text())
    assert rejected["line"] == 5 and rejected["reason"].startswith("sentence 2: the text has")
    assert rejected["source"] == lines[4]
    assert main(["generate", str(MODEL), "--prompt", lines[0], *FLAGS, "--device", "cpu"]) == 0


def test_they_are_fingerprinted_and_refused_where_they_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.txt"
    source.write_text("The bill is 3 euros.\n")
    arguments = ["generate", str(MODEL), str(source), str(tmp_path / "out.txt"), "--device", "cpu"]
    assert main([*arguments, "--split-sentences"]) == 2
    assert "does not say what language it reads" in capsys.readouterr().err
    assert main([*arguments, "--split-sentences", "th"]) == 2
    assert "is Thai" in capsys.readouterr().err
    prompt = ["generate", str(MODEL), "--prompt", "a", "--stream", "--split-sentences", "en"]
    assert main(prompt) == 2
    assert "drop --split-sentences" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("flags", [(), ("--devices", "cpu:2"), ("--preprocess-workers", "1")])
def test_jobs_that_are_killed_go_on_by_lines(tmp_path: Path, flags: tuple[str, ...]) -> None:
    draw = random.Random(2)
    source = tmp_path / "in.txt"
    source.write_text("".join(f"{line(draw)}\n" for _ in range(60)))
    calm = Job(MODEL, source, tmp_path / "calm.txt", FLAGS)
    assert main(calm.arguments()) == 0
    job = Job(MODEL, source, tmp_path / "out.txt", (*FLAGS, "--batch-size", "16", *flags))
    kill_at_random(job, draw, 3)
    if not job.output.exists() or job.journal.exists():
        code, told = job.start("--resume").finish()
        assert code == 0, told
    assert job.results() == calm.results()
    assert job.output.read_text().count("\n") == 60
