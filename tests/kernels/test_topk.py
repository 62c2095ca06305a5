"""`beam_topk`: torch against the expression that it stands for, Triton against a stable sort."""

from __future__ import annotations

import math
import random

import pytest
import torch
from launches import counted
from waits import NeverWaits

from tritonseq.kernels import ban_ngrams, beam_topk, ngram_bans, reference
from tritonseq.kernels.topk.kernel import GROUPS, group_size

BOTH = pytest.mark.parametrize("impl", ["torch", "triton"])
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
VOCABULARIES = (1, 2, 8, 63, 64, 65, 200, 1000, 4095, 4097, 9000)


def random_call(seed: int) -> tuple[torch.Tensor, int, dict[str, torch.Tensor | bool]]:
    """Any sizes, options, strides and paddings; NaN wherever nothing may be read for a value."""
    g = random.Random(seed)
    torch.manual_seed(seed)
    samples, beams = g.choice((1, 2)), g.choice((1, 1, 2, 3, 5))
    vocab_size = g.choice(VOCABULARIES)
    count = min(g.choice((1, 2, 2 * beams, 2 * beams, 9)), beams * vocab_size)
    width = vocab_size + g.choice((0, 0, 3, 64, -vocab_size % 64))
    rows = torch.full((samples, beams + 1, width), math.nan)
    # Coarse values tie.
    values = torch.randn(samples, beams, vocab_size) * 4
    rows[:, 1:, :vocab_size] = values.round() if g.random() < 0.3 else values
    logits = rows.to(g.choice(DTYPES))[:, 1:, :vocab_size]
    if g.random() < 0.2:
        logits.masked_fill_(torch.rand(logits.shape) < 0.5, -math.inf)
        logits[:, :, -1] = 0

    dtype = g.choice((torch.int32, torch.int64))
    options: dict[str, torch.Tensor | bool] = {"log_softmax": g.random() < 0.6}
    if g.random() < 0.7:
        options["running"] = torch.randn(beams, samples).T * g.choice((1.0, 30.0))
    if g.random() < 0.5:
        size = g.choice((0, 1, 7, 600))
        best = logits.float().topk(min(5, vocab_size)).indices
        others = torch.randint(-2, vocab_size + 2, (samples, beams, size))
        options["banned"] = torch.cat([others, best], 2).to(dtype)[:, :, ::2]
    if g.random() < 0.4:
        options["ends"] = torch.randint(-1, vocab_size + 1, (3,), dtype=dtype)
        options["length"] = torch.tensor(4, dtype=dtype).expand(samples)
        options["min_length"] = torch.randint(4, 6, (samples,), dtype=dtype)
    if g.random() < 0.3:
        options["forced"] = torch.randint(-vocab_size, vocab_size, (samples,), dtype=dtype)
    return logits, count, options


def in_passes(logits, count, *, running=None, log_softmax=True, banned=None, ends=None,
              length=None, min_length=None, forced=None):  # fmt: skip
    """`tritonseq.decoding.beam_search` and its processors, a pass over the scores each."""
    samples, beams, vocab_size = logits.shape
    scores = logits.float().log_softmax(-1) if log_softmax else logits.float().clone()
    mask = torch.zeros(samples, beams, vocab_size + 1, dtype=torch.bool)
    if banned is not None:
        ids = torch.where((banned >= 0) & (banned < vocab_size), banned, vocab_size)
        mask.scatter_(2, ids.long(), True)
    if ends is not None:
        inside = ends[(ends >= 0) & (ends < vocab_size)].long()
        mask[:, :, inside] |= (length < min_length)[:, None, None]
    scores.masked_fill_(mask[:, :, :vocab_size], -math.inf)
    if forced is not None:
        for b in (forced >= 0).nonzero().flatten().tolist():
            scores[b].fill_(-math.inf)[:, forced[b]] = 0.0
    if running is not None:
        scores.add_(running[:, :, None])
    best, index = scores.flatten(1).topk(count, dim=1)
    if count == 1:
        index = scores.flatten(1).argmax(dim=1, keepdim=True)
    return best, index % vocab_size, index.div(vocab_size, rounding_mode="floor")


def assert_best(result, logits, options, tolerance) -> None:
    """These are distinct continuations, with their own scores, and as good as the best."""
    scores, tokens, parents = (x.cpu() for x in result)
    samples, beams, vocab_size = logits.shape
    assert (scores.dtype, tokens.dtype, parents.dtype) == (torch.float32, torch.int64, torch.int64)
    assert ((tokens >= 0) & (tokens < vocab_size) & (parents >= 0) & (parents < beams)).all()
    index = parents * vocab_size + tokens
    assert all(len(set(row)) == len(row) for row in index.tolist())
    best, *where = reference.beam_topk(logits, beams * vocab_size, **options)
    table = torch.empty(samples, beams * vocab_size)
    table.scatter_(1, where[1] * vocab_size + where[0], best)
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(scores, best[:, : scores.shape[1]], **close)
    torch.testing.assert_close(scores, table.gather(1, index), **close)
    assert (scores[:, 1:] <= scores[:, :-1]).all()


def to(device, options):
    return {k: x.to(device) if isinstance(x, torch.Tensor) else x for k, x in options.items()}


class TestSweep:
    def test_torch_is_the_expression_to_the_bit(self):
        for seed in range(300):
            logits, count, options = random_call(seed)
            before = logits.clone()
            result = beam_topk(logits, count, **options, impl="torch")
            for got, wanted in zip(result, in_passes(logits, count, **options), strict=True):
                assert torch.equal(got, wanted), f"{seed=} {count=} {list(options)}"
            assert torch.equal(logits, before)

    def test_torch_is_the_reference(self):
        for seed in range(100):
            logits, count, options = random_call(seed)
            assert_best(beam_topk(logits, count, **options, impl="torch"), logits, options, 0)

    def test_triton(self, poison, device):
        self.check(range(45), device)

    @pytest.mark.long
    def test_wide(self, poison, device):
        self.check(range(1000, 2000), device)

    @staticmethod
    def check(seeds, device):
        for seed in seeds:
            logits, count, options = random_call(seed)
            # Moved as it lies in memory, padding and all.
            moved = logits._base.to(device).as_strided(
                logits.shape, logits.stride(), logits.storage_offset()
            )
            result = beam_topk(moved, count, **to(device, options), impl="triton")
            try:
                assert_best(result, logits, options, 2e-6)
            except AssertionError as error:
                raise AssertionError(f"{seed=} {count=} {options.keys()}") from error


class TestOrder:
    @pytest.mark.parametrize("beams", [1, 3])
    def test_ties_go_by_beam_and_token(self, beams, device):
        for seed in range(4):
            torch.manual_seed(seed)
            logits = torch.randint(-2, 2, (2, beams, 150)).float()
            logits[0, 0, 70:75] = -0.0
            running = torch.randint(-1, 2, (2, beams)).float()
            options = {"running": running, "log_softmax": False}
            result = beam_topk(logits.to(device), 12, **to(device, options), impl="triton")
            for got, wanted in zip(result, reference.beam_topk(logits, 12, **options), strict=True):
                assert torch.equal(got.cpu(), wanted)

    @BOTH
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_greedy_takes_the_first_of_the_best(self, dtype, impl, device):
        logits = torch.randint(0, 3, (3, 1, 500), device=device).to(dtype)
        _, tokens, parents = beam_topk(logits, 1, log_softmax=False, impl=impl)
        assert torch.equal(tokens, logits[:, 0].argmax(1, keepdim=True))
        assert not parents.any()

    @BOTH
    def test_by_hand(self, impl, device):
        # Token 2 is the best of both beams; it is banned for the first and, too early, an end.
        logits = torch.tensor([[[1.0, 2, 3], [0, 1, 4]]], device=device).log()
        options = to(device, {
            "running": torch.tensor([[0.0, -1.0]]),
            "banned": torch.tensor([[[2, -1], [3, -1]]]),
        })  # fmt: skip
        scores, tokens, parents = beam_topk(logits, 4, **options, impl=impl)
        assert tokens.tolist()[0] == [1, 2, 0, 1]
        assert parents.tolist()[0] == [0, 1, 0, 1]
        wanted = [math.log(2 / 6), math.log(4 / 5) - 1, math.log(1 / 6), math.log(1 / 5) - 1]
        torch.testing.assert_close(scores.cpu(), torch.tensor([wanted]))
        five = torch.tensor([5], device=device)
        options |= {"ends": torch.tensor([2], device=device), "length": five}
        for least, expected in ((five, [1, 2, 0]), (five + 1, [1, 0, 1])):
            _, tokens, _ = beam_topk(logits, 3, **options, min_length=least, impl=impl)
            assert tokens.tolist()[0] == expected

    @BOTH
    def test_long_lists(self, impl, device):
        # The best tokens stand at either end of the lists, or in the middle.
        logits = torch.randn(1, 1, 2000, device=device)
        best = logits.topk(5).indices
        for size in (255, 256, 257, 600):
            banned = torch.randint(-9, 0, (1, 1, size), device=device)
            banned[:, :, [0, size // 2, size - 2, size - 1]] = best[:, :, :4]
            _, tokens, _ = beam_topk(logits, 1, banned=banned, impl=impl)
            assert tokens == best[:, :, 4]
            zero = torch.zeros(1, dtype=torch.int64, device=device)
            options = {"ends": banned[0, 0], "length": zero, "min_length": zero + 1}
            _, tokens, _ = beam_topk(logits, 1, **options, impl=impl)
            assert tokens == best[:, :, 4]

    @BOTH
    def test_forced_overrides_bans(self, impl, device):
        options = {
            "running": torch.tensor([[-1.0, -2.0], [-1.0, -2.0]]),
            "banned": torch.full((2, 2, 1), 4),
            "forced": torch.tensor([4, -1]),
            "ends": torch.tensor([4]),
            "length": torch.zeros(2, dtype=torch.int64),
            "min_length": torch.ones(2, dtype=torch.int64),
        }
        logits = torch.zeros(2, 2, 100, device=device)
        scores, tokens, parents = beam_topk(logits, 4, **to(device, options), impl=impl)
        assert scores[0].tolist() == [-1.0, -2.0, -math.inf, -math.inf]
        assert tokens[0, :2].tolist() == [4, 4]
        assert parents[0, :2].tolist() == [0, 1]
        assert 4 not in tokens[1]
        assert scores[1].isfinite().all()

    @BOTH
    def test_numbers_of_samples_may_be_strided(self, impl, device):
        logits = torch.arange(30.0, device=device).expand(3, 1, 30)
        numbers = torch.tensor([5, 0, 7, 0, 6, 0], device=device)
        least = torch.tensor([6, 9, 6, 9, 6, 9], device=device)
        options = {"length": numbers[::2], "min_length": least[::2], "impl": impl}
        _, tokens, _ = beam_topk(logits, 1, ends=torch.tensor([29], device=device), **options)
        assert tokens.tolist() == [[28], [29], [29]]
        _, tokens, _ = beam_topk(logits, 1, forced=(numbers - 6)[::2], impl=impl)
        assert tokens.tolist() == [[29], [1], [0]]


class TestWhatIsLeft:
    @BOTH
    @pytest.mark.parametrize("count", [1, 6, 14])
    def test_everything_banned_but_some(self, count, impl, device):
        logits = torch.randn(1, 2, 7, device=device)
        banned = torch.tensor([[[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 1, 0, 6]]], device=device)
        result = beam_topk(logits, count, banned=banned, impl=impl)
        assert_best(result, logits.cpu(), {"banned": banned.cpu()}, 2e-6)
        assert result[0].isfinite().sum() == 1
        assert (result[1][0, 0], result[2][0, 0]) == (2, 1)

    @BOTH
    @pytest.mark.parametrize("beams", [1, 2])
    def test_long_stretches_of_minus_infinity(self, beams, impl, device):
        logits = torch.randn(1, beams, 17000)
        logits[:, :, :8500] = -math.inf
        result = beam_topk(logits.to(device), 4, impl=impl)
        assert_best(result, logits, {}, 2e-6)
        assert result[0].isfinite().all()

    @BOTH
    @pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
    @pytest.mark.parametrize("log_softmax", [False, True])
    def test_rows_without_an_order(self, log_softmax, bad, impl, device):
        for logits in (torch.full((1, 2, 130), bad), torch.randn(1, 2, 130)):
            logits[:, 1] = bad
            logits[:, 0, 100:] = bad
            options = {"log_softmax": log_softmax, "impl": impl}
            _, tokens, parents = beam_topk(logits.to(device), 10, **options)
            index = parents * 130 + tokens
            assert ((index >= 0) & (index < 260)).all()
            assert len(set(index[0].tolist())) == 10

    @BOTH
    def test_a_forced_token_that_does_not_exist(self, impl, device):
        forced = torch.tensor([9], device=device)
        scores, tokens, parents = beam_topk(
            torch.zeros(1, 2, 9, device=device), 5, forced=forced, impl=impl
        )
        assert scores.tolist() == [[-math.inf] * 5]
        assert len(set((parents * 9 + tokens)[0].tolist())) == 5

    @BOTH
    def test_no_samples(self, impl, device):
        for result in beam_topk(torch.zeros(0, 2, 9, device=device), 3, impl=impl):
            assert result.shape == (0, 3)


class TestLarge:
    @pytest.mark.parametrize(("beams", "log_softmax"), [(1, False), (1, True), (2, True)])
    def test_many_tiles(self, beams, log_softmax, device):
        logits = torch.randn(1, beams, 50257)
        logits[0, -1, 50256] = 9.0
        logits[0, 0, 16384] = 8.0
        result = beam_topk(logits.to(device), 3, log_softmax=log_softmax, impl="triton")
        assert_best(result, logits, {"log_softmax": log_softmax}, 2e-6)

    def test_count_beyond_the_kernels(self, device):
        logits = torch.randn(2, 2, 90)
        result = beam_topk(logits.to(device), 65, impl="triton")
        assert_best(result, logits, {}, 2e-6)

    def test_a_neighbour_changes_no_bit(self, device):
        logits = torch.randn(3, 2, 5000, device=device)
        together = beam_topk(logits, 4, impl="triton")
        alone = beam_topk(logits[1:2].clone(), 4, impl="triton")
        for all_samples, one in zip(together, alone, strict=True):
            assert torch.equal(all_samples[1:2], one)

    def test_groups_of_a_sample_are_bounded(self):
        assert group_size(4, 50257) == 64
        for beams in range(1, 33):
            for vocab_size in (8, 30522, 50257, 60000, 250112):
                size = group_size(beams, vocab_size)
                assert beams * vocab_size <= GROUPS * size
                assert size == 64 or 4 * beams * vocab_size > GROUPS * size / 2
        assert group_size(16, 60000) <= 1024


class TestCost:
    def test_launches(self):
        logits = torch.randn(2, 3, 200)
        options = {
            "running": torch.zeros(2, 3),
            "banned": torch.zeros(2, 3, 4, dtype=torch.int32),
            "forced": torch.full((2,), -1),
        }
        with counted() as names:
            beam_topk(logits, 6, **options)
        assert names == ["scan", "choose"]
        with counted() as names:
            beam_topk(logits.view(6, 1, 200), 1, log_softmax=False)
        assert names == ["choose"]

    def test_waits_for_nothing(self):
        for seed in range(40):
            logits, count, options = random_call(seed)
            with NeverWaits():
                beam_topk(logits, count, **options, impl="torch")

    @BOTH
    def test_no_gradient(self, impl, device):
        logits = torch.randn(1, 1, 9, device=device, requires_grad=True)
        assert not beam_topk(logits, 2, impl=impl)[0].requires_grad

    @BOTH
    def test_a_list_of_bans_is_worth_a_pass(self, impl, device):
        tokens = torch.randint(0, 12, (4, 60), device=device)
        logits = torch.randn(2, 2, 12, device=device)
        bans = ngram_bans(tokens, 2, 12, impl=impl).view(2, 2, -1)
        scores, index, parents = beam_topk(logits, 5, banned=bans, impl=impl)
        passed = ban_ngrams(logits.log_softmax(-1).flatten(0, 1), tokens, 2, impl="torch")
        best = passed.view(2, -1).sort(descending=True, stable=True)
        torch.testing.assert_close(scores, best.values[:, :5])
        finite = scores.isfinite()
        assert finite.any()
        assert torch.equal((parents * 12 + index)[finite], best.indices[:, :5][finite])


LOGITS = torch.zeros(2, 3, 9)
ONES = torch.ones(2, dtype=torch.int64)
BAD_INPUT = {
    "shape": ({"logits": LOGITS[0]}, r"logits is torch.float32 \[3, 9\]; pass float16"),
    "dtype": ({"logits": LOGITS.double()}, "logits is torch.float64"),
    "strides": ({"logits": LOGITS.mT.contiguous().mT}, "make its last dimension contiguous"),
    "count of none": ({"count": 0}, "count is 0; 3 beams of 9 tokens have 1 to 27"),
    "count of too many": ({"count": 28}, "count is 28"),
    "running": (
        {"running": LOGITS[:, :2, 0]},
        r"running is torch.float32 \[2, 2\]; pass",
    ),
    "running in half": ({"running": LOGITS[:, :, 0].half()}, "running is torch.float16"),
    "banned": ({"banned": ONES}, r"pass int32 or int64 \[2, 3, N\]"),
    "banned floats": ({"banned": LOGITS}, "banned is torch.float32"),
    "ends alone": ({"ends": ONES}, "ends, length and min_length belong together"),
    "length alone": ({"length": ONES}, "pass all of them or none"),
    "ends in rows": (
        {"ends": ONES[None], "length": ONES, "min_length": ONES},
        r"ends is torch.int64 \[1, 2\]; pass int32 or int64 \[2\]",
    ),
    "min_length": ({"ends": ONES, "length": ONES, "min_length": ONES[:1]}, r"pass .* \[2\]"),
    "forced": ({"forced": ONES.float()}, "forced is torch.float32"),
    "impl": ({"impl": "numpy"}, "impl is 'numpy'"),
}


@pytest.mark.parametrize(("change", "message"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        beam_topk(**{"logits": LOGITS, "count": 2, **change})
