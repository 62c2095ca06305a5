"""`activate` in torch and Triton against its definition."""

from __future__ import annotations

import math
import random

import pytest
import torch
import torch.nn.functional as F

from tritonseq.kernels import activate, reference

BOTH = pytest.mark.parametrize("impl", ["torch", "triton"])
KINDS = pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "relu", "silu"])
# An exponential that overflows is meant to: what is divided by it vanishes.
pytestmark = pytest.mark.filterwarnings("ignore:overflow")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
PLAIN = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


def in_nan(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same rows within a matrix of NaN."""
    n, width = values.shape
    whole = torch.full((n, 2 * width + 3), torch.nan, dtype=values.dtype, device=device)
    part = whole[:, width + 1 : 2 * width + 1]
    return part.copy_(values)


@KINDS
@BOTH
def test_random(kind, impl, device, poison):
    for seed in range(30 if impl == "torch" else 20):
        check(kind, impl, device, seed)


@pytest.mark.long
@KINDS
@BOTH
def test_wide(kind, impl, device):
    for seed in range(1000, 1300):
        check(kind, impl, device, seed)


def check(kind: str, impl: str, device: torch.device, seed: int) -> None:
    g = random.Random(seed)
    torch.manual_seed(seed)
    n, width, dtype = g.choice((1, 2, 5)), g.choice((1, 7, 64, 1000, 1025, 3072)), DTYPES[seed % 3]
    values = (torch.randn(n, width) * g.choice((0.1, 1, 6))).to(dtype)
    bias = torch.randn(width).to(dtype) if g.random() < 0.5 else None
    gate = torch.randn(n, width).to(dtype).to(device) if g.random() < 0.6 else None
    if gate is not None and g.random() < 0.5:
        gate = in_nan(gate, device)
    wanted = reference.activate(
        values.float().clone(),
        kind,
        None if bias is None else bias.float(),
        gate=None if gate is None else gate.cpu().float(),
    )
    x = in_nan(values, device)
    before = x._base.clone()
    bias = None if bias is None else bias.to(device)
    result = activate(x, kind, bias, gate=gate, impl=impl)
    assert (result is x) == (gate is None)
    if gate is None:
        # What is beside the rows stays.
        assert torch.equal(x._base.isnan(), before.isnan()), f"{seed=}"
    else:
        assert result.is_contiguous()
        assert torch.equal(x.cpu(), values), f"{seed=}"
    # Three roundings in torch: of the sum, the function and the product.
    spread = 4 * torch.finfo(dtype).eps
    factor = 1.0 if gate is None else gate.cpu().float().abs()
    summed = values.float() if bias is None else values.float() + bias.cpu().float()
    error = (result.cpu().float() - wanted).abs()
    assert bool((error <= spread * (1 + summed.abs()) * factor + 1e-7).all()), f"{seed=}"


@KINDS
def test_float32_on_the_cpu_is_torchs_own(kind):
    for shape in ((1, 1), (3, 37), (16, 4096)):
        x, gate = torch.randn(shape) * 3, torch.randn(shape)
        assert torch.equal(activate(x.clone(), kind, impl="torch"), PLAIN[kind](x))
        wanted = PLAIN[kind](x) * gate
        assert torch.equal(activate(x.clone(), kind, gate=gate, impl="torch"), wanted)


@KINDS
@BOTH
def test_ends_of_the_range(kind, impl, device):
    """Large entries of either sign, zero and NaN, as torch has them."""
    x = torch.tensor([[1e30, -1e30, 200.0, -200.0, 0.0, math.nan]], device=device)
    wanted = PLAIN[kind](x)
    assert wanted[0, 1] == 0
    result = activate(x.clone(), kind, impl=impl)
    torch.testing.assert_close(result, wanted, rtol=1e-6, atol=0, equal_nan=True)


@BOTH
def test_nothing(impl, device):
    assert activate(torch.empty(0, 8, device=device), "relu", impl=impl).shape == (0, 8)


@BOTH
def test_no_gradient(impl, device):
    gate = torch.ones(2, 8, device=device, requires_grad=True)
    assert not activate(torch.ones(2, 8, device=device), "silu", gate=gate, impl=impl).requires_grad


X = torch.zeros(2, 8)


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        (lambda: activate(X, "swish"), "kind is 'swish'; choose one of gelu, gelu_tanh, "),
        (lambda: activate(X[0], "relu"), r"x is torch.float32 \[8\]; pass .* \[N, d\]"),
        (lambda: activate(X.long(), "relu"), "x is torch.int64"),
        (lambda: activate(X, "relu", X[0, :7]), r"bias is torch.float32 \[7\]; pass .* \[8\]"),
        (lambda: activate(X, "relu", X[0].half()), "bias is torch.float16"),
        (lambda: activate(X, "relu", gate=X[:1]), r"gate is torch.float32 \[1, 8\]; pass .* \[2"),
        (lambda: activate(X, "relu", gate=X.half()), "gate is torch.float16"),
        (lambda: activate(X.t(), "relu", impl="triton"), r"x has strides \[1, 8\]"),
        (lambda: activate(X, "relu", impl="gpu"), "impl is 'gpu'"),
    ],
)  # fmt: skip
def test_faults(call, remedy):
    with pytest.raises(ValueError, match=remedy):
        call()
