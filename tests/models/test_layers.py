"""What models share: products in every layout of a weight, norms, ranges, and names of tensors."""

from __future__ import annotations

from typing import Any

import networks
import pytest
import torch
from torch import Tensor

import tritonseq
from tritonseq.kernels import private_torch
from tritonseq.models import matmul
from tritonseq.models.layers import Head, LayerNorm, Linear, RMSNorm
from tritonseq.models.matmul import in_steps, pays_to_pack
from tritonseq.models.network import TensorSpec, match, place_parameter

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
ROWS = (1, 2, 16, 17, 100)


def linear(inputs: int, outputs: int, dtype: torch.dtype, **options: Any) -> Linear:
    module = Linear(inputs, outputs, **options)
    for name, parameter in list(module.named_parameters()):
        place_parameter(module, name, torch.randn(parameter.shape).to(dtype), pack=False)
    return module


def assert_near(result: Tensor, wanted: Tensor) -> None:
    """Within the rounding of one sum in the dtype of `result`; `wanted` is float64."""
    tolerance = 4 * torch.finfo(result.dtype).eps * wanted.abs().max().item()
    torch.testing.assert_close(result.double(), wanted, rtol=0, atol=tolerance)


@DTYPES
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(24, 40), (7, 5), (1, 1), (130, 33)])
def test_packed_weights(
    inputs: int, outputs: int, bias: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "PACKED_FROM", 1)
    module = linear(inputs, outputs, dtype, bias=bias, packed=True)
    weight = module.weight.detach().clone()
    module.pack()
    assert module.weight.is_mkldnn == pays_to_pack(weight)
    for rows in ROWS:
        x = torch.randn(rows, inputs).to(dtype)
        wanted = x.double() @ weight.double()
        wanted = wanted if module.bias is None else wanted + module.bias.double()
        assert_near(module(x), wanted)
        assert module(x).dtype == dtype


@DTYPES
def test_packed_heads(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "PACKED_FROM", 1)
    head, bias = Head(47, 24), torch.randn(47).to(dtype)
    weight = torch.randn(47, 24).to(dtype)
    place_parameter(head, "weight", weight)
    assert head.weight.is_mkldnn == pays_to_pack(weight)
    for rows in ROWS:
        x = torch.randn(rows, 24).to(dtype)
        wanted = x.double() @ weight.double().t()
        assert_near(head(x), wanted)
        assert_near(head(x, bias), wanted + bias.double())


def test_what_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights on other devices, in float16, of modules that were not told to, and all without
    oneDNN stay what they are, shape and all; so do small ones in float32."""
    small = linear(24, 40, torch.float32, packed=True)
    assert small.weight.numel() < matmul.PACKED_FROM
    small.pack()
    assert not small.weight.is_mkldnn
    monkeypatch.setattr(matmul, "PACKED_FROM", 1)
    unasked = linear(24, 40, torch.float32)
    half = linear(24, 40, torch.float16, packed=True)
    elsewhere = Linear(24, 40, packed=True)
    assert elsewhere.weight.is_meta
    head = Head(47, 24)
    for module in (unasked, half, elsewhere, head):
        weight = module.weight
        module.pack()
        assert module.weight is weight
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    module = linear(24, 40, torch.float32, packed=True)
    weight = module.weight
    module.pack()
    assert module.weight is weight
    x = torch.randn(3, 24)
    assert_near(module(x), x.double() @ weight.double() + module.bias.double())


FAMILIES = pytest.mark.parametrize("model_type", networks.SIZES)


@FAMILIES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_machine_without_onednn(
    model_type: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "PACKED_FROM", 1)
    model = networks.network(model_type).to(dtype)
    tokens, lengths = networks.sources([9, 1, 6])
    targets = torch.arange(12).view(3, 1, 4).expand(-1, 2, -1)
    packed = tritonseq.from_transformers(model).decoder
    wanted = networks.stepped_logits(packed, tokens, lengths, targets)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = tritonseq.from_transformers(model).decoder
    assert not any(parameter.is_mkldnn for parameter in plain.parameters())
    result = networks.stepped_logits(plain, tokens, lengths, targets)
    spread = 2e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(result, wanted, rtol=0, atol=spread * wanted.abs().max().item())


# The tables of FSMT are of two vocabularies.
@pytest.mark.parametrize("model_type", [name for name in networks.SIZES if name != "fsmt"])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_tables_are_one_tensor(model_type: str, tied: bool) -> None:
    """And stay unpacked, since they are also looked up."""
    model = networks.network(model_type)
    if not tied:
        own = torch.randn_like(model.lm_head.weight)
        model.lm_head.weight = torch.nn.Parameter(own, requires_grad=False)
    ours = tritonseq.from_transformers(model).decoder
    t5 = model_type in ("t5", "mt5", "umt5")
    source, target = (ours.shared, ours.target) if t5 else (ours.source.tokens, ours.target.tokens)
    assert source.weight is target.weight
    assert not source.weight.is_mkldnn
    assert (ours.lm_head.weight is source.weight) == tied
    assert ours.lm_head.weight.is_mkldnn == (not tied and pays_to_pack(source.weight))
    # Sines and cosines are computed, and in no checkpoint.
    computed = ("positions",) if model_type == "m2m_100" else ()
    assert sum(
        parameter.nbytes
        for name, parameter in ours.named_parameters()
        if not any(part in name for part in computed)
    ) == sum(tensor.nbytes for tensor in unique(model.state_dict()))


def unique(state: dict[str, Tensor]) -> list[Tensor]:
    return list({tensor.data_ptr(): tensor for tensor in state.values()}.values())


@pytest.mark.parametrize("bias", [True, False])
def test_float32_outputs_of_float16_weights(bias: bool) -> None:
    """Rows of any size, zeros among them, whose products float16 cannot hold."""
    module = linear(40, 24, torch.float16, bias=bias, packed=True, fp32_output=True)
    x = torch.randn(6, 40) * torch.tensor([1e-4, 1e-2, 1.0, 6e4, 1e9, 0.0])[:, None]
    result = module(x)
    assert result.dtype == torch.float32
    assert result.abs().max() > torch.finfo(torch.float16).max
    wanted = x.double() @ module.weight.double()
    wanted = wanted if module.bias is None else wanted + module.bias.double()
    for row, truth in zip(result, wanted, strict=True):
        torch.testing.assert_close(
            row.double(), truth, rtol=0, atol=4e-3 * truth.abs().max().item()
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_float32_outputs_are_of_float16_weights_alone(dtype: torch.dtype) -> None:
    module, x = linear(24, 40, dtype, fp32_output=True), torch.randn(3, 24).to(dtype)
    assert not module.widens
    assert module(x).dtype == dtype


@DTYPES
@pytest.mark.parametrize("stream", [torch.float32, None])
def test_norms(dtype: torch.dtype, stream: torch.dtype | None) -> None:
    """Of a residual stream in float32 or in the weights' dtype; the result has the latter."""
    x = (torch.randn(5, 33) * 20).to(stream or dtype)
    layer, rms = LayerNorm(33, 1e-5), RMSNorm(33, 0.3)
    scale, shift = torch.randn(33).to(dtype), torch.randn(33).to(dtype)
    place_parameter(layer, "weight", scale)
    place_parameter(layer, "bias", shift)
    place_parameter(rms, "weight", scale)
    truth = x.double()
    centred = truth - truth.mean(-1, keepdim=True)
    normal = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert layer(x).dtype == rms(x).dtype == dtype
    assert_near(layer(x), normal * scale.double() + shift.double())
    scaled = truth / (truth.square().mean(-1, keepdim=True) + 0.3).sqrt()
    assert_near(rms(x), scaled * scale.double())


def test_rms_norm_of_what_float16_cannot_square() -> None:
    norm = RMSNorm(8, 1e-6)
    place_parameter(norm, "weight", torch.ones(8).half())
    assert_near(norm(torch.full((1, 8), 6e4).half()), torch.ones(1, 8).double())
    assert_near(norm(torch.full((1, 8), 1e9)), torch.ones(1, 8).double())


def test_matching_names_what_is_missing_and_left_over() -> None:
    wanted = {"qkv": TensorSpec(("q", "k", "v"), transpose=True), "norm": TensorSpec(("norm",))}
    names = {"q", "k", "v", "norm"}
    assert match(wanted, names, ignorable=lambda name: False) is wanted
    assert match(wanted, {*names, "junk"}, ignorable="junk".__eq__) is wanted
    with pytest.raises(ValueError, match=r"missing: k, norm; left over: a, b$"):
        match(wanted, {"q", "v", "b", "a", "junk"}, ignorable="junk".__eq__)


def test_matching_cuts_long_lists() -> None:
    wanted = {f"w{n:02}": TensorSpec((f"w{n:02}",)) for n in range(30)}
    with pytest.raises(ValueError, match=r"missing: w00, .*, w07 and 22 more; left over: a$"):
        match(wanted, {"a"}, ignorable=lambda name: False)


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_matching_names_a_half_that_is_not_there(half: str) -> None:
    names = ["shared", "model.encoder.w", "model.decoder.w"]
    wanted = {name: TensorSpec((name,)) for name in names}
    present = {name for name in names if half not in name}
    with pytest.raises(ValueError, match=f"the checkpoint holds no {half}"):
        match(wanted, present, ignorable=lambda name: False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_products_of_any_number_of_rows_have_few_shapes(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since oneDNN compiles and keeps code for each; and no row is lost or changed by another."""
    monkeypatch.setattr(matmul, "PACKED_FROM", 1)
    packed, plain = (linear(24, 40, dtype, packed=packed) for packed in (True, False))
    place_parameter(plain, "weight", packed.weight)
    plain.bias = packed.bias
    packed.pack()
    shapes = set()
    product = private_torch.packed_product

    def recording(x: Tensor, *others: Any) -> Tensor:
        shapes.add(x.shape)
        return product(x, *others)

    monkeypatch.setattr(private_torch, "packed_product", recording)
    weight, bias = plain.weight.double(), plain.bias.double()
    for rows in range(1, 600, 7):
        x = torch.randn(rows, 24).to(dtype)
        for module in (packed, plain):
            assert_near(module(x), x.double() @ weight + bias)
    assert len(shapes) < 45
    for rows in range(1, 5000):
        assert rows <= in_steps(rows) <= max(rows + 15, 1.125 * rows)
