"""Copies and pickles of models: by their folder while it holds them, else by their weights."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import networks
import pytest
import services
import torch
from processes import PATIENCE
from safetensors.torch import load_file, save_file

import tritonseq
from tritonseq.demo.run import EMBEDDED
from tritonseq.models import matmul
from tritonseq.models.matmul import dense, is_packed

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

NAMES = ("bart-numbers", "gpt2-words", "t5-dates", "unilm-clock")
FAMILIES = pytest.mark.parametrize("name", NAMES)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
IDS = [[7, 12, 9, 30, 11], [8, 8, 21, 14, 6]]

pytestmark = pytest.mark.filterwarnings('ignore:with search="unilm", no effect of')


@pytest.fixture(autouse=True)
def all_weights_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "PACKED_FROM", 1)


def load(name: str | Path, dtype: str = "float32", **options: Any) -> tritonseq.Model:
    return tritonseq.load(EMBEDDED / name, device="cpu", dtype=dtype, **options)


def found(model: tritonseq.Model, **options: Any) -> list[list[int]]:
    rows: list[list[int]] = model.generate(IDS, **options).tolist()
    return rows


def sent(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(EMBEDDED / "bart-numbers", tmp_path / "model")


@DTYPES
@FAMILIES
def test_whatever_goes_comes_back(name: str, dtype: str) -> None:
    model = load(name, dtype)
    by_weights = copy.copy(model)
    by_weights._origin = None
    for sender in (model, by_weights):
        for again in (copy.copy(sender), copy.deepcopy(sender), sent(sender)):
            assert found(again) == found(model)
            assert (again.dtype, again.device) == (model.dtype, model.device)
            assert layouts(again) == layouts(model)
            assert again.generate_text(["two"]) == model.generate_text(["two"])
    assert len(pickle.dumps(model)) < 10_000 < len(pickle.dumps(by_weights))


def layouts(model: tritonseq.Model) -> list[bool]:
    return [is_packed(weight) for weight in model.decoder.parameters()]


@FAMILIES
def test_by_weights_a_pickle_holds_little_else(name: str) -> None:
    network = load(name).decoder
    assert len(pickle.dumps(network)) < network.nbytes + 60_000


@pytest.mark.parametrize("model_type", networks.SIZES)
def test_models_of_transformers_go_by_their_weights(model_type: str) -> None:
    model = tritonseq.from_transformers(networks.network(model_type))
    for again in (copy.deepcopy(model), sent(model)):
        assert again.decoder.checksum() == model.decoder.checksum()
        options = {"max_new_tokens": 5, "decoder_start_token_id": 0}
        assert found(again, **options) == found(model, **options)


def test_what_the_user_changed_goes_along() -> None:
    model = load("bart-numbers")
    model.generation_config = model.generation_config.merged(num_beams=3, max_new_tokens=4)
    model.tasks["mine"] = {"prefix": "say "}
    model.engines.graphs = False
    for again in (copy.copy(model), copy.deepcopy(model), sent(model)):
        assert again.generation_config == model.generation_config
        assert again.tasks == model.tasks
        assert not again.engines.graphs
        assert found(again) == found(model)
    deep = copy.deepcopy(model)
    deep.tasks["mine"]["prefix"] = ""
    assert model.tasks["mine"]["prefix"] == "say "


def test_copies_share_the_network_and_deep_ones_nothing() -> None:
    model = load("bart-numbers")
    assert copy.copy(model).decoder is model.decoder
    wanted, deep = found(model), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in deep.decoder.parameters():
            if not is_packed(parameter):
                parameter.zero_()
    assert found(model) == wanted != found(deep)


@DTYPES
def test_a_changed_model_goes_by_its_weights(dtype: str) -> None:
    """In place, by `data` or in another dtype: the folder no longer holds it."""
    model = load("bart-numbers", dtype)
    next(model.decoder.parameters()).data.mul_(-1)
    assert sent(model).decoder.checksum() == model.decoder.checksum()
    moved = load("bart-numbers", dtype)
    moved.decoder.to(torch.bfloat16 if dtype != "bfloat16" else torch.float32)
    assert sent(moved).dtype == moved.dtype
    assert found(sent(moved)) == found(moved)


def test_a_model_without_its_folder_goes_by_its_weights(folder: Path) -> None:
    model = load(folder)
    model.tokenizer  # noqa: B018  (read while it is there)
    shutil.rmtree(folder)
    assert found(sent(model)) == found(model)


def test_arguments_of_load_go_along(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths too, wherever the other process runs."""
    elsewhere = folder.parent / "tokenizer"
    elsewhere.mkdir()
    for path in folder.glob("tokenizer*"):
        path.rename(elsewhere / path.name)
    monkeypatch.chdir(folder.parent)
    change = {"activation_function": "relu"}
    model = tritonseq.load(
        "model", device="cpu", dtype="bfloat16", tokenizer="tokenizer", config=change
    )
    pickled = pickle.dumps(model)
    monkeypatch.chdir("/")
    again = pickle.loads(pickled)
    assert again.decoder.config == model.decoder.config
    assert again.decoder.config.activation_function == "relu"
    assert found(again) == found(model)
    assert again.generate_text(["two"]) == copy.copy(again).generate_text(["two"])


def test_a_folder_that_is_gone(folder: Path) -> None:
    pickled = pickle.dumps(load(folder))
    folder.rename(folder.with_name("moved"))
    with pytest.raises(ValueError, match=r"pickled by its name, and .*model is not here: bring it"):
        pickle.loads(pickled)


def test_weights_that_have_changed(folder: Path) -> None:
    pickled = pickle.dumps(load(folder))
    path = folder / "model.safetensors"
    weights: dict[str, Tensor] = load_file(path)
    weights[max(weights)].view(-1)[3] += 0.25
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"the weights in .*model changed since this model was"):
        pickle.loads(pickled)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_files_that_have_changed(folder: Path, name: str) -> None:
    pickled = pickle.dumps(load(folder))
    (folder / "README.md").write_text("may come and go")
    pickle.loads(pickled)
    (folder / name).write_text((folder / name).read_text() + "\n")
    with pytest.raises(ValueError, match=r"the configuration or the tokenizer in .*model changed"):
        pickle.loads(pickled)


def test_processes_that_are_spawned() -> None:
    model = load("bart-numbers", "bfloat16")
    by_weights = copy.deepcopy(model)
    by_weights._origin = None
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    child = context.Process(target=services.generate, args=([model, by_weights], IDS, answers))
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0
    assert answers.get() == [found(model)] * 2


@DTYPES
@FAMILIES
def test_the_state_of_a_network_is_dense(name: str, dtype: str) -> None:
    """It can be saved, and loaded into another network of the same layout or any."""
    model, other = load(name, dtype), load(name, dtype)
    file = io.BytesIO()
    torch.save(model.decoder.state_dict(), file)
    file.seek(0)
    state = torch.load(file)
    assert not any(value.is_mkldnn for value in state.values())
    named = dict(model.decoder.named_parameters(remove_duplicate=False))
    assert state.keys() == named.keys()
    for key, parameter in named.items():
        assert torch.equal(state[key], dense(parameter))
    with torch.no_grad():
        zeros = {key: torch.zeros_like(value) for key, value in state.items()}
    other.decoder.load_state_dict(zeros)
    assert other.decoder.checksum() != model.decoder.checksum()
    other.decoder.load_state_dict(state)
    assert other.decoder.checksum() == model.decoder.checksum()
    assert layouts(other) == layouts(model)
    assert found(other) == found(model)
    with pytest.raises(RuntimeError, match="Missing key"):
        other.decoder.load_state_dict({})
    assert layouts(other) == layouts(model)


@FAMILIES
def test_networks_move_between_dtypes(name: str) -> None:
    model, half = load(name), load(name, "bfloat16")
    model.decoder.bfloat16()
    assert {parameter.dtype for parameter in model.decoder.parameters()} == {torch.bfloat16}
    assert model.decoder.checksum() == half.decoder.checksum()
    assert found(model) == found(half)
    model.decoder.float()
    model.decoder.to("cpu").share_memory()
    model.decoder.load_state_dict(load(name).decoder.state_dict())
    assert found(model) == found(load(name))
