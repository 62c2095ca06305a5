"""`decode_attention`: self-attention of every workload, cross-attention of those that have it.

Beside it stands what transformers does: caches per beam, which a beam search reorders by
`index_select` and makes longer by `cat` at every step, and fused attention over them. Sources
of cross-attention are held per beam too, but not reordered here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from tritonseq.bench.case import Arguments, Case, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritonseq.bench.draw import Draw
    from tritonseq.bench.shapes import Shape


def cases(shape: Shape) -> Iterator[Case]:
    yield SelfAttentionArguments(shape).case()
    if shape.new_rows == 2:
        # ProphetNet-large, which is of UniLM-large's size, has a bias of every query row.
        yield SelfAttentionArguments(shape, has_bias_by_row=True).case()
    if shape.encoder:
        yield CrossAttentionArguments(shape).case()


class SelfAttentionArguments:
    """Over the prompt, if any, and what each beam has generated, which is appended to."""

    def __init__(self, shape: Shape, *, has_bias_by_row: bool = False) -> None:
        self.shape = shape
        self.has_bias_by_row = has_bias_by_row

    def case(self) -> Case:
        part = "self, bias by row" if self.has_bias_by_row else "self"
        return Case(
            "decode_attention", self.shape, part, self.draw, plain_attention,
            written=("target_key", "target_value"), moved=self.moved, held=self.held,
        )  # fmt: skip

    def draw(self, draw: Draw, samples: int) -> Arguments:
        shape, dim = self.shape, self.shape.head_dim
        rows = (samples, shape.beams, shape.new_rows, shape.heads, dim)
        stored = (samples, shape.heads, shape.target, shape.beams, dim)
        arguments: Arguments = {
            "query": draw.floats(*rows),
            "new_key": draw.floats(*rows),
            "new_value": draw.floats(*rows),
            "target_key": draw.floats(*stored),
            "target_value": draw.floats(*stored),
            "lineage": draw.lineage(samples, shape.target, shape.beams),
            "step": draw.full(shape.position, samples),
            "counters": _counters(shape, draw, samples),
        }
        if not shape.encoder:
            prompt = (samples, shape.heads, shape.source, dim)
            arguments["source_key"] = draw.floats(*prompt)
            arguments["source_value"] = draw.floats(*prompt)
        if shape.rms:
            arguments["bias"] = draw.floats(shape.heads, 1024, dtype=torch.float32)
            arguments["scale"] = 1.0
        if self.has_bias_by_row:
            arguments["bias"] = draw.floats(*rows[:4], 114, dtype=torch.float32)
        return arguments

    def moved(self, arguments: Arguments) -> int:
        """Of the generated part the slots that some beam descends from, and the new rows twice."""
        at = self.shape.position
        path = arguments["lineage"][:, :at].sort(-1).values
        live = path[..., :1].numel() + int((path[..., 1:] != path[..., :-1]).sum())
        new, item = arguments["new_key"], arguments["new_key"].element_size()
        first_rows = size(new) // self.shape.new_rows
        return (
            2 * size(arguments["query"])
            + 2 * (size(new) + first_rows)
            + 2 * live * self.shape.width * item
            + path.numel() * path.element_size()
            + (size(arguments["bias"]) if self.has_bias_by_row else 0)
            + sum(size(arguments[name]) for name in _source(arguments))
        )

    def held(self, arguments: Arguments) -> Arguments:
        """Caches as every beam would have its own, and the beams that are continued."""
        samples, beams = arguments["query"].shape[:2]
        past = {}
        for side in ("key", "value"):
            own = _followed(arguments[f"target_{side}"], arguments["lineage"], self.shape.position)
            if f"source_{side}" in arguments:
                shared = arguments[f"source_{side}"].repeat_interleave(beams, 0)
                own = torch.cat([shared, own], 2)
            past[f"past_{side}"] = own.contiguous()
        parents = torch.arange(samples * beams, device=own.device) if beams > 1 else None
        length = own.shape[2] + self.shape.new_rows
        return {
            **{name: arguments[name] for name in ("query", "new_key", "new_value")},
            **past,
            "parents": parents,
            "mask": self._mask(length, arguments),
            "scale": arguments.get("scale"),
        }

    def _mask(self, length: int, arguments: Arguments) -> Tensor | None:
        """`[B * K or none, 1 or H, Q, N]` float: the first row does not see the second; a bias."""
        rows, query, bias = self.shape.new_rows, arguments["query"], arguments.get("bias")
        place = torch.arange(length, device=query.device)
        distance = torch.arange(length - rows, length, device=query.device)[:, None] - place
        near = distance.clamp(0, 0 if bias is None else bias.shape[-1] - 1)
        if bias is not None and not self.has_bias_by_row:
            return bias[:, near].to(query.dtype)
        if rows == 1:
            return None
        mask = torch.zeros(1, rows, length, dtype=query.dtype, device=query.device)
        if bias is not None:
            own = bias.flatten(0, 1).transpose(1, 2)
            mask = own.gather(3, near.expand(*own.shape[:3], -1)).to(query.dtype)
        return mask.masked_fill(distance < 0, float("-inf"))


class CrossAttentionArguments:
    """Over the encoder's keys and values."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def case(self) -> Case:
        return Case(
            "decode_attention", self.shape, "cross", self.draw, plain_attention, held=self.held
        )

    def draw(self, draw: Draw, samples: int) -> Arguments:
        shape = self.shape
        source = (samples, shape.heads, shape.source, shape.head_dim)
        return {
            "query": draw.floats(samples, shape.beams, 1, shape.heads, shape.head_dim),
            "source_key": draw.floats(*source),
            "source_value": draw.floats(*source),
            "source_len": draw.full(shape.source, samples),
            "scale": 1.0 if shape.rms else None,
            "counters": _counters(shape, draw, samples),
        }

    def held(self, arguments: Arguments) -> Arguments:
        beams = arguments["query"].shape[1]
        return {
            "query": arguments["query"],
            "past_key": arguments["source_key"].repeat_interleave(beams, 0),
            "past_value": arguments["source_value"].repeat_interleave(beams, 0),
            "scale": arguments["scale"],
        }


def plain_attention(
    query: Tensor,
    new_key: Tensor | None = None,
    new_value: Tensor | None = None,
    *,
    past_key: Tensor,
    past_value: Tensor,
    parents: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Reorder `[B * K, H, N, D]`, put the new rows behind it, attend."""
    if parents is not None:
        past_key, past_value = (
            past_key.index_select(0, parents),
            past_value.index_select(0, parents),
        )
    if new_key is not None and new_value is not None:
        past_key, past_value = (
            torch.cat([past, new.flatten(0, 1).transpose(1, 2)], 2)
            for past, new in ((past_key, new_key), (past_value, new_value))
        )
    attended = functional.scaled_dot_product_attention(
        query.flatten(0, 1).transpose(1, 2), past_key, past_value, attn_mask=mask, scale=scale
    )
    return attended.transpose(1, 2).reshape(query.shape)


def _counters(shape: Shape, draw: Draw, samples: int) -> Tensor:
    """What the programs of one (sample, head) count each other by, zeroed once."""
    return draw.full(0, samples * shape.heads * shape.beams, dtype=torch.int32)


def _followed(cache: Tensor, lineage: Tensor, position: int) -> Tensor:
    """`[B, H, T, K, D]` as each beam sees it: `[B * K, H, position, D]`."""
    stored = cache[:, :, :position]
    slots = lineage[:, None, :position, :, None].expand(stored.shape)
    return stored.gather(3, slots).permute(0, 3, 1, 2, 4).flatten(0, 1)


def _source(arguments: dict[str, Any]) -> list[str]:
    return [name for name in ("source_key", "source_value") if name in arguments]
