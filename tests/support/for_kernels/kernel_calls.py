"""Calls of every kernel, sound or not: random ones, what may stand in for an argument, and memory
whose surroundings tell whether anything was written to them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tritonseq import kernels
from tritonseq.kernels.advance.state import Group, Pool, Written

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

Call = dict[str, Any]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BEYOND = (-1, -2, -(2**31), -(2**32) - 1, -(2**63), 2**31 - 1, 2**32, 2**32 + 1, 2**62, 2**63 - 2)


def values(g: random.Random, size: int, shape: tuple[int, ...], wild: float) -> Tensor:
    """Indices of `size` places, some of which lie far beyond; int64, or int32 where all fit."""
    ids = torch.tensor(
        [g.randrange(max(size, 1)) for _ in range(math.prod(shape))], dtype=torch.int64
    )
    for i in range(len(ids)):
        if g.random() < wild:
            ids[i] = g.choice((*BEYOND, size, size + 1))
    if bool((ids.abs() < 2**31).all()) and bool((ids > -(2**31)).all()) and g.random() < 0.5:
        ids = ids.int()
    return ids.view(shape)


def attention(g: random.Random, wild: float) -> Call:
    b, k, h, d = g.choice((1, 2, 3)), g.choice((1, 2, 3, 17)), g.choice((1, 2)), g.choice((8, 16))
    s, t, q = g.choice((0, 1, 5)), g.choice((1, 4)), g.choice((1, 2))
    dtype = g.choice(DTYPES)
    query, key, value = (x.to(dtype) for x in torch.randn(3, b, k, q, h, d))
    call: Call = {"query": query}
    has_new = s == 0 or g.random() < 0.8
    if has_new:
        call |= {"new_key": key, "new_value": value}
    if not has_new or g.random() < 0.7:
        parts = (x.to(dtype) for x in torch.randn(2, b, h, s, d))
        call |= dict(zip(("source_key", "source_value"), parts, strict=True))
        if g.random() < 0.7:
            call["source_len"] = values(g, s + 1, (b,), wild)
    if has_new and g.random() < 0.8:
        parts = (x.to(dtype) for x in torch.randn(2, b, h, t, k, d))
        call |= dict(zip(("target_key", "target_value"), parts, strict=True))
        call["step"] = values(g, t, (b,), wild)
        call["lineage"] = values(g, k, (b, t, k), wild)
    elif g.random() < 0.3:
        call["step"] = values(g, t, (b,), wild)
    if g.random() < 0.3:
        call["bias"] = torch.randn(*g.choice(((h,), (b, k, q, h))), 3)
    if g.random() < 0.3:
        call["splits"] = g.choice((1, 2, 3))
    if g.random() < 0.3:
        call["counters"] = torch.zeros(b * h * k, dtype=torch.int32)
    return call


def ngrams(g: random.Random, wild: float) -> Call:
    b, k, t, n, vocab = g.choice((1, 2)), g.choice((1, 2, 3)), g.choice((0, 1, 6)), 0, 5
    n = g.choice((1, 1, 2, 2, 3, 9, 2**40))
    call: Call = {"n": n, "vocab_size": g.choice((vocab, vocab, 0))}
    rows = b * k
    if g.random() < 0.5:
        call["tokens"] = values(g, 3, (b, t, k), wild / 4)
        call["lineage"] = values(g, k, (b, t, k), wild)
        if g.random() < 0.7:
            call["lengths"] = values(g, t + 1, (b,), wild)
    else:
        call["tokens"] = values(g, 3, (rows, t), wild / 4)
        if g.random() < 0.7:
            call["lengths"] = values(g, t + 1, (rows,), wild)
        if g.random() < 0.5:
            call["starts"] = values(g, t + 1, (rows,), wild)
    for side in ("prefix", "source"):
        if "starts" not in call and g.random() < 0.4:
            size = g.choice((0, 1, 5))
            call[side] = values(g, 3, (b, size), wild / 4)
            for bound in ("starts", "lengths"):
                if g.random() < 0.6:
                    call[f"{side}_{bound}"] = values(g, size + 1, (b,), wild)
    if g.random() < 0.3:
        call["ignored"] = torch.rand(call["vocab_size"]) < 0.3
    return call


def ban(g: random.Random, wild: float) -> Call:
    call = ngrams(g, wild)
    shape, own = call["tokens"].shape, "lineage" in call
    rows = shape[0] * shape[2] if own else shape[0]
    scores = torch.randn(rows, call.pop("vocab_size")).to(g.choice(DTYPES))
    return {"scores": scores, **call}


def topk(g: random.Random, wild: float) -> Call:
    b, k, vocab = g.choice((1, 2)), g.choice((1, 3)), g.choice((4, 70))
    call: Call = {
        "logits": torch.randn(b, k, vocab).to(g.choice(DTYPES)),
        "count": g.choice((1, 2, min(4, k * vocab))),
        "log_softmax": g.random() < 0.7,
    }
    if g.random() < 0.6:
        call["running"] = torch.randn(b, k)
    if g.random() < 0.5:
        call["banned"] = values(g, vocab, (b, k, g.choice((0, 2))), wild)
    if g.random() < 0.5:
        call["ends"] = values(g, vocab, (g.choice((0, 1, 3)),), wild)
        call |= {name: values(g, 3, (b,), wild) for name in ("length", "min_length")}
    if g.random() < 0.4:
        call["forced"] = values(g, vocab, (b,), wild)
    return call


def written(g: random.Random, wild: float) -> Written:
    b, t, k = g.choice((1, 2, 3)), g.choice((1, 3, 4)), g.choice((1, 2, 3))

    def many(size: int) -> Tensor:
        return values(g, size, (b, t, k), 0).long()

    return Written(
        many(9), many(k), many(k),
        newest=values(g, 9, (b, k), 0).long(),
        generated=values(g, t, (b,), wild).long(),
        step=torch.tensor([g.choice((0, 1, 1, -1)) for _ in range(b)]),
        limit=values(g, t + 1, (b,), wild).long(),
        done=torch.rand(b) < 0.2,
    )  # fmt: skip


def beams(g: random.Random, wild: float) -> Call:
    state = written(g, wild)
    b, _, k = state.tokens.shape
    count = 2 * k

    def pooled(size: int) -> Tensor:
        return values(g, size, (b, k), 0).long()

    pool = Pool(torch.randn(b, k), torch.rand(b, k) < 0.5, pooled(3) - 1, pooled(k), pooled(9))
    call: Call = {
        "written": state,
        "group": Group(torch.randn(b, k), torch.rand(b) < 0.8, pool),
        # No two are equal: between those, each path has its own order.
        "scores": torch.randn(b, count).sort(descending=True).values,
        "tokens": values(g, 9, (b, count), 0).long(),
        "parents": values(g, k, (b, count), wild).long(),
        "powers": torch.rand(g.choice((2, 5))) + 0.5,
        "stops_when_full": g.random() < 0.3,
        "bounds_by_limit": g.random() < 0.3,
        "retire": g.random() < 0.5,
    }
    if g.random() < 0.7:
        call["ends"] = values(g, 9, (g.choice((0, 2)),), wild).long()
    return call


def greedy(g: random.Random, wild: float) -> Call:
    state = written(g, wild)
    b, _, k = state.tokens.shape
    call: Call = {
        "written": state,
        "ended": torch.rand(b, k) < 0.3,
        "logits": torch.randn(b, k, g.choice((1, 7, 30))).to(g.choice(DTYPES)),
        "pad_token_id": g.choice((0, -1, 2**62)),
        "retire": g.random() < 0.5,
    }
    if g.random() < 0.7:
        call["ends"] = values(g, 9, (g.choice((0, 2)),), wild).long()
    return call


def embedding(g: random.Random, wild: float) -> Call:
    n, vocab, places, width = g.choice((0, 1, 4)), g.choice((1, 6)), g.choice((1, 5)), 8
    dtype = g.choice(DTYPES)
    call: Call = {
        "tokens": values(g, vocab, (n,), wild),
        "table": torch.randn(vocab, width).to(dtype),
        "scale": g.choice((1.0, 2.5)),
    }
    if g.random() < 0.6:
        shared = g.choice((n, n // 2 if n % 2 == 0 else n, 1)) or 1
        call["position_table"] = torch.randn(places, width).to(dtype)
        call["positions"] = values(g, places, (shared,), wild)
        if g.random() < 0.5:
            call["starts"] = values(g, 2, (shared,), 0)
    if g.random() < 0.3:
        call["row"] = torch.randn(width).to(dtype)
    return call


def norm(g: random.Random, wild: float) -> Call:
    n, width, dtype = g.choice((0, 1, 3)), g.choice((1, 8, 20)), g.choice(DTYPES)
    rms = g.random() < 0.5
    call: Call = {
        "x": torch.randn(n, width).to(dtype), "weight": torch.randn(width).to(dtype),
        "epsilon": 1e-5, "rms": rms,
    }  # fmt: skip
    if not rms and g.random() < 0.7:
        call["bias"] = torch.randn(width).to(dtype)
    if g.random() < 0.6:
        call["residual"] = torch.randn(n, width).to(g.choice((dtype, torch.float32)))
    return call


def activation(g: random.Random, wild: float) -> Call:
    n, width, dtype = g.choice((0, 1, 3)), g.choice((1, 8, 20)), g.choice(DTYPES)
    call: Call = {"x": torch.randn(n, width).to(dtype), "kind": g.choice(("gelu", "relu", "silu"))}
    if g.random() < 0.5:
        call["bias"] = torch.randn(width).to(dtype)
    if g.random() < 0.5:
        call["gate"] = torch.randn(n, width).to(dtype)
    return call


def linear(g: random.Random, wild: float) -> Call:
    n, width, out, dtype = g.choice((0, 1, 3)), g.choice((1, 8)), g.choice((1, 5)), g.choice(DTYPES)
    call: Call = {"x": torch.randn(n, width).to(dtype), "weight": torch.randn(width, out).to(dtype)}
    if g.random() < 0.5:
        call["bias"] = torch.randn(out).to(dtype)
    if g.random() < 0.5:
        call["norm_weight"] = torch.randn(width).to(dtype)
        call["rms"] = g.random() < 0.5
        if not call["rms"]:
            call["norm_bias"] = torch.randn(width).to(dtype)
    if g.random() < 0.5:
        call["residual"] = torch.randn(n, out).to(dtype)
    if g.random() < 0.3:
        call["activation"] = "relu"
    return call


class Kernel(NamedTuple):
    """An operation, random calls of it, and the arguments that it writes to."""

    run: Callable[..., Any]
    call: Callable[[random.Random, float], Call]
    writes: tuple[str, ...] = ()


KERNELS = {
    "decode_attention": Kernel(
        kernels.decode_attention, attention, ("target_key", "target_value", "counters")
    ),
    "ban_ngrams": Kernel(kernels.ban_ngrams, ban, ("scores",)),
    "ngram_mask": Kernel(kernels.ngram_mask, ngrams),
    "ngram_bans": Kernel(kernels.ngram_bans, ngrams),
    "beam_topk": Kernel(kernels.beam_topk, topk),
    "beam_advance": Kernel(kernels.beam_advance, beams, ("written", "group")),
    "greedy_advance": Kernel(kernels.greedy_advance, greedy, ("written", "ended")),
    "add_norm": Kernel(kernels.add_norm, norm, ("residual",)),
    "activate": Kernel(kernels.activate, activation, ("x",)),
    "embed": Kernel(kernels.embed, embedding),
    "norm_linear": Kernel(kernels.norm_linear, linear, ("residual",)),
}


def changed(x: Any, change: Callable[[Tensor], Any]) -> Any:
    """Arguments with every tensor changed, those within records too."""
    if isinstance(x, Tensor):
        return change(x)
    if isinstance(x, dict):
        return {name: changed(value, change) for name, value in x.items()}
    if isinstance(x, (Written, Group, Pool)):
        return type(x)(*(changed(value, change) for value in x))
    return x


def tensors(x: Any) -> list[Tensor]:
    """All tensors of arguments or of results, in order."""
    found: list[Tensor] = []
    if isinstance(x, (tuple, list)):
        return [tensor for part in x for tensor in tensors(part)]
    changed(x, lambda tensor: found.append(tensor))
    return found


class Guarded:
    """Copies of tensors, each within a larger one that holds something else all around."""

    def __init__(self, filling: float, *, whole: bool) -> None:
        self.filling, self.whole = filling, whole
        self._around: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, x: Tensor) -> Tensor:
        # Whole: one piece of memory, as some kernels ask for. Otherwise every row has margins.
        if self.whole:
            room = self._filled((x.numel() + 64,), x.dtype)
            view = room[32 : 32 + x.numel()].view(x.shape)
        else:
            room = self._filled(tuple(size + 4 for size in x.shape), x.dtype)
            view = room[tuple(slice(2, 2 + size) for size in x.shape)]
        self._around.append((room, view, room.clone()))
        view.copy_(x)
        return view

    def is_untouched(self) -> bool:
        """Whether all that surrounds the copies holds what it did."""
        for room, view, before in self._around:
            view.copy_(before.as_strided(view.shape, view.stride(), view.storage_offset()))
            if not torch.equal(bits(room), bits(before)):
                return False
        return True

    def _filled(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        filling = self.filling
        if not dtype.is_floating_point:
            filling = float(filling == 0) if dtype == torch.bool else 3 + (filling == 0)
        return torch.empty(shape, dtype=dtype).fill_(filling)


def bits(x: Tensor) -> Tensor:
    """For comparisons in which NaN is itself."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.resolve_neg().contiguous().view(kinds[x.element_size()])
