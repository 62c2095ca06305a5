"""`decode_attention` on the CPU: parts that are read as one, and idle samples that are left out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from attention_cases import (
    CPU,
    DTYPES,
    EVERY_ROWS,
    ROWS,
    Case,
    assert_appended,
    check,
    grown_case,
    random_case,
    side_by_side,
    without_nan,
)

from tritonseq.kernels import decode_attention
from tritonseq.kernels.attention import eager


class TestContiguousCaches:
    """The generated part right behind the source in memory, which the CPU reads as one."""

    @pytest.fixture
    def joined(self, monkeypatch):
        """For every call, whether its parts were read as one."""
        seen, join = [], eager._join

        def spy(*arguments):
            result = join(*arguments)
            seen.append(result is not None)
            return result

        monkeypatch.setattr(eager, "_join", spy)
        return seen

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("step", [0, 3, 5])
    def test_without_masks_but_for_beams(self, dtype, step, joined):
        for beams, rows in itertools.product((1, 2, 5), ROWS):
            case = grown_case(beams=beams, rows=rows, target=6, step=step).to(dtype)
            for side in ("key", "value"):
                case.options[f"target_{side}"][:, :, step:] = math.nan
            check(side_by_side(case), impl="torch")
        assert joined == [True] * 9

    @pytest.mark.parametrize("garbage", [math.nan, 30.0])
    @pytest.mark.parametrize("beams", [1, 2, 4, 16])
    @pytest.mark.parametrize("bias", [1, 8, 700, None])
    @pytest.mark.parametrize("source_len", [[20, 0, 13], [7, 7, 7], None], ids=str)
    @EVERY_ROWS
    def test_every_mask(self, rows, source_len, bias, beams, garbage, joined):
        case = grown_case(samples=3, beams=beams, rows=rows)
        steps, options = [0, 6, 3], case.options
        options["step"] = torch.tensor(steps)
        for sample, step in enumerate(steps):
            dead = torch.ones(9, beams, dtype=torch.bool)
            dead[:step].scatter_(1, options["lineage"][sample, :step], False)
            options["lineage"][sample, step:] = -7
            end = 20 if source_len is None else source_len[sample]
            for side in ("key", "value"):
                options[f"target_{side}"][sample, :, dead] = garbage
                options[f"source_{side}"][sample, :, end:] = garbage
        if source_len is not None:
            options["source_len"] = torch.tensor(source_len)
        if bias is not None:
            options["bias"] = torch.randn(2, bias)
        check(side_by_side(case), impl="torch")
        assert joined == [True]

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("poisoned", [True, False])
    def test_sweep(self, dtype, poisoned, joined):
        for seed in range(1000, 1400):
            case = random_case(seed, CPU, small=True).to(dtype)
            if {"source_key", "target_key"} <= case.options.keys():
                check(side_by_side(case if poisoned else without_nan(case)), impl="torch")
        assert joined.count(True) > 20
        assert joined.count(False) > 20

    @pytest.mark.parametrize("every", [1, 2])
    def test_parts_that_only_look_adjacent(self, every, joined):
        """Right behind in memory, but a beam's positions together, or every other position."""
        case = side_by_side(grown_case(target=6 * every, beams=3, step=5))
        case.options["lineage"] = case.options["lineage"][:, :6].contiguous()
        for side in ("key", "value"):
            target = case.options[f"target_{side}"][:, :, ::every]
            sample, head, _, row, item = target.stride()
            if every == 1:
                target = target.as_strided(target.shape, (sample, head, row, 6 * row, item))
            case.options[f"target_{side}"] = target
        check(case, impl="torch")
        assert joined == [False]


class TestIdleOnTheCPU:
    """Samples that rest, and hold NaN, among others: left out, or computed and forgotten."""

    @pytest.fixture(autouse=True)
    def never_by_definition(self, monkeypatch):
        def fail(_):
            raise AssertionError("the slow path")

        monkeypatch.setattr(eager, "attend_by_definition", fail)

    @pytest.fixture(params=[-1, 2**60], ids=["left out", "forgotten"])
    def together(self, request, monkeypatch):
        """Whether idle samples are computed beside the others."""
        monkeypatch.setattr(eager, "RUN_BYTES", request.param)
        return request.param > 0

    @staticmethod
    def rested(case: Case, idle: tuple[int, ...]) -> Case:
        """With some samples idle, and NaN or nonsense in all that is theirs."""
        rested = case.copy()
        for name, x in rested.tensors().items():
            for sample in idle:
                nonsense = {"step": -1, "source_len": 0, "lineage": 99}
                x[sample] = nonsense.get(name, math.nan)
        return side_by_side(rested)

    @pytest.mark.parametrize("idle", [(0,), (1, 3), (2, 3, 4), (0, 1, 2, 4), (0, 1, 2, 3, 4)])
    @pytest.mark.parametrize("beams", [1, 4, 17])
    @EVERY_ROWS
    def test_others_do_not_see_it(self, rows, beams, idle, together):
        case = grown_case(samples=5, beams=beams, rows=rows)
        expected = side_by_side(case).run(decode_attention, impl="torch")
        active = [sample for sample in range(5) if sample not in idle]
        rested = self.rested(case, idle)
        before = rested.copy()
        result = rested.run(decode_attention, impl="torch")
        if rows == (1, 1):
            assert torch.equal(result[active], expected[active])
        # The weight of a second row takes an exponential, whose last bit torch lets depend on what
        # else is in the tensor.
        torch.testing.assert_close(result[active], expected[active], rtol=1e-6, atol=1e-7)
        assert (result[list(idle)] == 0).all()
        assert_appended(before, rested)

    @pytest.mark.parametrize("source_len", [None, [20, 11, 0, 20, 7]], ids=str)
    @pytest.mark.parametrize("bias", [None, 8])
    @pytest.mark.parametrize("beams", [1, 4, 17])
    @pytest.mark.parametrize("adjacent", [True, False])
    def test_at_any_steps(self, adjacent, beams, bias, source_len, together):
        for steps in ([-1, 6, 0, -1, 3], [8, -1, -1, -1, -1], [-1, 2, -1, 2, -1], [-1] * 5):
            case = grown_case(samples=5, beams=beams)
            case.options["step"] = torch.tensor(steps)
            if source_len is not None:
                case.options["source_len"] = torch.tensor(source_len)
            if bias is not None:
                case.options["bias"] = torch.randn(2, bias)
            check(side_by_side(case) if adjacent else case, impl="torch")

    @pytest.mark.parametrize("steps", [[0, 3, 8], [8, 0, 1], [5, 5, 2]], ids=str)
    @pytest.mark.parametrize("beams", [1, 4])
    def test_refilled_samples_are_as_fast(self, beams, steps, monkeypatch):
        """Wherever the samples stand, it is one call of torch's attention."""
        calls, flash = [], eager.flash_attention
        monkeypatch.setattr(
            eager,
            "flash_attention",
            lambda *given, **how: calls.append(1) or flash(*given, **how),
        )
        case = grown_case(samples=3, beams=beams)
        case.options["step"] = torch.tensor(steps)
        check(side_by_side(case), impl="torch")
        assert len(calls) == 1
