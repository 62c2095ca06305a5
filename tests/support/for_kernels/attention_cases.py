"""Random calls of `decode_attention`, with NaN wherever nothing may be read, and their check."""

from __future__ import annotations

import itertools
import math
import random
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tritonseq.kernels import decode_attention

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD_DIMS = (16, 24, 32, 64, 80, 96, 128, 256)

# Query rows and new rows of a beam: the queries are the last of the new rows.
ROWS = ((1, 1), (2, 2), (1, 2))
EVERY_ROWS = pytest.mark.parametrize("rows", ROWS, ids=["1", "2", "last of 2"])

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


class Case(NamedTuple):
    """The arguments of one call: the three positional ones, and those by name."""

    rows: tuple[Tensor, Tensor | None, Tensor | None]
    options: dict[str, Any]

    def __str__(self) -> str:
        shapes = [f"{name} {list(x.shape)}" for name, x in self.tensors().items()]
        return ", ".join(shapes)

    def tensors(self) -> dict[str, Tensor]:
        names = ("query", "new_key", "new_value")
        named = {**dict(zip(names, self.rows, strict=True)), **self.options}
        return {name: x for name, x in named.items() if isinstance(x, Tensor)}

    def map(self, change: Any) -> Case:
        """The same call with every tensor changed by `change(name, tensor)`."""
        names = ("query", "new_key", "new_value")
        rows = tuple(
            x if x is None else change(name, x) for name, x in zip(names, self.rows, strict=True)
        )
        options = {
            name: change(name, x) if isinstance(x, Tensor) else x
            for name, x in self.options.items()
        }
        return Case(rows, options)  # type: ignore[arg-type]

    def copy(self) -> Case:
        """With tensors of its own, of the same strides: a call writes to some of them."""
        return self.map(lambda _, x: _to(x, x.device))

    def to(self, dtype: torch.dtype) -> Case:
        """Queries, keys and values in another dtype; the bias is always float32."""
        return self.map(
            lambda name, x: x.to(dtype) if name != "bias" and x.is_floating_point() else x
        )

    def run(self, function: Any, **options: Any) -> Tensor:
        return function(*self.rows, **self.options, **options)


def random_case(seed: int, device: torch.device, *, small: bool = False) -> Case:
    """Any shape, any parts, any lengths, any lineage; the seed decides."""
    g = random.Random(seed)
    torch.manual_seed(seed)
    samples, heads = g.choice((1, 2, 3)), g.choice((1, 2))
    beams, (queries, new) = g.choice((1, 1, 2, 3, 4, 5, 8, 16, 17, 20)), g.choice((ROWS[0], *ROWS))
    head_dim = g.choice(HEAD_DIMS[:4] if small else HEAD_DIMS)
    source = g.choice((0, 1, 7, 33) if small else (0, 1, 7, 65, 300, 600))
    target = g.choice((1, 2, 5, 19) if small else (1, 2, 5, 33, 70))
    has_source = g.random() < 0.7
    has_new = not has_source or g.random() < 0.8
    has_target = has_new and g.random() < 0.8
    options: dict[str, Any] = {}
    query, key, value = torch.randn(samples, beams, new, 3, heads, head_dim).unbind(3)
    query = query[:, :, -queries:]
    if g.random() < 0.3:
        key = torch.randn(heads, samples, beams, new, head_dim).permute(1, 2, 3, 0, 4)
    if has_source:
        options |= _source(g, samples, heads, source, head_dim)
    if has_target:
        options |= _target(g, samples, heads, target, beams, head_dim)
    elif has_new and g.random() < 0.3:
        options["step"] = torch.tensor([g.randint(-1, 4) for _ in range(samples)])
    if g.random() < 0.4:
        bias = torch.randn(heads, g.choice((1, 8, 700)))
        rows = (samples, beams, queries)
        options["bias"] = _bias_by_row(g, *rows, bias, options) if g.random() < 0.5 else bias
    if g.random() < 0.3:
        options["scale"] = g.choice((1.0, 0.05))
    new = (key, value) if has_new else (None, None)
    return Case((query, *new), options).map(lambda _, x: _to(x, device))


def side_by_side(case: Case) -> Case:
    """The same call with the generated part of the caches right behind the source in memory.

    Copies of the result do not keep that.
    """
    options = dict(case.options)
    for name in ("key", "value"):
        source, target = options[f"source_{name}"], options[f"target_{name}"]
        length, positions, beams = source.shape[2], target.shape[2], target.shape[3]
        # There is room for more than the call is shown.
        room = target.new_full((*source.shape[:2], 3 * beams, source.shape[3]), math.nan)
        joined = torch.cat([source, target.flatten(2, 3), room], 2)
        generated = joined[:, :, length : length + positions * beams]
        options[f"source_{name}"] = joined[:, :, :length]
        options[f"target_{name}"] = generated.unflatten(2, (positions, beams))
    return Case(case.rows, options)


def without_nan(case: Case, garbage: float = 30.0) -> Case:
    """The same call with a number wherever nothing may be read.

    Where NaN makes an implementation start again, only numbers show what its masks let through.
    """
    return case.map(
        lambda _, x: x.where(x.isfinite(), garbage) if x.is_floating_point() else x.clone()
    )


def _to(x: Tensor, device: torch.device) -> Tensor:
    """A copy on the device that keeps the strides."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device).copy_(x)


def _source(
    g: random.Random, samples: int, heads: int, length: int, head_dim: int
) -> dict[str, Any]:
    key, value = torch.randn(2, samples, heads, length, head_dim)
    if g.random() < 0.4:
        return {"source_key": key, "source_value": value}
    lengths = [g.choice((0, length, g.randint(0, length))) for _ in range(samples)]
    for sample, end in enumerate(lengths):
        key[sample, :, end:] = value[sample, :, end:] = math.nan
    dtype = g.choice((torch.int32, torch.int64))
    return {
        "source_key": key, "source_value": value, "source_len": torch.tensor(lengths, dtype=dtype)
    }  # fmt: skip


def _target(
    g: random.Random, samples: int, heads: int, length: int, beams: int, head_dim: int
) -> dict[str, Any]:
    # The cache has room for more than this call is shown.
    key, value = torch.randn(2, samples, heads, length + 3, beams, head_dim)
    steps = [g.randint(-1, length - 1) for _ in range(samples)]
    if g.random() < 0.3:
        steps = [max(0, steps[0])] * samples
    slots = torch.randint(0, g.randint(1, beams), (samples, length, beams))
    poisoned = g.random() < 0.7
    for sample, step in enumerate(steps):
        past = max(step, 0)
        # Nothing in the lineage counts from the step on, not even nonsense.
        slots[sample, past:] = g.choice((-7, 0, 99))
        if poisoned:
            dead = torch.ones(length + 3, beams, dtype=torch.bool)
            dead[:past].scatter_(1, slots[sample, :past], False)
            key[sample, :, dead] = math.nan
            value[sample, :, dead] = g.choice((math.nan, math.inf))
    dtype = g.choice((torch.int32, torch.int64))
    options = {
        "target_key": key[:, :, :length],
        "target_value": value[:, :, :length],
        "step": torch.tensor(steps, dtype=dtype),
    }
    if beams > 1 or g.random() < 0.3:
        options["lineage"] = slots.to(dtype)
    return options


def _bias_by_row(
    g: random.Random, samples: int, beams: int, queries: int, bias: Tensor, options: dict[str, Any]
) -> Tensor:
    """Different ones of the shape `[H, N]`, in any order in memory; NaN where nothing may be read:
    for samples that are idle, and beyond the farthest key."""
    order = g.choice(((0, 1, 2, 3), (2, 0, 3, 1), (3, 2, 1, 0)))
    shape = (samples, beams, queries, bias.shape[0])
    rows = torch.randn(*(shape[dim] for dim in order), bias.shape[1])
    rows = rows.permute(*(order.index(dim) for dim in range(4)), 4)
    source = options["source_key"].shape[2] if "source_key" in options else 0
    lengths = options.get("source_len", [source] * samples)
    steps = options.get("step", [0] * samples)
    for sample, (length, step) in enumerate(zip(lengths, steps, strict=True)):
        if step < 0:
            rows[sample] = math.nan
        rows[sample, ..., int(length + step) + 2 :] = math.nan
    return rows


def plain_attention(case: Case, dtype: torch.dtype = torch.float64) -> Tensor:
    """The definition once more, one query at a time, over lists of what each may see."""
    arguments = case.tensors()
    query, bias = arguments["query"], arguments.get("bias")
    scale = case.options.get("scale", query.shape[-1] ** -0.5)
    output = torch.zeros_like(query)
    first = arguments["new_key"].shape[2] - query.shape[2] if "new_key" in arguments else 0
    for sample, beam, asking in itertools.product(*map(range, query.shape[:3])):
        row = first + asking
        step = int(arguments["step"][sample]) if "step" in arguments else 0
        seen = list(_seen(arguments, sample, beam, row, step)) if step >= 0 else []
        if not seen:
            continue
        key, value = (torch.cat([part[i] for part in seen], 1).to(dtype) for i in (0, 1))
        distance = torch.cat([part[2] for part in seen])
        scores = (key @ query[sample, beam, asking].to(dtype)[..., None])[..., 0] * scale  # [H, N]
        if bias is not None:
            own = bias[sample, beam, asking] if bias.dim() == 5 else bias
            scores = scores + own[:, distance.clamp(0, own.shape[1] - 1)].to(dtype)
        output[sample, beam, asking] = (torch.softmax(scores, -1)[:, None] @ value)[:, 0]
    return output


def _seen(
    arguments: dict[str, Tensor], sample: int, beam: int, row: int, step: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Keys and values [H, N, D] of what a query sees, and their distances [N]."""
    if "source_key" in arguments:
        key, value = arguments["source_key"][sample], arguments["source_value"][sample]
        length = key.shape[1]
        if "source_len" in arguments:
            length = int(arguments["source_len"][sample])
        yield key[:, :length], value[:, :length], length + step + row - torch.arange(length)
    if "target_key" in arguments:
        for t in range(step):
            slot = int(arguments["lineage"][sample, t, beam]) if "lineage" in arguments else 0
            place = (sample, slice(None), t, slice(slot, slot + 1))
            distance = torch.tensor([step + row - t])
            yield arguments["target_key"][place], arguments["target_value"][place], distance
    if "new_key" in arguments:
        for other in range(row + 1):
            place = (sample, beam, other, slice(None), None)
            distance = torch.tensor([row - other])
            yield arguments["new_key"][place], arguments["new_value"][place], distance


def assert_close_to_definition(result: Tensor, case: Case, times: float = 2.5) -> None:
    """Demand that `result` errs little more than torch's own operations in the case's dtype.

    The definition in float64 is the truth. `case` is the call as it was before it wrote.
    """
    case = case.map(lambda _, x: x.cpu())
    result, truth = result.cpu(), plain_attention(case.to(torch.float64))
    torch_error = (plain_attention(case, result.dtype).double() - truth).abs().max()
    error = (result.double() - truth).abs().max()
    assert error <= times * torch_error + 1e-5, f"{error=:.1e} {torch_error=:.1e}: {case}"


def assert_appended(before: Case, after: Case) -> None:
    """Row 0 of the new keys and values stands at each sample's step, and nothing else changed."""
    old, new = before.tensors(), after.tensors()
    for side in ("key", "value"):
        expected = old[f"target_{side}"].clone()
        for sample, step in enumerate(old["step"].tolist()):
            if step >= 0:
                expected[sample, :, step] = old[f"new_{side}"][sample, :, 0].transpose(0, 1)
        torch.testing.assert_close(new[f"target_{side}"], expected, rtol=0, atol=0, equal_nan=True)
    for name in old.keys() - {"target_key", "target_value"}:
        torch.testing.assert_close(new[name], old[name], rtol=0, atol=0, equal_nan=True)


def grown_case(
    *,
    samples=2,
    beams=3,
    rows=(1, 1),
    heads=2,
    head_dim=16,
    source=20,
    target=9,
    step=6,
    device=CPU,
) -> Case:
    """Every part at once, without NaN, all samples at the same step.

    `rows`: of the queries, and of the new keys and values.
    """
    query, key, value = torch.randn(samples, beams, rows[1], 3, heads, head_dim).unbind(3)
    query = query[:, :, -rows[0] :]
    options = {
        "source_key": torch.randn(samples, heads, source, head_dim),
        "source_value": torch.randn(samples, heads, source, head_dim),
        "target_key": torch.randn(samples, heads, target, beams, head_dim),
        "target_value": torch.randn(samples, heads, target, beams, head_dim),
        "lineage": torch.randint(0, beams, (samples, target, beams)),
        "step": torch.full((samples,), step),
    }
    return Case((query, key, value), options).map(lambda _, x: x.to(device))


def check(case: Case, **options) -> None:
    """Run a call and look at the result, at the caches and at all else that it was given."""
    before = case.copy()
    result = case.run(decode_attention, **options)
    assert result.shape == before.rows[0].shape
    assert result.dtype == before.rows[0].dtype
    assert result.is_contiguous()
    assert_close_to_definition(result, before)
    if "target_key" in before.options:
        assert_appended(before, case)
