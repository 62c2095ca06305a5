"""Configurations of `norm_linear`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from tritonseq.kernels.linear.call import NormLinearCall
from tritonseq.kernels.linear.kernel import linear_launches

from . import floats, meta, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritonseq.kernels.launch import Launch


class LinearUse(NamedTuple):
    """One use of `norm_linear`; `wide` is a residual stream in float32."""

    rows: int
    inputs: int
    outputs: int
    norm: bool = False
    rms: bool = False
    activation: str | None = None
    residual: bool = False
    wide: bool = False

    def __str__(self) -> str:
        parts = [name for name in ("norm", "rms", "residual", "wide") if getattr(self, name)]
        parts += [] if self.activation is None else [self.activation]
        return f"N{self.rows} {self.inputs}x{self.outputs} {'+'.join(parts)}"


# A layer of GPT-2 and its head, for one row; and what takes most registers: several rows.
USUAL = [
    LinearUse(1, 768, 2304, norm=True),
    LinearUse(1, 3072, 768, residual=True),
    LinearUse(1, 768, 3072, norm=True, activation="gelu_tanh"),
    LinearUse(8, 1024, 4096, norm=True, activation="gelu_tanh"),
]
EVERY = [
    LinearUse(rows, inputs, outputs, norm, rms, activation, residual, wide)
    for rows in (1, 2, 8)
    for inputs, outputs in (
        (1280, 5120),
        (1600, 50257),
        (3072, 768),
        (6400, 1600),
    )
    for norm, rms, activation, residual, wide in (
        (False, False, "relu", False, False),
        (True, False, "gelu", False, False),
        (True, False, "silu", True, True),
        (True, True, None, True, False),
    )
] + [LinearUse(rows, 8192, 512, norm=True) for rows in (1, 8)]


def cases(target: str, every: bool) -> Iterator[tuple[str, Launch]]:
    for dtype in floats(target):
        few = USUAL if dtype == torch.float16 else USUAL[:1]
        for use in USUAL + EVERY if every else few:
            yield from linear_cases(use, dtype, pdl=False)
        # Programmatic dependent launch exists from sm_90 on.
        if target in ("sm_90", "sm_100") and (every or dtype == torch.float16):
            for use in USUAL if every else USUAL[:1]:
                yield from linear_cases(use, dtype, pdl=True)


def linear_cases(use: LinearUse, dtype: torch.dtype, *, pdl: bool) -> Iterator[tuple[str, Launch]]:
    rows, inputs, outputs = use[:3]
    stream = torch.float32 if use.wide else dtype
    norm = meta(inputs, dtype=dtype) if use.norm else None
    output = meta(rows, outputs, dtype=stream if use.residual else dtype)
    call = NormLinearCall(
        meta(rows, inputs, dtype=stream if use.norm else dtype),
        meta(outputs, inputs, dtype=dtype).t(),
        meta(outputs, dtype=dtype),
        norm,
        None if use.rms else norm,
        output if use.residual else None,
        1e-5,
        use.rms,
        use.activation,
    )
    for launch in linear_launches(call, output, pdl=pdl):
        yield f"{short(dtype)} {use}{' pdl' if pdl else ''}", launch
