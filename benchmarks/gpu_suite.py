"""Everything that a GPU has to tell about tritonseq, in one run of a few minutes.

    python benchmarks/gpu_suite.py --minutes 9 --out DIR
    python benchmarks/gpu_suite.py --out DIR --only machine,bart
    python benchmarks/gpu_suite.py --rehearse --out DIR        # toy sizes on the CPU

It needs torch, triton, transformers, safetensors, huggingface_hub and pytest; tritonseq itself is
taken from this checkout and need not be installed, and no network is needed. What has been
measured is on disk at once: suite.json, with suite.md and suite.png made of it. The exit status
is 0 if everything ran and was right, 1 if anything failed, 3 if only the time ran out.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from suite import checkout, conductor
from suite.pages import chart, figures, markdown
from suite.parts import select
from suite.setting import Setting
from suite.task import save_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from suite.conductor import Part

FAILED, LATE = 1, 3
# Kept for the pages at the end.
REPORT = 4.0


class Results:
    """The files in the output folder, written anew whenever a part has something to add."""

    def __init__(self, setting: Setting, minutes: float, commit: str) -> None:
        self._setting = setting
        self._run: dict[str, Any] = {
            "rehearsal": setting.rehearse,
            "dtype": setting.dtype,
            "minutes": minutes,
            "commit": commit,
            "parts": {},
            "workloads": [],
            "chart": "none yet",
        }

    def update(self, parts: dict[str, Any]) -> None:
        setting = self._setting
        self._run["parts"] = parts
        self._run["workloads"] = figures.rows(parts, dtype=setting.dtype, rehearse=setting.rehearse)
        save_json(setting.out / "suite.json", self._run)

    def finish(self) -> None:
        """Chart and page, and all that the parts printed."""
        out = self._setting.out
        with (out / "suite.log").open("w") as target:
            for log in sorted(self._setting.work.glob("*.log")):
                target.write(f"# {log.stem}\n{log.read_text(errors='replace')}\n")
        self._run["chart"] = chart.draw(self._run, out / "suite.png")
        save_json(out / "suite.json", self._run)
        (out / "suite.md").write_text(markdown.page(self._run))


def suite(parts: Sequence[Part], args: argparse.Namespace) -> int:
    """Run the parts and write what they find; the exit status."""
    deadline = time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="gpu-suite-"))
    try:
        device = "cpu" if args.rehearse else "cuda"
        setting = Setting(args.out.resolve(), work, device, args.dtype, args.rehearse)
        setting.save(work / "setting.json")
        links = work / "links"
        checkout.link_package(links)
        results = Results(setting, args.minutes, args.commit or commit())
        reports = conductor.conduct(
            parts,
            seconds=deadline - time.monotonic() - min(REPORT, 6 * args.minutes),
            work=work,
            environment=checkout.environment(links, rehearse=args.rehearse),
            update=results.update,
        )
        results.finish()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print((args.out / "suite.md").read_text())
    return status(reports)


def status(reports: dict[str, Any]) -> int:
    endings = {report["status"] for report in reports.values()}
    if "failed" in endings or any(report.get("failures") for report in reports.values()):
        return FAILED
    return 0 if endings == {"done"} else LATE


def commit() -> str:
    """The commit that is checked out, marked if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=checkout.ROOT
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the results")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything together")
    parser.add_argument("--only", metavar="PART,...", default="", help="default: all parts")
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--rehearse", action="store_true", help="toy sizes on the CPU")
    parser.add_argument("--commit", help="where git cannot tell it")
    args = parser.parse_args(argv)
    if not args.rehearse and not torch.cuda.is_available():
        parser.error("there is no GPU here; --rehearse runs on the CPU")
    try:
        args.parts = select([name for name in args.only.split(",") if name])
    except ValueError as error:
        parser.error(str(error))
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return suite(args.parts, args)


if __name__ == "__main__":
    sys.exit(main())
