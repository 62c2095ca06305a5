"""What a config.json says beside a family's own keys: honoured as transformers does, or refused."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import pytest
import seq2seq
import tiny
import torch
import transformers

import tritonseq

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = torch.tensor([[9, 10, 11, 12, 13, 20, 33]])
FAMILIES = ("gpt2", "t5", "mt5", "bart", "mbart", "pegasus", "marian")
ABSENT = object()


@functools.cache
def model_of(family: str) -> Any:
    return tiny.hf_gpt2() if family == "gpt2" else seq2seq.hf_model(family)


def folder_of(folder: Path, family: str, **changes: Any) -> Path:
    """A checkpoint whose config.json says something else; ABSENT takes a key out."""
    model_of(family).save_pretrained(folder)
    path = folder / "config.json"
    stated = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in stated.items() if v is not ABSENT}))
    return folder


def theirs(folder: Path, family: str) -> list[list[int]]:
    model = type(model_of(family)).from_pretrained(folder).float().eval()
    ids: list[list[int]] = model.generate(SOURCE, max_new_tokens=10).tolist()
    return ids


def ours(folder: Path, **options: Any) -> list[list[int]]:
    ids: list[list[int]] = tritonseq.load(folder, **options).generate(SOURCE, max_new_tokens=10)
    return torch.as_tensor(ids).tolist()


WINDOWED: list[dict[str, Any]] = [
    {"sliding_window": 2},
    {"sliding_window": 2, "use_sliding_window": False},
    {"sliding_window": 0},
    {"attention_chunk_size": 3},
    {"is_causal": False},
    {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 2},
    {"layer_types": ["sliding"]},
    {"layer_types": "full_attention"},
    {"kv_sharing_modes": ["store", "reuse"]},
    {"per_layer_config": {"0": {"n_head": 2}}},
]


@pytest.mark.parametrize("stated", WINDOWED, ids=str)
def test_what_hides_tokens_from_layers_is_refused(tmp_path: Path, stated: dict[str, Any]) -> None:
    key = next(iter(stated))
    for family in FAMILIES:
        folder = folder_of(tmp_path / family, family, **stated)
        with pytest.raises(ValueError, match=rf"config\.json: {key} is .*config={{'{key}': None}}"):
            tritonseq.load(folder)
    assert ours(folder, config=dict.fromkeys(stated)) == ours(folder_of(tmp_path, family))


@pytest.mark.parametrize(
    "stated",
    [
        {"sliding_window": None, "attention_chunk_size": None, "layer_types": None},
        {"sliding_window": 64},
        {"attention_chunk_size": 999},
        {"sliding_window": 2, "layer_types": ["full_attention", "attention"]},
        {"is_causal": True},
        {"is_causal": None, "per_layer_config": {}},
    ],
    ids=str,
)
def test_what_hides_nothing_is_no_matter(tmp_path: Path, stated: dict[str, Any]) -> None:
    folder = folder_of(tmp_path, "gpt2", **stated)
    assert ours(folder) == theirs(folder, "gpt2")


def test_a_window_on_a_live_model_is_refused() -> None:
    for family in ("gpt2", "bart"):
        model = tiny.hf_gpt2() if family == "gpt2" else seq2seq.hf_model(family)
        model.config.sliding_window = 2
        with pytest.raises(ValueError, match="sliding_window is 2"):
            tritonseq.from_transformers(model)


@pytest.mark.parametrize(
    ("family", "stated", "wanted"),
    [
        ("bart", False, "true"),
        ("bart", None, "true"),
        ("t5", False, "true"),
        ("marian", False, "true"),
        ("gpt2", True, "false"),
    ],
)
def test_a_network_of_another_kind_is_refused(
    tmp_path: Path, family: str, stated: bool | None, wanted: str
) -> None:
    folder = folder_of(tmp_path, family, is_encoder_decoder=stated)
    with pytest.raises(ValueError, match=f"is_encoder_decoder is {stated}.* only {wanted} is"):
        tritonseq.load(folder)
    folder_of(tmp_path, family, is_encoder_decoder=ABSENT)
    assert ours(folder) == ours(folder_of(tmp_path / "whole", family))


ALIASES = [
    ("gpt2", {"num_attention_heads": 8}),
    ("gpt2", {"n_head": ABSENT, "num_attention_heads": 8}),
    ("t5", {"num_heads": ABSENT, "num_attention_heads": 4, "d_kv": ABSENT, "head_dim": 8}),
    ("t5", {"d_model": ABSENT, "hidden_size": 32}),
    ("bart", {"num_attention_heads": 8}),
    ("bart", {"decoder_attention_heads": ABSENT, "num_attention_heads": 8}),
    ("bart", {"d_model": ABSENT, "hidden_size": 32}),
    ("mbart", {"num_attention_heads": 8}),
    ("marian", {"num_attention_heads": 2}),
    ("pegasus", {"num_attention_heads": 8}),
]


@pytest.mark.parametrize(("family", "stated"), ALIASES)
def test_general_names_win_as_in_transformers(
    tmp_path: Path, family: str, stated: dict[str, Any]
) -> None:
    folder = folder_of(tmp_path, family, **stated)
    assert ours(folder) == theirs(folder, family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("first", [True, False])
def test_a_general_name_counts_wherever_it_stands(tmp_path: Path, family: str, first: bool) -> None:
    folder = folder_of(tmp_path, family)
    own = json.loads((folder / "config.json").read_text())
    other = {"num_hidden_layers": 3}
    stated = {**other, **own} if first else {**own, **other}
    (folder / "config.json").write_text(json.dumps(stated))
    with pytest.raises(ValueError, match=r"layers? is 3, and the weights have 2 layers"):
        tritonseq.load(folder)
    # Null says nothing.
    (folder / "config.json").write_text(json.dumps({**own, "num_hidden_layers": None}))
    assert ours(folder) == ours(folder_of(tmp_path / "whole", family))


def test_the_general_names_are_those_of_transformers() -> None:
    """What a family calls the sizes that all have; one that is missing here would be ignored."""
    for family in (*FAMILIES, "umt5"):
        made = transformers.CONFIG_MAPPING[family]
        known = {"hidden_size", "num_hidden_layers", "num_attention_heads"}
        known |= {"gpt2": {"max_position_embeddings"}}.get(family, set())
        known |= {"head_dim"} if family.endswith("t5") else set()
        assert set(made.attribute_map) == known


FEED_FORWARDS = [
    ("t5", {"dense_act_fn": "gelu"}),
    ("t5", {"feed_forward_proj": "gelu"}),
    ("t5", {"feed_forward_proj": ABSENT, "dense_act_fn": "gelu", "is_gated_act": False}),
    ("t5", {"feed_forward_proj": "gelu", "dense_act_fn": ABSENT, "is_gated_act": ABSENT}),
    ("t5", {"feed_forward_proj": "none-known", "dense_act_fn": "silu"}),
    ("t5", {"feed_forward_proj": "mystery", "dense_act_fn": "silu"}),
    ("t5", {"is_gated_act": None}),
    ("t5-v1.1", {"dense_act_fn": "relu"}),
    ("t5-v1.1", {"feed_forward_proj": ABSENT}),
    ("t5-v1.1", {"dense_act_fn": ABSENT, "is_gated_act": ABSENT}),
    ("mt5", {"dense_act_fn": "silu"}),
    ("mt5", {"scale_decoder_outputs": True}),
    ("umt5", {"dense_act_fn": "silu"}),
]


@pytest.mark.parametrize(("family", "stated"), FEED_FORWARDS)
def test_feed_forwards_of_t5_are_those_of_transformers(
    tmp_path: Path, family: str, stated: dict[str, Any]
) -> None:
    folder = folder_of(tmp_path, family, **stated)
    if stated.get("feed_forward_proj") == "none-known":
        with pytest.raises(ValueError, match="feed_forward_proj 'none-known' must be"):
            tritonseq.load(folder)
    else:
        assert ours(folder) == theirs(folder, family)


@pytest.mark.parametrize(
    ("family", "gated", "message"),
    [("t5", True, r"missing.*wi_0"), ("t5-v1.1", False, r"missing.*wi\.weight"),
     ("t5", 1, "is_gated_act must be true or false")],
)  # fmt: skip
def test_a_gate_that_the_weights_do_not_have_is_refused(
    tmp_path: Path, family: str, gated: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tritonseq.load(folder_of(tmp_path, family, is_gated_act=gated))
