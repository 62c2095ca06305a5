"""`decode_attention`: torch and Triton against the definition, whatever is thrown at them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from attention_cases import (
    CPU,
    DTYPES,
    EVERY_ROWS,
    HEAD_DIMS,
    ROWS,
    Case,
    assert_appended,
    assert_close_to_definition,
    check,
    grown_case,
    random_case,
    side_by_side,
)
from launches import counted

from tritonseq.kernels import decode_attention, reference
from tritonseq.kernels.attention import eager

BOTH = pytest.mark.parametrize("impl", ["torch", "triton"])
PARTS = tuple(itertools.product(("source", "target"), ("key", "value")))


class TestSweep:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_torch(self, dtype):
        for seed in range(80):
            check(random_case(seed, CPU).to(dtype), impl="torch")

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_sources_read_one_by_one(self, dtype, monkeypatch):
        split, is_faster = [], eager._is_split_faster
        monkeypatch.setattr(eager, "SPLIT_BYTES", 0)
        # Nor are idle samples ever computed beside others.
        monkeypatch.setattr(eager, "RUN_BYTES", -1)
        monkeypatch.setattr(
            eager,
            "_is_split_faster",
            lambda *given: split.append(is_faster(*given)) or split[-1],
        )
        for seed in range(120):
            check(random_case(seed, CPU, small=True).to(dtype), impl="torch")
        assert split.count(True) > 10

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("seeds", [range(0, 20), range(20, 40)], ids=["0-19", "20-39"])
    def test_triton(self, seeds, dtype, device, poison):
        counters = torch.zeros(3 * 2 * 20, dtype=torch.int32, device=device)
        for seed in seeds:
            case = random_case(seed, device, small=seed % 4 > 0).to(dtype)
            counted = {"counters": counters} if seed % 8 < 4 else {}
            check(case, impl="triton", splits=(None, 3)[seed % 3 == 1], **counted)
            assert not counters.any()

    def test_definition(self):
        for seed in range(80):
            case = random_case(seed, CPU, small=True)
            before = case.copy()
            assert_close_to_definition(case.run(reference.decode_attention), before)
            if "target_key" in before.options:
                assert_appended(before, case)

    @pytest.mark.long
    @BOTH
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_wide(self, impl, dtype, device, poison):
        for seed in range(100, 700):
            check(random_case(seed, device, small=seed % 2 > 0).to(dtype), impl=impl)


class TestShapes:
    @BOTH
    @pytest.mark.parametrize("head_dim", HEAD_DIMS)
    @EVERY_ROWS
    def test_head_dims(self, head_dim, rows, impl, device, poison):
        check(grown_case(head_dim=head_dim, rows=rows, source=70, device=device), impl=impl)

    @BOTH
    @pytest.mark.parametrize("beams", [1, 2, 5, 7, 8, 9, 15, 16, 17, 33])
    @EVERY_ROWS
    def test_beams(self, beams, rows, impl, device, poison):
        check(grown_case(beams=beams, rows=rows, device=device), impl=impl)

    @BOTH
    def test_no_samples(self, impl, device):
        case = grown_case(samples=0, device=device)
        assert case.run(decode_attention, impl=impl).shape == (0, 3, 1, 2, 16)

    @BOTH
    def test_longer_than_one_split(self, impl, device, poison):
        # Several splits of the source, and of the generated part, whose lengths share no factor.
        case = grown_case(samples=1, heads=1, source=777, target=300, step=290, device=device)
        check(case, impl=impl)


class TestSplits:
    @pytest.mark.parametrize("splits", [1, 2, 3, 7, 40])
    def test_any_number(self, splits, device, poison):
        # 40 is more than there are keys, so that most splits are empty.
        check(grown_case(device=device), impl="triton", splits=splits)

    def test_nothing_in_any_split(self, device, poison):
        case = grown_case(device=device)
        options = {
            "source_key": case.options["source_key"],
            "source_value": case.options["source_value"],
            "source_len": torch.tensor([0, 20], device=device),
        }
        result = decode_attention(case.rows[0], **options, splits=5, impl="triton")
        assert (result[0] == 0).all()
        assert_close_to_definition(result, Case((case.rows[0], None, None), options))


class TestMergeByTheLastProgram:
    """With counters one launch does what two do without."""

    @staticmethod
    def counters(case: Case) -> torch.Tensor:
        _, beams, _, heads, _ = case.rows[0].shape
        size = len(case.rows[0]) * heads * beams
        return torch.zeros(size, dtype=torch.int32, device=case.rows[0].device)

    @pytest.mark.parametrize(("beams", "head_dim"), [(1, 16), (3, 24), (17, 16), (3, 256)])
    @EVERY_ROWS
    def test_to_the_last_bit(self, rows, beams, head_dim, device, poison):
        # Of the samples one is idle, one reads everything, one leaves splits without work, and the
        # last has one split alone.
        case = grown_case(samples=4, heads=1, beams=beams, rows=rows, head_dim=head_dim, source=70)
        case.options["source_len"] = torch.tensor([70, 70, 33, 0])
        case.options["step"] = torch.tensor([-1, 8, 0, 2])
        case = case.map(lambda _, x: x.to(device))
        options = {"splits": 5, "impl": "triton"}
        expected = case.copy().run(decode_attention, **options)
        options["counters"] = self.counters(case)
        check(case.copy(), **options)
        assert torch.equal(case.copy().run(decode_attention, **options), expected)
        assert not options["counters"].any()
        assert (expected[0] == 0).all()

    def test_many_splits(self, device, poison):
        # More than are merged at once for two rows of this size.
        case = grown_case(samples=1, heads=1, source=160, rows=(2, 2), head_dim=256, device=device)
        check(case, splits=12, counters=self.counters(case), impl="triton")

    def test_one_launch(self, device):
        case = grown_case(source=300, device=device)
        counters = self.counters(case)
        with counted() as launches:
            case.run(decode_attention)
            case.run(decode_attention, counters=counters)
        assert launches == ["attend", "reduce", "attend"]

    def test_an_open_count_would_be_seen(self, device, poison):
        case = grown_case(source=300, device=device)
        result = case.run(decode_attention, counters=self.counters(case) + 7, impl="triton")
        assert result.isnan().all()

    def test_splits_without_work_read_and_count_nothing(self, device, poison):
        case = grown_case(source=300, step=0, device=device)
        case.options["source_len"] = torch.full((2,), 256, device=device)
        result = case.run(decode_attention, counters=self.counters(case) + 7, impl="triton")
        assert result.isfinite().all()


class TestWhatMustNotLeak:
    @BOTH
    @pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
    def test_dead_slots_and_padding(self, impl, garbage, device, poison):
        case = grown_case(device=device)
        source_len = torch.tensor([0, 13], device=device)
        options = {**case.options, "source_len": source_len}
        options["lineage"][:, :6] = torch.tensor([0, 0, 2])
        for side in ("key", "value"):
            options[f"source_{side}"][0] = garbage
            options[f"source_{side}"][1, :, 13:] = garbage
            options[f"target_{side}"][:, :, :6, 1] = garbage
            options[f"target_{side}"][:, :, 6:] = garbage
        check(Case(case.rows, options), impl=impl)

    @BOTH
    @EVERY_ROWS
    def test_idle_samples(self, rows, impl, device, poison):
        case = grown_case(rows=rows, device=device)
        case.options["step"][0] = -1
        case.options["lineage"][0] = 99
        for x in (*case.rows, *(case.options[f"{part}_{side}"] for part, side in PARTS)):
            x[0] = math.nan
        before = case.copy()
        result = case.run(decode_attention, impl=impl)
        assert (result[0] == 0).all()
        assert result[1].isfinite().all()
        assert_appended(before, case)

    @BOTH
    def test_idle_samples_without_a_target(self, impl, device, poison):
        case = grown_case(device=device)
        result = decode_attention(
            case.rows[0],
            source_key=case.options["source_key"],
            source_value=case.options["source_value"],
            step=torch.tensor([-1, 0], device=device),
            impl=impl,
        )
        assert (result[0] == 0).all()
        assert (result[1] != 0).all()

    @BOTH
    def test_second_row_does_not_reach_the_first(self, impl, device, poison):
        case = grown_case(rows=(2, 2), device=device)
        query, key, value = case.rows
        alone = Case((query[:, :, :1], key[:, :, :1], value[:, :, :1]), case.copy().options)
        expected = alone.run(decode_attention, impl=impl)
        key[:, :, 1], value[:, :, 1] = math.nan, math.nan
        result = case.run(decode_attention, impl=impl)
        torch.testing.assert_close(result[:, :, :1], expected, rtol=1e-5, atol=1e-6)

    @BOTH
    @EVERY_ROWS
    def test_a_new_nan_stays_in_its_beam(self, rows, impl, device, poison):
        case = grown_case(rows=rows, device=device)
        case.rows[2][0, 1] = math.nan
        result = case.run(decode_attention, impl=impl)
        assert result[0, 1].isnan().all()
        result[0, 1] = 0
        assert result.isfinite().all()

    def test_a_step_beyond_the_cache_stores_nothing(self, device):
        case = grown_case(step=9, device=device)
        before = case.copy()
        result = case.run(decode_attention, impl="triton")
        assert torch.equal(case.options["target_key"], before.options["target_key"])
        assert_close_to_definition(result, before)

    def test_an_unwritten_output_would_be_seen(self, poison, device, monkeypatch):
        from tritonseq.kernels.attention import kernel

        monkeypatch.setattr(kernel, "attention_launches", lambda *_: [])
        assert grown_case(device=device).run(decode_attention, impl="triton").isnan().all()


class TestRowsThatAreNotNeeded:
    """The last row alone: the same output as beside the first, and the same caches."""

    @BOTH
    @pytest.mark.parametrize("bias", [None, 5, 40])
    @pytest.mark.parametrize("beams", [1, 5, 16, 17])
    @pytest.mark.parametrize("adjacent", [True, False])
    def test_last_row(self, adjacent, beams, bias, impl, device, poison):
        both = grown_case(beams=beams, rows=(2, 2), device=device)
        both.options["source_len"] = torch.tensor([20, 13], device=device)
        both.options["step"] = torch.tensor([0, 6], device=device)
        if bias is not None:
            both.options["bias"] = torch.randn(2, bias, device=device)
        query, *new = both.rows
        last = Case((query[:, :, 1:], *new), both.copy().options)
        if adjacent:
            both, last = side_by_side(both), side_by_side(last)
        expected = both.run(decode_attention, impl=impl)
        result = last.run(decode_attention, impl=impl)
        torch.testing.assert_close(result, expected[:, :, 1:], rtol=1e-5, atol=1e-6)
        for name in ("target_key", "target_value"):
            assert torch.equal(last.options[name], both.options[name])

    @BOTH
    def test_nothing_but_new_rows(self, impl, device, poison):
        query, key, value = grown_case(rows=(1, 2), device=device).rows
        check(Case((query, key, value), {}), impl=impl)
        check(Case((query, key, value), {"bias": torch.randn(2, 3, device=device)}), impl=impl)


class TestBiasByRow:
    """Every query row with a bias of its own, as ProphetNet has it."""

    @pytest.mark.parametrize(
        ("impl", "beams"), [("torch", 1), ("torch", 17), ("torch", 5), ("triton", 5)]
    )
    @pytest.mark.parametrize("rows", ROWS[1:], ids=["2", "last of 2"])
    @pytest.mark.parametrize("adjacent", [True, False])
    def test_refilled_samples_among_nan(self, adjacent, beams, rows, impl, device, poison):
        case = grown_case(samples=3, beams=beams, rows=rows)
        options, steps, lengths = case.options, [0, 6, 3], [20, 0, 13]
        options["step"], options["source_len"] = torch.tensor(steps), torch.tensor(lengths)
        bias = torch.randn(3, beams, rows[0], 2, 40)
        for sample, (step, length) in enumerate(zip(steps, lengths, strict=True)):
            bias[sample, ..., length + step + rows[1] :] = math.nan
            for side in ("key", "value"):
                options[f"source_{side}"][sample, :, length:] = math.nan
                options[f"target_{side}"][sample, :, step:] = math.nan
        options["bias"] = bias
        case = case.map(lambda _, x: x.to(device))
        check(side_by_side(case) if adjacent else case, impl=impl)

    @BOTH
    @EVERY_ROWS
    def test_one_that_all_rows_share_is_that_of_the_heads(self, rows, impl, device, poison):
        shared = grown_case(beams=3, rows=rows, device=device)
        shared.options["bias"] = torch.randn(2, 9, device=device)
        own = shared.copy()
        own.options["bias"] = own.options["bias"].expand(2, 3, rows[0], 2, 9)
        results = [case.run(decode_attention, impl=impl) for case in (shared, own)]
        assert torch.equal(*results)


class TestAgainstCopiedCaches:
    """Twelve steps of beams that change places, against caches that are copied as they do."""

    @BOTH
    @EVERY_ROWS
    def test_same_attention(self, rows, impl, device, poison):
        queries, new = rows
        samples, beams, heads, head_dim, source, target = 2, 4, 2, 24, 11, 12
        source_key, source_value = torch.randn(2, samples, heads, source, head_dim, device=device)
        target_key, target_value = torch.full(
            (2, samples, heads, target, beams, head_dim), math.nan, device=device
        )
        # [B, K, H, N, D], each beam with a copy of the source
        key = source_key[:, None].repeat(1, beams, 1, 1, 1)
        value = source_value[:, None].repeat(1, beams, 1, 1, 1)
        lineage = torch.zeros(samples, target, beams, dtype=torch.int64, device=device)
        for step in range(target):
            query, new_key, new_value = torch.randn(
                3, samples, beams, new, heads, head_dim, device=device
            )
            query = query[:, :, -queries:]
            result = decode_attention(
                query,
                new_key,
                new_value,
                source_key=source_key,
                source_value=source_value,
                target_key=target_key,
                target_value=target_value,
                lineage=lineage,
                step=torch.full((samples,), step, device=device),
                impl=impl,
            )
            full_key = torch.cat([key, new_key.transpose(2, 3)], 3)
            full_value = torch.cat([value, new_value.transpose(2, 3)], 3)
            causal = torch.ones(queries, full_key.shape[3], dtype=torch.bool, device=device)
            causal = causal.tril(full_key.shape[3] - queries)
            expected = F.scaled_dot_product_attention(
                query.transpose(2, 3), full_key, full_value, attn_mask=causal
            )
            torch.testing.assert_close(result, expected.transpose(2, 3), rtol=1e-4, atol=1e-5)
            key, value = (
                full_key[:, :, :, : source + step + 1],
                full_value[:, :, :, : source + step + 1],
            )
            parents = torch.randint(0, beams, (samples, beams), device=device)
            index = parents[:, :, None, None, None]
            key, value = (x.gather(1, index.expand_as(x)) for x in (key, value))
            lineage[:, step] = torch.arange(beams, device=device)
            past = parents[:, None].expand(-1, step + 1, -1)
            lineage[:, : step + 1] = lineage[:, : step + 1].gather(2, past)


class TestIndependence:
    """A sample's result owes nothing to its neighbours, nor to the room that they need."""

    @staticmethod
    def alone(case: Case, sample: int, source: int, target: int) -> Case:
        """One sample, in caches no larger than it needs."""

        def cut(name: str, x: torch.Tensor) -> torch.Tensor:
            x = x[sample : sample + 1]
            if name.startswith("source_") and x.dim() > 1:
                return x[:, :, :source]
            if name.startswith("target_"):
                return x[:, :, :target]
            return x[:, :target] if name == "lineage" else x

        return case.map(cut)

    @BOTH
    def test_batch(self, impl, device, poison):
        case = grown_case(samples=3, source=600, target=270, step=0, heads=1, device=device)
        lengths, steps = [600, 7, 300], [3, 260, 0]
        case.options["source_len"] = torch.tensor(lengths, device=device)
        case.options["step"] = torch.tensor(steps, device=device)
        before = case.copy()
        together = case.run(decode_attention, impl=impl)
        for sample in range(3):
            single = self.alone(before, sample, lengths[sample], steps[sample] + 1)
            result = single.run(decode_attention, impl=impl)
            if impl == "triton":
                assert torch.equal(result[0], together[sample])
            torch.testing.assert_close(result[0], together[sample], rtol=1e-5, atol=1e-6)


BAD_INPUT = {
    "4-d query": ({"query": torch.zeros(2, 3, 2, 16)}, r"query is \[2, 3, 2, 16\]; pass"),
    "3 rows": ({"query": torch.zeros(2, 3, 3, 2, 16)}, "Q 1 or 2"),
    "3 new rows": ({"new_key": torch.zeros(2, 3, 3, 2, 16)}, r"pass \[2, 3, 1, 2, 16\]"),
    "fewer new rows": ({"query": torch.zeros(2, 3, 2, 2, 16)}, r"pass \[2, 3, 2, 2, 16\]"),
    "new rows that differ": (
        {"new_key": torch.zeros(2, 3, 2, 2, 16)},
        r"new_value is \[2, 3, 1, 2, 16\]; .* pass \[2, 3, 2, 2, 16\]",
    ),
    "float64": ({"query": torch.zeros(2, 3, 1, 2, 16).double()}, "float64; pass float16"),
    "strided query": (
        {"query": torch.zeros(2, 3, 1, 16, 2).transpose(3, 4)},
        "make its last dimension contiguous",
    ),
    "no value": ({"new_value": None}, "one of new_key and new_value is missing"),
    "no source key": ({"source_key": None}, "one of source_key and source_value is missing"),
    "no target value": ({"target_value": None}, "one of target_key and target_value"),
    "head size": ({"source_key": torch.zeros(2, 2, 20, 24)}, r"pass \[2, 2, 20, 16\]"),
    "heads": ({"new_key": torch.zeros(2, 3, 1, 4, 16)}, r"pass \[2, 3, 1, 2, 16\]"),
    "beams": ({"target_key": torch.zeros(2, 2, 9, 4, 16)}, r"pass \[2, 2, 9, 3, 16\]"),
    "values too short": ({"source_value": torch.zeros(2, 2, 19, 16)}, "source_value is"),
    "dims": ({"source_key": torch.zeros(2, 2, 16)}, r"source_key is \[2, 2, 16\]"),
    "mixed dtypes": ({"source_key": torch.zeros(2, 2, 20, 16).half()}, "convert it to"),
    "no lineage": ({"lineage": None}, r"for 3 beams pass it as \[B, T, K\]"),
    "short lineage": ({"lineage": torch.zeros(2, 8, 3).long()}, r"int64 \[2, 9, 3\]"),
    "float lineage": ({"lineage": torch.zeros(2, 9, 3)}, "lineage is torch.float32"),
    "no step": ({"step": None}, "target_key needs new_key and step"),
    "step shape": ({"step": torch.zeros(3).long()}, r"step is torch.int64 \[3\]"),
    "bias dtype": (
        {"bias": torch.zeros(2, 5).half()},
        r"pass float32 \[2, N\] or \[2, 3, 1, 2, N\] with N > 0",
    ),
    "bias beams": (
        {"bias": torch.zeros(2, 4, 1, 2, 5)},
        r"bias is torch.float32 \[2, 4, 1, 2, 5\]",
    ),
    "bias dims": ({"bias": torch.zeros(3, 1, 2, 5)}, r"bias is torch.float32 \[3, 1, 2, 5\]"),
    "strided bias": (
        {"bias": torch.zeros(2, 3, 1, 5, 2).transpose(3, 4)},
        "bias has strides .* make its last dimension contiguous",
    ),
    "bias heads": ({"bias": torch.zeros(3, 5)}, r"bias is torch.float32 \[3, 5\]"),
    "empty bias": ({"bias": torch.zeros(2, 0)}, "with N > 0"),
    "splits": ({"splits": 0}, "splits is 0; pass 1 or more"),
    "few counters": (
        {"counters": torch.zeros(11, dtype=torch.int32)},
        r"counters are torch.int32 \[11\]; pass .* N >= B \* H \* K = 12",
    ),
    "long counters": ({"counters": torch.zeros(12).long()}, "int64"),
    "strided counters": ({"counters": torch.zeros(24, dtype=torch.int32)[::2]}, "contiguous"),
    "impl": ({"impl": "cuda"}, "impl is 'cuda'; choose"),
    "length dtype": ({"source_len": torch.zeros(2)}, "source_len is torch.float32"),
}


class TestBadInput:
    @pytest.mark.parametrize(("change", "message"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
    @pytest.mark.parametrize("impl", ["auto", "triton"])
    def test_message(self, change, message, impl):
        query, key, value = grown_case().rows
        named = {"query": query, "new_key": key, "new_value": value, **grown_case().options}
        with pytest.raises(ValueError, match=message):
            decode_attention(**{"impl": impl, **named, **change})

    def test_nothing_to_attend_to(self):
        with pytest.raises(ValueError, match="nothing to attend to"):
            decode_attention(torch.zeros(1, 1, 1, 1, 16))

    def test_length_without_source(self):
        query = torch.zeros(1, 1, 1, 1, 16)
        with pytest.raises(ValueError, match="source_len is given without source_key"):
            decode_attention(query, query, query, source_len=torch.tensor([3]))

    def test_lineage_without_target(self):
        query = torch.zeros(1, 1, 1, 1, 16)
        with pytest.raises(ValueError, match="lineage is given without target_key"):
            decode_attention(query, query, query, lineage=torch.zeros(1, 1, 1).long())

    def test_values_that_the_cpu_can_see(self):
        with pytest.raises(ValueError, match="step 9 is beyond the 9 positions"):
            grown_case(step=9).run(decode_attention, impl="torch")
        case = grown_case()
        with pytest.raises(ValueError, match="source_len 21 is beyond the 20 positions"):
            case.run(decode_attention, source_len=torch.tensor([21, 3]), impl="torch")


def test_gradients_are_cut():
    case = grown_case()
    query = case.rows[0].requires_grad_()
    assert not decode_attention(query, *case.rows[1:], **case.options).requires_grad
