"""Scores that are no numbers end in an error that says why, in every search and in a job."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import seq2seq
import tiny
import tiny_unilm
import torch
from safetensors.torch import load_file, save_file

import tritonseq
from tritonseq.cli.main import main
from tritonseq.decoding.search import NotFinite

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = [[8, 9, 10, 11], [12, 13, 14]]
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "bans": {"num_beams": 3, "no_repeat_ngram_size": 2},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "sampling": {"do_sample": True},
    "beam-sampling": {"do_sample": True, "num_beams": 2},
    "scores": {"output_scores": True, "return_dict_in_generate": True},
    "criteria": {"max_time": 1e6},
}
EMBEDDED = Path(tritonseq.__file__).parent / "embedded"


def spoilt(family: str, value: float, *, everywhere: bool = True) -> tritonseq.Model:
    """A model in whose last layer stand such values, or in one row of its head."""
    model = tiny.hf_gpt2() if family == "gpt2" else seq2seq.hf_model(family)
    with torch.no_grad():
        if everywhere:
            block = model.transformer.h[1].mlp.c_fc if family == "gpt2" else _last(model)
            block.weight[..., 3] = value
        else:
            model.get_output_embeddings().weight[50, 3] = value
    return tritonseq.from_transformers(model)


def _last(model: Any) -> Any:
    layers = model.get_decoder()
    if hasattr(layers, "block"):
        return layers.block[1].layer[2].DenseReluDense.wi
    return layers.layers[1].fc1


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "t5", "bart"])
def test_weights_that_are_no_numbers_are_named(
    family: str, everywhere: bool, value: float, search: str
) -> None:
    model = spoilt(family, value, everywhere=everywhere)
    with pytest.raises(ValueError, match=r"no numbers .* its weights hold such in \w+"):
        model.generate(SOURCE, max_new_tokens=4, **SEARCHES[search])


@pytest.mark.parametrize("search", ["greedy", "beams", "sampling"])
def test_a_unilm_with_such_weights(search: str) -> None:
    own = tiny_unilm.tiny()
    own.weights["bert.encoder.layer.1.output.dense.weight"][2, 3] = math.nan
    with pytest.raises(NotFinite, match=r"layers\.1\.feed_forward\.fc2"):
        own.model().generate(SOURCE, max_new_tokens=4, **SEARCHES[search])


def test_every_way_to_generate_tells_of_it() -> None:
    model, lengths = spoilt("gpt2", math.nan), {"max_new_tokens": 4, "eos_token_id": 5}
    named = r"its weights hold such in \w+"
    with pytest.raises(NotFinite, match=named):
        list(model.generate_each(SOURCE, **lengths))
    stream = model.stream(SOURCE[:1], **lengths)
    with pytest.raises(NotFinite, match=named):
        next(stream)

    class Streamer:
        def put(self, value: Tensor) -> None: ...

        def end(self) -> None: ...

    with pytest.raises(NotFinite, match=named):
        model.generate(SOURCE[:1], streamer=Streamer(), **lengths)


def test_what_outgrows_float16_is_told_with_the_dtypes_that_hold_it() -> None:
    model = tiny.hf_gpt2()
    model.transformer.h[1].mlp.c_proj.weight.data *= 3e4
    ours = tritonseq.from_transformers(model.half())
    with pytest.raises(NotFinite, match=r'outgrow float16 .* dtype="float32", or "bfloat16"'):
        ours.generate(SOURCE, max_new_tokens=4)


@pytest.mark.parametrize("search", ["greedy", "beams", "sampling"])
def test_a_logits_processor_that_returns_nan_is_named(search: str) -> None:
    def careless(ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, torch.tensor([5]), math.nan)

    with pytest.raises(ValueError, match="logits_processor function returned NaN"):
        tiny.pair().ours.generate(
            SOURCE, max_new_tokens=4, logits_processor=careless, **SEARCHES[search]
        )


def test_infinities_that_somebody_wants_are_kept() -> None:
    """A bias or a processor may make a token certain, and remove_invalid_values repairs NaN."""
    model = tiny.pair().ours
    certain = model.generate(SOURCE[:1], max_new_tokens=3, sequence_bias=[[[5], math.inf]])
    assert certain[0, -3:].tolist() == [5, 5, 5]

    def sure(ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, torch.tensor([6]), math.inf)

    certain = model.generate(SOURCE[:1], max_new_tokens=3, logits_processor=sure)
    assert certain[0, -3:].tolist() == [6, 6, 6]
    broken = spoilt("gpt2", math.nan)
    assert broken.generate(SOURCE, max_new_tokens=3, remove_invalid_values=True).shape == (2, 7)


def test_a_job_is_refused_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED / "bart-numbers", folder)
    table = load_file(folder / "model.safetensors")
    table["model.decoder.layers.0.fc1.weight"][0, 0] = math.nan
    save_file(table, folder / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "in.txt").write_text("seven\neight\n")
    code = main(["generate", str(folder), str(tmp_path / "in.txt"), str(tmp_path / "out.txt")])
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert code != 0 and len(errors) == 1 and "its weights hold such in" in errors[0]


def test_one_text_that_outgrows_the_dtype_is_rejected_alone(tmp_path: Path) -> None:
    """Its token alone leads to numbers beyond float16; the others are answered as ever."""
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED / "bart-numbers", folder)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    model = tritonseq.load(folder, dtype="float32")
    texts = ["i have seven cats", "i have nine dogs"]
    wanted = model.generate_text(texts[1:])
    ids = [set(row) for row in model.text_job().read(texts)]
    (own, *_) = sorted(ids[0] - ids[1])
    assert own < len(vocabulary)
    # A table of its own, for the head is tied to it.
    table = model.decoder.source.tokens.weight.detach().clone()
    table[own] = 3e38
    model.decoder.source.tokens.weight = torch.nn.Parameter(table, requires_grad=False)
    answers = list(tritonseq.pipeline(model, texts))
    assert answers[0].fault is not None and "no numbers" in answers[0].fault
    assert answers[1].texts == wanted
