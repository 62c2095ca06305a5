"""Toy checkpoints with the outputs of UniLM's own decoders: the definition and the engine.

They are not part of the repository: `--unilm-fixtures PATH` says where they are.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny_unilm
import torch
import unilm
import unilm_search
from safetensors.torch import load_file, save_file
from torch import Tensor
from walk import begin, feed

import tritonseq
from tritonseq.cli.main import main

MODELS = ("v1", "v1_legacy", "v1_special", "s2s_bert", "s2s_unilm1", "s2s_unilm2", "s2s_posshift")
GREEDY = ("greedy", "greedy_notpredict")
BEAMS = (
    "beam3",
    "beam5_lp09",
    "beam4_lp2",
    "beam4_minlen6",
    "beam4_ngram3",
    "beam4_ngram3_ignore",
    "beam3_ngram2_lp1",
    "beam3_notpredict",
)
CLOSE = {"rtol": 0.0, "atol": 5e-4}


def cases(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Only the decoder of the first version knows words that are never predicted."""
    return [(m, n) for m in MODELS for n in names if m.startswith("v1") or "notpredict" not in n]


class Fixture(NamedTuple):
    """One toy model and what upstream makes of its sources."""

    folder: Path
    name: str
    facts: dict[str, Any]

    def tensors(self, part: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{self.name}.{part}.safetensors")

    @property
    def sources(self) -> list[list[int]]:
        """Ids with their frame, without padding."""
        lengths = [length + len(self.frame) for length in self.facts["source_lens"]]
        padded = self.tensors("inputs")["input_ids"].tolist()
        return [row[:length] for row, length in zip(padded, lengths, strict=True)]

    @property
    def frame(self) -> tuple[str, ...]:
        """s2s-ft's position shift moves the end of the source to the start of the target."""
        return ("cls",) if self.facts["pos_shift"] else ("cls", "sep")

    def rules(self, case: str) -> unilm_search.Rules:
        params = self.facts["cases"][case]["params"]
        return unilm_search.Rules(
            beams=params["search_beam_size"],
            steps=self.facts["steps"],
            eos=params["eos_id"],
            length_penalty=params["length_penalty"],
            min_len=params["min_len"] or 0,
            ngram_size=params["ngram_size"] if params["forbid_duplicate_ngrams"] else 0,
            ignore=frozenset(params["forbid_ignore_set"] or ()),
            not_predict=frozenset(params.get("not_predict_set") or ()),
        )


def read(config: pytest.Config, name: str) -> Fixture:
    folder = config.getoption("--unilm-fixtures")
    if folder is None:
        pytest.skip("needs --unilm-fixtures PATH, outputs of UniLM's own decoders")
    facts = json.loads((Path(folder) / f"{name}.json").read_text())
    return Fixture(Path(folder), name, facts)


def definition(fixture: Fixture) -> unilm.Network:
    """The network over the state dict that upstream ends up with."""
    facts = fixture.facts
    source, target = facts["source_type_id"], facts["target_type_id"]
    # The extra segment: the first token of the source has a type of its own.
    first, source = (4, 6) if source is None else (source, source)
    ids = {"first_type_id": first, "source_type_id": source, "target_type_id": target}
    tokens = {"mask_token_id": facts["mask_id"], "start_token_id": facts["eos_id"]}
    # Upstream's decoders take no notice of the layer_norm_eps of config.json.
    ignored = {key: value for key, value in facts["config"].items() if key != "layer_norm_eps"}
    config = ignored | ids | tokens | {"pos_shift": facts["pos_shift"]}
    return unilm.Network(fixture.tensors("final"), config)


def load(fixture: Fixture, folder: Path) -> tritonseq.Model:
    """The raw checkpoint as a user has it: a folder of s2s-ft, or a bare file of version 1."""
    facts = fixture.facts
    (folder / "config.json").write_text(json.dumps(facts["config"]))
    weights = load_file(fixture.folder / f"{fixture.name}.safetensors")
    if facts["family"] == "s2s":
        save_file(weights, folder / "model.safetensors")
        return tritonseq.load(
            folder, model_type="unilm", config={"pos_shift": True} if facts["pos_shift"] else None
        )
    torch.save(weights, folder / "model.3.bin")
    special = fixture.name == "v1_special"
    flags = dict.fromkeys(("s2s_add_segment", "s2s_special_token"), True) if special else {}
    config = {**facts["v1_overrides"], "new_segment_ids": True, **flags}
    return tritonseq.load(folder / "model.3.bin", model_type="unilm", config=config)


def up_to(row: list[int], end: int) -> list[int]:
    """With its first end token; all of a row that has none."""
    return row[: row.index(end) + 1] if end in row else row


def test_every_fixture_is_covered(pytestconfig: pytest.Config) -> None:
    folder = read(pytestconfig, MODELS[0]).folder
    assert {path.stem for path in folder.glob("*.json")} == set(MODELS)
    for name in MODELS:
        assert set(read(pytestconfig, name).facts["cases"]) == {
            case for model, case in cases(GREEDY) + cases(BEAMS) if model == name
        }


@pytest.mark.parametrize("name", MODELS)
def test_layout_of_the_definition(name: str, pytestconfig: pytest.Config) -> None:
    fixture = read(pytestconfig, name)
    inputs, lengths = fixture.tensors("inputs"), [len(source) for source in fixture.sources]
    width, steps = max(lengths), fixture.facts["steps"]
    layout = definition(fixture).layout(torch.tensor(lengths), width, steps)
    assert torch.equal(layout.positions, inputs["position_ids"])
    assert torch.equal(layout.types, inputs["token_type_ids"])
    assert torch.equal(layout.mask, inputs["attention_mask"].bool())


@pytest.mark.parametrize(("name", "case"), cases(GREEDY))
def test_greedy_by_definition(name: str, case: str, pytestconfig: pytest.Config) -> None:
    fixture = read(pytestconfig, name)
    network, rules, seen = definition(fixture), fixture.rules(case), []

    def ask(rows: Any) -> Tensor:
        seen.append(network.rows(fixture.sources, rows))
        return seen[-1]

    targets, _ = unilm_search.greedy(ask, len(fixture.sources), rules.steps, rules.not_predict)
    assert targets == fixture.facts["cases"][case]["expected"]["output_ids"]
    wanted = fixture.tensors(case)["step_logits"]
    torch.testing.assert_close(torch.stack(seen, 1), wanted, **CLOSE)


@pytest.mark.parametrize(("name", "case"), cases(BEAMS))
def test_beams_by_definition(name: str, case: str, pytestconfig: pytest.Config) -> None:
    fixture = read(pytestconfig, name)
    network, rules = definition(fixture), fixture.rules(case)
    traces = unilm_search.beam_search(
        lambda rows: network.rows(fixture.sources, rows), len(fixture.sources), rules
    )
    expected, wanted = fixture.facts["cases"][case]["expected"], fixture.tensors(case)
    for sample, trace in enumerate(traces):
        choice = unilm_search.choose(trace, rules)
        assert choice.last_frame == expected["last_frame"][sample]
        scores, parents, tokens = torch.tensor(trace.frames).unbind(-1)
        valid = slice(choice.last_frame + 1)
        assert torch.equal(tokens[valid].long(), wanted["wids"][sample, valid])
        assert torch.equal(parents[valid].long(), wanted["ptrs"][sample, valid])
        torch.testing.assert_close(scores[valid], wanted["scores"][sample, valid], **CLOSE)
        assert choice.tokens == expected["pred_seq"][sample]
        assert choice.score == pytest.approx(expected["best_score"][sample], abs=5e-4)


@pytest.mark.parametrize("name", MODELS)
def test_logits(name: str, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """Fed with the tokens that upstream chose, whether they are the end or not."""
    fixture = read(pytestconfig, name)
    decoder = load(fixture, tmp_path).decoder
    tokens = torch.tensor(fixture.facts["cases"]["greedy"]["expected"]["output_ids"])
    ids, mask = tiny_unilm.pad(fixture.sources)
    lengths, steps = mask.sum(1), fixture.facts["steps"]
    cache, first = begin(decoder, ids, lengths, beams=1, target_length=steps - 1)
    rest = [feed(decoder, tokens[:, i : i + 1], None, cache)[:, 0] for i in range(steps - 1)]
    wanted = fixture.tensors("greedy")["step_logits"]
    torch.testing.assert_close(torch.stack([first, *rest], 1), wanted, **CLOSE)


@pytest.mark.filterwarnings("ignore:with")
@pytest.mark.parametrize(("name", "case"), cases(GREEDY))
def test_greedy(name: str, case: str, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    fixture = read(pytestconfig, name)
    rules = fixture.rules(case)
    found = load(fixture, tmp_path).generate(fixture.sources, **rules.options)
    expected = fixture.facts["cases"][case]["expected"]["output_ids"]
    assert [up_to(row, rules.eos) for row in found.tolist()] == [
        up_to(row, rules.eos) for row in expected
    ]


@pytest.mark.filterwarnings("ignore:with search")
@pytest.mark.parametrize("stops_early", [True, False], ids=["early", "never"])
@pytest.mark.parametrize(("name", "case"), cases(BEAMS))
def test_beams(
    name: str, case: str, stops_early: bool, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    fixture = read(pytestconfig, name)
    rules = fixture.rules(case)
    expected, wanted = fixture.facts["cases"][case]["expected"], fixture.tensors(case)
    result = load(fixture, tmp_path).generate(
        fixture.sources,
        early_stopping=False if stops_early else "never",
        return_dict_in_generate=True,
        output_scores=True,
        **rules.options,
    )
    sequences = [up_to(row, rules.eos) for row in result.sequences.tolist()]
    assert sequences == expected["pred_seq"]
    best = torch.tensor(expected["best_score"])
    torch.testing.assert_close(result.sequences_scores.float(), best, **CLOSE)
    steps = result.beam_trace.tokens.shape[1]
    assert stops_early or steps == max(expected["last_frame"]) + 1
    for sample, last in enumerate(expected["last_frame"]):
        valid = sample, slice(min(last + 1, steps))
        torch.testing.assert_close(
            result.beam_trace.scores[valid], wanted["scores"][valid], **CLOSE
        )
        assert torch.equal(result.beam_trace.tokens[valid], wanted["wids"][valid])
        assert torch.equal(result.beam_trace.parents[valid], wanted["ptrs"][valid])


COMMANDS = (
    "v1_text_greedy",
    "v1_text_beam5",
    "v1_tokenized_beam3_minlen",
    "s2s_greedy",
    "s2s_beam5",
    "s2s_beam5_lp09_min8",
)


class CommandLine(NamedTuple):
    """The fixtures of upstream's two commands, with checkpoints laid out as they want them."""

    fixtures: Path
    folder: Path

    def run(self, name: str, *more: str) -> Path:
        """The file that our command writes, given upstream's flags."""
        flags = json.loads((self.fixtures / "runs.json").read_text())[name]
        places = {"DIR": str(self.folder), "CLI": str(self.fixtures)}
        for placeholder, path in places.items():
            flags = [flag.replace(placeholder, path) for flag in flags]
        output = self.folder / "out.txt"
        assert main(["generate", *flags, *more, "--output_file", str(output)]) == 0
        return output

    def text(self, name: str) -> str:
        return (self.fixtures / name).read_text()


@pytest.fixture
def command_line(pytestconfig: pytest.Config, tmp_path: Path) -> CommandLine:
    fixtures = read(pytestconfig, MODELS[0]).folder / "cli"
    (tmp_path / "ckpt-1").mkdir()
    torch.save(load_file(fixtures / "v1_model.safetensors"), tmp_path / "model.bin")
    weights = load_file(fixtures / "s2s_model.safetensors")
    torch.save(weights, tmp_path / "ckpt-1" / "pytorch_model.bin")
    for name, place in (
        ("vocab.txt", "vocab.txt"),
        ("v1_bert_config.json", "bert_config.json"),
        ("s2s_config.json", "ckpt-1/config.json"),
    ):
        (tmp_path / place).write_bytes((fixtures / name).read_bytes())
    tokens = json.loads((fixtures / "v1_tokens.json").read_text())
    (tmp_path / "input.tok.txt").write_text("".join(" ".join(row) + "\n" for row in tokens))
    return CommandLine(fixtures, tmp_path)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_lines(name: str, command_line: CommandLine) -> None:
    """Upstream's flags as they are give upstream's text."""
    assert command_line.run(name).read_text() == command_line.text(f"{name}.out.txt")


def test_traces(command_line: CommandLine) -> None:
    """They go to the last step, as upstream's; what upstream fills up with is left out."""
    output = command_line.run("v1_text_beam5")
    wanted = json.loads(command_line.text("v1_text_beam5.traces.json"))
    with output.with_name("out.txt.trace.pickle").open("rb") as file:
        assert pickle.load(file) == {"version": 0.0, "num_samples": len(wanted)}
        found = [pickle.load(file) for _ in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        steps = len(ours["wids"])
        assert steps == 16
        assert ours["wids"] == theirs["wids"][:steps]
        assert ours["ptrs"] == theirs["ptrs"][:steps]
        scores = (torch.tensor(trace["scores"][:steps]) for trace in (ours, theirs))
        torch.testing.assert_close(*scores, **CLOSE)


@pytest.mark.parametrize("alpha", ["0.6", "1.0"])
def test_rescoring(alpha: str, command_line: CommandLine) -> None:
    """A penalty of length has no part in the search, so it re-scores like upstream's tool."""
    output = command_line.run("v1_text_beam5", "--length_penalty", alpha)
    assert output.read_text() == command_line.text(f"v1_text_beam5.out.txt.alp{alpha}")
