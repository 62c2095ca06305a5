"""`add_norm` in torch and Triton against its definition, over widths, dtypes and strides."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tritonseq.kernels import add_norm, reference

BOTH = pytest.mark.parametrize("impl", ["torch", "triton"])
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# One channel, less and more than a block of any size, and the widths of real models.
WIDTHS = [1, 3, 16, 31, 257, 768, 1000, 1024, 1025, 4097]


def rows(n: int, width: int, dtype: torch.dtype, *, strided: bool = False) -> Tensor:
    """Random rows of very different sizes; strided ones stand in a matrix of NaN."""
    scale = torch.logspace(-2, 2, n)[:, None] if n > 1 else 1.0
    values = (torch.randn(n, width) * scale + torch.randn(n, 1)).to(dtype)
    if not strided:
        return values
    whole = torch.full((n, 3, width + 5), torch.nan, dtype=dtype)
    whole[:, 1, 2 : width + 2] = values
    return whole[:, 1, 2 : width + 2]


def random_call(seed: int) -> tuple[Tensor, Tensor, Tensor | None, dict[str, Any]]:
    """The arguments `x`, `weight`, `bias` and options of one call."""
    g = random.Random(seed)
    torch.manual_seed(seed)
    n, width = g.choice((1, 1, 2, 5)), g.choice(WIDTHS)
    dtype = g.choice(DTYPES)
    x = rows(n, width, dtype, strided=g.random() < 0.4)
    weight = torch.randn(width).to(g.choice((dtype, dtype, *DTYPES)))
    rms, bias = g.random() < 0.5, None
    if not rms and g.random() < 0.8:
        bias = torch.randn(width).to(weight.dtype)
    options: dict[str, Any] = {"epsilon": g.choice((1e-5, 1e-6, 1e-12, 0.1)), "rms": rms}
    if g.random() < 0.7:
        stream = g.choice((dtype, torch.float32))
        options["residual"] = rows(n, width, stream, strided=g.random() < 0.4)
    return x, weight, bias, options


def run(call: Any, device: torch.device, **path: Any) -> tuple[Tensor, Tensor | None]:
    """What a call returns, and what becomes of its residual, which stays untouched itself."""
    function = add_norm if path else reference.add_norm
    x, weight, bias, options = call
    options = dict(options)
    if "residual" in options:
        # In the same strides.
        base = options["residual"]
        copy = torch.empty_strided(base.shape, base.stride(), dtype=base.dtype).copy_(base)
        options["residual"] = copy.to(device)
    bias = None if bias is None else bias.to(device)
    result = function(x.to(device), weight.to(device), bias, **options, **path)
    return result, options.get("residual")


def assert_near(result: Tensor, wanted: Tensor, about: str, slack: Tensor | float = 0.0) -> None:
    """Within a few roundings of the largest entry of the row, and `slack` beyond them."""
    assert result.dtype == wanted.dtype, about
    # A GPU rounds to bfloat16; the interpreter cuts off.
    roundings = {torch.float32: 8.0, torch.float16: 2.0, torch.bfloat16: 4.0}[result.dtype]
    relative = roundings * torch.finfo(result.dtype).eps
    error = (result.double() - wanted.double()).abs().amax(dim=1)
    bound = relative * wanted.double().abs().amax(dim=1) + slack + 1e-30
    assert bool((error <= bound).all()), f"{about}: {error / bound}"


def lost_in_the_mean(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """What a few roundings of the mean in float32 become where a row deviates little from it."""
    wide = x.double()
    deviation = (wide.var(dim=1, correction=0) + epsilon).sqrt()
    size = wide.abs().amax(dim=1) / deviation * weight.double().abs().amax()
    return 4 * torch.finfo(torch.float32).eps * size


class TestSweep:
    @pytest.mark.parametrize(("impl", "seeds"), [("torch", 150), ("triton", 100)])
    def test_random(self, impl, seeds, device, poison):
        self.check(range(seeds), impl, device)

    @pytest.mark.long
    @BOTH
    def test_wide(self, impl, device, poison):
        self.check(range(1000, 3000), impl, device)

    @staticmethod
    def check(seeds, impl, device):
        for seed in seeds:
            call = random_call(seed)
            wanted, stream = run(call, torch.device("cpu"))
            result, own = run(call, device, impl=impl)
            about = (
                f"{seed=} {list(call[0].shape)} {call[0].dtype} {call[1].dtype} {call[3]['rms']}"
            )
            assert result.is_contiguous(), about
            if stream is not None:
                assert_near(own.cpu(), stream, about)
                # Where the sum was cut off, the norm is that of another sum.
                if not torch.equal(own.cpu(), stream):
                    continue
            total, weight = call[0] if stream is None else stream, call[1]
            lost = lost_in_the_mean(total, weight, call[3]["epsilon"])
            assert_near(result.cpu(), wanted, about, 0.0 if call[3]["rms"] else lost)


@pytest.mark.parametrize("rms", [False, True])
def test_every_width_of_a_block(rms, device):
    for width in range(1, 40):
        x, weight = torch.randn(2, width, device=device), torch.randn(width, device=device)
        result = add_norm(x, weight, epsilon=1e-5, rms=rms, impl="triton")
        assert_near(result, reference.add_norm(x, weight, epsilon=1e-5, rms=rms), f"{width=}")


class TestExactly:
    """On the CPU float32 results are those of the expressions that models used to hold."""

    @pytest.mark.parametrize("n", [1, 7])
    @pytest.mark.parametrize("width", [24, 1000])
    def test_layer_norm(self, n, width):
        x, residual, weight, bias = (torch.randn(s, width) for s in (n, n, 1, 1))
        stream, shape = residual.clone(), (width,)
        wanted = F.layer_norm(residual + x, shape, weight[0], bias[0], 1e-5)
        result = add_norm(x, weight[0], bias[0], residual=stream, epsilon=1e-5, impl="torch")
        assert torch.equal(result, wanted)
        assert torch.equal(stream, residual + x)
        alone = add_norm(x, weight[0], bias[0], epsilon=1e-5, impl="torch")
        assert torch.equal(alone, F.layer_norm(x, shape, weight[0], bias[0], 1e-5))

    def test_a_wider_stream(self):
        """Float16 beside a stream whose values it cannot hold: no infinity, no lost sum."""
        x, residual = torch.randn(3, 64).half(), 1e6 * torch.randn(3, 64)
        weight = torch.randn(64).half()
        for impl in ("torch", "triton"):
            stream = residual.clone()
            result = add_norm(x, weight, residual=stream, epsilon=1e-6, rms=True, impl=impl)
            assert torch.equal(stream, residual + x)
            assert result.dtype == torch.float16
            assert bool(result.isfinite().all())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_the_norm_is_that_of_the_rounded_sum(self, dtype, device):
        """1 is lost beside 4096, and what is lost must not come back through the norm."""
        x = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=dtype, device=device)
        residual = torch.tensor([[4096.0] * 4], dtype=dtype, device=device)
        weight = torch.ones(4, dtype=dtype, device=device)
        for impl in ("torch", "triton"):
            result = add_norm(x, weight, residual=residual.clone(), epsilon=1e-5, impl=impl)
            assert not result.any()


@BOTH
def test_rms_norm_rounds_before_it_scales(impl, device):
    """As T5 does: in float16 the two orders differ in some channel of many."""
    x = torch.randn(4, 512, device=device)
    weight = torch.randn(512, device=device).half()
    scaled = x * (x.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()
    result = add_norm(x, weight, epsilon=1e-6, rms=True, impl=impl)
    other = (scaled * weight.float()).half()
    wanted = scaled.half() * weight
    differ = (wanted != other).sum()
    assert differ > 100
    assert (result != wanted).sum() < differ / 20


@BOTH
def test_no_rows(impl, device):
    x = torch.empty(0, 8, device=device)
    result = add_norm(x, torch.ones(8, device=device), residual=x, epsilon=1e-5, impl=impl)
    assert result.shape == (0, 8)


@BOTH
def test_no_gradient(impl, device):
    x = torch.randn(2, 8, device=device, requires_grad=True)
    weight = torch.ones(8, device=device, requires_grad=True)
    residual = torch.zeros(2, 8, device=device)
    result = add_norm(x, weight, residual=residual, epsilon=1e-5, impl=impl)
    assert not result.requires_grad
    assert not residual.requires_grad


X, WEIGHT = torch.zeros(2, 8), torch.zeros(8)


@pytest.mark.parametrize(
    ("arguments", "options", "remedy"),
    [
        ((X[0], WEIGHT), {}, r"x is torch.float32 \[8\]; pass .* \[N, d\]"),
        ((X.long(), WEIGHT), {}, r"x is torch.int64"),
        ((X, WEIGHT[:7]), {}, r"weight is torch.float32 \[7\]; pass .* \[8\]"),
        ((X, WEIGHT.double()), {}, r"weight is torch.float64"),
        ((X, WEIGHT, WEIGHT[:7]), {}, r"bias is torch.float32 \[7\]; pass torch.float32 \[8\]"),
        ((X, WEIGHT, WEIGHT.half()), {}, r"bias is torch.float16"),
        ((X, WEIGHT, WEIGHT), {"rms": True}, "bias is given with rms=True"),
        ((X, WEIGHT), {"residual": X[:1]}, r"residual is \[1, 8\]; pass \[2, 8\]"),
        ((X, WEIGHT), {"residual": X.half()}, "residual is torch.float16; pass torch.float32"),
        ((X, WEIGHT), {"impl": "cuda"}, "impl is 'cuda'"),
        ((X.t().contiguous().t(), WEIGHT), {"impl": "triton"}, r"x has strides \[1, 2\]"),
        ((X[:, :1].expand(2, 8), WEIGHT), {"impl": "triton"}, r"x has strides"),
        ((torch.zeros(1, 8193), torch.zeros(8193)), {"impl": "triton"}, "x is 8193 wide"),
    ],
)  # fmt: skip
def test_faults(arguments, options, remedy):
    with pytest.raises(ValueError, match=remedy):
        add_norm(*arguments, epsilon=1e-5, **options)
