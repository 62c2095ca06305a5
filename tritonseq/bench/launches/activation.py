"""Configurations of `activate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tritonseq.kernels.activation.kernel import activation_launches

from . import floats, meta, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritonseq.kernels.launch import Launch

# Kind, and whether there are a bias and a gate: what models ask for.
USUAL = [("gelu", False, False), ("gelu_tanh", False, True), ("relu", False, False)]
EVERY = [
    (kind, bias, gate)
    for kind in ("gelu", "gelu_tanh", "relu", "silu")
    for bias in (False, True)
    for gate in (False, True)
]


def cases(target: str, every: bool) -> Iterator[tuple[str, Launch]]:
    for dtype in floats(target) if every else [torch.float16]:
        for width in (24, 1000, 3072) if every else (3072,):
            for kind, has_bias, has_gate in EVERY if every else USUAL:
                x = meta(64, width, dtype=dtype)
                bias = meta(width, dtype=dtype) if has_bias else None
                parts = "+bias" * has_bias + "+gate" * has_gate
                gate = x if has_gate else None
                for launch in activation_launches(x, kind, bias, gate, x):
                    yield f"{short(dtype)} {kind} d{width}{parts}", launch
