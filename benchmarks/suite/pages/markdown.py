"""A run of the suite as a page to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .figures import results

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

COLUMNS = (
    "title", "unit", "ours", "theirs", "ratio", "their batch", "ms/step", "floor ms/step",
    "share of floor", "GB/s", "required on an H200", "spread", "noise",
)  # fmt: skip


def page(run: Mapping[str, Any]) -> str:
    """The whole of it."""
    parts = run["parts"]
    heading = "A rehearsal: no figure means anything" if run["rehearsal"] else "GPU suite"
    lines = [f"# {heading}", "", *machine(run), ""]
    lines += ["## Workloads", "", *workloads(run), ""]
    lines += ["## Checks", "", *checks(parts), ""]
    lines += ["## Without each idea", "", *ablation(parts), ""]
    lines += ["## One step", "", *profiles(parts), ""]
    lines += ["## Parts", "", *table(("part", "status", "seconds"), endings(parts))]
    lines += ["", *faults(parts), "", f"Chart: {run['chart']}", ""]
    return "\n".join(lines)


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    columns = list(columns)
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return lines + [f"| {' | '.join(word(value) for value in row)} |" for row in rows]


def word(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(word(entry) for entry in value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "" if value is None else str(value)


def machine(run: Mapping[str, Any]) -> list[str]:
    kept = results(run["parts"], "machine")
    facts = dict(kept.get("machine", {}))
    facts |= {"commit": run["commit"], "dtype": run["dtype"], "minutes": run["minutes"]}
    facts |= {name: value for name, value in kept.items() if name != "machine"}
    return table(("", ""), facts.items())


def workloads(run: Mapping[str, Any]) -> list[str]:
    lines = table(COLUMNS, ([row.get(name) for name in COLUMNS] for row in run["workloads"]))
    lines += ["", "The floor is first that of slots which live beams descend from, then of all."]
    for row in run["workloads"]:
        if "engine" in row:
            lines.append(f"{row['title']}: beside {row['engine']}.")
    return lines


def checks(parts: Mapping[str, Any]) -> Iterator[str]:
    counts = results(parts, "tests").values()
    passed, failed = (
        sum(number(report[name]) for report in counts) for name in ("passed", "failed")
    )
    yield f"Kernel tests: {passed} passed, {failed} failed."
    verdicts = [
        report["verdict"] for report in results(parts, "exactness").values() if "verdict" in report
    ]
    yield "Float32: " + ", ".join(
        f"{verdicts.count(name)} {name}" for name in ("identical", "tie", "different")
    )
    yield ""
    drifts = results(parts, "drift")
    if drifts:
        columns = list(next(iter(drifts.values())))
        yield from table(
            ("drift", *columns), ([name, *found.values()] for name, found in drifts.items())
        )


def number(value: Any) -> int:
    return value if isinstance(value, int) else len(value)


def ablation(parts: Mapping[str, Any]) -> list[str]:
    rows = (
        (name, found.get("ms/step"), found.get("added ms/step"), found.get("note"))
        for name, found in results(parts, "ablation").items()
    )
    return table(("", "ms/step", "added ms/step", ""), rows)


def profiles(parts: Mapping[str, Any]) -> Iterator[str]:
    columns = ("wall us/step", "kernels us/step", "kernels / wall", "launches/step")
    found = results(parts, "profile")
    yield from table(
        ("", *columns), ([name, *(kept[c] for c in columns)] for name, kept in found.items())
    )
    for name, kept in found.items():
        yield ""
        yield from table((name, "us/step", "launches/step"), (top.values() for top in kept["top"]))


def endings(parts: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    return ((name, part["status"], part.get("seconds")) for name, part in parts.items())


def faults(parts: Mapping[str, Any]) -> Iterator[str]:
    """What failed, and what was left out, each with its reason."""
    for title in ("failures", "not run"):
        for name, part in parts.items():
            for what, reason in part.get(title, {}).items():
                yield f"- {title}: {name}: {what}: {reason}"
