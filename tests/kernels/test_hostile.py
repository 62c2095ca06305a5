"""Arguments that are no tensors, lie elsewhere or point beyond: refused by name, or defined."""

from __future__ import annotations

import inspect
import itertools
import random

import pytest
import torch
from kernel_calls import KERNELS, Guarded, bits, changed, tensors
from malformed import OTHERS, SHARED, TENSORS

from tritonseq.kernels import reference
from tritonseq.kernels.advance.state import Group, Pool, Written

NAMES = list(KERNELS)
IMPLS = ["torch", "triton"]

QUICK, LONG = range(6), range(100, 2100)


def seeded(name, seed):
    torch.manual_seed(seed)
    return random.Random(f"{name} {seed}")


def outcome(run, arguments):
    """What a call returns and writes, or its error; no other kind of error passes."""
    try:
        return run(**arguments)
    except (ValueError, TypeError) as error:
        return error


class TestValuesBeyond:
    """Indices and lengths of any value: each path reads and writes where it may, and agrees."""

    @pytest.mark.parametrize("name", NAMES)
    def test_all_paths_agree_and_touch_nothing_around(self, name):
        for seed in QUICK:
            self.check(name, seed)

    @pytest.mark.long
    @pytest.mark.parametrize("name", NAMES)
    def test_wide(self, name):
        for seed in LONG:
            self.check(name, seed)

    def check(self, name, seed):
        g = seeded(name, seed)
        call = KERNELS[name].call(g, g.choice((0.0, 0.1, 0.5)))
        whole = name.endswith("advance") or g.random() < 0.5
        expected = self.run(name, call, "reference", whole)
        for impl in IMPLS:
            found = self.run(name, call, impl, whole)
            if isinstance(found, ValueError):
                # Where the host sees values anyway, it says what is wrong with them.
                assert impl == "torch", f"{name} {seed=}: {found}"
                assert name in ("decode_attention", "embed"), f"{name} {seed=}: {found}"
                continue
            assert len(found) == len(expected)
            for ours, truth in zip(found, expected, strict=True):
                torch.testing.assert_close(
                    ours, truth, rtol=2e-2, atol=2e-2, equal_nan=True, check_dtype=False,
                    msg=f"{name} {impl} {seed=}: {ours} is not {truth}",
                )  # fmt: skip

    def run(self, name, call, impl, whole):
        """Results and all that is written, the same whatever surrounds the arguments."""
        run = getattr(reference, name) if impl == "reference" else KERNELS[name].run
        results = []
        for filling in (0.0, torch.nan):
            guarded = Guarded(filling, whole=whole)
            own = changed(call, guarded)
            found = outcome(run, own if impl == "reference" else {**own, "impl": impl})
            if isinstance(found, ValueError):
                results.append(found)
                continue
            found = self.comparable(name, call, found)
            found += [x.clone() for key in KERNELS[name].writes for x in tensors(own.get(key))]
            assert guarded.is_untouched(), f"{name} {impl} wrote around its arguments"
            results.append(found)
        first, second = results
        if isinstance(first, ValueError):
            assert isinstance(second, ValueError)
            return first
        for one, other in zip(first, second, strict=True):
            torch.testing.assert_close(one, other, equal_nan=True)
        return first

    @staticmethod
    def comparable(name, call, found):
        """Results without what is left open: the order of bans, and that of equal scores."""
        if name == "beam_topk":
            return [found[0]]
        if name == "ngram_bans":
            nothing = call["vocab_size"]
            mask = torch.zeros(found.shape[0], nothing + 1, dtype=torch.bool)
            mask.scatter_(1, found.long().where(found >= 0, nothing), True)
            return [mask[:, :nothing]]
        return [x.clone() for x in tensors(found)]


class TestMalformed:
    """One argument replaced: the call still means something, or the error names an argument."""

    @pytest.mark.parametrize("name", NAMES)
    def test_every_substitute_for_every_tensor(self, name):
        for number, (kind, place) in enumerate(itertools.product(TENSORS, places(name))):
            self.check_tensor(name, kind, place, seed=number % 7)

    @pytest.mark.parametrize("name", NAMES)
    def test_every_substitute_for_every_option(self, name):
        options = [
            n for n, p in parameters(name).items()
            if n in ("impl", "written", "group") or "Tensor" not in str(p.annotation)
        ]  # fmt: skip
        for number, (option, value) in enumerate(itertools.product(options, OTHERS)):
            self.check_option(name, option, value, seed=number % 7)

    @pytest.mark.long
    @pytest.mark.parametrize("name", NAMES)
    def test_wide(self, name):
        for seed in LONG:
            g = seeded(name, seed)
            self.check_tensor(name, g.choice(list(TENSORS)), g.choice(places(name)), seed)

    def check_tensor(self, name, kind, place, seed):
        g = seeded(name, seed)
        call = self.call_with(name, place, g)
        impl = g.choice(("torch", "torch", "torch", "triton"))
        x = at(call, place)
        call = replaced(call, place, TENSORS[kind].make(x))
        before = copies(call)
        found = outcome(KERNELS[name].run, {**call, "impl": impl})
        where = f"{name} {impl} {place}: {kind}, {seed=}"
        if isinstance(found, Exception):
            self.check_text(name, found, where)
            assert all(map(torch.equal, before, copies(call))), f"{where} wrote before it failed"
        shared = kind in SHARED and is_written(name, call, place) and meets_itself(at(call, place))
        if TENSORS[kind].refused or shared:
            assert isinstance(found, Exception), where
        if TENSORS[kind].refused and isinstance(found, TypeError):
            assert place[-1] in str(found), f"{where}: {found}"

    def check_option(self, name, option, value, seed):
        call = KERNELS[name].call(seeded(name, seed), 0.0)
        found = outcome(KERNELS[name].run, {"impl": "torch", **call, option: value})
        if isinstance(found, Exception):
            self.check_text(name, found, f"{name} {option}={str(value)[:40]}, {seed=}")

    def check_text(self, name, error, where):
        named = (*parameters(name), *Written._fields, *Group._fields, *Pool._fields)
        assert any(n in str(error) for n in named), f"{where}: {error}"

    def call_with(self, name, place, g):
        """A call that passes what is to be replaced."""
        for _ in range(500):
            call = KERNELS[name].call(g, 0.0)
            if at(call, place) is not None and at(call, place).numel():
                return call
        raise AssertionError(f"no call of {name} has {place}")


def parameters(name):
    return inspect.signature(KERNELS[name].run).parameters


def places(name):
    """Where a call has tensors: names of arguments, with those of fields."""
    found = []
    for argument, parameter in parameters(name).items():
        if "Tensor" in str(parameter.annotation):
            found.append((argument,))
        if argument == "written":
            found += [(argument, field) for field in Written._fields]
        if argument == "group":
            found += [(argument, "running"), (argument, "improvable")]
            found += [(argument, "pool", field) for field in Pool._fields]
    return [place for place in found if place != ("hits",)]


def at(call, place):
    x = call.get(place[0])
    for field in place[1:]:
        x = getattr(x, field)
    return x


def replaced(call, place, value):
    def within(record, fields):
        if not fields:
            return value
        return record._replace(**{fields[0]: within(getattr(record, fields[0]), fields[1:])})

    return {**call, place[0]: within(call.get(place[0]), place[1:])}


def is_written(name, call, place):
    """Whether the kernel writes there."""
    if name == "activate" and "gate" in call:
        return False
    if name == "greedy_advance" and place[-1] in ("lineage", "parents"):
        return False
    return place[0] in KERNELS[name].writes


def meets_itself(x):
    """Whether two elements lie in one place."""
    places = torch.arange(
        sum(size * step for size, step in zip(x.shape, x.stride(), strict=True)) + 1
    )
    return len(places.as_strided(x.shape, x.stride()).unique()) < x.numel()


def copies(call):
    """Bits of all that a call could write to."""
    return [
        bits(x.detach()).clone() for x in tensors(call)
        if x.layout is torch.strided and not x.is_nested and not x.is_quantized
        and x.device.type == "cpu" and not x.is_complex() and not hasattr(x, "fake_mode")
    ]  # fmt: skip
