"""The network against its definition: every option of the configuration, prefill and steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny_unilm
import torch
from tiny_unilm import Tiny, tiny
from torch import Tensor
from walk import begin, feed

from tritonseq.models import model_class
from tritonseq.models.unilm import UniLM, UniLMConfig

TYPES_OF_V1 = {"type_vocab_size": 6, "source_type_id": 4, "target_type_id": 5}
BIAS = {"rel_pos_bins": 8, "max_rel_pos": 6}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shift": {"pos_shift": True},
    "shift-start": {"pos_shift": True, "start_token_id": 17},
    "mask": {"mask_token_id": 44},
    "bias": BIAS,
    "bias-shift": {**BIAS, "pos_shift": True},
    "bias-wide": {"rel_pos_bins": 32, "max_rel_pos": 128},
    "bias-few": {"rel_pos_bins": 4, "max_rel_pos": 2},
    "types-none": {"type_vocab_size": 0},
    "types-none-shift": {"type_vocab_size": 0, "pos_shift": True},
    "types-v1": TYPES_OF_V1,
    "types-segment": {**TYPES_OF_V1, "type_vocab_size": 7, "first_type_id": 6},
    "types-shared": {"first_type_id": 1, "source_type_id": 0},
    "epsilon": {"layer_norm_eps": 0.1},
    "relu": {"hidden_act": "relu"},
    "swish": {"hidden_act": "swish"},
    "one-layer": {"num_hidden_layers": 1},
    "one-layer-shift": {"num_hidden_layers": 1, "pos_shift": True},
    "one-head": {"num_attention_heads": 1},
    "deep": {"num_hidden_layers": 5},
    "odd": {"hidden_size": 30, "num_attention_heads": 3, "intermediate_size": 37},
}


def draw_sources(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random sources `[B, S]`, with garbage behind their ends, and their lengths."""
    generator = torch.Generator().manual_seed(seed)
    size = (len(lengths), max(lengths))
    return torch.randint(tiny_unilm.VOCAB, size, generator=generator), torch.tensor(lengths)


def definition(model: Tiny, tokens: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
    """What the definition says, `[B, K, V]`, after the `targets [B, K, t]` of every source."""
    beams = targets.shape[1]
    rows = (part.repeat_interleave(beams, dim=0) for part in (tokens, lengths))
    logits = model.network().logits(*rows, targets.flatten(0, 1))
    return logits.unflatten(0, (-1, beams)).float()


def assert_same_walk(
    model: Tiny, lengths: list[int], *, beams: int = 1, steps: int = 4, seed: int = 0
) -> None:
    """Logits of the prefill and of steps with beams that change places equal the definition's."""
    generator = torch.Generator().manual_seed(seed)
    ours, (tokens, true_lengths) = model.engine(), draw_sources(lengths, seed)
    samples = len(lengths)
    cache, logits = begin(ours, tokens, true_lengths, beams=beams, target_length=steps)
    targets = tokens.new_zeros(samples, beams, 0)
    wanted = definition(model, tokens, true_lengths, targets[:, :1])[:, 0]
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-3)
    lineage = torch.arange(beams).repeat(samples, steps, 1)
    for step in range(steps):
        parents = torch.randint(beams, (samples, beams), generator=generator)
        newest = torch.randint(tiny_unilm.VOCAB, (samples, beams), generator=generator)
        history = lineage[:, :step]
        lineage[:, :step] = history.gather(2, parents[:, None].expand_as(history))
        targets = targets.gather(1, parents[..., None].expand_as(targets))
        targets = torch.cat((targets, newest[..., None]), dim=2)
        logits = feed(ours, newest, None if beams == 1 else lineage, cache)
        wanted = definition(model, tokens, true_lengths, targets)
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_prefill_and_steps(variant: str, beams: int) -> None:
    assert_same_walk(tiny(seed=1, **VARIANTS[variant]), [9, 1, 6, 17], beams=beams)


@pytest.mark.parametrize("variant", ["plain", "shift", "bias", "bias-shift"])
@pytest.mark.parametrize(
    ("lengths", "beams", "steps"),
    [([1], 1, 1), ([5, 5], 2, 7), ([2, 30, 3], 7, 2), ([47, 1], 1, 16)],
    ids=["least", "level", "ragged", "last-position"],
)
def test_awkward_sizes(variant: str, lengths: list[int], beams: int, steps: int) -> None:
    assert_same_walk(tiny(seed=2, **VARIANTS[variant]), lengths, beams=beams, steps=steps, seed=3)


@pytest.mark.parametrize("variant", ["plain", "shift", "bias", "bias-shift", "types-segment"])
def test_a_sample_alone_and_among_others(variant: str) -> None:
    """Neither its neighbours nor the width of the batch reach a sample."""
    ours = tiny(seed=4, **VARIANTS[variant]).engine()
    tokens, lengths = draw_sources([11, 3, 8], seed=5)
    newest = torch.tensor([[7, 9], [9, 9], [30, 5]])
    lineage = torch.arange(2).repeat(3, 2, 1)

    def walk(rows: slice, width: int) -> Tensor:
        cache, first = begin(ours, tokens[rows, :width], lengths[rows], beams=2, target_length=2)
        steps = [feed(ours, newest[rows] + i, lineage[rows], cache) for i in range(2)]
        return torch.stack([first[:, None].expand(-1, 2, -1), *steps])

    together = walk(slice(None), 11)
    for sample, length in enumerate(lengths.tolist()):
        alone = walk(slice(sample, sample + 1), length)
        torch.testing.assert_close(together[:, sample], alone[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["plain", "shift", "bias"])
def test_memory_that_was_never_written_is_not_read(variant: str) -> None:
    """NaN wherever no key and no value has been put: behind sources, and in slots to come."""
    model = tiny(seed=12, **VARIANTS[variant])
    (tokens, lengths), ours = draw_sources([6, 2, 9], seed=13), model.engine()
    cache, _ = begin(ours, tokens, lengths, beams=2, target_length=3)
    behind = torch.arange(cache.source_length) >= cache.next_positions()[:, None]
    for layer in range(model.config["num_hidden_layers"]):
        for part in cache.source(layer):
            part.masked_fill_(behind[:, None, :, None], math.nan)
    for part in (*cache.target_keys, *cache.target_values):
        part.fill_(math.nan)
    targets = torch.randint(tiny_unilm.VOCAB, (3, 2, 3))
    lineage = torch.arange(2).repeat(3, 3, 1)
    for step in range(3):
        logits = feed(ours, targets[:, :, step], lineage, cache)
    wanted = definition(model, tokens, lengths, targets)
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("variant", ["plain", "shift", "bias"])
def test_prefill_in_groups_equals_prefill_at_once(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tiny(seed=6, **VARIANTS[variant]).engine()
    tokens, lengths = draw_sources([8, 3, 8, 1, 5], seed=7)
    newest = torch.tensor([[5], [6], [7], [8], [9]])

    def walk() -> tuple[Tensor, Tensor]:
        cache, first = begin(ours, tokens, lengths, beams=1, target_length=1)
        return first, feed(ours, newest, None, cache)

    wanted = walk()
    monkeypatch.setattr("tritonseq.models.varlen.PREFILL_TOKENS", 9)
    torch.testing.assert_close(walk(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["plain", "shift", "bias"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_within_torchs_own_error(variant: str, dtype: torch.dtype) -> None:
    model = tiny(seed=8, **VARIANTS[variant])
    # Weights that both dtypes can hold: what differs is the arithmetic.
    model = Tiny({k: v.to(dtype).float() for k, v in model.weights.items()}, model.config)
    tokens, lengths = draw_sources([9, 1, 6, 30] * 4, seed=9)
    targets = torch.randint(tiny_unilm.VOCAB, (16, 1, 5))
    cache, _ = begin((ours := model.engine(dtype)), tokens, lengths, beams=1, target_length=5)
    errors, budgets = [], []
    for step in range(5):
        written = targets[:, :, : step + 1]
        exact = definition(model, tokens, lengths, written)[:, 0]
        own = model.network(dtype).logits(tokens, lengths, written[:, 0])
        errors.append(feed(ours, written[:, :, -1], None, cache)[:, 0].float() - exact)
        budgets.append(own.float() - exact)
    error, budget = torch.stack(errors), torch.stack(budgets)
    assert error.abs().max() <= 2 * budget.abs().max()
    assert error.square().mean() <= 1.3 * budget.square().mean()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 30, "num_attention_heads": 4}, "hidden_size 30 is not a multiple"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, not 0"),
        ({"vocab_size": "many"}, "vocab_size must be a positive integer"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps must be a positive number, not 0.0"),
        ({"hidden_act": None}, "hidden_act must be a name, not None"),
        ({"hidden_act": "swosh"}, "'swosh' is not supported; known: gelu"),
        ({"rel_pos_bins": 7, "max_rel_pos": 9}, "rel_pos_bins 7 must be even"),
        ({"rel_pos_bins": 32, "max_rel_pos": 8}, "max_rel_pos 8 more than a quarter"),
        ({"target_type_id": 2}, "target_type_id is 2, and there are 2 token types"),
        ({"first_type_id": -1}, "first_type_id is -1, and there are 2 token types"),
        ({"mask_token_id": 61}, "mask_token_id is 61, and there are 61 tokens"),
        ({"pos_shift": True, "start_token_id": 99}, "start_token_id is 99"),
    ],
)
def test_impossible_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UniLMConfig.from_dict({**tiny_unilm.SIZES, **tiny_unilm.TOKENS, **config})


def test_ids_that_are_not_used_are_not_checked() -> None:
    """No types, no start token: their defaults may be beyond a small vocabulary."""
    sizes = {**tiny_unilm.SIZES, "mask_token_id": 4, "type_vocab_size": 0, "target_type_id": 5}
    assert UniLMConfig.from_dict(sizes).start_token_id >= tiny_unilm.VOCAB


def test_sources_name_what_is_missing_and_left_over() -> None:
    model = tiny(seed=10)
    config = UniLMConfig.from_dict(model.config)
    names = set(model.weights) - {"cls.predictions.bias"} | {"bert.pooler.dense.bias"}
    wanted = r"missing: cls\.predictions\.bias; left over: bert\.pooler\.dense\.bias"
    with pytest.raises(ValueError, match=wanted):
        UniLM.tensor_specs(names, config)


def test_model_class_knows_unilm() -> None:
    assert model_class("unilm") is UniLM
