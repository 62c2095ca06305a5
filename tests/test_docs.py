"""The documents say what is so: examples run, every file is described."""

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


def test_every_file_is_described() -> None:
    described = (ROOT / "docs" / "structure.md").read_text()
    for room in ("tritonseq", "kernels", "models", "training", "benchmarks"):
        for path in (ROOT / room).rglob("*.py"):
            assert f"{path.name}`" in described, f"{room}/{path.name} is missing"
    others = [ROOT / name for name in ("Makefile", "constraints.txt", "pyproject.toml", ".ci/run")]
    for path in [*others, *(ROOT / "tests").rglob("*.py")]:
        name = path.relative_to(ROOT).as_posix()
        assert f"| `{name}` |" in described, f"{name} is missing"


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_no_document_is_left_with_a_placeholder(name: str) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", (ROOT / name).read_text(), flags=re.DOTALL)
    assert re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", prose) == []


def test_every_described_file_exists() -> None:
    described = re.findall(
        r"^\| `([\w/]+\.py)` \|", (ROOT / "docs" / "structure.md").read_text(), re.M
    )
    assert len(described) > 25
    rooms = [ROOT, *(ROOT / room for room in ("tritonseq", "kernels", "models"))]
    for name in described:
        assert any((room / name).exists() for room in rooms), name
