"""Tables that a configuration ties are what the weights have: one tensor, or several."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import folders
import networks
import pytest
import torch
import transformers
from safetensors.torch import save_file

import tritonseq
from tritonseq.checkpoint import weights
from tritonseq.checkpoint.state_dict import is_same_tensor
from tritonseq.checkpoint.weights import PickleFile, SafetensorsFile, sharded
from tritonseq.demo.run import EMBEDDED

if TYPE_CHECKING:
    from pathlib import Path

    from tritonseq.checkpoint.weights import WeightReader

GPT2 = {"vocab_size": 53, "n_positions": 24, "n_embd": 12, "n_layer": 2, "n_head": 3}
# Rows of real width: weights of so many elements are packed on the CPU.
WIDE = {"vocab_size": 700, "n_positions": 24, "n_embd": 384, "n_layer": 1, "n_head": 6}
T5 = {"vocab_size": 700, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 1, "num_heads": 8}
BART = {
    "vocab_size": 700,
    "max_position_embeddings": 24,
    "d_model": 512,
    "encoder_layers": 1,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 1024,
    "decoder_layers": 1,
    "decoder_attention_heads": 8,
    "decoder_ffn_dim": 1024,
}
MARIAN = {**BART, "pad_token_id": 699, "decoder_start_token_id": 699, "eos_token_id": 0}
TABLES = {"gpt2": ("transformer.wte.weight", "lm_head.weight"), **folders.EMBEDDINGS}


def random_model(model_type: str, sizes: dict[str, Any], dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[model_type](**sizes)
    names = transformers.AutoModelForCausalLM, transformers.AutoModelForSeq2SeqLM
    model = names[model_type != "gpt2"].from_config(config).eval()
    networks.randomise(model)
    return model.to(dtype)


def write(folder: Path, model_type: str, state: dict[str, Any], sizes: dict[str, Any]) -> Path:
    """A checkpoint whose config.json says no more than it must."""
    keys = {"model_type": model_type, **sizes}
    return folders.write(folder, state, keys, weights="model.safetensors")


def first_logits(theirs: Any, ids: torch.Tensor) -> torch.Tensor:
    """What transformers says of the first token that is generated."""
    with torch.no_grad():
        if not theirs.config.is_encoder_decoder:
            return theirs(ids).logits[:, -1]
        start = torch.full((len(ids), 1), theirs.config.decoder_start_token_id)
        return theirs(input_ids=ids, decoder_input_ids=start).logits[:, -1]


def assert_same(ours: tritonseq.Model, theirs: Any, dtype: torch.dtype = torch.float32) -> None:
    ids = torch.randint(5, 45, (2, 6), generator=torch.Generator().manual_seed(1))
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    result = ours.generate(ids, return_dict_in_generate=True, output_logits=True, **options)
    wanted = first_logits(theirs, ids).float()
    if dtype == torch.bfloat16:
        # Both round, each its own way; with another head they would have nothing in common.
        assert (result.logits[0].float() - wanted).std() < 0.1 * wanted.std()
    else:
        torch.testing.assert_close(result.logits[0], wanted, rtol=1e-4, atol=1e-3)
        theirs.generation_config.eos_token_id = None
        mask = torch.ones_like(ids)
        assert torch.equal(result.sequences, theirs.generate(ids, attention_mask=mask, **options))


def sizes_of(model_type: str) -> dict[str, Any]:
    if model_type == "gpt2":
        return WIDE
    if model_type == "t5":
        return {**T5, "decoder_start_token_id": 0}
    return MARIAN if model_type == "marian" else {**BART, "decoder_start_token_id": 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", ["gpt2", "t5", "bart", "marian", "mbart", "pegasus"])
def test_a_head_of_its_own_counts_and_is_told(
    tmp_path: Path, model_type: str, dtype: torch.dtype
) -> None:
    """At real widths, and where config.json is silent: by a file and by the live model."""
    sizes = sizes_of(model_type)
    state = random_model(model_type, sizes, dtype).state_dict()
    state["lm_head.weight"] = state["lm_head.weight"].flip(0)
    folder = write(tmp_path, model_type, state, {**sizes, "dtype": str(dtype).split(".")[1]})
    auto = transformers.AutoModelForCausalLM, transformers.AutoModelForSeq2SeqLM
    theirs = auto[model_type != "gpt2"].from_pretrained(folder, dtype=dtype).eval()
    with pytest.warns(UserWarning, match=r"lm_head\.weight differ, .* each is used for its own"):
        ours = tritonseq.load(folder, device="cpu")
    assert ours.dtype == dtype
    assert_same(ours, theirs, dtype)
    with pytest.warns(UserWarning, match=r"lm_head\.weight differ"):
        assert_same(tritonseq.from_transformers(theirs), theirs, dtype)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_every_table_of_its_own(tmp_path: Path, family: str) -> None:
    model = networks.network(family)
    state = model.state_dict()
    for number, name in enumerate(TABLES[family]):
        state[name] = state[name].roll(number, 0)
    sizes = {**networks.SIZES[family], "decoder_start_token_id": 2}
    folder = write(tmp_path, family, state, sizes)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    with pytest.warns(UserWarning, match="differ") as seen:
        ours = tritonseq.load(folder, device="cpu")
    assert len(seen) == 1
    assert_same(ours, theirs)
    tables = {id(weight) for name, weight in ours.decoder.named_parameters() if len(weight) == 47}
    assert len(tables) == 3


@pytest.mark.parametrize("stated", [{"tie_word_embeddings": True}, {}])
def test_equal_tables_are_one_tensor(tmp_path: Path, stated: dict[str, Any]) -> None:
    for model_type in ("gpt2", "t5", "bart"):
        sizes = GPT2 if model_type == "gpt2" else networks.SIZES[model_type]
        state = random_model(model_type, sizes, torch.float32).state_dict()
        folder = write(tmp_path / model_type, model_type, state, {**sizes, **stated})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            decoder = tritonseq.load(folder, device="cpu").decoder
        vocab = sizes["vocab_size"]
        shared = [weight for weight in decoder.parameters() if weight.shape[0] == vocab]
        assert len(shared) == 1, model_type


def test_what_the_configuration_says_outright(tmp_path: Path) -> None:
    """Untied heads are no surprise then; a head that is not there is missing."""
    state = random_model("gpt2", GPT2, torch.float32).state_dict()
    state["lm_head.weight"] = state["lm_head.weight"].flip(0)
    untied = {**GPT2, "tie_word_embeddings": False}
    folder = write(tmp_path / "untied", "gpt2", state, untied)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = tritonseq.load(folder, device="cpu")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    assert_same(ours, theirs)
    tied = write(tmp_path / "tied", "gpt2", state, {**GPT2, "tie_word_embeddings": True})
    with pytest.warns(UserWarning, match=r"transformer\.wte\.weight and lm_head\.weight differ"):
        assert_same(tritonseq.load(tied, device="cpu"), theirs)
    del state["lm_head.weight"]
    with pytest.raises(ValueError, match=r"missing: lm_head\.weight"):
        tritonseq.load(write(tmp_path / "none", "gpt2", state, untied))
    state["lm_head.weight"] = torch.ones(54, 12)
    with pytest.raises(ValueError, match=r"lm_head\.weight has shape \[54, 12\]"):
        tritonseq.load(write(tmp_path / "large", "gpt2", state, GPT2))


def test_own_vocabularies_are_no_surprise(tmp_path: Path) -> None:
    own = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": networks.VOCAB}
    model = networks.network("marian", **own)
    folder = write(tmp_path, "marian", model.state_dict(), {**networks.SIZES["marian"], **own})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = tritonseq.load(folder, device="cpu")
    assert_same(ours, transformers.MarianMTModel.from_pretrained(folder).eval())


def test_umt5_scales_unless_its_head_is_untied(tmp_path: Path) -> None:
    for tied in (True, False):
        model = networks.network("umt5", tie_word_embeddings=tied, decoder_start_token_id=0)
        stated = {"tie_word_embeddings": tied, "decoder_start_token_id": 0}
        folder = write(
            tmp_path / str(tied), "umt5", model.state_dict(), {**networks.SIZES["umt5"], **stated}
        )
        assert_same(tritonseq.load(folder, device="cpu"), model)


def readers(folder: Path, state: dict[str, Any]) -> list[WeightReader]:
    save_file(state, folder / "model.safetensors")
    torch.save(state, folder / "zip.bin")
    torch.save(state, folder / "old.bin", _use_new_zipfile_serialization=False)
    index = folder / "index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, "zip.bin")}))
    files = [PickleFile(folder / "zip.bin"), PickleFile(folder / "old.bin")]
    return [SafetensorsFile(folder / "model.safetensors"), *files, sharded(index, PickleFile)]


def test_tensors_are_compared_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No piece is larger than it may be, whatever the format; the last row counts too."""
    monkeypatch.setattr(weights, "PIECE_BYTES", 4096)
    table = torch.arange(67 * 50, dtype=torch.float32).view(67, 50)
    other = table.clone()
    other[-1, -1] += 1.0
    half = table.bfloat16()
    state = {"a": table, "b": table.clone(), "c": other, "h": half, "i": half.float()}
    scalars = {"s": torch.tensor(1.0), "t": torch.tensor(1.0), "none": torch.empty(0, 3)}
    for reader in readers(tmp_path, {**state, **scalars}):
        assert max(piece.nbytes for piece in reader.pieces("a")) <= 4096
        assert torch.equal(torch.cat(list(reader.pieces("a"))), table)
        assert is_same_tensor("a", "b", reader)
        assert not is_same_tensor("a", "c", reader)
        assert is_same_tensor("h", "i", reader) and not is_same_tensor("a", "h", reader)
        assert is_same_tensor("s", "t", reader) and is_same_tensor("none", "none", reader)
        # What was only looked at can still be read.
        assert torch.equal(reader.read("a"), table)
    assert len(weights.row_ranges((3, 10**9))) == 3


@pytest.mark.parametrize("name", ["gpt2-words", "t5-dates", "bart-numbers", "unilm-clock"])
def test_tables_under_one_name_are_no_surprise(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tritonseq.load(EMBEDDED / name)
