"""`norm_linear`: the products of a layer and the head, for the one row of a greedy search.

Beside it stand torch's norm, product, activation and addition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from tritonseq.bench.case import Arguments, Case

from .rows import ACTIVATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from tritonseq.bench.draw import Draw
    from tritonseq.bench.shapes import Shape


def cases(shape: Shape) -> Iterator[Case]:
    if shape.samples * shape.beams > 1:
        return
    width, inner = shape.width, shape.inner
    yield _product(shape, "qkv", width, 3 * width, norm=True)
    yield _product(shape, "out", width, width, residual=True)
    yield _product(shape, "fc1", width, inner, norm=True, activation=shape.activation)
    yield _product(shape, "fc2", inner, width, residual=True)
    yield _product(shape, "head", width, shape.vocabulary, norm=True, bias=False)


def _product(
    shape: Shape,
    part: str,
    inputs: int,
    outputs: int,
    *,
    norm: bool = False,
    residual: bool = False,
    bias: bool = True,
    activation: str | None = None,
) -> Case:
    """Weights as a checkpoint's linear layer has them, with the inputs adjacent."""

    def draw(draw: Draw, samples: int) -> Arguments:
        return {
            "x": draw.floats(samples, inputs),
            "weight": draw.floats(outputs, inputs, scale=inputs**-0.5).t(),
            "bias": draw.floats(outputs) if bias else None,
            "norm_weight": draw.floats(inputs) if norm else None,
            "norm_bias": draw.floats(inputs) if norm else None,
            "activation": activation,
            "residual": draw.floats(samples, outputs) if residual else None,
        }

    written = ("residual",) if residual else ()
    return Case(
        "norm_linear", shape, part, draw, plain_norm_linear, written=written,
        repeatable=not residual,
    )  # fmt: skip


def plain_norm_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    if norm_weight is not None:
        x = functional.layer_norm(x, norm_weight.shape, norm_weight, norm_bias)
    y = functional.linear(x, weight.t(), bias)
    if activation is not None:
        y = ACTIVATIONS[activation](y)
    return y if residual is None else residual + y
