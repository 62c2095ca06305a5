"""English text that every machine has: what Python's standard library says of itself."""

from __future__ import annotations

import ast
import random
import sysconfig
from functools import cache
from pathlib import Path

# A paragraph shorter than this is a heading or a stray word.
FEWEST_CHARACTERS = 12


@cache
def sources() -> tuple[str, ...]:
    """The modules of the standard library without their tests, in the order of their paths."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "test", "tests", "idle_test", "lib2to3"}
    paths = [path for path in sorted(root.rglob("*.py")) if not left_out & set(path.parts)]
    return tuple(path.read_text(encoding="utf-8", errors="ignore") for path in paths)


@cache
def paragraphs() -> tuple[str, ...]:
    """The paragraphs of their docstrings, one line each."""
    found: dict[str, None] = {}
    for source in sources():
        try:
            tree = ast.parse(source)
        except SyntaxError:
            continue  # templates of code that is yet to be filled in
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    line = " ".join(paragraph.split())
                    if len(line) >= FEWEST_CHARACTERS:
                        found[line] = None
    return tuple(found)


def texts(count: int, *, seed: int, most_words: int) -> list[str]:
    """So many different paragraphs in no order, of all lengths up to `most_words`."""
    short = [line for line in paragraphs() if len(line.split()) <= most_words]
    return random.Random(seed).sample(short, count)


def lines(*, seed: int = 0) -> list[str]:
    """Text to train a large vocabulary on: all lines of the modules, in no order."""
    every = [line.strip() for source in sources() for line in source.splitlines() if line.strip()]
    random.Random(seed).shuffle(every)
    return every
