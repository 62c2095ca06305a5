"""A trie constrains as a function over sets of prefixes does: in ids, in scores, in the search."""

from __future__ import annotations

import random
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tritonseq import prefixes
from tritonseq.constraints import TokenSet
from tritonseq.hypotheses import Hypotheses
from tritonseq.prefixes import constrain_prefix, follow_trie
from tritonseq.trie import Trie

if TYPE_CHECKING:
    from collections.abc import Callable

    Allowed = Callable[[int, torch.Tensor], list[int]]
    Sequences = list[list[int]]

# One line per architecture: what makes a tiny model in both engines.
FAMILIES: dict[str, Callable[[], tiny.Pair]] = {"gpt2": tiny.pair}


def by_sets(
    candidates: list[Sequences], ends: set[int], prompt_length: int, rows: int = 1
) -> Allowed:
    """The constraint by definition; each set of candidates stands for `rows` samples in turn."""
    followers: list[dict[tuple[int, ...], set[int]]] = []
    for sequences in candidates:
        following: dict[tuple[int, ...], set[int]] = {}
        for sequence in map(tuple, sequences):
            for n, token in enumerate(sequence):
                following.setdefault(sequence[:n], set()).add(token)
            following.setdefault(sequence, set()).update(ends)
        followers.append(following)

    def allowed(sample: int, ids: torch.Tensor) -> list[int]:
        following = followers[sample // rows % len(followers)]
        return sorted(following.get(tuple(ids[prompt_length:].tolist()), ends))

    return allowed


def random_sequences(seed: int, count: int, *, tokens: int = 53, longest: int = 7) -> Sequences:
    """Sequences without end tokens, many with a common beginning, some the beginning of others."""
    rng = random.Random(seed)
    made: Sequences = []
    while len(made) < count:
        begin = (
            rng.choice(made)[: rng.randint(0, longest - 1)] if made and rng.random() < 0.6 else []
        )
        more = [tiny.EOS + 1 + rng.randrange(tokens) for _ in range(rng.randint(1, longest))]
        made.append((begin + more)[:longest])
    return made


TRIES: dict[str, Sequences] = {
    "one-sequence": [[20, 9, 9, 30]],
    "one-token": [[12]],
    "single-tokens": [[token] for token in range(8, 40)],
    "beginnings-of-others": [[9], [9, 10], [9, 10, 11, 12], [30, 31], [30, 31, 9], [30]],
    "ends-written-out": [[9, 10, tiny.EOS], [9, 10, 12, tiny.EOS], [14, tiny.EOS], [14]],
    "random": random_sequences(0, 40),
    "narrow": random_sequences(1, 200, tokens=3),
    "longer-than-generated": random_sequences(2, 30, tokens=4, longest=30),
    "thousands": random_sequences(3, 5000),
}
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True},
    "sampled-thrice": {"do_sample": True, "num_return_sequences": 3},
    "beams-2": {"num_beams": 2, "early_stopping": True},
    "beams-4": {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 0.0},
    "beams-sampled": {"num_beams": 4, "do_sample": True, "num_return_sequences": 2},
    "beams-32": {"num_beams": 32, "num_return_sequences": 32, "early_stopping": "never"},
    "beams-128": {"num_beams": 128, "num_return_sequences": 5},
    # All that is allowed may be banned as well; then the constraint wins.
    "never-ending": {"num_beams": 4, "min_new_tokens": 8},
    "never-ending-greedy": {"min_new_tokens": 8},
    "bans": {"num_beams": 4, "no_repeat_ngram_size": 1, "bad_words_ids": [[9], [20], [30]]},
    "penalties": {"num_beams": 3, "repetition_penalty": 1.7, "renormalize_logits": True},
}


@cache
def pair_of(family: str) -> tiny.Pair:
    return FAMILIES[family]()


def prompt_length(pair: tiny.Pair, ids: torch.Tensor) -> int:
    return 1 if pair.theirs.config.is_encoder_decoder else ids.shape[1]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", TRIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers_with_a_function(family: str, name: str, search: str) -> None:
    pair = pair_of(family)
    ids, mask = tiny.prompts(2, 6, seed=len(name), ragged=True)
    options = {"max_new_tokens": 10, **SEARCHES[search]}
    allowed = by_sets([TRIES[name]], {tiny.EOS}, prompt_length(pair, ids))
    torch.manual_seed(1)
    other = tiny.theirs(pair.theirs, ids, mask, prefix_allowed_tokens_fn=allowed, **options)
    options["hf_exact"] = True
    torch.manual_seed(1)
    mine = tiny.ours(pair.ours, ids, mask, prefix_allowed_tokens_fn=Trie(TRIES[name]), **options)
    tiny.assert_same(mine, other)
    torch.manual_seed(1)
    slow = tiny.ours(pair.ours, ids, mask, prefix_allowed_tokens_fn=allowed, **options)
    for a, b in zip(mine.scores, slow.scores, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(mine.sequences, slow.sequences)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_widest_beam_ranks_all_sequences(family: str) -> None:
    """With a beam for every prefix nothing is cut off: the ranking is that of all sequences."""
    pair = pair_of(family)
    sequences = sorted(set(map(tuple, random_sequences(5, 50, tokens=12, longest=4))))
    ids, mask = tiny.prompts(1, 4, seed=8)
    options = {"max_new_tokens": 6, "length_penalty": 0.0, "early_stopping": "never"}
    options |= {"num_beams": 128, "num_return_sequences": len(sequences)}
    found = tiny.ours(pair.ours, ids, mask, prefix_allowed_tokens_fn=Trie(sequences), **options)
    allowed = by_sets([[list(s) for s in sequences]], {tiny.EOS}, prompt_length(pair, ids))
    other = tiny.theirs(pair.theirs, ids, mask, prefix_allowed_tokens_fn=allowed, **options)
    torch.testing.assert_close(found.sequences_scores, other.sequences_scores)
    assert found.sequences_scores.isfinite().all()
    targets = found.sequences[:, prompt_length(pair, ids) :].tolist()
    assert {tuple(t[: t.index(tiny.EOS)]) for t in targets} == set(sequences)
    assert found.sequences_scores.diff().le(0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_diverse_groups_walk_alone(family: str) -> None:
    """transformers has no groups any more; the constraint by definition does it in our search."""
    pair = pair_of(family)
    ids, mask = tiny.prompts(3, 5, seed=2, ragged=True)
    for groups in (2, 3, 6):
        options = {"num_beams": 6, "num_beam_groups": groups, "diversity_penalty": 0.7}
        options |= {"num_return_sequences": 6, "max_new_tokens": 9}
        for name in ("random", "narrow", "thousands"):
            allowed = by_sets([TRIES[name]], {tiny.EOS}, prompt_length(pair, ids))
            trie = Trie(TRIES[name])
            mine = tiny.ours(pair.ours, ids, mask, prefix_allowed_tokens_fn=trie, **options)
            slow = tiny.ours(pair.ours, ids, mask, prefix_allowed_tokens_fn=allowed, **options)
            assert torch.equal(mine.sequences, slow.sequences)
            assert torch.equal(mine.beam_indices, slow.beam_indices)
            for a, b in zip(mine.scores, slow.scores, strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("search", ["greedy", "sampled-thrice", "beams-4", "beams-32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_of_its_own_for_each_sample(family: str, search: str) -> None:
    pair = pair_of(family)
    ids, mask = tiny.prompts(4, 6, seed=4, ragged=True)
    candidates = [random_sequences(seed, 1 + 7 * seed) for seed in range(4)]
    options = {"max_new_tokens": 9, **SEARCHES[search]}
    # When sampling, transformers counts every row as a sample.
    rows = options.get("num_return_sequences", 1) if options.get("do_sample") else 1
    allowed = by_sets(candidates, {tiny.EOS}, prompt_length(pair, ids), rows)
    trie = Trie.per_sample(candidates)
    torch.manual_seed(2)
    other = tiny.theirs(pair.theirs, ids, mask, prefix_allowed_tokens_fn=allowed, **options)
    options["hf_exact"] = True
    torch.manual_seed(2)
    tiny.assert_same(
        tiny.ours(pair.ours, ids, mask, prefix_allowed_tokens_fn=trie, **options), other
    )
    for sample, sequences in enumerate(candidates):
        beginnings = sorted({s[0] for s in sequences})
        assert trie.allowed_after([], tiny.EOS, sample) == beginnings


def test_several_end_tokens() -> None:
    pair = tiny.pair(seed=3, eos_token_id=[tiny.EOS, 11, 30])
    ids, mask = tiny.prompts(2, 3, seed=3)
    # 11 ends a sequence wherever it stands, and goes on to 12 if nothing looks at end tokens.
    sequences = [*random_sequences(4, 30), [20, 11, 12], [30]]
    allowed = by_sets([sequences], {tiny.EOS, 11, 30}, 3)
    for beams in (1, 4, 32):
        options = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": 8}
        other = tiny.theirs(pair.theirs, ids, mask, prefix_allowed_tokens_fn=allowed, **options)
        options |= {"prefix_allowed_tokens_fn": Trie(sequences), "hf_exact": True}
        tiny.assert_same(tiny.ours(pair.ours, ids, mask, **options), other)


@pytest.mark.parametrize("at_once", [1, 100, 1 << 22], ids="at-once-{}".format)
@pytest.mark.parametrize("independent", [True, False], ids=["rows", "beams"])
def test_every_step_equals_the_function_bit_by_bit(
    independent: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random moves of beams, along the trie and off it; scores of which others were banned."""
    monkeypatch.setattr(prefixes, "_COLUMNS_AT_ONCE", at_once)
    for seed in range(12):
        rng = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        samples, beams, vocab = rng.randint(1, 4), rng.choice([1, 2, 6]), 24
        candidates = [random_sequences(seed + n, 60, tokens=9) for n in range(samples)]
        candidates = candidates if rng.random() < 0.5 else candidates[:1]
        prompt = torch.randint(vocab, (samples, 3), generator=generator)
        h = Hypotheses(prompt, None, beams=beams, new_tokens=9)
        ends = [2, 12, 99]
        rows = beams if independent else 1
        slow = by_sets(candidates, {2, 12}, 3, rows)
        slow_apply = constrain_prefix(slow, independent=independent)
        apply = follow_trie(Trie.per_sample(candidates), TokenSet(ends), independent=independent)
        group = rng.choice([n for n in (1, 2, 3, 6) if beams % n == 0])
        for _ in range(9):
            for first in range(0, beams, group):
                part = h if independent else h.of_beams(first, group)
                scores = torch.randn(samples * part.beams, vocab, generator=generator)
                holes = torch.rand(scores.shape, generator=generator) < rng.choice([0.0, 0.5, 0.95])
                scores.masked_fill_(holes, -torch.inf)
                wanted = slow_apply(part, scores.clone())
                assert torch.equal(apply(part, scores), wanted)
            parents = torch.randint(beams, (samples, beams), generator=generator)
            tokens = torch.tensor(
                [
                    [
                        rng.choice(slow(b * rows, h.ids[b * beams + int(parents[b, k])]))
                        if rng.random() < 0.9
                        else rng.randrange(vocab)
                        for k in range(beams)
                    ]
                    for b in range(samples)
                ]
            )
            h.append(tokens, parents)


@pytest.mark.parametrize("seed", range(20))
def test_allowed_after_by_definition(seed: int) -> None:
    rng = random.Random(seed)
    sequences = random_sequences(seed, rng.choice([1, 2, 30, 300]), tokens=rng.choice([1, 3, 50]))
    ends = rng.choice([{2}, {2, 9}, {70}])
    trie, slow = Trie(sequences), by_sets([sequences], ends, 0)
    assert len(trie) == len(set(map(tuple, sequences)))
    known = {tuple(s[:n]) for s in sequences for n in range(len(s) + 1)}
    strangers = {tuple(rng.randrange(70) for _ in range(rng.randint(1, 4))) for _ in range(50)}
    strangers |= {(*prefix, rng.choice([-1, 0, 69, 1000])) for prefix in list(known)[:50]}
    for prefix in sorted(known)[:200] + sorted(strangers):
        allowed = trie.allowed_after(prefix, sorted(ends))
        assert allowed == slow(0, torch.tensor(prefix)), prefix
    assert trie.allowed_after([1000], 5) == [5]


def test_sequences_may_come_as_anything_that_holds_ids() -> None:
    rows = [[5, 9, 1], [5, 2, 2], [7, 1, 1], [5, 9, 1]]
    forms = [
        rows,
        torch.tensor(rows),
        torch.tensor(rows, dtype=torch.int32).numpy(),
        (torch.tensor(row) for row in rows),
        map(tuple, rows),
        reversed(rows),
    ]
    for form in forms:
        trie = Trie(form)
        assert repr(trie) == "Trie(3 sequences, 9 nodes)"
        assert trie.allowed_after([5], 0) == [2, 9]


def test_memory_is_17_bytes_per_node() -> None:
    generator = torch.Generator().manual_seed(0)
    sequences = torch.randint(30000, (50000, 6), generator=generator)
    trie = Trie(sequences)
    nodes = 1 + sum(len(sequences[:, :n].unique(dim=0)) for n in range(1, 7))
    assert repr(trie) == f"Trie(50000 sequences, {nodes} nodes)"
    tables = trie.on(torch.device("cpu"))
    held = sum(t.untyped_storage().nbytes() for t in tables if isinstance(t, torch.Tensor))
    assert 17 * nodes <= held <= 17 * nodes + 32
    for row in (0, 49999):
        target = sequences[row].tolist()
        assert target[5] in trie.allowed_after(target[:5], 30001)
        assert 30001 in trie.allowed_after(target, 30001)


class Operations(TorchDispatchMode):
    """Notes the operations that torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def operations_of_a_step(apply: Any, samples: int, beams: int) -> list[str]:
    h = Hypotheses(torch.zeros(samples, 2, dtype=torch.int64), None, beams=beams, new_tokens=4)
    for _ in range(2):
        apply(h, torch.zeros(samples * beams, tiny.VOCAB))
        h.append(torch.full((samples, beams), 20), torch.zeros(samples, beams, dtype=torch.int64))
    with Operations() as noted:
        apply(h, torch.zeros(samples * beams, tiny.VOCAB))
    return noted.names


def test_a_step_is_the_same_few_operations_for_any_number_of_rows() -> None:
    """Neither a loop over rows nor a value that the host would have to wait for."""
    trie = Trie(TRIES["random"])

    def fresh() -> Any:
        return follow_trie(trie, TokenSet([tiny.EOS]), independent=False)

    few = operations_of_a_step(fresh(), 1, 2)
    assert few == operations_of_a_step(fresh(), 5, 128)
    waits = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique")
    assert not [name for name in few if any(wait in name for wait in waits)]
    by_rows = constrain_prefix(by_sets([TRIES["random"]], {7}, 2), independent=False)
    assert any("_local_scalar_dense" in name for name in operations_of_a_step(by_rows, 1, 2))


MALFORMED: dict[str, tuple[Any, str]] = {
    "none": ([], "at least one sequence"),
    "empty": ([[5], []], "sequence 1 of a Trie is empty"),
    "negative": ([[5], [6, -3]], "holds -3, which is no token id"),
    "huge": ([[5], [1 << 31]], "holds 2147483648, which is no token id"),
    "beyond-64-bits": ([[1 << 64]], "sequence 0 of a Trie must be a list of token ids"),
    "one-list": ([5, 6], "sequence 0 of a Trie must be a list of token ids, not 5"),
    "fractions": ([[5], [5.0]], r"sequence 1 of a Trie must be a list of token ids, not \[5.0\]"),
    "words": ([["a"]], r"must be a list of token ids, not \['a'\]"),
    "nested": (torch.zeros(1, 1, 1, dtype=torch.int64), "must be a list of token ids"),
    "text": ("Paris", "made of lists of token ids, not of 'Paris'"),
    "number": (5, "made of lists of token ids, not of 5"),
}


@pytest.mark.parametrize(("sequences", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_sequences(sequences: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trie(sequences)
    with pytest.raises(ValueError, match=message):
        Trie.per_sample([[[1]], sequences])


def test_no_sample_and_samples_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Trie.per_sample([])
    with pytest.raises(ValueError, match="sample=2, and the Trie has sequences for 2"):
        Trie.per_sample([[[1]], [[2]]]).allowed_after([], 0, sample=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_faults_are_named_before_anything_runs(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = pair_of(family).ours
    ids, mask = tiny.prompts(2, 3)
    vocab = ours.decoder.vocab_size
    monkeypatch.setattr(ours.decoder, "prefill", lambda *args, **options: pytest.fail("it ran"))
    for trie, options, message in (
        (Trie([[9, vocab]]), {}, f"the Trie holds token id {vocab}, outside the vocabulary"),
        (Trie([[9]]), {"eos_token_id": None}, "there is no end token: pass eos_token_id"),
        (Trie.per_sample([[[9]]] * 3), {}, "sequences for 3 samples, and the batch has 2"),
    ):
        for beams in (1, 3):
            with pytest.raises(ValueError, match=message):
                ours.generate(ids, mask, prefix_allowed_tokens_fn=trie, num_beams=beams, **options)


ANSWERS: dict[str, tuple[Any, str]] = {
    "nothing": (None, "returned None, which is no list of token ids, for sample 0 after"),
    "no-token": ([], "allows no token for sample 0 after"),
    "no-token-tensor": (torch.tensor([], dtype=torch.int64), "allows no token for sample 0 after"),
    "one-number": (5, "returned 5, which is no list of token ids, for sample 0 after"),
    "text": ("Paris", "returned 'Paris', which is no list"),
    "words": (["Paris"], r"returned \['Paris'\], which is no list"),
    "fractions": ([1.0, 2.5], r"returned \[1.0, 2.5\], which is no list"),
    "truths": ([True, False], r"returned \[True, False\], which is no list"),
    "mask": (torch.ones(tiny.VOCAB, dtype=torch.bool), "returned .*, which is no list"),
    "nested": ([[1, 2]], r"returned \[\[1, 2\]\], which is no list"),
    "negative": ([4, -1], "allows token id -1, outside the vocabulary of 61 tokens, for sample 0"),
    "too-high": ([4, 61], "allows token id 61, outside the vocabulary of 61 tokens, for sample 0"),
}


@pytest.mark.parametrize(("answer", "message"), ANSWERS.values(), ids=ANSWERS.keys())
def test_functions_that_answer_nonsense(answer: Any, message: str) -> None:
    ours = pair_of("gpt2").ours
    ids, _ = tiny.prompts(2, 3)
    with pytest.raises(ValueError, match=f"prefix_allowed_tokens_fn {message}"):
        ours.generate(ids, prefix_allowed_tokens_fn=lambda sample, prefix: answer)


@pytest.mark.parametrize(
    "answer",
    [
        [9, 10],
        (9, 10),
        {9, 10},
        range(9, 11),
        torch.tensor([10, 9, 9]),
        torch.tensor([9, 10]).numpy(),
    ],
    ids=["list", "tuple", "set", "range", "tensor", "array"],
)
def test_functions_may_answer_with_any_collection(answer: Any) -> None:
    ours = pair_of("gpt2").ours
    ids, _ = tiny.prompts(2, 3)
    found = ours.generate(ids, prefix_allowed_tokens_fn=lambda sample, prefix: answer)
    wanted = ours.generate(ids, prefix_allowed_tokens_fn=lambda sample, prefix: [9, 10])
    assert torch.equal(found, wanted)
    assert set(found[:, 3:].flatten().tolist()) <= {9, 10}
