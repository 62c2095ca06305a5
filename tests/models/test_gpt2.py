"""The network against transformers: every option of the configuration, prefill and steps."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from walk import begin, feed

from tritonseq.models import model_class
from tritonseq.models.feed_forward import ACTIVATIONS, activation
from tritonseq.models.gpt2 import GPT2, GPT2Config
from tritonseq.models.matmul import empty_weight
from tritonseq.models.varlen import varlen_batches

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "inner": {"n_inner": 50},
    "unscaled": {"scale_attn_weights": False},
    "by-layer": {"scale_attn_by_inverse_layer_idx": True},
    "upcast": {"reorder_and_upcast_attn": True, "attn_implementation": "eager"},
    "epsilon": {"layer_norm_epsilon": 0.1},
    "untied": {"tie_word_embeddings": False},
    "one-head": {"n_head": 1},
    "odd": {"n_embd": 36, "n_head": 3, "vocab_size": 67, "n_layer": 1},
    "deep": {"n_layer": 5},
} | {f"act-{name}": {"activation_function": name} for name in ACTIVATIONS}


def reference_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits `[V]` after the last token of one unpadded prompt."""
    with torch.no_grad():
        return model(ids[None]).logits[0, -1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_prefill_and_steps(variant: str) -> None:
    config = dict(VARIANTS[variant])
    model, ours = tiny.pair(seed=1, **config)
    ids, _ = tiny.prompts(3, 9, seed=2)
    lengths = torch.tensor([9, 1, 6])
    cache, logits = begin(ours.decoder, ids, lengths, beams=1, target_length=4)
    rows = [ids[b, : lengths[b]] for b in range(3)]
    for step in range(5):
        wanted = torch.stack([reference_logits(model, row) for row in rows])
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-3)
        if step == 4:
            break
        tokens = logits.argmax(-1, keepdim=True)
        rows = [torch.cat((row, token)) for row, token in zip(rows, tokens, strict=True)]
        logits = feed(ours.decoder, tokens, None, cache)[:, 0]


def test_beams_follow_their_lineage() -> None:
    """Three beams that change places: each must see its own history, whatever the slots."""
    model, ours = tiny.pair(seed=3)
    ids, _ = tiny.prompts(2, 5, seed=4)
    generator = torch.Generator().manual_seed(5)
    cache, _ = begin(ours.decoder, ids, torch.tensor([5, 5]), beams=3, target_length=6)
    lineage = torch.arange(3).repeat(2, 6, 1)
    rows = [[ids[b] for _ in range(3)] for b in range(2)]
    for step in range(6):
        parents = torch.randint(0, 3, (2, 3), generator=generator)
        tokens = torch.randint(0, tiny.VOCAB, (2, 3), generator=generator)
        history = lineage[:, :step]
        lineage[:, :step] = history.gather(2, parents[:, None].expand_as(history))
        rows = [
            [torch.cat((rows[b][parents[b, k]], tokens[b, k : k + 1])) for k in range(3)]
            for b in range(2)
        ]
        logits = feed(ours.decoder, tokens, lineage, cache)
        for b in range(2):
            for k in range(3):
                wanted = reference_logits(model, rows[b][k])
                torch.testing.assert_close(logits[b, k], wanted, rtol=1e-4, atol=1e-3)


def test_prefill_in_groups_equals_prefill_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = tiny.pair(seed=6)
    ids, _ = tiny.prompts(5, 8, seed=7)
    lengths = torch.tensor([8, 3, 8, 1, 5])
    whole, wanted = begin(ours.decoder, ids, lengths, beams=1, target_length=1)
    monkeypatch.setattr("tritonseq.models.varlen.PREFILL_TOKENS", 17)
    parts, logits = begin(ours.decoder, ids, lengths, beams=1, target_length=1)
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5)
    for a, b in zip(parts.source_keys, whole.source_keys, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_prompts_are_packed_without_padding() -> None:
    tokens = torch.arange(12).view(3, 4)
    (group,) = varlen_batches(tokens, torch.tensor([4, 1, 2]), padded=True)
    assert group.tokens.tolist() == [0, 1, 2, 3, 4, 8, 9]
    assert group.positions.tolist() == [0, 1, 2, 3, 0, 0, 1]
    assert group.last.tolist() == [3, 4, 6]
    rows = torch.randn(7, 5)
    assert torch.equal(group.pack(group.pad(rows)), rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_within_torchs_own_error(dtype: torch.dtype) -> None:
    model, exact = tiny.pair(seed=8)
    ids, _ = tiny.prompts(4, 20, seed=9)
    wanted = torch.stack([reference_logits(model, row) for row in ids])
    model = model.to(dtype)
    theirs = torch.stack([reference_logits(model, row) for row in ids]).float()
    ours = tiny.tritonseq.from_transformers(model)
    assert ours.dtype == dtype
    _, logits = begin(ours.decoder, ids, torch.full((4,), 20), beams=1, target_length=1)
    error, budget = (logits.float() - wanted).abs().max(), (theirs - wanted).abs().max()
    assert error <= 2 * budget + 1e-5
    del exact


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_embd": 30, "n_head": 4}, "n_embd 30 is not a multiple of n_head 4"),
        ({"n_layer": 0}, "n_layer must be a positive integer, not 0"),
        ({"vocab_size": "many"}, "vocab_size must be a positive integer"),
        ({"n_head": True}, "n_head must be a positive integer, not True"),
        ({"n_inner": 0}, "n_inner must be a positive integer, not 0"),
        ({"n_inner": True}, "n_inner must be a positive integer, not True"),
        ({"n_inner": "3072"}, "n_inner must be a positive integer, not '3072'"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon must be a positive number, not '1e"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon must be a positive number, not None"),
        ({"layer_norm_epsilon": True}, "layer_norm_epsilon must be a positive number, not True"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon must be a positive number, not 0.0"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon must be a positive number"),
        ({"layer_norm_epsilon": float("inf")}, "layer_norm_epsilon must be a positive number"),
        ({"activation_function": None}, "activation_function must be a name, not None"),
        ({"activation_function": {"name": "gelu"}}, "activation_function must be a name"),
        ({"activation_function": "swosh"}, "'swosh' is not supported; known: gelu"),
        ({"add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_impossible_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPT2Config.from_dict(config)


def test_general_names_of_sizes_are_understood() -> None:
    config = GPT2Config.from_dict({"hidden_size": 48, "num_attention_heads": 6, "junk": 1})
    assert (config.n_embd, config.n_head, config.head_dim) == (48, 6, 8)


def test_sources_name_what_is_missing_and_left_over() -> None:
    config = GPT2Config(vocab_size=11, n_embd=4, n_head=2, n_layer=1)
    names = {spec.names[0] for spec in GPT2.tensor_specs(every_name(config), config).values()}
    with pytest.raises(ValueError, match=r"missing: ln_f\.bias; left over: h\.0\.extra"):
        GPT2.tensor_specs((names - {"ln_f.bias"}) | {"h.0.extra"}, config)


def every_name(config: GPT2Config) -> set[str]:
    names = {name for name, _ in GPT2(config).named_parameters()}
    return {f"{name}.weight" if name in ("wte", "wpe", "lm_head") else name for name in names}


def test_model_class_lists_what_is_supported() -> None:
    assert model_class("gpt2") is GPT2
    with pytest.raises(
        ValueError, match="'gpt5' is not supported; supported: bart, blenderbot, fsmt, gpt2"
    ):
        model_class("gpt5")


def test_activations_with_weights_are_fresh_modules() -> None:
    first, second = activation("prelu"), activation("prelu")
    assert [name for name, _ in first.named_parameters()] == ["weight"]
    assert first.weight is not second.weight


def test_weight_layout_follows_the_dtype() -> None:
    cpu = torch.device("cpu")
    for dtype, outputs_adjacent in ((torch.float32, True), (torch.bfloat16, False)):
        linear = empty_weight((6, 8), 0, device=cpu, dtype=dtype)
        tied = empty_weight((6, 8), 1, device=cpu, dtype=dtype)
        assert linear.shape == tied.shape == (6, 8)
        assert (linear.stride(1) == 1) == outputs_adjacent
        assert (tied.stride(0) == 1) == outputs_adjacent
    assert empty_weight((6, 8), None, device=cpu, dtype=torch.float32).is_contiguous()
