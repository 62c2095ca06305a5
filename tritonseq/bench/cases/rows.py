"""`add_norm`, `activate`, `embed`: what a layer does to each of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from tritonseq.bench.case import Arguments, Case, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tritonseq.bench.draw import Draw
    from tritonseq.bench.shapes import Shape

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}


def cases(shape: Shape) -> Iterator[Case]:
    rows = RowArguments(shape)
    yield Case(
        "add_norm", shape, "", rows.draw_norm, plain_add_norm, written=("residual",),
        repeatable=False,
    )  # fmt: skip
    yield Case(
        "activate", shape, shape.activation, rows.draw_activation, plain_activate, written=("x",),
        repeatable=False,
    )  # fmt: skip
    if shape.rms:
        # T5 1.1 and its descendants, which are of the same size.
        yield Case("activate", shape, "gated", rows.draw_gated, plain_activate)
    yield Case("embed", shape, "", rows.draw_embedding, plain_embed, moved=rows.moved_embedding)


class RowArguments:
    """Arguments: a row for every new token of every beam."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def _count(self, samples: int) -> int:
        return samples * self.shape.beams * self.shape.new_rows

    def draw_norm(self, draw: Draw, samples: int) -> Arguments:
        count, width = self._count(samples), self.shape.width
        return {
            "x": draw.floats(count, width),
            "residual": draw.floats(count, width),
            "weight": draw.floats(width),
            "bias": None if self.shape.rms else draw.floats(width),
            "epsilon": 1e-5,
            "rms": self.shape.rms,
        }

    def draw_activation(self, draw: Draw, samples: int) -> Arguments:
        x = draw.floats(self._count(samples), self.shape.inner)
        return {"x": x, "kind": self.shape.activation, "bias": draw.floats(self.shape.inner)}

    def draw_gated(self, draw: Draw, samples: int) -> Arguments:
        x, gate = (draw.floats(self._count(samples), self.shape.inner) for _ in range(2))
        return {"x": x, "kind": "gelu_tanh", "gate": gate}

    def draw_embedding(self, draw: Draw, samples: int) -> Arguments:
        shape, count = self.shape, self._count(samples)
        arguments: Arguments = {
            "tokens": draw.integers(shape.vocabulary, count),
            "table": draw.floats(shape.vocabulary, shape.width),
        }
        if not shape.rms:
            arguments["positions"] = draw.full(shape.position, count)
            arguments["position_table"] = draw.floats(shape.target, shape.width)
        return arguments

    def moved_embedding(self, arguments: Arguments) -> int:
        """A row of the table per token, one row of positions, and the sum; with the ids."""
        tokens, table = arguments["tokens"], arguments["table"]
        row = table.shape[1] * table.element_size()
        return 2 * len(tokens) * row + row + 2 * size(tokens)


def plain_add_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float, rms: bool
) -> tuple[Tensor, Tensor]:
    """The sum, then the norm; T5's is that of transformers, in float32 and step by step."""
    residual = residual + x
    if not rms:
        return functional.layer_norm(residual, weight.shape, weight, bias, epsilon), residual
    variance = residual.float().pow(2).mean(-1, keepdim=True)
    normed = residual * torch.rsqrt(variance + epsilon)
    return weight * normed.to(weight.dtype), residual


def plain_activate(
    x: Tensor, kind: str, bias: Tensor | None = None, gate: Tensor | None = None
) -> Tensor:
    activated = ACTIVATIONS[kind](x if bias is None else x + bias)
    return activated if gate is None else activated * gate


def plain_embed(
    tokens: Tensor,
    table: Tensor,
    positions: Tensor | None = None,
    position_table: Tensor | None = None,
) -> Tensor:
    embedded = functional.embedding(tokens, table)
    if positions is not None and position_table is not None:
        embedded = embedded + functional.embedding(positions, position_table)
    return embedded
