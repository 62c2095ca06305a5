"""One name for one thing, and docstrings that state rather than ask."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for folder in ("tritonseq", "kernels", "models", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
# Every architecture has parts that its paper calls so.
PARTS = {"Attention", "Block", "FeedForward"}


def test_a_class_name_stands_for_one_class() -> None:
    places = defaultdict(set)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            is_class = isinstance(node, ast.ClassDef)
            if is_class and not (node.name in PARTS and path.parent.name == "models"):
                places[node.name].add(path.relative_to(ROOT).as_posix())
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_docstring_asks() -> None:
    """Of a flag it says "Whether", of what is found it says what that is."""
    asking = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            # Attributes have theirs as an expression behind them.
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                first = str(node.value.value).strip().split("\n")[0]
                if re.match(r"[^.:(]*\?", first):
                    asking.append(f"{path.relative_to(ROOT).as_posix()}:{node.lineno} {first}")
    assert asking == []
