"""Random tables, networks and options, seeded: UniLM's search finds what its definition says."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import tiny_unilm
import torch
import unilm_search
from tiny_unilm import SEP as EOS
from tiny_unilm import tiny, unpadded
from unilm_decoders import Replay, Tables
from unilm_search import Rules

import tritonseq

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

START = 2
SURE = 1e-4
"""Decisions by less than this are not float32's to make."""
WORDS = range(tiny_unilm.WORDS, 12)


def draw_rules(rng: random.Random, *, beams: Sequence[int] = (1, 2, 3, 4, 5, 7)) -> Rules:
    ngrams = rng.choice([0, 0, 2, 3, 4])
    return Rules(
        beams=rng.choice(beams),
        steps=rng.choice([1, 2, 5, 9, 14]),
        eos=EOS,
        length_penalty=rng.choice([0.0, 0.6, 1.0, 2.0]),
        min_len=rng.choice([0, 0, 1, 3, 6]),
        ngram_size=ngrams,
        ignore=frozenset(rng.sample(WORDS, rng.randint(0, 3)) if ngrams else ()),
        not_predict=frozenset(rng.sample([*WORDS, EOS], rng.choice([0, 0, 1, 3]))),
    )


def wanted(ask: unilm_search.Ask, samples: int, rules: Rules) -> list[list[int] | None]:
    """The answers by definition; None where float32 cannot be sure of one."""
    if rules.beams > 1:
        traces = unilm_search.beam_search(ask, samples, rules)
        choices = [unilm_search.choose(trace, rules) for trace in traces]
        return [choice.tokens if choice.gap > SURE else None for choice in choices]
    rows, gaps = unilm_search.greedy(ask, samples, rules.steps, rules.not_predict)
    answers: list[list[int] | None] = []
    for row, gap in zip(rows, gaps, strict=True):
        length = row.index(EOS) + 1 if EOS in row else len(row)
        answers.append(row[:length] if gap[:length].min() > SURE else None)
    return answers


def unsure(model: tritonseq.Model, ask: Any, sources: list[list[int]], rules: Rules) -> int:
    """Compare `model` with the definition; how many samples are too close to call."""
    ids, mask = tiny_unilm.pad(sources)
    answers = wanted(ask, len(sources), rules)
    found = model.generate(ids, mask, **rules.options)
    whole = model.generate(ids, mask, early_stopping="never", **rules.options)
    for mine, full, answer in zip(unpadded(found), unpadded(whole), answers, strict=True):
        if answer is not None:
            assert mine == full == answer, f"{rules} {sources}"
    return answers.count(None)


def drawn(test: Any) -> Any:
    """Options that are drawn at random may ask for the impossible, or have no effect."""
    for message in ("with search", "without", "unfeasible lengths"):
        test = pytest.mark.filterwarnings(f"ignore:{message}")(test)
    return test


def table_case(case: int) -> int:
    rng = random.Random(case)
    generator = torch.Generator().manual_seed(case)
    rules, vocab = draw_rules(rng), rng.choice([16, 23, 40])
    logits = torch.randn(rules.steps, vocab, vocab, generator=generator)
    logits *= rng.choice([0.5, 1.0, 3.0])
    logits[:, :, EOS] += rng.choice([-2.0, 0.0, 1.0, 2.0, 4.0])
    sources = [[START, rng.randrange(5, vocab)] for _ in range(rng.choice([1, 2, 3, 5]))]
    tables = Tables(logits)
    return unsure(tables.model(), tables.ask(sources), sources, rules)


@drawn
@pytest.mark.parametrize("first", range(0, 400, 50))
def test_search_over_random_tables(first: int) -> None:
    assert sum(table_case(case) for case in range(first, first + 50)) <= 12


@drawn
@pytest.mark.long
@pytest.mark.parametrize("first", range(400, 8000, 50))
def test_search_over_more_random_tables(first: int) -> None:
    assert sum(table_case(case) for case in range(first, first + 50)) <= 12


@drawn
@pytest.mark.parametrize("first", range(0, 200, 50))
def test_less_is_allowed_than_there_are_beams(first: int) -> None:
    """Then what is banned comes next, in upstream's order, and no search ends with nothing."""
    near = 0
    for case in range(first, first + 50):
        rng = random.Random(case)
        vocab = rng.choice([5, 6, 8])
        rules = Rules(
            beams=rng.randint(2, vocab),
            steps=rng.choice([2, 4, 8]),
            eos=EOS,
            length_penalty=rng.choice([0.0, 1.0]),
            min_len=rng.choice([0, 3, 9]),
            ngram_size=rng.choice([1, 1, 2]),
            ignore=frozenset(rng.sample(range(vocab), rng.choice([0, 1]))),
            not_predict=frozenset(rng.sample(range(vocab), rng.choice([0, 1, 2]))),
        )
        generator = torch.Generator().manual_seed(case)
        logits = torch.randn(rules.steps, vocab, vocab, generator=generator) * 2
        tables, sources = Tables(logits), [[START, rng.randrange(vocab)] for _ in range(2)]
        near += unsure(tables.model(), tables.ask(sources), sources, rules)
    assert near <= 60


def draw_limits(rng: random.Random, vocab: int, steps: int) -> dict[str, Any]:
    """Everything that changes scores, some of it until less is allowed than there are beams."""
    options: dict[str, Any] = {
        "no_repeat_ngram_size": [1, 2, 3],
        "encoder_no_repeat_ngram_size": [1, 2],
        "repetition_penalty": [0.5, 1.5],
        "encoder_repetition_penalty": [0.5, 2.0],
        "forced_bos_token_id": [6],
        "forced_eos_token_id": [EOS, 5],
        "min_new_tokens": [1, steps],
        "bad_words_ids": [[[5], [6, 7]]],
        "sequence_bias": [{(5,): 3.0, (6, EOS): -2.0}],
        "exponential_decay_length_penalty": [(2, 1.5)],
        "suppress_tokens": [[7], [8, 9]],
        "eos_token_id": [EOS, [EOS, 5]],
    }
    drawn = {name: rng.choice(v) for name, v in options.items() if rng.random() < 0.2}
    how = rng.choice(["trie", "function", "free", "free", "free"])
    words = rng.sample(range(5, vocab), rng.randint(1, min(4, vocab - 5)))
    if how == "trie":
        drawn.pop("forced_bos_token_id", None)
        drawn["eos_token_id"] = EOS
        drawn["prefix_allowed_tokens_fn"] = tritonseq.Trie([words[: n + 1] for n in range(2)])
    if how == "function":
        drawn["prefix_allowed_tokens_fn"] = lambda sample, ids: words
    return drawn


@drawn
@pytest.mark.parametrize("first", range(0, 300, 50))
def test_stopping_early_changes_nothing(first: int) -> None:
    """Whatever scores and tokens are changed by, and however many hypotheses are wanted."""
    for case in range(first, first + 50):
        rng = random.Random(case)
        vocab, steps = rng.choice([8, 10, 16]), rng.choice([2, 4, 7, 10])
        logits = torch.randn(steps, vocab, vocab, generator=torch.Generator().manual_seed(case))
        logits[:, :, EOS] += rng.choice([-2.0, 0.0, 2.0, 4.0])
        beams = rng.choice([2, 3, 5, 7])
        options = {
            "num_beams": beams,
            "num_return_sequences": rng.randint(1, beams),
            "max_new_tokens": steps,
            "length_penalty": rng.choice([-1.0, 0.0, 0.6, 1.0, 2.0]),
            "return_dict_in_generate": True,
            "output_scores": True,
            **draw_limits(rng, vocab, steps),
        }
        sources = [[START, rng.randrange(5, vocab)] for _ in range(rng.choice([1, 2, 3]))]
        model = Tables(logits * rng.choice([0.5, 1.0, 3.0])).model()
        early = model.generate(sources, **options)
        whole = model.generate(sources, **options, early_stopping="never")
        width = max(early.sequences.shape[1], whole.sequences.shape[1])
        mine, full = (
            torch.nn.functional.pad(output.sequences, (0, width - output.sequences.shape[1]))
            for output in (early, whole)
        )
        assert torch.equal(mine, full), f"case {case}: {options}"
        assert torch.equal(early.sequences_scores, whole.sequences_scores), f"case {case}"


def draw_config(rng: random.Random) -> dict[str, Any]:
    heads = rng.choice([1, 2, 3, 4])
    config = {
        "num_attention_heads": heads,
        "hidden_size": heads * rng.choice([8, 10]),
        "intermediate_size": rng.choice([20, 48]),
        "num_hidden_layers": rng.choice([1, 2, 3]),
        "hidden_act": rng.choice(["gelu", "gelu", "relu", "swish"]),
        "pos_shift": rng.random() < 0.3,
        "layer_norm_eps": rng.choice([1e-5, 1e-5, 1e-12]),
    }
    if rng.random() < 0.4:
        bins = rng.choice([4, 8, 32])
        config |= {"rel_pos_bins": bins, "max_rel_pos": bins // 4 + rng.choice([1, 5, 100])}
    types = rng.choice([0, 2, 6])
    shape = {"type_vocab_size": types, "target_type_id": max(types - 1, 0)}
    return config | shape | {"source_type_id": rng.randrange(types) if types else 0}


def network_case(case: int) -> int:
    rng = random.Random(case)
    config, rules = draw_config(rng), draw_rules(rng)
    model = tiny(seed=case, **config)
    lengths = [rng.randint(2, rng.choice([3, 12, 40])) for _ in range(rng.choice([1, 2, 3, 5]))]
    sources = tiny_unilm.sources(lengths, seed=case, pos_shift=config["pos_shift"])
    network = model.network()
    return unsure(model.model(), lambda rows: network.rows(sources, rows), sources, rules)


@drawn
@pytest.mark.parametrize("first", range(0, 60, 10))
def test_search_over_random_networks(first: int) -> None:
    assert sum(network_case(case) for case in range(first, first + 10)) <= 3


@drawn
@pytest.mark.long
@pytest.mark.parametrize("first", range(60, 1000, 10))
def test_search_over_more_random_networks(first: int) -> None:
    assert sum(network_case(case) for case in range(first, first + 10)) <= 3


@drawn
@pytest.mark.parametrize("case", range(40))
def test_the_trace_and_the_n_best(case: int) -> None:
    """Every frame that means something, and the best of all that ever ended, with their scores."""
    rng = random.Random(case)
    rules = draw_rules(rng, beams=(2, 3, 4, 7))
    logits = torch.randn(rules.steps, 20, 20, generator=torch.Generator().manual_seed(case)) * 2
    logits[:, :, EOS] += rng.choice([0.0, 2.0, 4.0])
    tables, sources = Tables(logits), [[START, token] for token in range(5, 8)]
    count = rng.randint(1, rules.beams)
    traces = unilm_search.beam_search(tables.ask(sources), len(sources), rules)
    result = tables.model().generate(
        sources,
        num_return_sequences=count,
        return_dict_in_generate=True,
        output_scores=True,
        early_stopping=rng.choice([False, "never"]),
        **rules.options,
    )
    rows = iter(zip(unpadded(result.sequences), result.sequences_scores.tolist(), strict=True))
    for sample, trace in enumerate(traces):
        best = unilm_search.ranked(trace, rules, count)
        mine = [next(rows) for _ in best]
        if best[0].gap <= SURE:
            continue
        assert [tokens for tokens, _ in mine] == [choice.tokens for choice in best]
        assert [score for _, score in mine] == pytest.approx([c.score for c in best], abs=1e-3)
        steps = min(best[0].last_frame + 1, result.beam_trace.tokens.shape[1])
        scores, parents, tokens = torch.tensor(trace.frames[:steps]).unbind(-1)
        found = [part[sample, :steps] for part in result.beam_trace]
        torch.testing.assert_close(found[0], scores, rtol=1e-4, atol=1e-3)
        assert torch.equal(found[1], tokens.long())
        assert torch.equal(found[2], parents.long())


@drawn
@pytest.mark.parametrize("case", range(12))
def test_transformers_search_over_random_networks(case: int) -> None:
    """Its rules are proved elsewhere; here they must read what the definition says."""
    rng = random.Random(case)
    config = draw_config(rng)
    model = tiny(seed=case, **config)
    lengths = [rng.randint(2, 12) for _ in range(rng.choice([1, 3]))]
    sources = tiny_unilm.sources(lengths, seed=case, pos_shift=config["pos_shift"])
    replay = Replay(model.network(), sources)
    prompts = [[replay.vocab_size - len(sources) + b] for b in range(len(sources))]
    beams = rng.choice([1, 2, 4])
    options: dict[str, Any] = {
        "search": "transformers",
        "num_beams": beams,
        "num_return_sequences": rng.randint(1, beams),
        "max_new_tokens": rng.choice([3, 9]),
        "length_penalty": rng.choice([0.0, 1.0, 2.0]),
        "early_stopping": rng.choice([False, True, "never"]),
        "min_new_tokens": rng.choice([0, 2]),
        "no_repeat_ngram_size": rng.choice([0, 2, 3]),
        "suppress_tokens": rng.choice([None, [5, 6, 7]]),
    }
    defaults = tritonseq.GenerationConfig(**tiny_unilm.ENDS)
    wanted = tritonseq.Model(replay, defaults, None).generate(prompts, **options)
    found = model.model().generate(*tiny_unilm.pad(sources), **options)
    assert found.tolist() == wanted[:, 1:].tolist()


@pytest.mark.parametrize(
    "config",
    [{}, {"rel_pos_bins": 8, "max_rel_pos": 20}, {"type_vocab_size": 0}, {"pos_shift": True}],
    ids=["plain", "bias", "no-types", "shift"],
)
def test_a_folder_of_s2s_ft(config: dict[str, Any], tmp_path: Path) -> None:
    """Everything that search and network need is in the files, s2s-ft's defaults included."""
    written = tiny(seed=60, **config)
    shift = bool(config.get("pos_shift"))
    model = tritonseq.load(written.write(tmp_path))
    network, sources = written.network(), tiny_unilm.sources([9, 4, 20], pos_shift=shift)
    rules = Rules(beams=4, steps=10, eos=EOS, min_len=1)
    answers = wanted(lambda rows: network.rows(sources, rows), 3, rules)
    assert None not in answers
    assert unpadded(model.generate(sources, num_beams=4, max_new_tokens=10)) == answers
