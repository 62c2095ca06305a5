"""Families of T5's and BART's blocks as their files lie on the Hub: names, keys and settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import folders
import pytest
import seq2seq
import torch
import transformers

import tritonseq

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    State = dict[str, Tensor]

pytestmark = pytest.mark.filterwarnings("ignore:without num_beams")


class Files(NamedTuple):
    """What a checkpoint of the Hub has beside the sizes of its tiny copy."""

    model_type: str
    config: dict[str, Any]
    layout: Callable[[State], State] = dict
    weights: str = "pytorch_model.bin"


def only(*kept: str) -> Callable[[State], State]:
    """Of the names of the table of tokens, these alone."""
    tables = {name for names in folders.EMBEDDINGS.values() for name in names} - set(kept)
    return lambda state: {name: t for name, t in state.items() if name not in tables}


def without_positions(state: State) -> State:
    return {name: t for name, t in state.items() if "embed_positions" not in name}


def with_old_positions(state: State) -> State:
    """The buffers of M2M100 in early files, which transformers does not read any more."""
    sides = ("encoder", "decoder")
    return state | {f"model.{side}.embed_positions.weights": torch.randn(66, 32) for side in sides}


def in_half(state: State) -> State:
    return {name: t.half() for name, t in state.items()}


M2M100: dict[str, Any] = {
    "activation_function": "relu", "bos_token_id": 0, "decoder_start_token_id": 2,
    "eos_token_id": 2, "is_encoder_decoder": True, "pad_token_id": 1, "scale_embedding": True,
    "max_length": 30,
}  # fmt: skip
FSMT: dict[str, Any] = {
    "langs": ["en", "ru"], "decoder": {"vocab_size": 57, "bos_token_id": 2},
    "src_vocab_size": 61, "tgt_vocab_size": 57, "bos_token_id": 0,
    "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "scale_embedding": True,
    "is_encoder_decoder": True, "num_hidden_layers": 2, "tie_word_embeddings": False,
    "max_length": 30, "num_beams": 5, "length_penalty": 1.15, "early_stopping": False,
}  # fmt: skip
BLENDERBOT: dict[str, Any] = {
    "add_bias_logits": False, "add_final_layer_norm": True, "bos_token_id": 1,
    "decoder_start_token_id": 1, "do_blenderbot_90_layernorm": True,
    "encoder_no_repeat_ngram_size": 3, "eos_token_id": 2, "extra_layer_norm": False,
    "extra_pos_embeddings": 0, "force_bos_token_to_be_generated": False, "forced_eos_token_id": 2,
    "is_encoder_decoder": True, "layernorm_variant": "prelayernorm", "length_penalty": 0.65,
    "max_length": 40, "min_length": 20, "no_repeat_ngram_size": 3, "normalize_before": True,
    "normalize_embedding": False, "num_beams": 10, "num_hidden_layers": 2, "pad_token_id": 0,
    "scale_embedding": True, "static_position_embeddings": False, "unk_token_id": 3,
}  # fmt: skip
_T5 = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "max_length": 20}
_CODE = {**_T5, "bos_token_id": 1, "eos_token_id": 2, "feed_forward_proj": "relu"}
_GATED = {"is_gated_act": True, "tie_word_embeddings": False}
_MBART = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "max_length": 20}
FILES = {
    "NLLB-200": Files("m2m_100", M2M100),
    "M2M100 of the first days": Files(
        "m2m_100", M2M100 | {"num_beams": 5, "early_stopping": True}, with_old_positions
    ),
    "SMaLL-100": Files(
        "m2m_100",
        M2M100 | {"max_length": 20, "encoder_layers": 3, "decoder_layers": 1},
        only("model.shared.weight"),
        "model.safetensors",
    ),
    "facebook/wmt19": Files("fsmt", FSMT, without_positions),
    "allenai/wmt16": Files(
        "fsmt", FSMT | {"encoder_layers": 3, "num_hidden_layers": 3, "decoder_layers": 1}
    ),
    "MVP": Files("mvp", {**_MBART, "decoder_start_token_id": 2, "use_prompt": False}),
    "PLBart": Files(
        "plbart",
        {**_MBART, "decoder_start_token_id": 2, "scale_embedding": True, "static": False},
    ),
    "Blenderbot": Files("blenderbot", BLENDERBOT),
    "MADLAD-400": Files(
        "t5-v1.1",
        _T5 | _GATED | {"feed_forward_proj": "gated-gelu", "pad_token_id": 1, "eos_token_id": 2},
        only("decoder.embed_tokens.weight", "lm_head.weight"),
        "model.safetensors",
    ),
    "UL2": Files("t5-v1.1", _T5 | _GATED | {"feed_forward_proj": "gated-silu"}),
    "Flan-UL2": Files(
        "t5-v1.1",
        _T5 | _GATED | {"feed_forward_proj": "gated-silu", "dense_act_fn": "silu"},
        only("shared.weight", "lm_head.weight"),
        "model.safetensors",
    ),
    "CodeT5": Files("t5", _CODE | {"n_positions": 512, "gradient_checkpointing": False}),
    "CodeT5+ 220M": Files(
        "t5", _CODE | {"dense_act_fn": "relu", "is_gated_act": False, "torch_dtype": "float16"},
        in_half,
    ),
    "mT0": Files("mt5", _T5 | _GATED | {"feed_forward_proj": "gated-gelu"}),
    "BARTpho": Files("mbart", {**_MBART, "decoder_start_token_id": 2, "scale_embedding": True}),
    "IndicBART": Files("mbart", {**_MBART, "decoder_start_token_id": 9, "num_beams": 4}),
}  # fmt: skip


_OF_NETWORK = (
    "layers", "vocab_size", "feed_forward_proj", "tie_word_embeddings", "dense_act_fn",
    "scale_embedding",
)  # fmt: skip


def write(folder: Path, files: Files) -> Path:
    of_network = {key: value for key, value in files.config.items() if key.endswith(_OF_NETWORK)}
    model = seq2seq.hf_model(files.model_type, seed=3, **of_network)
    sizes = seq2seq.FAMILIES[files.model_type].sizes
    keys = {"model_type": model.config.model_type, **sizes, **files.config}
    return folders.write(folder, files.layout(model.state_dict()), keys, weights=files.weights)


def both(folder: Path) -> tuple[Any, tritonseq.Model]:
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    return theirs.eval(), tritonseq.load(folder, device="cpu", dtype="float32")


SOURCES = torch.tensor([[9, 10, 11, 12, 13, 20, 33, 2], [14, 31, 8, 8, 2, 1, 1, 1]])


def assert_same_ids(theirs: Any, ours: tritonseq.Model, **options: Any) -> Tensor:
    """With the options of the files, on padded sources."""
    mask = (torch.arange(8) < torch.tensor([[8], [5]])).long()
    wanted = theirs.generate(SOURCES, attention_mask=mask, **options)
    found = ours.generate(SOURCES, mask, hf_exact=True, **options)
    assert torch.equal(found, wanted)
    return found


@pytest.mark.parametrize("name", FILES)
def test_files_give_the_ids_of_transformers(tmp_path: Path, name: str) -> None:
    files = FILES[name]
    theirs, ours = both(write(tmp_path, files))
    # The language that a target starts with, where it is no other family's business.
    first = {"forced_bos_token_id": 9} if files.model_type == "m2m_100" else {}
    found = assert_same_ids(theirs, ours, **first)
    assert len(set(found.flatten().tolist())) > 3
    loaded = tritonseq.from_transformers(theirs)
    assert torch.equal(loaded.generate(SOURCES[:1]), ours.generate(SOURCES[:1]))


def test_an_fsmt_without_its_own_head_has_the_targets_table(tmp_path: Path) -> None:
    """As transformers 4 had it; in version 5 it is random then."""
    files = FILES["facebook/wmt19"]
    head = "model.decoder.output_projection.weight"
    whole = tritonseq.load(write(tmp_path / "whole", files))
    assert whole.decoder.lm_head.weight is not whole.decoder.target.tokens.weight
    bare = files._replace(layout=lambda state: {n: t for n, t in state.items() if n != head})
    ours = tritonseq.load(write(tmp_path / "bare", bare))
    assert ours.decoder.lm_head.weight is ours.decoder.target.tokens.weight
    tied = files._replace(layout=lambda s: s | {head: s["model.decoder.embed_tokens.weight"]})
    theirs, _ = both(write(tmp_path / "tied", tied))
    assert_same_ids(theirs, ours)


def test_positions_go_as_far_as_config_json_says(tmp_path: Path) -> None:
    """transformers has no limit to sines: it may be raised, and longer sources are refused."""
    ids = torch.randint(5, 43, (2, 90), generator=torch.Generator().manual_seed(1))
    for name in ("NLLB-200", "facebook/wmt19"):
        folder = write(tmp_path / name.replace("/", "-"), FILES[name])
        theirs, ours = both(folder)
        with pytest.raises(ValueError, match=r"source 0 has 90 tokens, the model has 64 positions"):
            ours.generate(ids)
        wider = tritonseq.load(folder, config={"max_position_embeddings": 128})
        options = {"max_new_tokens": 80, "num_beams": 1, "eos_token_id": None}
        options["forced_eos_token_id"] = None
        wanted = theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)
        assert torch.equal(wider.generate(ids, torch.ones_like(ids), **options), wanted)


@pytest.mark.parametrize("name", ["NLLB-200", "facebook/wmt19"])
def test_pads_that_are_text_are_not_counted(tmp_path: Path, name: str) -> None:
    """Between tokens, where they are text, and at both ends, if a mask says so."""
    theirs, ours = both(write(tmp_path, FILES[name]))
    ids = torch.tensor([[9, 1, 10, 1, 1, 30, 2], [1, 1, 9, 11, 30, 2, 1], [1, 9, 8, 7, 6, 5, 1]])
    ones, options = torch.ones_like(ids), {"max_new_tokens": 12, "num_beams": 3}
    wanted = theirs.generate(ids, attention_mask=ones, **options)
    assert torch.equal(ours.generate(ids, ones, **options), wanted)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("MVP", {"use_prompt": True}, "use_prompt is true: prompts of MVP"),
    ("MVP", {"use_prompt": 1}, "use_prompt must be true or false, not 1"),
    ("NLLB-200", {"pad_token_id": 61}, "pad_token_id is 61, which is no token of a vocabulary"),
    ("NLLB-200", {"pad_token_id": "1"}, "pad_token_id must be an integer"),
    ("NLLB-200", {"d_model": 3, "encoder_attention_heads": 1, "decoder_attention_heads": 1},
     "d_model is 3, and the sines of a m2m_100 need 4 channels"),
    ("NLLB-200", {"max_position_embeddings": 2**30}, "max_position_embeddings is 1073741826"),
    ("facebook/wmt19", {"src_vocab_size": 0}, "src_vocab_size must be a positive integer, not 0"),
    ("facebook/wmt19", {"src_vocab_size": 62}, "by src_vocab_size"),
    ("facebook/wmt19", {"tgt_vocab_size": 58}, "by tgt_vocab_size"),
    ("facebook/wmt19", {"vocab_size": 58}, "by tgt_vocab_size"),
    ("facebook/wmt19", {"tie_word_embeddings": True},
     "src_vocab_size is 61, tgt_vocab_size 57: they must be equal"),
    ("Blenderbot", {"max_position_embeddings": 62}, "by max_position_embeddings"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED, ids=str)
def test_what_does_not_fit_is_named(
    tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    folder = write(tmp_path, FILES[name])
    keys = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(keys | changes))
    with pytest.raises(ValueError, match=message):
        tritonseq.load(folder)
