"""`norm_linear`: torch and Triton against its definition, in all that they accept."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from launches import as_on_gpu

from tritonseq.kernels import norm_linear, reference
from tritonseq.kernels.activation import KINDS
from tritonseq.kernels.linear import is_norm_linear_faster
from tritonseq.kernels.linear.call import (
    ROW_MULTIPLE,
    WEIGHT_BYTES,
    NormLinearCall,
    can_hold,
    padded_rows,
)

BOTH = pytest.mark.parametrize("impl", ["torch", "triton"])
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
INPUTS = (1, 2, 7, 16, 31, 64, 96, 130, 300, 512, 768, 1030)
OUTPUTS = (1, 2, 3, 4, 5, 8, 9, 17)

Call = tuple[list[torch.Tensor | None], dict[str, Any]]


def laid_out(values: torch.Tensor, g: random.Random) -> torch.Tensor:
    """The same rows, alone or with NaN between them."""
    if g.random() < 0.5:
        return values
    wide = torch.full((len(values), values.shape[1] + g.randint(1, 9)), math.nan).to(values)
    wide[:, : values.shape[1]] = values
    return wide[:, : values.shape[1]]


def random_call(seed: int, dtype: torch.dtype, device: torch.device) -> Call:
    """Any rows, sizes, layouts and parts; sums of about 1, so that errors can be compared."""
    g = random.Random(seed)
    torch.manual_seed(seed)
    rows, inputs, outputs = g.choice((1, 1, 2, 3, 4, 6, 9)), g.choice(INPUTS), g.choice(OUTPUTS)

    def vector(size: int) -> torch.Tensor:
        return (torch.randn(size) * 0.5 + 1).to(device, dtype)

    def maybe(value: Any, otherwise: Any = None) -> Any:
        return value if g.random() < 0.6 else otherwise

    # Two inputs that happen to be close have a norm that no arithmetic of float32 gets right.
    norm = maybe(vector(inputs)) if inputs > 2 else None
    stream = maybe(dtype, torch.float32)
    x = torch.randn(rows, inputs) * (g.choice((0.1, 1, 30)) if norm is not None else 1)
    x += 0 if norm is None else g.choice((0, 3))
    weight = laid_out((torch.randn(outputs, inputs) * inputs**-0.5).to(device, dtype), g).t()
    if g.random() < 0.3:
        weight = laid_out(weight.contiguous(), g)
    rms = norm is not None and g.random() < 0.4
    options = {
        "norm_weight": norm,
        "norm_bias": None if norm is None or rms else maybe(vector(inputs)),
        "rms": rms,
        "epsilon": g.choice((1e-5, 1e-12, 0.3)),
        "activation": maybe(g.choice(KINDS)),
        "residual": maybe(laid_out(torch.randn(rows, outputs).to(device, stream), g)),
    }
    x = laid_out(x.to(device, dtype if norm is None else stream), g)
    return [x, weight, maybe(vector(outputs))], options


def outcome(function: Any, call: Call, **more: Any) -> torch.Tensor:
    """The result, into a residual of its own."""
    tensors, options = call
    residual = options["residual"]
    if residual is not None:
        # The rows keep their strides.
        memory = residual.new_full((len(residual), max(residual.stride(0), 1)), math.nan)
        options = options | {"residual": memory[:, : residual.shape[1]].copy_(residual)}
    result = function(*tensors, **options, **more)
    assert residual is None or result is options["residual"]
    return result


def wide(call: Call) -> Call:
    """The same call in float64."""
    tensors, options = call
    options = {k: x.double() if isinstance(x, torch.Tensor) else x for k, x in options.items()}
    return [x if x is None else x.double() for x in tensors], options


def check(seed: int, dtype: torch.dtype, impl: str, device: torch.device) -> None:
    call = random_call(seed, dtype, device)
    exact = outcome(reference.norm_linear, wide(call))
    result = outcome(norm_linear, call, impl=impl)
    kept = call[1]["residual"]
    assert result.dtype == (dtype if kept is None else kept.dtype)
    error, rounding = (result.double() - exact).abs().max(), 1 + exact.abs().max()
    rounding *= max(torch.finfo(dtype).eps, 1e-5 / 4)
    if impl == "torch":
        assert error <= 4 * rounding, f"{seed=}"
        return
    # The interpreter truncates to bfloat16 where a GPU rounds.
    torchs = (outcome(norm_linear, call, impl="torch").double() - exact).abs().max()
    assert error <= 2 * torchs + rounding, f"{seed=} {torchs=}"


class TestSweep:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_torch(self, dtype, device):
        for seed in range(60):
            check(seed, dtype, "torch", device)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("programs", [1, 256])
    def test_triton(self, dtype, programs, device, poison, monkeypatch):
        from tritonseq.kernels.linear import kernel

        # With one program as the aim, small weights too meet the tiles of large ones.
        monkeypatch.setattr(kernel, "PROGRAMS", programs)
        for seed in range(12 if programs == 1 else 4):
            check(seed, dtype, "triton", device)

    @pytest.mark.long
    @BOTH
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_wide(self, dtype, impl, device, poison, monkeypatch):
        from tritonseq.kernels.linear import kernel

        monkeypatch.setattr(kernel, "PROGRAMS", 1)
        for seed in range(1000, 1400):
            check(seed, dtype, impl, device)


class TestTorchPath:
    """On the CPU it is what a model would write, to the last bit."""

    @pytest.mark.parametrize("name", [None, *KINDS])
    def test_same_as_the_expression(self, name, device):
        x, weight, bias = torch.randn(3, 20), torch.randn(20, 33), torch.randn(33)
        gain, shift, stream = torch.randn(20), torch.randn(20), torch.randn(3, 33)
        wanted = torch.addmm(bias, F.layer_norm(x, (20,), gain, shift, 1e-5), weight)
        functions = {
            "gelu": F.gelu,
            "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
            "relu": F.relu,
            "silu": F.silu,
        }
        wanted = stream + (wanted if name is None else functions[name](wanted))
        result = norm_linear(
            x, weight, bias,
            norm_weight=gain, norm_bias=shift, activation=name, residual=stream, impl="torch",
        )  # fmt: skip
        assert result is stream
        assert torch.equal(result, wanted)


class TestRows:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_a_row_does_not_depend_on_its_neighbours(self, dtype, device):
        x, weight = torch.randn(6, 300).to(device, dtype), torch.randn(300, 7).to(device, dtype)
        gain = torch.randn(300).to(device, dtype)
        together = norm_linear(x, weight, norm_weight=gain, impl="triton")
        for row in range(6):
            alone = norm_linear(x[row : row + 1], weight, norm_weight=gain, impl="triton")
            assert torch.equal(alone[0], together[row])

    @BOTH
    def test_not_a_number_stays_in_its_row(self, impl, device):
        x = torch.randn(5, 40, device=device)
        x[2, 7] = math.nan
        y = norm_linear(x, torch.randn(40, 9, device=device), norm_weight=x.new_ones(40), impl=impl)
        assert y.isnan().all(1).tolist() == [False, False, True, False, False]
        assert not y[[0, 1, 3, 4]].isnan().any()

    @BOTH
    def test_no_rows_and_no_outputs(self, impl, device):
        weight = torch.randn(6, 4, device=device)
        assert norm_linear(weight.new_empty(0, 6), weight, impl=impl).shape == (0, 4)
        assert norm_linear(weight, weight.new_empty(4, 0), impl=impl).shape == (6, 0)

    @pytest.mark.parametrize("width", [1, 63, 64, 65])
    def test_rows_of_logits_start_on_whole_vectors(self, width, device):
        x = torch.randn(3, 8, device=device)
        for y in (
            padded_rows(3, width, x),
            norm_linear(x, torch.randn(8, width, device=device), impl="triton"),
        ):
            assert y.shape == (3, width)
            assert y.stride(1) == 1
            assert y.stride(0) % ROW_MULTIPLE == 0 and width <= y.stride(0) < width + ROW_MULTIPLE

    def test_no_gradient_flows(self, device):
        x = torch.randn(2, 8, device=device, requires_grad=True)
        assert not norm_linear(x, torch.randn(8, 5, device=device), impl="torch").requires_grad


class TestTiles:
    def test_weights_of_every_size_fit_the_registers(self):
        from tritonseq.kernels.linear import kernel as linear

        for item_size in (2, 4):
            for inputs in (*range(1, 300), *range(300, WEIGHT_BYTES // item_size + 1, 61)):
                warps = linear.warps(inputs, item_size)
                loads = -(-inputs * item_size // (warps * 32 * linear.LOAD_BYTES))
                assert warps in (1, 2, 4, 8)
                assert loads <= 8
                assert warps == 8 or loads <= linear.CHUNKS
                for rows, wide in itertools.product((1, 2, 3, 4, 9), (1, 2)):
                    inside = linear.rows_per_program(rows, loads * wide)
                    outputs = linear.outputs_per_program(inside, 10**6, loads)
                    assert 1 <= inside <= 4 and outputs in (2, 4)
                    # Registers of 32 bits for the weights and inputs that a thread holds.
                    assert (outputs + inside * wide) * loads * linear.LOAD_BYTES // 4 <= 128

    def test_a_small_weight_reaches_every_multiprocessor(self):
        from tritonseq.kernels.linear import kernel as linear

        for outputs in range(1, 5000, 7):
            tile = linear.outputs_per_program(1, outputs, 3)
            assert tile == (4 if outputs > 4 * (linear.PROGRAMS - 1) else 2)

    def test_programmatic_launch_is_a_matter_of_the_gpu(self, device):
        from tritonseq.kernels.linear import kernel as linear

        weight = torch.randn(8, 5)
        call = NormLinearCall(torch.randn(1, 8), weight, *[None] * 4, 1e-5, False, None)
        for pdl in (False, True):
            (launch,) = linear.linear_launches(call, torch.empty(1, 5), pdl=pdl)
            assert launch.arguments["PDL"] is pdl
            assert launch.options(amd=False).get("launch_pdl", False) is pdl
        assert not linear.PROGRAMMATIC_LAUNCH, "no measurement has shown that it pays"
        assert not linear.has_programmatic_launch(torch.device("cpu"))

    def test_it_pays_for_few_rows_on_a_gpu(self):
        x, weight = torch.empty(8, 16), torch.empty(16, 4)
        assert not is_norm_linear_faster(x, weight)
        with as_on_gpu():
            assert is_norm_linear_faster(x, weight)
            assert not is_norm_linear_faster(torch.empty(9, 16), weight)
            assert not is_norm_linear_faster(x, torch.empty(WEIGHT_BYTES // 4 + 1, 4))


def fault(**change: Any) -> dict[str, Any]:
    """A call that fits together but for one argument."""
    x, weight = torch.zeros(2, 6), torch.zeros(6, 4)
    return {"x": x, "weight": weight, "norm_weight": torch.zeros(6)} | change


class TestErrors:
    @BOTH
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"x": torch.zeros(2, 5)}, r"x is \[2, 5\] and weight \[6, 4\]; pass \[N, in\]"),
            ({"x": torch.zeros(6)}, r"x is \[6\] and weight"),
            ({"x": torch.zeros(2, 0), "weight": torch.zeros(0, 4)}, r"x is \[2, 0\]"),
            ({"x": torch.zeros(2, 6).long()}, r"x is torch.int64; pass float16"),
            ({"weight": torch.zeros(6, 4).double()}, "weight is torch.float64; pass float16"),
            ({"x": torch.zeros(2, 6).half(), "norm_weight": None}, "x is torch.float16; without"),
            ({"bias": torch.zeros(3)}, r"bias is torch.float32 \[3\]; pass torch.float32 \[4\]"),
            ({"norm_weight": torch.zeros(6).half()}, r"norm_weight is torch.float16 \[6\]; pass"),
            ({"norm_bias": torch.zeros(4)}, r"norm_bias is torch.float32 \[4\]; pass"),
            ({"norm_weight": None, "norm_bias": torch.zeros(6)}, "norm_bias is given without"),
            ({"rms": True, "norm_bias": torch.zeros(6)}, "by the root mean square has none"),
            ({"activation": "gelu_new"}, "activation is 'gelu_new'; choose one of gelu, gelu_tanh"),
            ({"residual": torch.zeros(2, 6)}, r"residual is torch.float32 \[2, 6\]; pass .*\[2, 4"),
            ({"residual": torch.zeros(2, 4).long()}, "residual is torch.int64"),
            ({"impl": "cuda"}, "impl is 'cuda'"),
        ],
    )
    def test_named(self, change, message, impl):
        with pytest.raises(ValueError, match=message):
            norm_linear(**fault(**({"impl": impl} | change)))

    @BOTH
    def test_residual_must_not_be_what_is_read(self, impl):
        x = torch.zeros(2, 6)
        with pytest.raises(
            ValueError, match="residual is written in place and shares memory with x"
        ):
            norm_linear(x, torch.zeros(6, 6), residual=x, impl=impl)

    def test_strided_elements_in_triton(self, device):
        column = torch.zeros(6, 2, device=device)
        with pytest.raises(ValueError, match=r"x has strides \[1, 2\]; make its last dim"):
            norm_linear(column.t(), torch.zeros(6, 4, device=device), impl="triton")

    def test_too_many_inputs_for_a_program(self, device):
        weight = torch.zeros(WEIGHT_BYTES // 4 + 1, 1, device=device)
        assert not can_hold(weight)
        with pytest.raises(
            ValueError, match=r'8192 inputs of torch.float32 at most: pass impl="to'
        ):
            norm_linear(weight.t(), weight, impl="triton")
        assert norm_linear(weight.t(), weight).item() == 0
