"""Agreement of the engines: no figure is printed before their outputs are compared here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from generate.engines import Job
    from torch import Tensor

# Rounding differs between any two implementations; twice the error of the other is a fault.
ERROR_RATIO = 2.0


def compare_ids(ids: Mapping[str, Tensor]) -> str:
    """Raise unless our ids, the first, are the second's; tells how many of the others' are.

    CTranslate2's beam rules are its own, and int8 rounds: a difference there is no fault.
    """
    ours, judge, *_ = ids
    exact = ids[judge]
    if not torch.equal(ids[ours], exact):
        share = share_of(ids[ours], exact)
        raise SystemExit(f"ids differ from those of {judge}: only {share:.1%} agree; no figures")
    verdict = "ids equal"
    for name, rows in ids.items():
        if name not in (ours, judge):
            verdict += f"; {name} {share_of(rows, exact):.0%}"
    return verdict


def share_of(ids: Tensor, exact: Tensor) -> float:
    """The share of equal ids."""
    return float((ids.cpu() == exact.cpu()).float().mean())


def compare_error(runners: Mapping[str, Any], job: Job) -> str:
    """Raise unless our logits in half precision are as close to float32 as the second engine's."""
    ours, judge, *_ = runners
    float32 = replace(job, workload=replace(job.workload, dtype=torch.float32))
    wanted = type(runners[judge])(float32).forced_logits()
    mine, other = ((runners[name].forced_logits() - wanted).abs().max() for name in (ours, judge))
    ratio = float(mine / other)
    if not ratio <= ERROR_RATIO:
        raise SystemExit(f"error {ratio:.2f} times that of {judge} in this dtype; no figures")
    return f"error {ratio:.2f} of that of {judge}"
