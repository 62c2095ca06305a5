"""A trie constrains as a function over sets of prefixes does: in ids, in scores, in the search."""

from __future__ import annotations

import random
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pytest
import seq2seq
import tiny
import torch
from launches import as_on_gpu
from torch.utils._python_dispatch import TorchDispatchMode
from walk import begun, write

from tritonseq.decoding import prefix_constraint
from tritonseq.decoding.logits_processors import TokenSet
from tritonseq.decoding.prefix_constraint import constrain_prefix, follow_trie
from tritonseq.decoding.trie import Trie

if TYPE_CHECKING:
    from collections.abc import Callable

    Allowed = Callable[[int, torch.Tensor], list[int]]
    Sequences = list[list[int]]

# One line per architecture: what makes a tiny model in both engines. BART's targets start with
# its end token, and end with it by force.
SPECIAL = {"eos_token_id": tiny.EOS, "pad_token_id": tiny.PAD}
ENDS = {"decoder_start_token_id": tiny.EOS, "forced_eos_token_id": tiny.EOS}
FAMILIES: dict[str, Callable[[], tiny.Pair]] = {
    "gpt2": tiny.pair,
    "t5": partial(seq2seq.pair, "t5", 1, **SPECIAL),
    "bart": partial(seq2seq.pair, "bart", 3, **SPECIAL, **ENDS),
}
ENCODING = ("t5", "bart")


def by_sets(candidates: list[Sequences], ends: set[int], prompt_length: int) -> Allowed:
    """The constraint by definition; each set of candidates stands for a sample in turn."""
    followers: list[dict[tuple[int, ...], set[int]]] = []
    for sequences in candidates:
        following: dict[tuple[int, ...], set[int]] = {}
        for sequence in map(tuple, sequences):
            for n, token in enumerate(sequence):
                following.setdefault(sequence[:n], set()).add(token)
            following.setdefault(sequence, set()).update(ends)
        followers.append(following)

    def allowed(sample: int, ids: torch.Tensor) -> list[int]:
        following = followers[sample % len(followers)]
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


def batch(family: str, count: int, length: int, **shape: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What an engine reads, padded on the side where transformers expects it, and the mask."""
    ids, mask = tiny.prompts(count, length, **shape)
    return (ids.flip(1), mask.flip(1)) if family in ENCODING else (ids, mask)


def prompt_length(pair: tiny.Pair, ids: torch.Tensor) -> int:
    return 1 if pair.theirs.config.is_encoder_decoder else ids.shape[1]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", TRIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers_with_a_function(family: str, name: str, search: str) -> None:
    pair = pair_of(family)
    ids, mask = batch(family, 2, 6, seed=len(name), ragged=True)
    options = {"max_new_tokens": 10, **SEARCHES[search]}
    allowed = by_sets([TRIES[name]], {tiny.EOS}, prompt_length(pair, ids))

    def run(engine: Any, model: Any, constraint: Any, **more: Any) -> Any:
        torch.manual_seed(1)
        return engine(model, ids, mask, prefix_allowed_tokens_fn=constraint, **options, **more)

    again = partial(run, tiny.theirs, pair.theirs, allowed)
    mine = run(tiny.ours, pair.ours, Trie(TRIES[name]), hf_exact=True)
    seq2seq.assert_same(mine, again(), again)
    slow = run(tiny.ours, pair.ours, allowed, hf_exact=True)
    for a, b in zip(mine.scores, slow.scores, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(mine.sequences, slow.sequences)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_widest_beam_ranks_all_sequences(family: str) -> None:
    """With a beam for every prefix nothing is cut off: the ranking is that of all sequences."""
    pair = pair_of(family)
    sequences = sorted(set(map(tuple, random_sequences(5, 50, tokens=12, longest=4))))
    ids, mask = batch(family, 1, 4, seed=8)
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
    ids, mask = batch(family, 3, 5, seed=2, ragged=True)
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
    ids, mask = batch(family, 4, 6, seed=4, ragged=True)
    candidates = [random_sequences(seed, 1 + 7 * seed) for seed in range(4)]
    options = {"max_new_tokens": 9, **SEARCHES[search]}
    allowed = by_sets(candidates, {tiny.EOS}, prompt_length(pair, ids))
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


@pytest.mark.parametrize("beams", [1, 4, 32])
@pytest.mark.parametrize("within", [True, False], ids=["written", "left-out"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_forced_first_token(family: str, within: bool, beams: int) -> None:
    """It comes before sequences that leave it out, and counts once in those that hold it."""
    pair, forced = pair_of(family), 9
    ids, mask = batch(family, 3, 6 if family in ENCODING else 1, seed=6)
    sequences = [s for s in random_sequences(7, 60, tokens=20, longest=4) if s[0] != forced]
    sequences = [[forced, *s] for s in sequences] if within else sequences
    options = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": 7}
    options |= {"forced_bos_token_id": forced}
    allowed = by_sets([sequences], {tiny.EOS}, 1 if within else 2)
    other = tiny.theirs(pair.theirs, ids, mask, prefix_allowed_tokens_fn=allowed, **options)
    options |= {"prefix_allowed_tokens_fn": Trie(sequences), "hf_exact": True}
    mine = tiny.ours(pair.ours, ids, mask, **options)
    tiny.assert_same(mine, other)
    for target in mine.sequences[:, 1:].tolist():
        assert target[0] == forced
        assert target[0 if within else 1 : target.index(tiny.EOS)] in sequences


def test_a_first_token_is_forced_behind_prompts_of_one_token_only() -> None:
    ours = pair_of("t5").ours
    sequences = [[20, 12], [9, 30]]
    options = {"forced_bos_token_id": 9, "prefix_allowed_tokens_fn": Trie(sequences)}
    found = ours.generate([[8, 8]], decoder_input_ids=[[0, 40]], **options)
    assert found[0, 2:-1].tolist() in sequences


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("family", FAMILIES)
def test_beams_beyond_all_sequences_are_told_by_their_scores(
    family: str, early_stopping: bool | str
) -> None:
    sequences = [[20, 9], [20, 11], [30], [9, 9, 9, 12]]
    pair = pair_of(family)
    ids, mask = batch(family, 2, 4, seed=1)
    options = {"num_beams": 8, "num_return_sequences": 8, "early_stopping": early_stopping}
    options |= {"max_new_tokens": 6, "prefix_allowed_tokens_fn": Trie(sequences)}
    found = tiny.ours(pair.ours, ids, mask, **options)
    targets = found.sequences[:, prompt_length(pair, ids) :].view(2, 8, -1)
    for rows, scores in zip(targets, found.sequences_scores.view(2, 8), strict=True):
        told = [row[: row.index(tiny.EOS)] for row in rows[scores > -1e6].tolist()]
        # Search that stops early counts the others, and has enough before the longest is found.
        assert sorted(told) == sorted(sequences[:3] if early_stopping is True else sequences)
        assert bool((scores[len(told) :] < -1e9 / 7).all())


def test_parts_of_a_batch_keep_the_candidates_of_their_samples() -> None:
    candidates = [random_sequences(seed, 1 + 7 * seed) for seed in range(4)]
    whole = Trie.per_sample(candidates)
    ids, mask = tiny.prompts(4, 6, seed=4, ragged=True)
    ours = pair_of("gpt2").ours
    for places in ([2, 0, 3, 1], [3], [1, 1, 2], range(4)):
        part = whole.part(places, 4)
        alone = Trie.per_sample([candidates[place] for place in places])
        for beams in (1, 4):
            options = {"num_beams": beams, "max_new_tokens": 9}
            at = list(places)
            mine = ours.generate(ids[at], mask[at], prefix_allowed_tokens_fn=part, **options)
            wanted = ours.generate(ids[at], mask[at], prefix_allowed_tokens_fn=alone, **options)
            assert torch.equal(mine, wanted)
        for sample in range(len(places)):
            first = alone.allowed_after([], tiny.EOS, sample)
            assert part.allowed_after([], tiny.EOS, sample) == first
        assert part.part([len(places) - 1], len(places)).allowed_after([], tiny.EOS) == first
    shared = Trie(candidates[0])
    assert shared.part([5, 1], 9) is shared
    with pytest.raises(ValueError, match="sequences for 4 samples, and the batch has 5"):
        whole.part([0], 5)
    with pytest.raises(ValueError, match="sequences for 1 samples, and the batch has 2"):
        ours.generate(ids[:2], prefix_allowed_tokens_fn=whole.part([3], 4))


def test_several_end_tokens() -> None:
    pair = tiny.pair(seed=3, eos_token_id=[tiny.EOS, 11, 30])
    ids, mask = tiny.prompts(2, 3, seed=3)
    sequences = [s for s in random_sequences(4, 30) if not {11, 30} & set(s)]
    sequences += [[20, 14, 11], [20, 14], [30]]
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
    monkeypatch.setattr(prefix_constraint, "_COLUMNS_AT_ONCE", at_once)
    for seed in range(12):
        rng = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        samples, beams, vocab = rng.randint(1, 4), rng.choice([1, 2, 6]), 24
        candidates = [random_sequences(seed + n, 60, tokens=9) for n in range(samples)]
        candidates = candidates if rng.random() < 0.5 else candidates[:1]
        prompt = torch.randint(vocab, (samples, 3), generator=generator)
        trie = Trie.per_sample(candidates)
        h = begun(prompt, beams=beams, roots=trie.starts(samples))
        ends = [2, 12, 99]
        slow = by_sets(candidates, {2, 12}, 3)
        slow_apply = constrain_prefix(slow, independent=independent)
        apply = follow_trie(trie, TokenSet(ends), independent=independent)
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
                        rng.choice(slow(b, h.ids[b * beams + int(parents[b, k])]))
                        if rng.random() < 0.9
                        else rng.randrange(vocab)
                        for k in range(beams)
                    ]
                    for b in range(samples)
                ]
            )
            write(h, tokens, parents)


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
    roots = torch.zeros(samples, 1, dtype=torch.int64)
    h = begun(torch.zeros(samples, 2, dtype=torch.int64), beams=beams, new_tokens=4, roots=roots)
    for _ in range(2):
        apply(h, torch.zeros(samples * beams, tiny.VOCAB))
        write(h, torch.full((samples, beams), 20), torch.zeros(samples, beams, dtype=torch.int64))
    with as_on_gpu(), Operations() as noted:
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


FAULTS: dict[str, tuple[Trie, dict[str, Any], str]] = {
    "vocabulary": (Trie([[9, 61]]), {}, "the Trie holds token id 61, outside the vocabulary"),
    "no-end": (Trie([[9]]), {"eos_token_id": None}, "there is no end token: pass eos_token_id"),
    "samples": (Trie.per_sample([[[9]]] * 3), {}, "sequences for 3 samples, and the batch has 2"),
    "behind-an-end": (
        Trie([[20, 9], [20, tiny.EOS], [20, 12, tiny.EOS, 9]]),
        {},
        "goes on behind end token 7, where generation stops: leave out what comes after it",
    ),
    "behind-another-end": (
        Trie([[20, 9], [20, 9, 12]]),
        {"eos_token_id": [tiny.EOS, 9]},
        "goes on behind end token 9",
    ),
    "forced-for-some": (
        Trie([[9, 12], [14, 9]]),
        {"forced_bos_token_id": 9},
        "forced_bos_token_id=9 comes first, and some sequences of the Trie start with it",
    ),
    "forced-for-some-samples": (
        Trie.per_sample([[[9, 12]], [[14, 9]]]),
        {"forced_bos_token_id": 9},
        "let all of them start with what is forced, or none",
    ),
    "forced-end": (
        Trie([[9, 12]]),
        {"forced_bos_token_id": tiny.EOS},
        "forced_bos_token_id=7 is an end token",
    ),
}


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_faults_are_named_before_anything_runs(
    family: str, fault: str, beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = pair_of(family).ours
    ids, _ = batch(family, 2, 1)
    trie, options, message = FAULTS[fault]
    monkeypatch.setattr(ours.decoder, "prefill", lambda *args, **options: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=message):
        ours.generate(ids, prefix_allowed_tokens_fn=trie, num_beams=beams, **options)


@pytest.mark.parametrize("family", ENCODING)
def test_start_tokens_are_left_out(family: str) -> None:
    """As tries of whole decoder inputs hold them, which would generate them a second time."""
    ours = pair_of(family).ours
    start = ours.generation_config.decoder_start_token_id
    ids, _ = batch(family, 2, 4)
    rest = [[20, 9], [20, 12, tiny.EOS], [14]]
    whole = [[start, *s] for s in rest]
    message = f"start with token {start}, which is the decoder's start token"
    for trie, sample in (
        (Trie(whole), 0),
        (Trie([*whole, [start]]), 0),
        (Trie.per_sample([rest, whole]), 1),
    ):
        for more in ({}, {"forced_bos_token_id": 9}, {"decoder_input_ids": [[30], [40]]}):
            with pytest.raises(ValueError, match=f"for sample {sample} {message}"):
                ours.generate(ids, prefix_allowed_tokens_fn=trie, **more)
    with pytest.raises(ValueError, match="for sample 1 start with token 9, which is the decoder"):
        ours.generate(
            ids,
            decoder_start_token_id=[30, 9],
            prefix_allowed_tokens_fn=Trie.per_sample([[[9, 20]], [[9, 20]]]),
        )
    # The end token, which starts BART's decoder, is a target like others where nothing follows.
    if start == tiny.EOS:
        found = ours.generate(ids, prefix_allowed_tokens_fn=Trie([[start]]))
        assert found.tolist() == [[start, start]] * 2


def test_a_start_token_that_is_forced_comes_twice() -> None:
    ours = pair_of("t5").ours
    trie = Trie([[0, 20, 12]])
    found = ours.generate([[9, 9]], forced_bos_token_id=0, prefix_allowed_tokens_fn=trie)
    assert found.tolist() == [[0, 0, 20, 12, tiny.EOS]]


def test_prompts_of_a_decoder_alone_are_no_start_tokens() -> None:
    ours = pair_of("gpt2").ours
    for prompt in ([tiny.EOS], [20]):
        found = ours.generate([prompt], prefix_allowed_tokens_fn=Trie([[20, 12]]))
        assert found.tolist() == [[*prompt, 20, 12, tiny.EOS]]


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
