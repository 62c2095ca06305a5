"""`sample_tokens`: torch and Triton against the definition, and that against what is known.

A token is a matter of rounding where two arrive, or where a sum of probabilities ends, at almost
the same place. Such rows are left out, and counted.
"""

from __future__ import annotations

import math
import random

import pytest
import torch
from launches import Launches, counted

from tritonseq.decoding import warpers
from tritonseq.kernels import reference, sample_tokens
from tritonseq.kernels.sampling.eager import arrival_times, random_words
from tritonseq.kernels.sampling.reference import arrival_time, kept, philox

BOTH = pytest.mark.parametrize("impl", ["torch", "triton"])
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ANY_SEED = (-(2**63), 2**63 - 1)
NO_CUT = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
CUTS = [
    {"temperature": 0.6},
    {"top_k": 4},
    {"top_p": 0.7},
    {"min_p": 0.3},
    {"top_k": 6, "top_p": 0.8},
    {"temperature": 1.7, "top_k": 9, "top_p": 0.85, "min_p": 0.2},
]
BY_CUT = pytest.mark.parametrize("cut", CUTS, ids=lambda cut: "+".join(cut))


def random_call(seed: int, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
    g = random.Random(seed)
    torch.manual_seed(seed)
    vocab_size = g.choice((1, 2, 3, 7, 16, 64, 100, 513, 700))
    width = vocab_size + g.choice((0, 0, 1, 16))
    logits = torch.randn(rows, width) * g.choice((0.1, 1.0, 4.0)) + g.choice(
        (0.0, 0.0, -80.0, 30.0)
    )
    logits[torch.rand(logits.shape) < g.choice((0.0, 0.0, 0.5))] = -math.inf
    logits[:, g.randrange(vocab_size)] = g.choice((0.0, -0.0))
    logits[:, vocab_size:] = math.nan
    options = {
        "temperature": g.choice((1.0, 1.0, 0.3, 2.5)),
        "top_k": g.choice((0, 0, 1, 2, 5, 30, 10**6)),
        "top_p": g.choice((1.0, 1.0, 0.2, 0.5, 0.9, 0.999)),
        "min_p": g.choice((0.0, 0.0, 0.01, 0.4, 1.0)),
    }
    steps = torch.randint(
        0, g.choice((3, 2**31 - 1)), (rows,), dtype=g.choice((torch.int32, torch.int64))
    )
    logits = logits.to(DTYPES[seed % 3])[:, :vocab_size]
    return logits, torch.randint(*ANY_SEED, (rows,)), steps, options


def is_decided(row: list[float], seed: int, step: int, cut: dict) -> bool:
    """Whether no rounding can change the token."""
    near = 1e-4
    weights = kept(row, **{**cut, "top_p": 1.0, "min_p": 0.0})
    target, mass = cut["top_p"] * sum(weights.values()), 0.0
    for weight in weights.values():
        mass += weight
        if cut["top_p"] < 1.0 and abs(mass - target) < near * target:
            return False
        if 0 < abs(weight - cut["min_p"]) < near * cut["min_p"]:
            return False
    weights = kept(row, **cut)
    arrivals = sorted(arrival_time(seed, step, token) / weights[token] for token in weights)
    return len(arrivals) == 1 or arrivals[1] - arrivals[0] > near * arrivals[1]


class TestSweep:
    @pytest.mark.parametrize(("impl", "seeds"), [("torch", 150), ("triton", 25)])
    def test_tokens(self, impl, seeds, device, poison):
        self.check(range(seeds), impl, device)

    @pytest.mark.long
    @BOTH
    def test_wide(self, impl, device, poison):
        self.check(range(1000, 3000), impl, device)

    @staticmethod
    def check(seeds, impl, device):
        decided, total = 0, 0
        for seed in seeds:
            logits, streams, steps, cut = random_call(seed, rows=4)
            expected = reference.sample_tokens(logits, streams, steps, **cut)
            before = logits.clone()
            args = [x.to(device) for x in (logits, streams, steps)]
            tokens = sample_tokens(*args, **cut, impl=impl).cpu()
            assert tokens.dtype == torch.int64
            assert torch.equal(logits, before)
            for r, row in enumerate(logits.tolist()):
                total += 1
                if is_decided(row, int(streams[r]), int(steps[r]), cut):
                    decided += 1
                    assert tokens[r] == expected[r], f"{seed=} {r=} {cut}"
        assert decided > 0.95 * total

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_more_than_a_chunk(self, dtype, device):
        # Two chunks, the second one with its last element alone.
        logits = torch.randn(3, 8193).to(dtype)
        logits[2, 8192] = 20.0
        streams, steps = torch.arange(3), torch.tensor([5, 6, 7])
        for cut in (NO_CUT, {**NO_CUT, "top_k": 300, "top_p": 0.9}):
            expected = reference.sample_tokens(logits, streams, steps, **cut)
            for impl in ("torch", "triton"):
                args = [x.to(device) for x in (logits, streams, steps)]
                assert torch.equal(sample_tokens(*args, **cut, impl=impl).cpu(), expected)


class TestRandomNumbers:
    @pytest.mark.parametrize(
        ("counter", "key", "words"),
        [
            # The vectors that the authors of Philox publish with their library.
            ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
            (
                (0xFFFFFFFF,) * 4,
                (0xFFFFFFFF,) * 2,
                (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
            ),
            (
                (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
                (0xA4093822, 0x299F31D0),
                (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
            ),
        ],
    )
    def test_definition(self, counter, key, words):
        assert philox(counter, key) == words

    @pytest.mark.parametrize("count", [1, 3, 4, 50])
    def test_words_in_torch(self, count):
        seeds = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 2**32])
        steps = torch.tensor([0, 2**31, 1, -1, 2**40 + 3, 2**32 - 1])
        words = random_words(seeds, steps, count)
        for row, seed, step in zip(words.tolist(), seeds.tolist(), steps.tolist(), strict=True):
            key, (low, high) = (seed % 2**32, seed >> 32 & 0xFFFFFFFF), (step % 2**32, step >> 32)
            groups = [philox((g, low, high % 2**32, 0), key) for g in range(-(-count // 4))]
            assert row == [word for group in groups for word in group][:count]

    def test_times_in_torch(self):
        seeds = torch.randint(*ANY_SEED, (20,))
        times = arrival_times(seeds, torch.arange(20), 200)
        expected = [
            [arrival_time(s, t, i) for i in range(200)] for t, s in enumerate(seeds.tolist())
        ]
        torch.testing.assert_close(times, torch.tensor(expected), rtol=5e-5, atol=0)

    def test_words_in_triton(self, device):
        # Of equal logits the token with the greatest word is first: all the words decide.
        seeds = torch.randint(*ANY_SEED, (60,))
        steps = torch.cat((torch.arange(30), torch.randint(*ANY_SEED, (30,))))
        first = random_words(seeds, steps, 203).argmin(dim=1)
        logits = torch.zeros(60, 203, device=device)
        tokens = sample_tokens(logits, seeds.to(device), steps.to(device), impl="triton")
        assert torch.equal(tokens.cpu(), first)


class TestDistribution:
    """Draws against probabilities: chi-square, at most four standard deviations above its mean."""

    LOGITS = torch.tensor([1.0, -0.5, 0.3, 0.0, 2.0, 0.9, -2.0, 1.4, 0.6, -1.1])
    DRAWS = 20_000

    @pytest.mark.parametrize("cut", [{}, *CUTS], ids=lambda cut: "+".join(cut) or "none")
    @pytest.mark.parametrize("counted_up", ["seeds", "steps"])
    def test_probabilities(self, cut, counted_up):
        many, one = torch.arange(self.DRAWS), torch.full((self.DRAWS,), 17)
        seeds, steps = (many, one) if counted_up == "seeds" else (one, many)
        tokens = sample_tokens(self.LOGITS.expand(self.DRAWS, -1), seeds, steps, **cut)
        weights = kept(self.LOGITS.tolist(), **{**NO_CUT, **cut})
        expected = torch.zeros(10)
        for token, weight in weights.items():
            expected[token] = weight
        self.check(tokens.bincount(minlength=10), expected / expected.sum())

    @pytest.mark.parametrize("neighbours", ["seeds", "steps"])
    def test_neighbours_know_nothing_of_each_other(self, neighbours):
        logits = torch.tensor([0.0, 0.5, 1.0]).expand(self.DRAWS, -1)
        many, one = torch.arange(self.DRAWS), torch.full((self.DRAWS,), 3)
        seeds, steps = (many, one) if neighbours == "seeds" else (one, many)
        tokens = sample_tokens(logits, seeds, steps).view(-1, 2)
        pairs = (tokens[:, 0] * 3 + tokens[:, 1]).bincount(minlength=9)
        probabilities = logits[0].softmax(dim=0)
        self.check(pairs, (probabilities[:, None] * probabilities).flatten())

    @staticmethod
    def check(counts: torch.Tensor, probabilities: torch.Tensor) -> None:
        possible = probabilities > 0
        assert not counts[~possible].any()
        expected = probabilities[possible] * counts.sum()
        statistic = ((counts[possible] - expected) ** 2 / expected).sum()
        freedom = int(possible.sum()) - 1
        assert statistic <= freedom + 4 * math.sqrt(2 * freedom)


class TestCuts:
    @pytest.mark.parametrize("seed", range(40))
    @BY_CUT
    def test_definition_keeps_what_the_warpers_keep(self, cut, seed):
        torch.manual_seed(seed)
        scores = torch.randn(1, 30) * 2
        cut = {**NO_CUT, **cut}
        expected = kept(scores[0].tolist(), **cut)
        scores = warpers.temperature(cut["temperature"])(None, scores)
        if cut["top_k"]:
            scores = warpers.top_k(cut["top_k"], 1)(None, scores)
        if cut["top_p"] < 1.0:
            scores = warpers.top_p(cut["top_p"], 1)(None, scores)
        if cut["min_p"]:
            scores = warpers.min_p(cut["min_p"], 1)(None, scores)
        assert set(scores[0].isfinite().nonzero().flatten().tolist()) == set(expected)

    @BOTH
    @BY_CUT
    def test_the_last_token_kept_and_the_first_one_dropped(self, cut, impl, device):
        # A large vocabulary would hide an error by one: so seeds are sought that tell.
        torch.manual_seed(len(cut))
        logits, cut = torch.randn(1, 24), {**NO_CUT, **cut}
        row = logits[0].tolist()
        every, some = kept(row, **{**NO_CUT, "temperature": cut["temperature"]}), kept(row, **cut)
        edge = list(every)[len(some) - 1 : len(some) + 1]
        telling = []
        for seed in range(20_000):
            first = min(every, key=lambda t, seed=seed: arrival_time(seed, 0, t) / every[t])
            if first == edge[len(telling)]:
                telling.append(seed)
                if len(telling) == len(edge):
                    break
        seeds = torch.tensor(telling, device=device)
        rows = logits.to(device).expand(len(telling), -1)
        tokens = sample_tokens(rows, seeds, seeds * 0, **cut, impl=impl).tolist()
        assert tokens[0] == edge[0]
        assert all(token in some for token in tokens)
        assert len(tokens) == (1 if len(some) == 24 else 2)

    @BOTH
    def test_ties_stay_together(self, impl, device):
        logits = torch.tensor([[0.0, 3.0, -0.0, 2.0, 0.0, -1.0]], device=device).half()
        logits, seeds = logits.expand(16, -1), torch.arange(16, device=device)
        for cut in ({"top_k": 3}, {"top_p": 0.5}):
            tokens = sample_tokens(logits, seeds, seeds, temperature=20.0, **cut, impl=impl)
            assert set(tokens.tolist()) == {0, 1, 2, 3, 4}

    @BOTH
    def test_top_k_passes_over_banned_tokens(self, impl, device):
        logits = torch.full((10, 9), -math.inf, device=device)
        logits[:, 4], logits[:, 7] = -5.0, -5.5
        seeds = torch.arange(10, device=device)
        for top_k in (0, 2, 5):
            tokens = sample_tokens(logits, seeds, seeds, top_k=top_k, impl=impl)
            assert set(tokens.tolist()) == {4, 7}


class TestRows:
    @BOTH
    def test_a_row_does_not_know_its_batch(self, impl, device):
        logits = torch.randn(6, 300, device=device)
        seeds, steps = torch.arange(6, device=device) - 3, torch.arange(6, device=device)
        cut = {"top_k": 40, "top_p": 0.95}
        together = sample_tokens(logits, seeds, steps, **cut, impl=impl)
        order = torch.tensor([4, 0, 5, 5, 1, 3, 2], device=device)
        other = sample_tokens(logits[order], seeds[order], steps[order], **cut, impl=impl)
        assert torch.equal(other, together[order])
        for r in range(6):
            alone = slice(r, r + 1)
            token = sample_tokens(logits[alone], seeds[alone], steps[alone], **cut, impl=impl)
            assert token == together[r]

    @BOTH
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_strides(self, impl, dtype, device):
        logits = torch.randn(3, 77, device=device).to(dtype)
        seeds, steps = torch.arange(3, device=device), torch.arange(3, device=device) * 3
        expected = sample_tokens(logits, seeds, steps, top_p=0.9, impl=impl)
        wide = torch.full((3, 2, 80), math.nan, device=device, dtype=dtype)
        wide[:, 0, :77] = logits
        spread = torch.full((3, 154), math.nan, device=device, dtype=dtype)
        spread[:, ::2] = logits
        for view in (wide[:, 0, :77], spread[:, ::2], logits.t().contiguous().t()):
            tokens = sample_tokens(view, seeds, steps, top_p=0.9, impl=impl)
            assert torch.equal(tokens, expected)
        pairs = torch.stack((seeds, steps), dim=1)
        tokens = sample_tokens(logits, pairs[:, 0], pairs[:, 1].int(), top_p=0.9, impl=impl)
        assert torch.equal(tokens, expected)
        shared = sample_tokens(logits[:1].expand(3, -1), seeds, steps, top_p=0.9, impl=impl)
        assert torch.equal(
            shared, sample_tokens(logits[[0] * 3], seeds, steps, top_p=0.9, impl=impl)
        )

    @BOTH
    def test_no_rows(self, impl, device):
        none = torch.zeros(0, dtype=torch.int64, device=device)
        tokens = sample_tokens(torch.zeros(0, 5, device=device), none, none, top_k=2, impl=impl)
        assert tokens.shape == (0,)
        assert tokens.dtype == torch.int64

    @BOTH
    def test_no_gradient(self, impl, device):
        logits = torch.randn(1, 5, device=device, requires_grad=True)
        zero = torch.zeros(1, dtype=torch.int64, device=device)
        assert not sample_tokens(logits, zero, zero, impl=impl).requires_grad


class TestExtremes:
    @BOTH
    @pytest.mark.parametrize("cut", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}])
    def test_one_token_left(self, cut, impl, device):
        logits = torch.full((4, 50), -math.inf, device=device)
        tokens = torch.tensor([0, 49, 31, 7], device=device)
        logits[torch.arange(4), tokens] = torch.tensor([0.0, -3e38, 3e38, math.inf], device=device)
        seeds = torch.arange(4, device=device)
        assert torch.equal(sample_tokens(logits, seeds, seeds, **cut, impl=impl), tokens)

    @BOTH
    @pytest.mark.parametrize("temperature", [1e-5, 1e-30, 1e-300])
    def test_cold_takes_the_best(self, temperature, impl, device):
        logits = torch.randn(6, 40, device=device)
        seeds = torch.arange(6, device=device)
        for cut in ({}, {"top_p": 0.5}, {"top_k": 7, "min_p": 0.2}):
            tokens = sample_tokens(logits, seeds, seeds, temperature=temperature, **cut, impl=impl)
            assert torch.equal(tokens, logits.argmax(dim=1))

    @BOTH
    @pytest.mark.parametrize("temperature", [1e9, 1e30, 1e300, 10**30])
    @pytest.mark.parametrize("cut", [{}, {"top_p": 0.999, "min_p": 0.5}])
    def test_hot_knows_no_logits(self, cut, temperature, impl, device):
        logits, seeds = torch.randn(10, 40, device=device), torch.arange(10, device=device)
        logits[:, 5:] = -math.inf
        cut = {"temperature": temperature, **cut}
        tokens = sample_tokens(logits, seeds, seeds, **cut, impl=impl)
        assert torch.equal(tokens, sample_tokens(logits[:, :5] * 0, seeds, seeds))

    @BOTH
    @pytest.mark.parametrize("value", [-math.inf, math.inf, math.nan])
    def test_a_meaningless_row_stays_within_the_vocabulary(self, value, impl, device):
        logits = torch.randn(3, 21, device=device)
        seeds = torch.arange(3, device=device)
        cut = {"top_k": 5, "top_p": 0.8, "min_p": 0.1}
        expected = sample_tokens(logits, seeds, seeds, **cut, impl=impl)
        logits[1] = value
        tokens = sample_tokens(logits, seeds, seeds, **cut, impl=impl)
        assert 0 <= int(tokens[1]) < 21
        assert torch.equal(tokens[::2], expected[::2])


class TestCost:
    def test_torch_looks_at_no_value(self):
        seeds = torch.arange(3)
        with Launches() as launches:
            sample_tokens(torch.randn(3, 50), seeds, seeds, top_k=5, top_p=0.9, min_p=0.1)
        looks = {"_local_scalar_dense", "nonzero", "masked_select", "index", "item", "unique"}
        assert len(launches.names) > 10
        assert not looks.intersection(launches.names)

    def test_triton_launches_once(self):
        seeds = torch.arange(3)
        with counted() as names:
            sample_tokens(torch.zeros(3, 50), seeds, seeds, top_k=5, top_p=0.9)
        assert names.count("sample") == 1
        assert len(names) == 2  # and what makes the logits


class TestBlocks:
    def test_chunks(self):
        from tritonseq.kernels.sampling.kernel import CHUNK, chunk_size

        for vocab_size in (1, 2, 511, 512, 513, 5000, CHUNK, CHUNK + 1, 250_112):
            chunk = chunk_size(vocab_size)
            assert chunk & (chunk - 1) == 0
            assert min(vocab_size, CHUNK) <= chunk <= CHUNK

    def test_padding_is_read_where_there_is_some(self):
        from tritonseq.kernels.sampling.kernel import readable_columns

        wide = torch.zeros(4, 64)
        assert readable_columns(wide) == 64
        assert readable_columns(wide[:, :50]) == 64
        assert readable_columns(wide[:, :48]) == 48
        assert readable_columns(wide.view(2, 2, 64)[:, :, :50]) == 64
        # The last row ends where its memory does.
        assert readable_columns(wide[:, 14:]) == 50
        assert readable_columns(wide[:3, 14:]) == 64
        assert readable_columns(wide[:, 14:].contiguous()) == 50
        assert readable_columns(wide.t()[:50]) == 4


class TestFaults:
    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"logits": torch.zeros(3)}, r"\[R, V\] with V > 0"),
            ({"logits": torch.zeros(3, 0)}, r"\[3, 0\]"),
            ({"logits": torch.zeros(3, 4, dtype=torch.float64)}, "float64"),
            ({"seeds": torch.zeros(2, dtype=torch.int64)}, r"seeds .* \[3\]"),
            ({"seeds": torch.zeros(3)}, "seeds is torch.float32"),
            ({"steps": torch.zeros(3, 1, dtype=torch.int32)}, r"steps .* \[3, 1\]"),
            ({"temperature": 0.0}, "temperature is 0.0; .* take the best token"),
            ({"temperature": -1.0}, "temperature is -1.0"),
            ({"temperature": math.inf}, "temperature is inf"),
            ({"temperature": math.nan}, "temperature is nan"),
            ({"top_k": -1}, "top_k is -1; .* 0 to keep all"),
            ({"top_p": 0.0}, "top_p is 0.0"),
            ({"top_p": 1.1}, "top_p is 1.1"),
            ({"top_p": math.nan}, "top_p is nan"),
            ({"min_p": -0.1}, "min_p is -0.1"),
            ({"min_p": 1.5}, "min_p is 1.5"),
            ({"impl": "cuda"}, "impl is 'cuda'"),
        ],
    )
    def test_names_the_remedy(self, change, text):
        zeros = torch.zeros(3, dtype=torch.int64)
        arguments = {"logits": torch.zeros(3, 4), "seeds": zeros, "steps": zeros, **change}
        with pytest.raises(ValueError, match=text):
            sample_tokens(**arguments)
