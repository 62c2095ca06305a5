"""T5 and BART checkpoints as they are found in the wild load to what transformers makes of them."""

from __future__ import annotations

import itertools
import json
import random
from typing import TYPE_CHECKING, Any

import folders
import networks
import pytest
import torch
import transformers
from folders import EMBEDDINGS

import tritonseq

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    State = dict[str, Tensor]


def write(
    folder: Path, model: Any, state: State, weights: str = "model.safetensors", **config: Any
) -> Path:
    """A checkpoint folder around `state`, with a config.json as short as old ones are."""
    kept = networks.SIZES[model.config.model_type].keys()
    sizes = {key: value for key, value in model.config.to_dict().items() if key in kept}
    settings = {"model_type": model.config.model_type, **sizes, **config}
    return folders.write(folder, state, settings, weights=weights)


def assert_same_model(folder: Path) -> Any:
    """Both engines load the folder and agree about logits; returns transformers' model."""
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    ours = tritonseq.load(folder, device="cpu").decoder
    networks.assert_same_walk(theirs, ours, [7, 1, 20], prompt_length=2, beams=2, steps=2)
    return theirs


def without(state: State, *parts: str) -> State:
    return {name: t for name, t in state.items() if not any(part in name for part in parts)}


FAMILIES = pytest.mark.parametrize("model_type", EMBEDDINGS)


@FAMILIES
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_one_embedding_under_any_of_its_names(tmp_path: Path, model_type: str, count: int) -> None:
    model = networks.network(model_type)
    state = model.state_dict()
    names = EMBEDDINGS[model_type]
    table = state[names[0]]
    assert all(torch.equal(state[name], table) for name in names)
    rest = without(state, *names)
    for number, kept in enumerate(itertools.combinations(names, count)):
        layout = rest | dict.fromkeys(kept, table)
        assert_same_model(write(tmp_path / str(number), model, layout))


@FAMILIES
def test_embeddings_that_differ(tmp_path: Path, model_type: str) -> None:
    """Any of the names, with either of two tables each: a second table is a weight of its own."""
    model = networks.network(model_type)
    state, names = model.state_dict(), EMBEDDINGS[model_type]
    rest = without(state, *names)
    for seed in range(12):
        draw = random.Random(seed)
        tables = [torch.randn_like(state[names[0]]) for _ in range(2)]
        kept = [name for name in names if draw.random() < 0.7] or names[:1]
        layout = rest | {name: draw.choice(tables) for name in kept}
        # An untied T5 has another scale before its head, and still may lack one.
        choices = [None, True, False] if model_type in ("t5", "mt5", "umt5") else [None, True]
        tied = draw.choice(choices)
        config = {} if tied is None else {"tie_word_embeddings": tied}
        assert_same_model(write(tmp_path / str(seed), model, layout, **config))


@FAMILIES
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_size", ["1GB", "9KB"])
def test_what_transformers_saves(
    tmp_path: Path, model_type: str, tied: bool, shard_size: str
) -> None:
    model = networks.network(model_type, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_size == "9KB")
    theirs = assert_same_model(tmp_path)
    assert torch.equal(theirs.get_output_embeddings().weight, model.get_output_embeddings().weight)


def test_an_index_that_names_the_wrong_shard(tmp_path: Path) -> None:
    """Tensors are where they are, as transformers has it too."""
    networks.network("bart").save_pretrained(tmp_path, max_shard_size="9KB")
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    shards = sorted(set(index["weight_map"].values()))
    turned = dict(zip(shards, [*shards[1:], shards[0]], strict=True))
    index["weight_map"] = {name: turned[shard] for name, shard in index["weight_map"].items()}
    path.write_text(json.dumps(index))
    assert_same_model(tmp_path)


@FAMILIES
def test_pickles_whose_tensors_share_memory(tmp_path: Path, model_type: str) -> None:
    model = networks.network(model_type)
    state = model.state_dict()
    first, *others = EMBEDDINGS[model_type]
    assert all(state[name].data_ptr() == state[first].data_ptr() for name in others)
    assert_same_model(write(tmp_path, model, state, "pytorch_model.bin"))


@FAMILIES
def test_sharded_pickles(tmp_path: Path, model_type: str) -> None:
    model = networks.network(model_type)
    state = model.state_dict()
    write(tmp_path, model, state, "pytorch_model.bin")
    (tmp_path / "pytorch_model.bin").unlink()
    places = {}
    for part in range(3):
        file = f"pytorch_model-{part + 1:05}-of-00003.bin"
        names = list(state)[part::3]
        torch.save({name: state[name] for name in names}, tmp_path / file)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": places}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert_same_model(tmp_path)


def bare_body(state: State) -> State:
    """facebook/bart-base: no head, no prefix, no bias of the logits."""
    kept = without(state, "lm_head", "final_logits_bias")
    return {name.removeprefix("model."): tensor for name, tensor in kept.items()}


def versioned(state: State) -> State:
    """What fairseq left behind in early conversions."""
    stray = {f"model.{side}.version": torch.tensor([3.0]) for side in ("encoder", "decoder")}
    return state | stray


def classifier(state: State) -> State:
    """facebook/bart-large-mnli: a classifier's head beside the body, none of a language model."""
    head = {
        "classification_head.dense.weight": torch.ones(24, 24),
        "classification_head.dense.bias": torch.ones(24),
        "classification_head.out_proj.weight": torch.ones(3, 24),
        "classification_head.out_proj.bias": torch.ones(3),
    }
    return without(state, "lm_head", "final_logits_bias") | head


def without_bias(state: State) -> State:
    return without(state, "final_logits_bias")


def without_tables(state: State) -> State:
    return without(state, "embed_positions")


def with_tables(state: State) -> State:
    """Sinusoids written out, as in early conversions; here with values that no formula gives."""
    tables = {
        f"model.{side}.embed_positions.weight": torch.randn(64, 24)
        for side in ("encoder", "decoder")
    }
    return state | tables


def stray_bias(state: State) -> State:
    """t5-small and its sisters: a relative bias where none is used."""
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    return state | {name: torch.randn(8, 3)}


@pytest.mark.parametrize(
    ("model_type", "layout"),
    [
        ("bart", bare_body),
        ("mbart", bare_body),
        ("bart", versioned),
        ("bart", classifier),
        ("bart", without_bias),
        ("marian", without_bias),
        ("marian", without_tables),
        ("marian", with_tables),
        ("pegasus", without_tables),
        ("pegasus", with_tables),
        ("t5", stray_bias),
        ("mt5", stray_bias),
    ],
)
def test_layouts(tmp_path: Path, model_type: str, layout: Callable[[State], State]) -> None:
    model = networks.network(model_type, scale_embedding=True)
    assert_same_model(write(tmp_path, model, layout(model.state_dict())))


@pytest.mark.parametrize("layers", [(3, 1), (1, 3)])
def test_sides_of_different_depth(tmp_path: Path, layers: tuple[int, int]) -> None:
    """DistilBART keeps the encoder and every other layer of the decoder, or fewer."""
    model = networks.network("bart", encoder_layers=layers[0], decoder_layers=layers[1])
    assert_same_model(write(tmp_path, model, model.state_dict()))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", [lambda state: state, without_tables])
def test_vocabularies_of_their_own(
    tmp_path: Path, tied: bool, layout: Callable[[State], State]
) -> None:
    """Newer OPUS-MT models: source and target each with a table, the head tied to the target's."""
    config = {
        "share_encoder_decoder_embeddings": False,
        "vocab_size": 47,
        "decoder_vocab_size": 59,
        "tie_word_embeddings": tied,
    }
    model = networks.network("marian", **config)
    state = layout(model.state_dict())
    assert "model.shared.weight" not in state
    if tied:
        del state["lm_head.weight"]
    folder = write(tmp_path, model, state, **config)
    assert_same_model(folder)
    ours = tritonseq.load(folder).decoder
    assert (ours.source_vocab_size, ours.vocab_size) == (47, 59)
    assert (ours.lm_head.weight is ours.target.tokens.weight) == tied


FAULTS: dict[str, tuple[str, Callable[[State], State], str]] = {
    "T5 lacks a weight": (
        "t5",
        lambda s: without(s, "decoder.block.1.layer.2.DenseReluDense.wo"),
        r"missing: decoder\.block\.1\.layer\.2\.DenseReluDense\.wo\.weight$",
    ),
    "T5 lacks every table": (
        "t5",
        lambda s: without(s, *EMBEDDINGS["t5"]),
        r"missing: shared\.weight$",
    ),
    "T5 is an encoder alone": (
        "t5",
        lambda s: without(s, "decoder.", "lm_head"),
        "the checkpoint holds no decoder: it is a part of an encoder-decoder model",
    ),
    "BART is a decoder alone": (
        "bart",
        lambda s: without(s, "encoder.", "shared"),
        "the checkpoint holds no encoder: it is a part of an encoder-decoder model",
    ),
    "T5 has a gate too many": (
        "t5",
        lambda s: s | {"encoder.block.0.layer.1.DenseReluDense.wi_0.weight": torch.ones(40, 24)},
        r"left over: encoder\.block\.0\.layer\.1\.DenseReluDense\.wi_0\.weight$",
    ),
    "T5 is transposed": (
        "t5",
        lambda s: s | {"encoder.block.0.layer.1.DenseReluDense.wi.weight": torch.ones(24, 40)},
        r"DenseReluDense\.wi\.weight has shape \[24, 40\], but config\.json asks for \[40, 24\]",
    ),
    "T5 has other heads": (
        "t5",
        lambda s: s | {"decoder.block.1.layer.0.SelfAttention.k.weight": torch.ones(32, 24)},
        r"SelfAttention\.k\.weight has shape \[32, 24\], but config\.json asks for \[24, 24\]",
    ),
    "T5 has another head": (
        "t5",
        lambda s: s | {"lm_head.weight": torch.ones(48, 24)},
        r"lm_head\.weight has shape \[48, 24\], but config\.json asks for \[47, 24\]",
    ),
    "BART lacks a bias": (
        "bart",
        lambda s: without(s, "model.encoder.layers.1.fc1.bias"),
        r"missing: model\.encoder\.layers\.1\.fc1\.bias$",
    ),
    "BART lacks positions": (
        "bart",
        without_tables,
        r"missing: model\.decoder\.embed_positions\.weight, model\.encoder\.embed_positions\.",
    ),
    "BART has a layer too many": (
        "bart",
        lambda s: s | {"model.decoder.layers.2.fc1.bias": torch.ones(36)},
        r"left over: model\.decoder\.layers\.2\.fc1\.bias$",
    ),
    "BART has other positions": (
        "bart",
        lambda s: s | {"model.decoder.embed_positions.weight": torch.ones(64, 24)},
        r"embed_positions\.weight has shape \[64, 24\], but config\.json asks for \[66, 24\]",
    ),
    "BART has another bias": (
        "bart",
        lambda s: s | {"final_logits_bias": torch.ones(1, 46)},
        r"final_logits_bias has shape \[1, 46\], but config\.json asks for \[1, 47\]",
    ),
    "BART is quantised": (
        "bart",
        lambda s: s | {"model.decoder.layers.0.fc2.bias": torch.ones(24, dtype=torch.int8)},
        r"layers\.0\.fc2\.bias is a Tensor of torch\.int8",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_tensors(tmp_path: Path, fault: str) -> None:
    model_type, spoil, message = FAULTS[fault]
    model = networks.network(model_type)
    folder = write(tmp_path, model, spoil(model.state_dict()))
    with pytest.raises(ValueError, match=message):
        tritonseq.load(folder)


# The generation parameters and tasks that facebook/bart-large-cnn keeps in config.json.
SUMMARIES = {
    "num_beams": 4,
    "length_penalty": 2.0,
    "max_length": 142,
    "min_length": 56,
    "no_repeat_ngram_size": 3,
    "early_stopping": True,
}
TOKENS = {
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
}


def test_generation_parameters_in_an_old_configuration(tmp_path: Path) -> None:
    model = networks.network("bart", max_position_embeddings=160)
    folder = write(tmp_path, model, model.state_dict(), **SUMMARIES, **TOKENS)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    ids = torch.randint(3, networks.VOCAB, (2, 9))
    wanted = theirs.generate(ids, attention_mask=torch.ones_like(ids))
    assert 57 <= wanted.shape[1] <= 142
    result = tritonseq.load(folder).generate(ids)
    assert torch.equal(result, wanted)
    assert (result[:, 0] == 2).all() and (result[:, 1] == 0).all()


def test_parameters_of_a_task(tmp_path: Path) -> None:
    model = networks.network("bart")
    short = {"max_length": 12, "min_length": 12, "num_beams": 2, "prefix": "summarize: "}
    folder = write(
        tmp_path,
        model,
        model.state_dict(),
        **TOKENS,
        task_specific_params={"summarization": short, "other": {"max_length": 5}},
    )
    ours = tritonseq.load(folder)
    ids = torch.randint(3, networks.VOCAB, (2, 9))
    plain = {key: value for key, value in short.items() if key != "prefix"}
    wanted = ours.generate(ids, **plain)
    assert torch.equal(ours.generate(ids, task="summarization"), wanted)
    # What the caller says wins.
    assert ours.generate(ids, task="summarization", min_length=3, max_length=7).shape[1] <= 7
    assert ours.generate(ids, task="other").shape[1] <= 5
    with pytest.raises(ValueError, match=r"'translation'.*other, summarization"):
        ours.generate(ids, task="translation")


@pytest.mark.parametrize(
    ("model_type", "left_out"),
    [
        ("bart", ("decoder_start_token_id",)),
        ("bart", ("decoder_start_token_id", "bos_token_id")),
        ("bart", ("eos_token_id",)),
        ("pegasus", ("eos_token_id",)),
        ("t5", ("decoder_start_token_id",)),
        ("bart", ("pad_token_id",)),
    ],
)
def test_special_tokens_that_config_json_leaves_out(
    tmp_path: Path, model_type: str, left_out: tuple[str, ...]
) -> None:
    """They are not known, whatever tokens transformers' configuration classes have."""
    model = networks.network(model_type, **TOKENS | {"decoder_start_token_id": 2})
    folder = write(tmp_path, model, model.state_dict(), **TOKENS)
    path = folder / "config.json"
    stated = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in stated.items() if k not in left_out}))
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).float().eval()
    ours = tritonseq.load(folder)
    ids = torch.randint(3, networks.VOCAB, (2, 9))
    mask = torch.ones_like(ids)
    if ours.generation_config.decoder_start_token_ids:
        wanted = theirs.generate(ids, attention_mask=mask, max_new_tokens=9)
        assert torch.equal(ours.generate(ids, mask, max_new_tokens=9), wanted)
        return
    with pytest.raises(ValueError, match="has to be defined"):
        theirs.generate(ids, attention_mask=mask)
    with pytest.raises(ValueError, match="is known: pass decoder_start_token_id"):
        ours.generate(ids, mask)
    assert ours.generate(ids, mask, decoder_start_token_id=2).shape[0] == 2
