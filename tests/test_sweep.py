"""Random models, prompts and options, seeded: the same ids as transformers, case by case."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
import tiny
import torch

CASES = 240
LONG_CASES = 3000


def draw_config(rng: random.Random) -> dict[str, Any]:
    heads = rng.choice([1, 2, 3, 4])
    ends = rng.choice([tiny.EOS, tiny.EOS, [tiny.EOS, 11], [tiny.EOS, 11, 30], None])
    return {
        "n_head": heads,
        "n_embd": heads * rng.choice([4, 8, 10]),
        "n_layer": rng.choice([1, 2, 3]),
        "n_inner": rng.choice([None, 20, 64]),
        "activation_function": rng.choice(["gelu_new", "gelu", "relu", "silu", "gelu_fast"]),
        "scale_attn_weights": rng.random() < 0.9,
        "scale_attn_by_inverse_layer_idx": rng.random() < 0.2,
        "tie_word_embeddings": rng.random() < 0.7,
        "eos_token_id": ends,
        "n_positions": 64,
    }


def draw_options(rng: random.Random) -> dict[str, Any]:
    beams = rng.choice([1, 1, 2, 3, 4, 6])
    options: dict[str, Any] = {"max_new_tokens": rng.choice([1, 2, 5, 9, 16]), "num_beams": beams}
    if beams > 1:
        options["early_stopping"] = rng.choice([True, False, "never"])
        options["length_penalty"] = rng.choice([0.0, 0.6, 1.0, 2.0, -1.0])
        options["num_return_sequences"] = rng.randint(1, beams)
    sample = rng.random() < 0.35
    if sample:
        options |= {"do_sample": True, "top_k": rng.choice([0, 3, 20, 50, 200])}
        options |= pick(rng, 0.3, temperature=[0.5, 0.9, 1.6], top_p=[0.3, 0.8, 0.95])
        options |= pick(rng, 0.15, min_p=[0.05, 0.3], typical_p=[0.4, 0.9])
        options |= pick(rng, 0.15, epsilon_cutoff=[1e-3, 0.05])
        if beams == 1:
            options |= pick(rng, 0.3, num_return_sequences=[2, 3])
    words = [[rng.randrange(tiny.VOCAB) for _ in range(rng.randint(1, 3))] for _ in range(4)]
    bias = {tuple(word): rng.uniform(-5, 5) for word in words}
    options |= pick(
        rng,
        0.2,
        no_repeat_ngram_size=[1, 2, 3, 4],
        encoder_no_repeat_ngram_size=[1, 2, 3],
        repetition_penalty=[0.8, 1.2, 2.0],
        encoder_repetition_penalty=[0.7, 1.5],
        bad_words_ids=[words],
        sequence_bias=[bias],
        min_length=[3, 9, 12],
        min_new_tokens=[2, 7],
        forced_eos_token_id=[tiny.EOS, [tiny.EOS, 11]],
        forced_bos_token_id=[47],
        suppress_tokens=[[8, 9, 10], list(range(20, 40))],
        begin_suppress_tokens=[[tiny.EOS, 12]],
        remove_invalid_values=[True],
        renormalize_logits=[True],
    )
    return options


def pick(rng: random.Random, chance: float, **choices: list[Any]) -> dict[str, Any]:
    """Each option with a chance, one of its values."""
    return {k: rng.choice(values) for k, values in choices.items() if rng.random() < chance}


def run_case(case: int) -> None:
    rng = random.Random(case)
    config, options = draw_config(rng), draw_options(rng)
    if config["eos_token_id"] is not None and rng.random() < 0.2:
        options["exponential_decay_length_penalty"] = (rng.randint(0, 5), rng.uniform(1.01, 1.5))
    pair = tiny.pair(seed=case, **config)
    ids, mask = tiny.prompts(
        rng.randint(1, 4), rng.randint(1, 10), seed=case, ragged=rng.random() < 0.5
    )
    torch.manual_seed(case)
    try:
        other = tiny.theirs(pair.theirs, ids, mask, **options)
    except RuntimeError as error:
        # Stacked penalties can leave nothing to draw from; then neither engine can.
        with pytest.raises(RuntimeError, match=re.escape(str(error))):
            tiny.ours(pair.ours, ids, mask, hf_exact=True, **options)
        return
    torch.manual_seed(case)
    mine = tiny.ours(pair.ours, ids, mask, hf_exact=True, **options)
    try:
        tiny.assert_same(mine, other)
    except AssertionError as error:
        raise AssertionError(f"case {case}: {config} {options} {ids.tolist()}") from error


@pytest.mark.parametrize("first", range(0, CASES, 20))
def test_random_cases(first: int) -> None:
    for case in range(first, first + 20):
        run_case(case)


@pytest.mark.long
@pytest.mark.parametrize("first", range(CASES, LONG_CASES, 20))
def test_more_random_cases(first: int) -> None:
    for case in range(first, first + 20):
        run_case(case)
