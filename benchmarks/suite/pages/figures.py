"""From what the parts have kept to the rows of the table: rates, shares of the floor, ratios."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from suite.measures import roofline
from suite.measures.cases import CASES
from suite.measures.roofline import Ceilings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from suite.measures.cases import SuiteCase

Report = "Mapping[str, Any]"


def results(parts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What a part has kept; nothing if it has not run."""
    found: Mapping[str, Any] = parts.get(name, {}).get("results", {})
    return found


def ceilings(parts: Mapping[str, Any]) -> Ceilings | None:
    """Those that were measured in this run."""
    machine = results(parts, "machine")
    if not {"copy GB/s", "read GB/s", "matmul TFLOP/s"} <= machine.keys():
        return None
    read = max(machine["copy GB/s"], machine["read GB/s"])
    return Ceilings(1e9 * read, 1e12 * machine["matmul TFLOP/s"])


def rows(parts: Mapping[str, Any], *, dtype: str, rehearse: bool) -> list[dict[str, Any]]:
    """One per workload that was measured."""
    seen = ceilings(parts)
    found = []
    for name, case in CASES.items():
        kept = results(parts, name)
        if "ms/step" in kept.get("ours", {}):
            case = case.of(getattr(torch, dtype), rehearse=rehearse)
            found.append({"workload": name, "title": case.title} | row(case, kept, seen))
    return found


def row(case: SuiteCase, kept: Mapping[str, Any], seen: Ceilings | None) -> dict[str, Any]:
    ours = kept["ours"]
    rate = ours[case.unit]
    figures = {
        "unit": case.unit,
        "ours": rate,
        "required on an H200": case.required,
        "ms/step": ours["ms/step"],
        "spread": ours["spread"],
        "noise": ours["noise"],
        "warm-ups s": ours["warm-ups s"],
        **beside(case, kept),
    }
    return figures if seen is None else figures | against_floor(case, ours["ms/step"], seen)


def beside(case: SuiteCase, kept: Mapping[str, Any]) -> dict[str, Any]:
    """The best of the others."""
    measured = [kept[name] for name in ("theirs", "theirs static") if name in kept]
    if not measured:
        return {}
    best = max(measured, key=lambda figures: figures[case.unit])
    engine = case.reference if case.workload.model == "unilm" else best["engine"]
    return {
        "theirs": best[case.unit],
        "engine": engine,
        "their batch": best["batch"],
        "ratio": round(kept["ours"][case.unit] / best[case.unit], 2),
    }


def against_floor(case: SuiteCase, ms: float, seen: Ceilings) -> dict[str, Any]:
    """What bytes and operations allow on this device; live slots first, then all of them."""
    need = roofline.demand(case)
    live, every = (1e3 * need.seconds(seen, live=live) for live in (True, False))
    figures = {
        "floor ms/step": [round(live, 5), round(every, 5)],
        "share of floor": round(live / ms, 4),
        "GB/s": round(need.bytes(live=True) / ms / 1e6, 1),
        "floor rate": [
            float(f"{roofline.rate(case, seen, live=live):.4g}") for live in (True, False)
        ],
    }
    if case.workload.beams > 1:
        cap = roofline.transformers_cap(case, seen)
        figures["cap of per-beam caches"] = float(f"{cap:.4g}")
    return figures
