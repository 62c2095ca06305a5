"""Without any of torch's private operators everything is found all the same."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import Any

import pytest
import torch

import tritonseq
from tritonseq.demo.run import EMBEDDED
from tritonseq.kernels import private_torch
from tritonseq.models import matmul
from tritonseq.models.matmul import is_packed

NAMES = ("bart-numbers", "gpt2-words", "t5-dates", "unilm-clock")
OPERATORS = [name for name in vars(private_torch) if name.isupper() and name != "TYPE_CHECKING"]
DTYPES = ("float32", "bfloat16")
IDS = [[7, 12, 9, 30, 11], [8, 14]]

pytestmark = pytest.mark.filterwarnings('ignore:with search="unilm", no effect of')


def found(dtype: str) -> list[Any]:
    """By beams over ragged batches, of all families."""
    models = [tritonseq.load(EMBEDDED / name, device="cpu", dtype=dtype) for name in NAMES]
    rows = {name: [[*row, 0, 0, 0][:5] for row in IDS] for name in NAMES}
    rows["gpt2-words"] = [[0, 0, 0, *row][-5:] for row in IDS]
    return [
        model.generate(
            rows[name],
            [[int(token > 0) for token in row] for row in rows[name]],
            num_beams=3,
            max_new_tokens=8,
        ).tolist()
        for name, model in zip(NAMES, models, strict=True)
    ]


@cache
def wanted(dtype: str) -> list[Any]:
    return found(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_one_is_missing(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "PACKED_FROM", 1)
    plain = wanted(dtype)
    monkeypatch.setattr(private_torch, name, None)
    assert found(dtype) == plain


def test_all_operators_are_known_here() -> None:
    """With this version of torch nothing takes a plain path unasked."""
    missing = [name for name in OPERATORS if getattr(private_torch, name) is None]
    assert missing == (
        [] if hasattr(torch._C, "_cuda_clearCublasWorkspaces") else ["_CLEAR_WORKSPACES"]
    )


HIDDEN = """
import sys, types, torch
sys.path.insert(0, {support!r})
aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
class Public:
    def __init__(self, owner):
        self.owner = owner
    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.owner, name)
torch.ops.aten, torch.ops.mkldnn = Public(aten), Public(mkldnn)
torch.ops.onednn = types.SimpleNamespace()
del torch._addmm_activation
if hasattr(torch._C, "_cuda_clearCublasWorkspaces"):
    del torch._C._cuda_clearCublasWorkspaces
from tritonseq.kernels import private_torch
names = {names!r}
assert all(getattr(private_torch, name) is None for name in names)
import tritonseq
from tritonseq.models.matmul import is_packed
model = tritonseq.load({folder!r}, device="cpu", dtype="bfloat16")
assert not any(map(is_packed, model.decoder.parameters()))
print(model.generate_text(["7 apples"]))
"""


def test_a_torch_without_any_of_them() -> None:
    """In a fresh interpreter, where they are gone before anything is imported."""
    folder = str(EMBEDDED / "bart-numbers")
    code = HIDDEN.format(support=sys.path[0], names=OPERATORS, folder=folder)
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    model = tritonseq.load(folder, device="cpu", dtype="bfloat16")
    assert done.stdout == f"{model.generate_text(['7 apples'])}\n"
    assert any(map(is_packed, model.decoder.parameters())) == private_torch.can_pack(model.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_attention_without_torch_s(
    masked: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output, log-sum-exp, and rows that see nothing."""
    query, key, value = (torch.randn(2, 3, length, 16).to(dtype) for length in (5, 9, 9))
    mask = None
    if masked:
        mask = torch.zeros(2, 1, 5, 9).masked_fill(torch.rand(2, 1, 5, 9) < 0.4, -torch.inf)
        mask[1, :, 2] = -torch.inf
        mask = mask.to(dtype)
    call = {"attn_mask": mask, "scale": 0.3}
    theirs, their_lse = private_torch.flash_attention(query, key, value, **call)
    monkeypatch.setattr(private_torch, "_FLASH", None)
    ours, lse = private_torch.flash_attention(query, key, value, **call)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(lse, their_lse, rtol=tolerance, atol=tolerance)
