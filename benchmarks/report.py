"""The README's results, made from the rows of `benchmarks/results/`; nothing there is typed.

    python benchmarks/report.py            # writes the section, docs/speed.png, docs/pipeline.png
    python benchmarks/report.py --check    # fails if one is not what would be written

The CPU's rows are in cpu.csv, the last of a figure counts; a GPU's are the suite.json files of
`gpu_suite.py`, kept there under a name of their own; the pipeline's are in pipeline_cpu.csv, and
the timeline of its picture in traces/. The pictures need matplotlib.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reports.charts import digest, draw
from reports.data import RESULTS, read_cpu, read_gpu
from reports.pipeline import draw_trace, pipeline_table, read_pipeline, trace_digest
from reports.tables import cpu_section, gpu_section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
README, CHART = ROOT / "README.md", ROOT / "docs" / "speed.png"
STAGES = ROOT / "docs" / "pipeline.png"
BEGIN = "<!-- results: written by benchmarks/report.py -->"
END = "<!-- results: end -->"


def section() -> str:
    """What belongs between the markers."""
    lines = [*cpu_section(read_cpu(RESULTS / "cpu.csv")), *gpu_section(read_gpu(RESULTS))]
    lines += [f"![Times as fast as the other engine](docs/{CHART.name})", ""]
    lines += pipeline_table(read_pipeline(RESULTS / "pipeline_cpu.csv"))
    return "\n".join(lines).rstrip()


def pictures() -> Iterator[tuple[Path, str, Callable[[Path], None]]]:
    """Every picture with the digest that it has to bear, and what draws it."""
    yield CHART, digest(), draw
    trace = RESULTS / "traces" / "pipeline.json"
    if trace.exists():
        yield STAGES, trace_digest(trace), partial(draw_trace, trace)


def rewritten(readme: str) -> str:
    """The README with a fresh section."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise SystemExit(f"README.md needs one line {BEGIN} and one line {END}")
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{section()}\n\n{END}{after}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    args = parser.parse_args(argv)
    readme = README.read_text()
    fresh = rewritten(readme)
    undrawn = {
        path: drawing
        for path, mark, drawing in pictures()
        if not path.exists() or mark.encode() not in path.read_bytes()
    }
    if args.check:
        stale = [README.name] * (fresh != readme) + [path.name for path in undrawn]
        for name in stale:
            print(f"{name} is not what the results say: run python benchmarks/report.py")
        return 1 if stale else 0
    README.write_text(fresh)
    for path, drawing in undrawn.items():
        try:
            drawing(path)
        except ImportError:
            print(f"{path.name} is out of date: matplotlib is not installed")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
