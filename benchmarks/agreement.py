"""Whether the engines do the same: nothing is printed whose output has not been through here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from engines import Transformers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engines import Job
    from torch import Tensor

# Rounding differs between any two implementations; twice the error of the other is a fault.
ERROR_RATIO = 2.0


def compare_ids(ids: Mapping[str, Tensor]) -> str:
    """Raise unless our ids are those of transformers; tells how many of CTranslate2's are.

    Its beam rules are its own, so a difference there is no fault of anyone's.
    """
    exact = ids["transformers"]
    if not torch.equal(ids["tritonseq"], exact):
        share = share_of(ids["tritonseq"], exact)
        raise SystemExit(f"ids differ from transformers': only {share:.1%} agree; no figures")
    verdict = "ids equal"
    for name, rows in ids.items():
        if name.startswith("ctranslate2"):
            verdict += f"; {name} {share_of(rows, exact):.0%}"
    return verdict


def share_of(ids: Tensor, exact: Tensor) -> float:
    """The share of equal ids."""
    return float((ids.cpu() == exact.cpu()).float().mean())


def compare_error(ours: Any, theirs: Any, job: Job) -> str:
    """Raise unless our logits in half precision are as close to float32 as transformers'."""
    float32 = replace(job, workload=replace(job.workload, dtype=torch.float32))
    wanted = Transformers(float32).forced_logits()
    mine = (ours.forced_logits() - wanted).abs().max()
    other = (theirs.forced_logits() - wanted).abs().max()
    ratio = float(mine / other)
    if not ratio <= ERROR_RATIO:
        raise SystemExit(f"error {ratio:.2f} times that of transformers in this dtype; no figures")
    return f"error {ratio:.2f} of transformers'"
