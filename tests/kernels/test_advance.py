"""The bookkeeping of a search: torch and Triton against the definition, in every field.

Scores that stand for minus infinity are often equal. torch takes any of them first, so that in
torch a place of the pool that holds no hypothesis is compared by its score alone.
"""

from __future__ import annotations

import math
import random

import pytest
import torch
from launches import counted

from tritonseq.kernels import reference
from tritonseq.kernels.advance import beam_advance, greedy_advance, row_advance
from tritonseq.kernels.advance.state import FAR_BELOW, Group, Pool, Written

BOTH = pytest.mark.parametrize("impl", ["torch", "triton"])


def new_written(samples: int, positions: int, beams: int) -> Written:
    """A state at its beginning, with values where nothing may be read that would show."""
    slots = torch.full((samples, positions, beams), -7)
    none = torch.zeros(samples, dtype=torch.int64)
    return Written(
        tokens=slots,
        lineage=torch.arange(beams).repeat(samples, positions, 1),
        parents=slots.clone(),
        newest=torch.full((samples, beams), -7),
        generated=none.clone(),
        step=none.clone(),
        limit=none + positions,
        done=none.bool(),
    )


def new_group(samples: int, beams: int) -> Group:
    running = torch.full((samples, beams), FAR_BELOW)
    running[:, 0] = 0.0
    zero = torch.zeros(samples, beams, dtype=torch.int64)
    pool = Pool(torch.full_like(running, FAR_BELOW), zero.bool(), zero - 1, zero, zero.clone())
    return Group(running, torch.ones(samples, dtype=torch.bool), pool)


def tensors(state: Written | Group | Pool) -> dict[str, torch.Tensor]:
    """All tensors of a state by name, the pool's too."""
    found = {}
    for name, value in state._asdict().items():
        inner = tensors(value) if isinstance(value, Pool) else {"": value}
        found |= {f"{name}.{key}".rstrip("."): tensor for key, tensor in inner.items()}
    return found


def copied(state, device: torch.device):
    """A state of its own memory on a device."""
    return type(state)(
        *(copied(x, device) if isinstance(x, tuple) else x.to(device, copy=True) for x in state)
    )


def assert_same(result, expected, *, ties: bool, where: str) -> None:
    held = expected.pool.done if isinstance(expected, Group) else None
    found, wanted = tensors(result), tensors(expected)
    for name, tensor in wanted.items():
        other = found[name].cpu()
        if ties and name in ("pool.end", "pool.slot", "pool.token"):
            tensor, other = tensor[held], other[held]
        same = (other == tensor) | (other.isnan() & tensor.isnan())
        assert same.all(), f"{where} {name}: {other} is not {tensor}"


def candidates(
    samples: int, beams: int, count: int, vocab_size: int, running: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best of random continuations, as `beam_topk` finds them."""
    logits = torch.randn(samples, beams, vocab_size) * 2
    logits[:, :, :2] += 2.0  # these may be ends
    log_probs = logits.log_softmax(dim=-1)
    scores, index = (log_probs + running[:, :, None]).flatten(1).topk(count, dim=1)
    return scores, index % vocab_size, index // vocab_size


class Search:
    """A search of several steps with random candidates, in samples of different lengths."""

    def __init__(self, seed: int) -> None:
        g = random.Random(seed)
        torch.manual_seed(seed)
        self.samples, self.beams = g.choice((1, 2, 3, 5)), g.choice((1, 2, 3, 4, 5, 8, 16))
        self.positions, number_of_ends = g.choice((1, 2, 7, 13)), g.choice((0, 1, 1, 2))
        self.count = max(2, 1 + number_of_ends) * self.beams + g.choice((0, 0, 3))
        # The first step has but one beam to continue.
        self.vocab_size = self.count + g.choice((0, 9))
        self.written = new_written(self.samples, self.positions, self.beams)
        self.group = new_group(self.samples, self.beams)
        for b in range(self.samples):
            self.written.limit[b] = g.randint(1, self.positions)
            if g.random() < 0.2:
                self.rest(b)
        lengths = torch.arange(self.positions + 1, dtype=torch.float64)
        self.options = {
            "powers": (lengths ** g.choice((0.0, 1.0, 0.6, 2.0, -0.5))).float(),
            "ends": torch.arange(number_of_ends) if number_of_ends else None,
            "stops_when_full": g.random() < 0.4,
            "bounds_by_limit": g.random() < 0.3,
            "retire": g.random() < 0.7,
        }

    def rest(self, b: int) -> None:
        """A sample to which nothing may be done."""
        self.written.step[b] = -1
        self.group.running[b] = math.nan
        self.group.pool.scores[b] = math.nan
        self.group.pool.end[b] = 99

    def run(self, impl: str, device: torch.device) -> int:
        """Returns the number of hypotheses that finished."""
        options = {k: x.to(device) if torch.is_tensor(x) else x for k, x in self.options.items()}
        for step in range(self.positions):
            resting = self.written.step < 0
            going = self.group.running.nan_to_num()
            best = candidates(self.samples, self.beams, self.count, self.vocab_size, going)
            best[0][resting] = math.nan  # whatever a resting sample is given
            if not self.options["retire"]:
                # Nothing takes a sample beyond its limit.
                self.written.step[self.written.generated >= self.written.limit] = -1
            before = copied(self.written, device), copied(self.group, device)
            own = copied(self.written, device), copied(self.group, device)
            reference.beam_advance(self.written, self.group, *best, **self.options)
            beam_advance(*own, *(x.to(device) for x in best), **options, impl=impl)
            where = f"{step=}"
            for result, expected, old in zip(own, (self.written, self.group), before, strict=True):
                assert_same(result, expected, ties=impl == "torch", where=where)
                if resting.all():
                    assert_same(result, copied(old, torch.device("cpu")), ties=False, where=where)
        return int(self.group.pool.done.sum())


class TestBeams:
    @pytest.mark.parametrize(("impl", "seeds"), [("torch", 120), ("triton", 50)])
    def test_sweep(self, impl, seeds, device, poison):
        assert sum(Search(seed).run(impl, device) for seed in range(seeds)) > 2 * seeds

    @pytest.mark.long
    @BOTH
    def test_wide(self, impl, device, poison):
        for seed in range(1000, 2500):
            Search(seed).run(impl, device)

    @pytest.mark.parametrize(("beams", "count"), [(16, 64), (32, 128), (7, 100)])
    def test_many_candidates(self, beams, count, device):
        written, group = new_written(2, 4, beams), new_group(2, beams)
        group.running.copy_(torch.randn(2, beams))
        own = copied(written, device), copied(group, device)
        for _ in range(3):
            best = candidates(2, beams, count, 40, group.running)
            options = {"powers": torch.arange(5.0) ** 0.8, "ends": torch.tensor([0, 1])}
            reference.beam_advance(written, group, *best, **options)
            options = {name: x.to(device) for name, x in options.items()}
            beam_advance(*own, *(x.to(device) for x in best), **options, impl="triton")
            assert_same(own[0], written, ties=False, where="written")
            assert_same(own[1], group, ties=False, where="group")

    def test_a_long_history(self, device):
        # More positions than are permuted at once, and a number of them that divides nothing.
        written, group = new_written(2, 701, 3), new_group(2, 3)
        written.generated.copy_(torch.tensor([700, 333]))
        written.step.copy_(torch.tensor([699, 332]))
        written.limit.fill_(701)
        written.lineage.copy_(torch.randint(0, 3, (2, 701, 3)))
        own = copied(written, device), copied(group, device)
        best = [
            torch.tensor([row, row]) for row in ([-1.0, -2, -3, -4], [5, 6, 7, 8], [2, 0, 0, 1])
        ]
        powers = torch.ones(702)
        reference.beam_advance(written, group, *best, powers=powers)
        best = [x.to(device) for x in best]
        beam_advance(*own, *best, powers=powers.to(device), impl="triton")
        assert_same(own[0], written, ties=False, where="written")
        assert written.lineage[0, :700, 1].equal(written.lineage[0, :700, 2])

    @BOTH
    def test_by_hand(self, impl, device):
        # Two beams; 9 ends. The second candidate finishes; the third may not, being the third.
        written, group = copied(new_written(1, 3, 2), device), copied(new_group(1, 2), device)
        options = {"powers": torch.tensor([1.0, 1, 2, 3]), "ends": torch.tensor([9])}
        options = {name: x.to(device) for name, x in options.items()}

        def step(scores, tokens, parents):
            rows = [torch.tensor([row], device=device) for row in (scores, tokens, parents)]
            beam_advance(written, group, *rows, **options, impl=impl)

        step([-1.0, -2.0, -3.0, -4.0], [5, 9, 9, 6], [0, 0, 1, 0])
        assert written.newest.tolist() == [[5, 6]]
        assert group.running.tolist() == [[-1.0, -4.0]]
        assert group.pool.scores.tolist() == [[-2.0, FAR_BELOW]]
        assert group.pool.done.tolist() == [[True, False]]
        assert (int(written.generated), int(written.step)) == (1, 0)

        step([-2.0, -3.0, -5.0, -6.0], [1, 2, 3, 4], [1, 0, 0, 1])
        assert written.parents[0, 1].tolist() == [1, 0]
        assert written.lineage[0].tolist() == [[1, 0], [0, 1], [0, 1]]
        assert (int(written.generated), int(written.step)) == (2, 1)

        # The limit: both finish with -3 / 3 and -9 / 3, and only one beats what is there.
        step([-3.0, -9.0, -9.5, -9.9], [7, 8, 9, 9], [1, 1, 0, 0])
        assert group.pool.scores.tolist() == [[-1.0, -2.0]]
        assert group.pool.end.tolist() == [[2, 0]]
        assert group.pool.slot.tolist() == [[1, 0]]
        assert group.pool.token.tolist() == [[7, 9]]
        assert written.done.tolist() == [True]
        assert int(written.step) == -1

    @BOTH
    @pytest.mark.parametrize("retire", [False, True])
    def test_a_full_pool(self, impl, retire, device):
        for stops in (False, True):
            written, group = copied(new_written(1, 9, 1), device), copied(new_group(1, 1), device)
            rows = [torch.tensor([row], device=device) for row in ([-1.0, -1.5], [9, 3], [0, 0])]
            # A penalty that lets a long beam hope: -1.5 / 1000 beats -1.
            powers = torch.full((10,), 1000.0, device=device)
            powers[1] = 1.0
            beam_advance(
                written, group, *rows, powers=powers, ends=rows[1][0, :1], stops_when_full=stops,
                bounds_by_limit=True, retire=retire, impl=impl,
            )  # fmt: skip
            assert group.improvable.tolist() == [True]
            assert written.done.tolist() == [stops]
            assert written.step.tolist() == [-1 if stops and retire else 0]

    @BOTH
    def test_dead_candidates(self, impl, device):
        # Everything is banned: scores are minus infinity, and ends are above them.
        written, group = copied(new_written(1, 4, 2), device), copied(new_group(1, 2), device)
        scores = torch.tensor([[-1.0, -math.inf, -math.inf, -math.inf]], device=device)
        tokens, parents = torch.arange(4, device=device)[None], torch.zeros(1, 4, dtype=torch.int64)
        powers = torch.ones(5, device=device)
        beam_advance(written, group, scores, tokens, parents.to(device), powers=powers, impl=impl)
        assert group.running.tolist() == [[-1.0, -math.inf]]
        assert not written.done
        assert not group.pool.done.any()

    def test_not_a_number_leaves_valid_slots(self, device):
        written, group = copied(new_written(1, 4, 4), device), copied(new_group(1, 4), device)
        written.generated.add_(2)
        scores = torch.full((1, 8), math.nan, device=device)
        tokens = torch.arange(8, device=device)[None]
        powers = torch.ones(5, device=device)
        beam_advance(written, group, scores, tokens, tokens % 4, powers=powers, impl="triton")
        assert ((written.lineage >= 0) & (written.lineage < 4)).all()


class TestGreedy:
    @pytest.mark.parametrize(("impl", "seeds"), [("torch", 80), ("triton", 40)])
    def test_sweep(self, impl, seeds, device):
        for seed in range(seeds):
            self.check(seed, impl, device)

    @staticmethod
    def check(seed: int, impl: str, device: torch.device) -> None:
        g = random.Random(seed)
        torch.manual_seed(seed)
        samples, beams, positions = g.choice((1, 2, 5)), g.choice((1, 1, 3)), g.choice((1, 3, 6))
        vocab_size, width = g.choice((4, 6)), g.choice((6, 16))
        written = new_written(samples, positions, beams)
        written.limit.copy_(torch.randint(1, positions + 1, (samples,)))
        written.step.masked_fill_(torch.rand(samples) < 0.2, -1)
        ended = torch.zeros(samples, beams, dtype=torch.bool)
        options = {
            "ends": g.choice((None, torch.tensor([1]), torch.tensor([0, 3]))),
            "pad_token_id": 2,
            "retire": g.random() < 0.6,
        }
        own, own_ended = copied(written, device), ended.to(device, copy=True)
        for _ in range(positions):
            logits = torch.full((samples, beams, width), math.nan)
            logits[:, :, :vocab_size] = torch.randn(samples, beams, vocab_size)
            dtype = (torch.float32, torch.float16, torch.bfloat16)[seed % 3]
            logits = logits.to(dtype)[:, :, :vocab_size]
            if not options["retire"]:
                for state in (written, own):
                    state.step[state.generated >= state.limit] = -1
            reference.greedy_advance(written, ended, logits, **options)
            moved = {k: x.to(device) if torch.is_tensor(x) else x for k, x in options.items()}
            greedy_advance(own, own_ended, logits.to(device), **moved, impl=impl)
            assert_same(own, written, ties=False, where=f"{seed=}")
            assert torch.equal(own_ended.cpu(), ended)

    @BOTH
    def test_more_than_a_chunk(self, impl, device):
        written = copied(new_written(4, 3, 1), device)
        logits = torch.randn(4, 1, 17001, device=device)
        places = [0, 17000, 16383, 16384]
        logits[torch.arange(4), 0, places] = 30.0
        logits[1, 0, 16999] = 30.0  # as good, and first
        ended = torch.zeros(4, 1, dtype=torch.bool, device=device)
        greedy_advance(written, ended, logits, impl=impl)
        assert written.newest.flatten().tolist() == [0, 16999, 16383, 16384]

    @BOTH
    @pytest.mark.parametrize("value", [-math.inf, math.inf, math.nan])
    def test_a_meaningless_row_stays_within_the_vocabulary(self, value, impl, device):
        written = copied(new_written(1, 3, 1), device)
        ended = torch.zeros(1, 1, dtype=torch.bool, device=device)
        greedy_advance(written, ended, torch.full((1, 1, 5), value, device=device), impl=impl)
        assert written.newest.tolist() == [[0]]


class TestRows:
    @pytest.mark.parametrize("seed", range(30))
    def test_sweep(self, seed):
        g = random.Random(seed)
        torch.manual_seed(seed)
        written = new_written(3, 4, 2)
        written.limit.copy_(torch.randint(1, 5, (3,)))
        ended = torch.zeros(3, 2, dtype=torch.bool)
        own, own_ended = copied(written, torch.device("cpu")), ended.clone()
        for _ in range(4):
            tokens = torch.randint(0, 5, (3, 2))
            hits = tokens == 4 if g.random() < 0.5 else None
            options = {"ends": torch.tensor([1, 3]), "hits": hits}
            reference.row_advance(written, ended, tokens, **options)
            row_advance(own, own_ended, tokens, **options)
            assert_same(own, written, ties=False, where=f"{seed=}")
            assert torch.equal(own_ended, ended)


class TestCost:
    def test_one_launch(self):
        written, group = new_written(2, 3, 2), new_group(2, 2)
        best = candidates(2, 2, 4, 9, group.running)
        ended, logits, powers = (
            torch.zeros(2, 2, dtype=torch.bool),
            torch.randn(2, 2, 9),
            torch.ones(4),
        )
        with counted() as names:
            beam_advance(written, group, *best, powers=powers)
            greedy_advance(written, ended, logits)
        assert names == ["advance", "greedy"]


class TestFaults:
    def test_candidates(self):
        written, group = new_written(2, 3, 2), new_group(2, 2)
        best = candidates(2, 2, 4, 9, group.running)
        for wrong in (
            (best[0][:, :1], best[1][:, :1], best[2][:, :1]),
            (best[0], best[1][:, :3], best[2]),
            (best[0][:1], best[1][:1], best[2][:1]),
        ):
            with pytest.raises(ValueError, match=r"scores are .* C >= 2|; pass torch"):
                beam_advance(written, group, *wrong, powers=torch.ones(4))

    @pytest.mark.parametrize("impl", ["torch", "triton"])
    @pytest.mark.parametrize("field", Written._fields)
    def test_every_field_of_what_is_written(self, field, impl):
        """One sample too few, or another dtype, would be written past the end of memory."""
        group = new_group(2, 2)
        best = candidates(2, 2, 4, 9, group.running)
        whole = new_written(2, 3, 2)
        ended, logits = torch.zeros(2, 2, dtype=torch.bool), torch.randn(2, 2, 9)
        for wrong in (getattr(whole, field)[:1], getattr(whole, field).to(torch.float32)):
            written = whole._replace(**{field: wrong})
            with pytest.raises(ValueError, match="; pass torch"):
                beam_advance(written, group, *best, powers=torch.ones(4), impl=impl)
            with pytest.raises(ValueError, match="; pass torch"):
                greedy_advance(written, ended, logits, impl=impl)

    @pytest.mark.parametrize("field", ["running", "improvable", *Pool._fields])
    def test_every_field_of_a_group(self, field):
        written, whole = new_written(2, 3, 2), new_group(2, 2)
        best = candidates(2, 2, 4, 9, whole.running)
        if field in Pool._fields and field != "scores":
            short = getattr(whole.pool, field)[:, :1]
            group = whole._replace(pool=whole.pool._replace(**{field: short}))
        else:
            group = whole._replace(running=whole.running[:1])
        with pytest.raises(ValueError, match="; pass torch"):
            beam_advance(written, group, *best, powers=torch.ones(4))

    def test_tables_and_logits(self):
        written, group = new_written(2, 3, 2), new_group(2, 2)
        best = candidates(2, 2, 4, 9, group.running)
        ended = torch.zeros(2, 2, dtype=torch.bool)
        for powers in (torch.ones(4, 1), torch.ones(4, dtype=torch.float64), torch.ones(1)):
            with pytest.raises(ValueError, match=r"pass float32 \[N\]"):
                beam_advance(written, group, *best, powers=powers)
        with pytest.raises(ValueError, match=r"pass int64 \[E\]"):
            beam_advance(written, group, *best, powers=torch.ones(4), ends=torch.zeros(1))
        for shape in ((2, 2, 0), (1, 2, 9), (4, 9)):
            with pytest.raises(ValueError, match=r"\[2, 2, V\]"):
                greedy_advance(written, ended, torch.randn(shape))

    def test_memory(self):
        group = new_group(2, 2)
        written = new_written(2, 3, 2)
        strided = new_written(2, 6, 2).tokens[:, ::2]
        written = written._replace(tokens=strided)
        best = candidates(2, 2, 4, 9, group.running)
        with pytest.raises(ValueError, match=r"own_tokens has strides .* make it contiguous"):
            beam_advance(written, group, *best, powers=torch.ones(7), impl="triton")
        with pytest.raises(ValueError, match="tokens has strides"):
            ended = torch.zeros(2, 2, dtype=torch.bool)
            greedy_advance(written, ended, torch.randn(2, 2, 9), impl="triton")
