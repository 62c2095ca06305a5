"""Search on a table of probabilities, where every right answer can be worked out by hand."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import table
import torch
from walk import begun, write

import tritonseq
from tritonseq.memory.kv_cache import Sizes

EOS = 1

# The greedy path 2 -> 3 -> 5 is worth 0.6 * 0.5; the path 2 -> 4 -> 6 is worth 0.4 * 0.9.
GARDEN_PATH = table.table(
    8,
    t2={3: 0.6, 4: 0.4},
    t3={5: 0.5, 6: 0.3, 7: 0.2},
    t4={6: 0.9, 7: 0.1},
    t5={EOS: 1.0},
    t6={EOS: 1.0},
    t7={EOS: 1.0},
)


def model(logits: torch.Tensor, **defaults: Any) -> tritonseq.Model:
    config = tritonseq.GenerationConfig(eos_token_id=EOS, pad_token_id=0, **defaults)
    return tritonseq.Model(table.TableDecoder(logits), config, None)


def test_beams_escape_the_garden_path() -> None:
    garden = model(GARDEN_PATH)
    assert garden.generate([[2]]).tolist() == [[2, 3, 5, EOS]]
    result = garden.generate(
        [[2]], num_beams=2, return_dict_in_generate=True, output_scores=True, length_penalty=0.0
    )
    assert result.sequences.tolist() == [[2, 4, 6, EOS]]
    assert math.isclose(result.sequences_scores[0].exp(), 0.4 * 0.9, rel_tol=1e-5)


def test_the_n_best_are_the_n_best() -> None:
    """With as many beams as paths the search is exhaustive."""
    paths = {
        tokens: GARDEN_PATH.exp()[2, tokens[0]] * GARDEN_PATH.exp()[tokens[0], tokens[1]]
        for tokens in product((3, 4), (5, 6, 7))
    }
    best = sorted(paths, key=lambda tokens: -float(paths[tokens]))[:4]
    result = model(GARDEN_PATH).generate(
        [[2]], num_beams=6, num_return_sequences=4, length_penalty=0.0, early_stopping="never"
    )
    assert [tuple(row[1:3]) for row in result.tolist()] == best


def test_prompts_are_read_once_per_sample() -> None:
    garden = model(GARDEN_PATH)
    garden.generate([[2], [3], [4]], num_beams=4, max_new_tokens=3)
    assert garden.decoder.prefills == [(3, 1)]
    assert garden.decoder.caches == [Sizes(3, 4, 1, target_length=2)]


def test_one_row_per_sample_needs_no_lineage() -> None:
    garden = model(GARDEN_PATH)
    garden.generate([[2]])
    assert garden.decoder.lineages == [None, None]


def test_a_cycle_runs_to_the_length_limit() -> None:
    cycle = model(table.table(5, t2={3: 1.0}, t3={2: 1.0}))
    assert cycle.generate([[2]], max_new_tokens=5).tolist() == [[2, 3, 2, 3, 2, 3]]
    blocked = cycle.generate([[2]], max_new_tokens=5, num_beams=2, no_repeat_ngram_size=2)
    bigrams = list(zip(blocked[0].tolist(), blocked[0, 1:].tolist(), strict=False))
    assert len(set(bigrams)) == len(bigrams) == 5


@pytest.mark.parametrize(
    ("penalty", "length"), [(-2.0, 1), (0.0, 1), (3.0, 4)], ids=["short", "plain", "long"]
)
def test_length_penalty_decides_between_short_and_long(penalty: float, length: int) -> None:
    chain = table.table(
        6, t2={EOS: 0.5, 3: 0.5}, t3={4: 0.8, EOS: 0.2}, t4={5: 0.8, EOS: 0.2}, t5={EOS: 1.0}
    )
    result = model(chain).generate(
        [[2]], num_beams=3, length_penalty=penalty, early_stopping="never"
    )
    assert len(result[0]) == 1 + length


def test_sampling_follows_the_probabilities() -> None:
    torch.manual_seed(0)
    result = model(GARDEN_PATH).generate(
        [[2]], do_sample=True, num_return_sequences=4000, max_new_tokens=1
    )
    share = (result[:, 1] == 3).float().mean()
    assert abs(float(share) - 0.6) < 0.03


def test_hypotheses_are_read_through_the_lineage() -> None:
    generator = torch.Generator().manual_seed(1)
    prompt = torch.tensor([[9, 8], [7, 6]])
    hypotheses = begun(prompt, beams=3, new_tokens=8)
    rows = [[prompt[b].tolist() for _ in range(3)] for b in range(2)]
    for _ in range(8):
        tokens = torch.randint(0, 50, (2, 3), generator=generator)
        parents = torch.randint(0, 3, (2, 3), generator=generator)
        write(hypotheses, tokens, parents)
        rows = [[[*rows[b][parents[b, k]], int(tokens[b, k])] for k in range(3)] for b in range(2)]
        assert hypotheses.ids.tolist() == rows[0] + rows[1]
    # Slots are never rewritten: what stands in them is what was written there.
    assert hypotheses.written.tokens[:, -1].tolist() == tokens.tolist()


def test_random_tables_find_the_best_path_when_beams_are_wide() -> None:
    """Beam search as wide as the tree equals exhaustive search, for 20 random tables."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        vocab, depth = 5, 3
        logits = torch.randn(vocab, vocab, generator=generator)
        logits[:, EOS] = -1e4
        log_probs = logits.log_softmax(-1)
        scores = {
            path: sum(float(log_probs[a, b]) for a, b in zip((2, *path), path, strict=False))
            for path in product(range(vocab), repeat=depth)
        }
        best = max(scores, key=lambda path: scores[path])
        result = model(logits).generate([[2]], num_beams=vocab**2, max_new_tokens=depth)
        assert tuple(result[0, 1:].tolist()) == best
