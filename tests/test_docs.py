"""The documents say what is so: examples run, every room is described, what is named exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

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
