"""All parts of a run in their order, with their shares of the time."""

from __future__ import annotations

from suite.measures.cases import CASES

from .conductor import Part

WORKLOADS = "workloads"
SHARES = {"gpt2-greedy": 45, "gpt2-beams": 50, "bart": 60, "t5": 40, "unilm": 55}

PARTS = [
    # Nothing of the second stage is timed, so that its parts may disturb each other.
    Part("prepare", "suite.prepare", "machine", 40),
    Part("machine", "suite.machine", "machine", 40),
    Part("tests", "suite.hardware_tests", "checks", 90),
    Part("exactness", "suite.measures.exactness", "checks", 90),
    Part("drift", "suite.measures.drift", "checks", 90),
    *(Part(name, "suite.measures.workload", name, SHARES[name]) for name in CASES),
    Part("profile", "suite.measures.profiling", "profile", 45),
    Part("ablation", "suite.measures.ablation", "ablation", 60),
    Part("kernels", "suite.measures.kernel_bench", "kernels", 55),
]


def select(names: list[str]) -> list[Part]:
    """The parts of these names, in their order; all if there is no name.

    The machine is always described. Raises ValueError for an unknown name.
    """
    known = [WORKLOADS, *(part.name for part in PARTS)]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown: {', '.join(unknown)}; choose from {', '.join(known)}")
    wanted = {"machine", *names, *(CASES if WORKLOADS in names else ())}
    return [part for part in PARTS if not names or part.name in wanted]
