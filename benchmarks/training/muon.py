"""Muon, the optimizer of the matrices: momentum, with all singular values of an update made equal.

Jordan, 2024, https://kellerjordan.github.io/posts/muon/. That of torch works in bfloat16, which a
CPU without such instructions multiplies so slowly that two thirds of a training went into it; this
one works in float32, with all matrices of a shape at once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

_QUINTIC = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov's momentum of `momentum`, and decoupled weight decay."""

    def __init__(
        self, matrices: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            updates: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                updates[weight.shape].append((weight, self._update(weight, group["momentum"])))
            for (outputs, inputs), pairs in updates.items():
                rate = group["lr"] * math.sqrt(max(1, outputs / inputs))
                equal = orthogonalize(torch.stack([update for _, update in pairs]))
                for (weight, _), update in zip(pairs, equal, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(update, alpha=rate)

    def _update(self, weight: Tensor, momentum: float) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        mean = state["momentum"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(mean, momentum)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Matrices `[N, out, in]` of the same singular vectors, with singular values of about 1."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.mT).mT
    a, b, c = _QUINTIC
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x
