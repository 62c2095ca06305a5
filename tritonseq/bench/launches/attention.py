"""Configurations of `decode_attention`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from tritonseq.kernels.attention.call import AttentionCall
from tritonseq.kernels.attention.kernel import attention_launches

from . import floats, meta, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from tritonseq.kernels.launch import Launch


class AttentionUse(NamedTuple):
    """One use of `decode_attention`: beams, rows, head size, and the parts that are there.

    `new` is the number of new rows where it is not that of the queries; `by_row` means a bias of
    every query row. With `counters` there is no reduction.
    """

    beams: int
    rows: int
    head_dim: int
    source: bool = True
    target: bool = True
    bias: bool = False
    new: int | None = None
    counters: bool = False
    splits: int | None = None
    by_row: bool = False

    def __str__(self) -> str:
        names = ("source", "target", "bias", "by_row", "counters")
        parts = [name for name in names if getattr(self, name)]
        rows = f"Q{self.rows}" if self.new is None else f"Q{self.rows}of{self.new}"
        return f"K{self.beams} {rows} D{self.head_dim} {'+'.join(parts)}"


# What the models ask for, at their usual head size, and every tile shape once.
USUAL = [
    AttentionUse(1, 1, 64),
    AttentionUse(4, 1, 64),
    AttentionUse(4, 1, 64, target=False),
    AttentionUse(4, 1, 64, source=False, bias=True),
    # T5's beams, with the decoder's prompt as the source; a long decoder's prompt that reads the
    # encoder's source; the wide beams of a Trie.
    AttentionUse(4, 1, 64, bias=True),
    AttentionUse(37, 1, 64, target=False),
    AttentionUse(128, 1, 64, bias=True),
    # UniLM's newest token and [MASK], and in its last layer [MASK] alone; with the bias, UniLM2.
    AttentionUse(1, 2, 64),
    AttentionUse(5, 2, 64),
    AttentionUse(5, 1, 64, new=2),
    AttentionUse(5, 2, 64, bias=True),
    AttentionUse(5, 1, 64, bias=True, new=2),
    # ProphetNet's main and predicting row, and in its last layer the predicting one alone.
    AttentionUse(1, 2, 64, by_row=True),
    AttentionUse(5, 2, 64, by_row=True),
    AttentionUse(5, 1, 64, by_row=True, new=2),
    AttentionUse(8, 1, 128),
    AttentionUse(16, 1, 64),
    AttentionUse(5, 1, 24),
    AttentionUse(2, 2, 256),
]
# The last program merges; a cache for long sources has many splits to merge.
COUNTED = [
    AttentionUse(4, 1, 64, counters=True),
    AttentionUse(5, 2, 64, bias=True, counters=True),
    AttentionUse(5, 2, 64, by_row=True, counters=True),
    AttentionUse(2, 2, 256, counters=True, splits=32),
]
EVERY = (
    [
        AttentionUse(beams, rows, head_dim, bias=bias)
        for beams, rows in ((1, 1), (1, 2), (2, 1), (4, 1), (4, 2), (8, 1), (5, 2), (16, 1))
        for head_dim in (16, 24, 64, 80, 96, 128, 256)
        for bias in (False, True)
    ]
    + [
        AttentionUse(beams, rows, head_dim, bias=bias, new=new)
        for beams in (1, 5, 8)
        for rows, new in ((2, None), (1, 2))
        for head_dim in (32, 64)
        for bias in (False, True)
    ]
    + [
        AttentionUse(beams, rows, head_dim, by_row=True, new=2)
        for beams in (1, 2, 4, 8)
        for rows in (1, 2)
        for head_dim in (32, 64, 80, 128)
    ]
)


def cases(target: str, every: bool) -> Iterator[tuple[str, Launch]]:
    for dtype in floats(target):
        usual = USUAL if dtype == torch.float16 or every else USUAL[:6]
        yield from attention_cases(usual + (EVERY if every else []), dtype)
    if not target.startswith("gfx"):
        yield from attention_cases(COUNTED, torch.float16)
        if every:
            counted = [
                use._replace(counters=True) for use in EVERY if not use.bias and not use.by_row
            ]
            for dtype in floats(target):
                yield from attention_cases(counted, dtype)


def attention_cases(uses: list[AttentionUse], dtype: torch.dtype) -> Iterator[tuple[str, Launch]]:
    """Kernel and reduction of each use, long enough for several splits."""
    for use in uses:
        call = attention_call(use, dtype)
        for launch in attention_launches(call, meta(*call.query.shape, dtype=dtype)):
            yield f"{short(dtype)} {use}", launch


def attention_call(use: AttentionUse, dtype: torch.dtype) -> AttentionCall:
    samples, heads, source, target = 8, 12, 512, 320
    beams, rows, head_dim = use.beams, use.rows, use.head_dim
    new = rows if use.new is None else use.new
    query, key, value = meta(samples, beams, new, 3, heads, head_dim, dtype=dtype).unbind(3)
    stored = meta(samples, heads, source, head_dim, dtype=dtype) if use.source else None
    cache = meta(samples, heads, target, beams, head_dim, dtype=dtype) if use.target else None
    lengths = meta(samples, dtype=torch.int64)
    return AttentionCall(
        query[:, :, new - rows :],
        key if use.target else None,
        value if use.target else None,
        stored,
        stored,
        lengths if use.source else None,
        cache,
        cache,
        meta(samples, target, beams, dtype=torch.int64) if use.target and beams > 1 else None,
        lengths if use.target else None,
        _bias(use, samples, heads),
        meta(samples * heads * beams, dtype=torch.int32) if use.counters else None,
        head_dim**-0.5,
        use.splits,
    )


def _bias(use: AttentionUse, samples: int, heads: int) -> Tensor | None:
    if use.by_row:
        return meta(samples, use.beams, use.rows, heads, 114, dtype=torch.float32)
    return meta(heads, 128, dtype=torch.float32) if use.bias else None
