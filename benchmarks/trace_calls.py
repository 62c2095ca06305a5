"""How far it is through the code: the files and functions that one call enters, and how deep.

    python benchmarks/trace_calls.py

A greedy `generate` and `generate_text` of the embedded GPT-2, and a job of three lines. Each runs
once before it is watched, so that modules are imported; of other threads, what they enter counts.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tritonseq
from tritonseq.cli.main import main
from tritonseq.demo.run import EMBEDDED

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

ROOT = Path(__file__).parents[1]
ROOMS = tuple(f"{ROOT / name}/" for name in ("tritonseq", "kernels", "models"))


class Walk:
    """What is entered while it watches."""

    def __init__(self) -> None:
        self.functions: set[tuple[str, int, str]] = set()
        self.deepest = 0

    @property
    def files(self) -> set[str]:
        return {file for file, _, _ in self.functions}

    def run(self, call: Callable[[], object]) -> Walk:
        call()
        threading.setprofile(self._watch)
        sys.setprofile(self._watch)
        try:
            call()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        return self

    def _watch(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        # Comprehensions and the bodies of classes are parts of what they stand in.
        if (
            event != "call"
            or code.co_name.startswith("<")
            or not code.co_filename.startswith(ROOMS)
        ):
            return
        self.functions.add((code.co_filename, code.co_firstlineno, code.co_name))
        self.deepest = max(self.deepest, _depth(frame))


def _depth(frame: FrameType | None) -> int:
    """How many functions of ours are open."""
    depth = 0
    while frame is not None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        depth += not name.startswith("<") and file.startswith(ROOMS)
        frame = frame.f_back
    return depth


def job(folder: Path) -> int:
    """Three lines through the command line."""
    (folder / "in.txt").write_text("two plus two =\nthree plus four =\nsix plus one =\n")
    places = [str(EMBEDDED / "gpt2-words"), str(folder / "in.txt"), str(folder / "out.txt")]
    with contextlib.redirect_stderr(io.StringIO()):
        return main(["generate", *places, "--device", "cpu", "--overwrite"])


if __name__ == "__main__":
    model = tritonseq.load(EMBEDDED / "gpt2-words", device="cpu")
    with tempfile.TemporaryDirectory() as holder:
        walks = {
            "generate": lambda: model.generate([[1, 2, 3]], max_new_tokens=4),
            "generate_text": lambda: model.generate_text(["two plus two ="]),
            "a file job": lambda: job(Path(holder)),
        }
        for name, call in walks.items():
            walk = Walk().run(call)
            files = sum(1 for room in ROOMS for _ in Path(room).rglob("*.py"))
            print(
                f"{name}: {len(walk.files)} of {files} files, {len(walk.functions)} functions, "
                f"{walk.deepest} calls deep"
            )
