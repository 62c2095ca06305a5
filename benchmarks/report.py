"""The README's results, made from the rows of `benchmarks/results/`; nothing there is typed.

    python benchmarks/report.py            # writes the section, and docs/speed.png
    python benchmarks/report.py --check    # fails if either is not what would be written

The CPU's rows are in cpu.csv, the last of a figure counts; a GPU's are the suite.json files of
`gpu_suite.py`, kept there under a name of their own. The chart needs matplotlib.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from report_chart import digest, draw
from report_data import RESULTS, read_cpu, read_gpu
from report_tables import cpu_section, gpu_section

ROOT = Path(__file__).parents[1]
README, CHART = ROOT / "README.md", ROOT / "docs" / "speed.png"
BEGIN = "<!-- results: written by benchmarks/report.py -->"
END = "<!-- results: end -->"


def section() -> str:
    """What belongs between the markers."""
    figures, machine, versions = read_cpu(RESULTS / "cpu.csv")
    lines = [*cpu_section(figures, machine, versions), *gpu_section(read_gpu(RESULTS))]
    lines += [f"![Times as fast as the other engine](docs/{CHART.name})"]
    return "\n".join(lines)


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
    drawn = CHART.exists() and digest().encode() in CHART.read_bytes()
    if args.check:
        stale = [
            path.name for path, good in ((README, fresh == readme), (CHART, drawn)) if not good
        ]
        for name in stale:
            print(f"{name} is not what the results say: run python benchmarks/report.py")
        return 1 if stale else 0
    README.write_text(fresh)
    if not drawn:
        try:
            draw(CHART)
        except ImportError:
            print("the chart is out of date: matplotlib is not installed")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
