"""The documents say what is so: examples run, every room is described, what is named exists."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from tritonseq.models import MODELS

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
KERNEL_BLOCKS = [block for block in BLOCKS if "tritonseq.kernels" in block]


@pytest.mark.parametrize("block", KERNEL_BLOCKS, ids=["decode_attention", "ban_ngrams"])
def test_the_kernel_examples_of_the_readme_run(
    block: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, object] = {}
    torch.manual_seed(0)
    exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    promised = re.findall(r"print\(.*# (\S+)", block)
    assert len(printed) == len(promised)
    for line, promise in zip(printed, promised, strict=True):
        assert promise.rstrip(":") in line
    if "out" in names:
        assert isinstance(names["out"], torch.Tensor)
        assert names["out"].shape == (8, 4, 1, 12, 64)
        assert names["out"].isfinite().all()


STRUCTURE = (ROOT / "docs" / "structure.md").read_text()
ROOMS = ("tritonseq", "kernels", "models")


def test_every_room_is_described() -> None:
    rooms = [ROOT / "kernels", ROOT / "models", *(ROOT / "tritonseq").glob("*/__init__.py")]
    for path in rooms:
        name = path.parent.name if path.name == "__init__.py" else path.name
        assert f"`{name}/`" in STRUCTURE, f"{name} is missing"
    assert len(STRUCTURE.splitlines()) <= 80


def test_every_module_begins_with_what_it_is() -> None:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            assert path.read_text().startswith('"""'), f"{path} has no docstring"


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)`", STRUCTURE)
    assert len(named) > 25
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "tritonseq" / name).exists(), name


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_no_document_is_left_with_a_placeholder(name: str) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", (ROOT / name).read_text(), flags=re.DOTALL)
    assert re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", prose) == []


def test_the_page_of_the_models_is_the_one_that_the_code_makes() -> None:
    path = ROOT / "docs" / "models.py"
    spec = importlib.util.spec_from_file_location("docs_models", path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    lacking = MODELS.keys() - made.ROWS.keys()
    assert not lacking, f"docs/models.py has no row for {lacking}"
    assert not made.ROWS.keys() - MODELS.keys(), "rows of no model"
    named = {family for kind in MODELS for family in made.tokenizers(kind)}
    assert named <= made.FILES.keys(), "families of tokenizers without files"
    assert made.PAGE.read_text() == made.page(), "run python docs/models.py"
