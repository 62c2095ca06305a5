"""`ban_ngrams`, `ngram_mask` and `ngram_bans`: torch and Triton against Python's lists."""

from __future__ import annotations

import math
import random

import pytest
import torch
from waits import NeverWaits

from tritonseq.kernels import ban_ngrams, ngram_bans, ngram_mask, reference

BOTH = pytest.mark.parametrize("impl", ["torch", "triton"])
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def random_call(seed: int) -> tuple[torch.Tensor, int, int, dict[str, torch.Tensor]]:
    """Tokens, n, vocabulary and options: any form, any lengths, ids outside the vocabulary."""
    g = random.Random(seed)
    torch.manual_seed(seed)
    samples, beams, length = g.choice((1, 2, 3)), g.choice((1, 2, 5)), g.choice((0, 1, 2, 3, 8, 40))
    n, vocab_size = g.choice((1, 2, 2, 3, 4, 7)), g.choice((2, 5))
    rows, dtype = samples * beams, g.choice((torch.int32, torch.int64))

    def tokens(*shape: int) -> torch.Tensor:
        return torch.randint(-1, vocab_size + 1, shape, dtype=dtype)

    def up_to(limits: list[int]) -> torch.Tensor:
        return torch.tensor([g.randint(0, limit) for limit in limits], dtype=dtype)

    def side(name: str, length: int) -> None:
        options[name], ends = tokens(samples, length), [length] * samples
        if g.random() < 0.5:
            options[f"{name}_lengths"] = up_to(ends)
            ends = options[f"{name}_lengths"].tolist()
        if g.random() < 0.5:
            options[f"{name}_starts"] = up_to(ends)

    options: dict[str, torch.Tensor] = {}
    if g.random() < 0.5:
        own = tokens(samples, length, beams)
        options["lineage"] = torch.randint(0, beams, own.shape, dtype=dtype)
        ends = [length] * samples
    else:
        own, ends = tokens(rows, length), [length] * rows
    if g.random() < 0.6:
        options["lengths"] = up_to(ends)
        ends = options["lengths"].tolist()
        if "lineage" in options:
            for sample, end in enumerate(ends):
                options["lineage"][sample, end:] = g.choice((-5, 77))
    if g.random() < 0.4:
        side("prefix", g.choice((0, 1, 9)))
    elif "lineage" not in options and g.random() < 0.5:
        options["starts"] = up_to(ends)
    if g.random() < 0.3:
        side("source", g.choice((0, 2, 20)))
    if g.random() < 0.4:
        options["ignored"] = torch.rand(vocab_size) < g.choice((0.1, 0.3, 1.0))
    return own, n, vocab_size, options


class TestSweep:
    @pytest.mark.parametrize(("impl", "seeds"), [("torch", 400), ("triton", 60)])
    def test_mask(self, impl, seeds, device):
        self.check(range(seeds), impl, device)

    @pytest.mark.long
    @BOTH
    def test_wide(self, impl, device):
        self.check(range(1000, 4000), impl, device)

    @staticmethod
    def check(seeds, impl, device):
        banned = 0
        for seed in seeds:
            tokens, n, vocab_size, options = random_call(seed)
            expected = reference.ngram_mask(tokens, n, vocab_size, **options)
            tokens, options = tokens.to(device), {k: x.to(device) for k, x in options.items()}
            mask = ngram_mask(tokens, n, vocab_size, **options, impl=impl)
            assert mask.dtype == torch.bool
            assert torch.equal(mask.cpu(), expected), f"{seed=} {n=} {list(options)}"
            scores = torch.randn(expected.shape, device=device, dtype=DTYPES[seed % 3])
            wanted = scores.masked_fill(mask, -math.inf)
            assert ban_ngrams(scores, tokens, n, **options, impl=impl) is scores
            assert torch.equal(scores, wanted)
            bans = ngram_bans(tokens, n, vocab_size, **options, impl=impl)
            wanted = reference.ngram_bans(tokens, n, vocab_size, **options)
            assert (bans.dtype, bans.shape) == (torch.int32, wanted.shape)
            for row, of_row in zip(bans.tolist(), wanted.tolist(), strict=True):
                assert {-1, *row} == {-1, *of_row}, f"{seed=} {n=} {list(options)}"
            banned += int(expected.sum())
        assert banned > len(seeds)


class TestWhatIsBanned:
    """By hand: the text, n, and what must not follow."""

    @BOTH
    @pytest.mark.parametrize(
        ("text", "n", "banned"),
        [
            ([1, 2, 3, 1, 2], 3, {3}),
            ([1, 2, 3, 1, 2], 2, {3}),
            ([1, 2, 1, 3, 1], 2, {2, 3}),
            ([1, 2, 3], 1, {1, 2, 3}),
            ([4, 4, 4], 3, {4}),
            ([4, 4], 3, set()),
            ([4, 4], 2, {4}),
            ([4], 2, set()),
            ([], 1, set()),
            ([1, 2, 3, 1, 2], 6, set()),
            ([1, 9, 3, 1], 2, set()),  # 9 is outside of the vocabulary
            ([9, 2, 3, 9], 2, {2}),  # but may stand within an n-gram
        ],
    )
    def test_row(self, text, n, banned, impl, device):
        mask = ngram_mask(torch.tensor([text], dtype=torch.int64, device=device), n, 5, impl=impl)
        assert set(mask[0].nonzero().flatten().tolist()) == banned

    @BOTH
    def test_pads_are_no_text(self, impl, device):
        tokens = torch.tensor([[0, 0, 0, 3, 0]], device=device)
        starts = torch.tensor([3], device=device)
        assert ngram_mask(tokens, 2, 5, impl=impl)[0].tolist() == [1, 0, 0, 1, 0]
        assert not ngram_mask(tokens, 2, 5, starts=starts, impl=impl).any()

    @BOTH
    def test_ngrams_across_the_end_of_a_ragged_prefix(self, impl, device):
        # "2 3" lies across the border, with pads on both sides of the prefix.
        prefix = torch.tensor([[7, 1, 2, 7], [1, 2, 2, 2]], device=device)
        tokens = torch.tensor([[3, 2], [3, 2]], device=device)
        mask = ngram_mask(
            tokens, 2, 8,
            prefix=prefix,
            prefix_starts=torch.tensor([1, 0], device=device),
            prefix_lengths=torch.tensor([3, 4], device=device),
            impl=impl,
        )  # fmt: skip
        assert [row.nonzero().flatten().tolist() for row in mask] == [[3], [2, 3]]

    @BOTH
    def test_source_bans_its_own_ngrams_only(self, impl, device):
        source = torch.tensor([[1, 2, 3, 2, 4]], device=device)
        tokens = torch.tensor([[5, 2], [2, 5]], device=device)
        mask = ngram_mask(tokens, 2, 8, source=source, impl=impl)
        assert [row.nonzero().flatten().tolist() for row in mask] == [[3, 4], []]

    @BOTH
    @pytest.mark.parametrize(
        ("text", "n", "ignored", "banned"),
        [
            ([1, 2, 3, 1], 2, {2}, set()),  # would be banned, and is ignored
            ([1, 2, 3, 1, 4, 1], 2, {2}, {4}),  # its neighbours are banned all the same
            ([2, 1, 3, 2, 1], 3, {2}, set()),  # stands among the last two
            ([1, 2, 3, 1, 2], 3, {2}, set()),
            ([2, 1, 3, 4, 1], 2, {2}, {3}),  # stands further back than that
            ([1, 2, 1, 4], 1, {1, 3}, {2, 4}),
            ([1, 2], 1, {0, 1, 2, 3, 4}, set()),
            ([1, 2, 3, 1], 2, set(), {2}),
            ([9, 2, 3, 9], 2, {0, 1, 3, 4}, {2}),  # 9 is in no table of 5 tokens
            ([-1, 2, 3, -1], 2, {0, 1, 3, 4}, {2}),
        ],
    )
    def test_ignored_tokens(self, text, n, ignored, banned, impl, device):
        table = torch.tensor([token in ignored for token in range(5)], device=device)
        tokens = torch.tensor([text], device=device)
        mask = ngram_mask(tokens, n, 5, ignored=table, impl=impl)
        assert set(mask[0].nonzero().flatten().tolist()) == banned

    @BOTH
    def test_an_ignored_token_at_the_end_of_the_prefix(self, impl, device):
        # The last two tokens lie on both sides of the border; row 1 has another prefix.
        prefix = torch.tensor([[3, 4, 5, 3], [3, 4, 5, 4]], device=device)
        tokens, table = (
            torch.tensor([[4], [5]], device=device),
            torch.zeros(8, device=device).bool(),
        )
        table[3] = True
        for ignored, banned in ((None, [[5], [4]]), (table, [[], [4]])):
            options = {"prefix": prefix, "ignored": ignored, "impl": impl}
            mask = ngram_mask(tokens, 3, 8, **options)
            assert [row.nonzero().flatten().tolist() for row in mask] == banned

    @BOTH
    def test_ignored_tokens_with_a_source(self, impl, device):
        source = torch.tensor([[1, 2, 3, 2, 4, 5, 6]], device=device)
        tokens = torch.tensor([[0, 2], [2, 5]], device=device)
        table = torch.zeros(16, dtype=torch.bool, device=device)
        table[torch.tensor([6, 10], device=device)] = True  # 3 and 5 in every other place
        mask = ngram_mask(tokens, 2, 8, source=source, ignored=table[::2], impl=impl)
        assert [row.nonzero().flatten().tolist() for row in mask] == [[4], []]


class TestBans:
    @BOTH
    def test_width_follows_from_shapes(self, impl, device):
        slots = torch.zeros(2, 6, 3, dtype=torch.int64, device=device)
        side = torch.zeros(2, 4, dtype=torch.int64, device=device)
        for n, options, width in (
            (1, {}, 6),
            (3, {}, 4),
            (7, {}, 0),
            (9, {}, 0),
            (3, {"prefix": side}, 8),
            (3, {"prefix": side, "source": side}, 2),
            (3, {"lengths": torch.zeros(2, device=device).long()}, 4),
        ):
            bans = ngram_bans(slots, n, 5, lineage=slots, **options, impl=impl)
            assert bans.shape == reference.ngram_bans(slots, n, 5, lineage=slots, **options).shape
            assert bans.shape == (6, width)

    @BOTH
    def test_every_place_is_written(self, impl, device):
        tokens = torch.randint(0, 900, (3, 700), device=device)
        bans = ngram_bans(tokens, 1, 900, impl=impl)
        assert torch.equal(bans, tokens.int())
        lengths = torch.tensor([0, 300, 700], device=device)
        bans = ngram_bans(tokens, 1, 800, lengths=lengths, impl=impl)
        inside = (torch.arange(700, device=device) < lengths[:, None]) & (tokens < 800)
        assert torch.equal(bans, torch.where(inside, tokens, -1).int())


class TestBounds:
    @BOTH
    def test_strided_and_expanded(self, impl, device):
        # Every other bound is another row's, or there is one for all of them.
        tokens = torch.randint(0, 6, (4, 40), device=device)
        bounds = torch.tensor([30, 1, 25, 2, 20, 3, 35, 4], device=device)
        for lengths in (bounds[::2], torch.tensor(30, device=device).expand(4)):
            mask = ngram_mask(tokens, 2, 6, lengths=lengths, impl=impl)
            assert torch.equal(mask, reference.ngram_mask(tokens, 2, 6, lengths=lengths))
        prefix, own = tokens[:, :30], tokens[:, 30:]
        bounds = bounds % 5
        sides = {"prefix_starts": bounds[::2], "prefix_lengths": (bounds + 20)[::2]}
        mask = ngram_mask(own, 2, 6, prefix=prefix, **sides, impl=impl)
        assert torch.equal(mask, reference.ngram_mask(own, 2, 6, prefix=prefix, **sides))

    def test_waits_for_nothing(self):
        for seed in range(60):
            tokens, n, vocab_size, options = random_call(seed)
            rows = tokens.shape[0] * (tokens.shape[2] if "lineage" in options else 1)
            scores = torch.randn(rows, vocab_size)
            with NeverWaits():
                ban_ngrams(scores, tokens, n, **options, impl="torch")
                ngram_mask(tokens, n, vocab_size, **options, impl="torch")
                ngram_bans(tokens, n, vocab_size, **options, impl="torch")

    @pytest.mark.parametrize(
        "wait",
        [
            lambda x: x.max().item(),
            lambda x: x[x > 1],
            lambda x: x.nonzero(),
            lambda x: x.masked_select(x > 1),
            lambda x: x.repeat_interleave(x.long()),
            lambda x: x.unique(),
            lambda x: x.__setitem__(x > 1, 0 * x[:1]),
        ],
    )
    def test_waiting_is_found(self, wait):
        with pytest.raises(AssertionError, match="waits for the device"), NeverWaits():
            wait(torch.arange(3.0))


class TestScores:
    @BOTH
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_strided_rows(self, dtype, impl, device):
        tokens = torch.randint(0, 30, (4, 50), device=device)
        whole = torch.randn(4, 70, device=device).to(dtype)
        for scores in (whole[:, 5:35], whole.T[:, :4].T[:, :30]):
            before = whole.clone()
            expected = scores.masked_fill(reference.ngram_mask(tokens, 2, 30), -math.inf)
            ban_ngrams(scores, tokens, 2, impl=impl)
            assert torch.equal(scores, expected)
            changed = (whole != before).sum()
            assert changed == (expected == -math.inf).sum()
            whole.copy_(before)

    @BOTH
    def test_infinite_scores_stay(self, impl, device):
        scores = torch.tensor([[math.inf, -math.inf, 1.0]], device=device)
        ban_ngrams(scores, torch.tensor([[2, 2]], device=device), 2, impl=impl)
        assert scores.tolist() == [[math.inf, -math.inf, -math.inf]]

    @BOTH
    def test_longer_than_any_block(self, impl, device):
        tokens = torch.randint(0, 3000, (2, 2500), device=device)
        tokens[:, -1] = tokens[:, 1200]
        tokens[0, 1201], tokens[1, 1201] = 7, 8
        mask = ngram_mask(tokens, 2, 3000, impl=impl)
        assert torch.equal(mask.cpu(), reference.ngram_mask(tokens.cpu(), 2, 3000))
        assert mask[0, 7]
        assert mask[1, 8]

    @BOTH
    def test_no_rows(self, impl, device):
        tokens = torch.zeros(0, 5, dtype=torch.int64, device=device)
        assert ngram_mask(tokens, 2, 7, impl=impl).shape == (0, 7)


TOKENS = torch.zeros(4, 5, dtype=torch.int64)
SLOTS = torch.zeros(2, 5, 2, dtype=torch.int64)
BAD_INPUT = {
    "n": ({"n": 0}, "n is 0; an n-gram has 1 token or more"),
    "float tokens": ({"tokens": TOKENS.float()}, "tokens are torch.float32; pass int32 or int64"),
    "slots alone": ({"tokens": SLOTS}, "or a lineage too"),
    "lineage shape": (
        {"tokens": SLOTS, "lineage": SLOTS[:, :4]},
        r"pass int32 or int64 \[2, 5, 2\]",
    ),
    "plain tokens with lineage": ({"lineage": SLOTS}, r"with a lineage pass \[B, T, K\]"),
    "lengths": ({"lengths": torch.zeros(2).long()}, r"pass int32 or int64 \[4\]"),
    "lengths per row": (
        {"tokens": SLOTS, "lineage": SLOTS, "lengths": torch.zeros(4).long()},
        r"lengths is torch.int64 \[4\]; pass int32 or int64 \[2\]",
    ),
    "starts with lineage": (
        {"tokens": SLOTS, "lineage": SLOTS, "starts": torch.zeros(4).long()},
        "starts goes with plain tokens only",
    ),
    "starts with prefix": ({"prefix": TOKENS, "starts": torch.zeros(4).long()}, "prefix_starts"),
    "prefix rows": ({"prefix": TOKENS[:3]}, "one row for each sample of the 4 rows"),
    "prefix samples": (
        {"tokens": SLOTS, "lineage": SLOTS, "prefix": TOKENS},
        "one row for each sample",
    ),
    "prefix starts alone": ({"prefix_starts": torch.zeros(4).long()}, "need prefix; pass it too"),
    "source lengths": (
        {"source": TOKENS[:2], "source_lengths": torch.zeros(4).long()},
        r"source_lengths is torch.int64 \[4\]; pass int32 or int64 \[2\]",
    ),
    "float source": ({"source": TOKENS.float()}, "source is torch.float32"),
    "ignored ids": (
        {"ignored": torch.zeros(9).long()},
        r"ignored is torch.int64 \[9\]; pass bool \[9\], True for",
    ),
    "ignored of another vocabulary": (
        {"ignored": torch.zeros(8).bool()},
        r"ignored is torch.bool \[8\]; pass bool \[9\]",
    ),
    "impl": ({"impl": "numpy"}, "impl is 'numpy'"),
}


class TestBadInput:
    @pytest.mark.parametrize(("change", "message"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
    def test_message(self, change, message):
        with pytest.raises(ValueError, match=message):
            ban_ngrams(**{"scores": torch.zeros(4, 9), "tokens": TOKENS, "n": 2, **change})

    @pytest.mark.parametrize(
        "scores", [torch.zeros(4, 9).double(), torch.zeros(9), torch.zeros(3, 9)]
    )
    def test_scores(self, scores):
        with pytest.raises(ValueError, match=r"scores is|tokens are \[4, 5\]; pass \[3, T\]"):
            ban_ngrams(scores, TOKENS, 2)
