"""`embed` in torch and Triton against its definition, to the last bit."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from tritonseq.kernels import embed, reference
from tritonseq.kernels.launch import is_interpreted

BOTH = pytest.mark.parametrize("impl", ["torch", "triton"])
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def random_call(seed: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    g = random.Random(seed)
    torch.manual_seed(seed)
    width, dtype, ids = (
        g.choice((1, 8, 100, 1024, 1500)),
        DTYPES[seed % 3],
        (torch.int32, torch.int64),
    )
    groups, per = g.choice((1, 2, 5)), g.choice((1, 1, 3))
    # Tables with NaN beside their rows.
    tables = torch.full((17, 2 * width + 1), torch.nan, dtype=dtype)
    tables[:, 1 : width + 1] = torch.randn(17, width).to(dtype)
    table = tables[:, 1 : width + 1]
    tokens = torch.randint(0, 17, (groups * per,), dtype=g.choice(ids))
    options: dict[str, Any] = {"scale": g.choice((1.0, 1, 0.3, 32.0))}
    if g.random() < 0.7:
        options["positions"] = torch.randint(0, 9, (groups,), dtype=g.choice(ids))
        options["position_table"] = torch.randn(11, width).to(dtype)[2:]
        if g.random() < 0.5:
            options["starts"] = torch.randint(-2, 3, (groups,), dtype=g.choice(ids))
            options["positions"] = options["positions"].clamp(2, 6)
    if g.random() < 0.4:
        options["row"] = torch.randn(width).to(dtype)
    return tokens, table, options


def check(seeds: range, impl: str, device: torch.device) -> None:
    from tritonseq.kernels.embedding.kernel import _embed

    for seed in seeds:
        tokens, table, options = random_call(seed)
        wanted = reference.embed(tokens, table, **options)
        moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        result = embed(tokens.to(device), table.to(device), **moved, impl=impl).cpu()
        assert result.is_contiguous()
        about = f"{seed=} {table.dtype} {list(options)}"
        # The interpreter cuts bfloat16 off where a GPU rounds, and a GPU may fuse in float32.
        cut = table.dtype == torch.bfloat16 and is_interpreted(_embed)
        if impl == "triton" and (cut or device.type == "cuda"):
            bound = 4 * torch.finfo(table.dtype).eps
            torch.testing.assert_close(result, wanted, rtol=bound, atol=32 * bound, msg=about)
        else:
            assert torch.equal(result, wanted), about


@pytest.mark.parametrize(("impl", "seeds"), [("torch", 100), ("triton", 40)])
def test_random(impl, seeds, device, poison):
    check(range(seeds), impl, device)


@pytest.mark.long
@BOTH
def test_wide(impl, device, poison):
    check(range(1000, 2000), impl, device)


@BOTH
def test_beams_share_a_position(impl, device):
    table, places = torch.zeros(3, 4, device=device), torch.arange(20.0, device=device).view(5, 4)
    result = embed(
        torch.zeros(6, dtype=torch.int64, device=device),
        table,
        positions=torch.tensor([4, 1], device=device),
        position_table=places,
        impl=impl,
    )
    assert torch.equal(result, places[torch.tensor([4, 4, 4, 1, 1, 1], device=device)])


@BOTH
def test_the_table_stays_as_it_is(impl, device):
    table = torch.randn(3, 8, device=device)
    before = table.clone()
    tokens = torch.tensor([1, 1], device=device)
    result = embed(tokens, table, scale=2.0, row=torch.ones(8, device=device), impl=impl)
    result.zero_()
    assert torch.equal(table, before)


@BOTH
def test_no_tokens(impl, device):
    none = torch.empty(0, dtype=torch.int64, device=device)
    table = torch.zeros(3, 8, device=device)
    positions = torch.zeros(2, dtype=torch.int64, device=device)
    result = embed(none, table, positions=positions, position_table=table, impl=impl)
    assert result.shape == (0, 8)


def test_ids_beyond_the_table_are_refused_on_the_cpu():
    table, ids = torch.zeros(3, 8), torch.tensor([0, 3])
    with pytest.raises(ValueError, match="tokens are 0 to 3; the table has the rows 0 to 2"):
        embed(ids, table)
    with pytest.raises(ValueError, match="positions are 0 to 3; the table has the rows 0 to 2"):
        embed(ids * 0, table, positions=ids, position_table=table)


@BOTH
def test_no_gradient(impl, device):
    table = torch.zeros(3, 8, device=device, requires_grad=True)
    tokens = torch.tensor([1], device=device)
    assert not embed(tokens, table, scale=2.0, impl=impl).requires_grad


IDS, TABLE = torch.zeros(4, dtype=torch.int64), torch.zeros(3, 8)
PLACES = {"position_table": TABLE}


@pytest.mark.parametrize(
    ("arguments", "options", "remedy"),
    [
        ((IDS.view(2, 2), TABLE), {}, r"tokens are torch.int64 \[2, 2\]; pass int32 or"),
        ((IDS.float(), TABLE), {}, "tokens are torch.float32"),
        ((IDS, TABLE[0]), {}, r"table is torch.float32 \[8\]; pass .* \[V, d\]"),
        ((IDS, TABLE.double()), {}, "table is torch.float64"),
        ((IDS, TABLE), {"positions": IDS}, "one of positions and position_table is missing"),
        ((IDS, TABLE), PLACES, "one of positions and position_table is missing"),
        ((IDS, TABLE), {"positions": IDS[:3], **PLACES}, "there are 3 positions of 4 tokens"),
        ((IDS, TABLE), {"positions": IDS[:0], **PLACES}, "there are 0 positions of 4 tokens"),
        ((IDS, TABLE), {"positions": IDS.half(), **PLACES}, "positions are torch.float16"),
        (
            (IDS, TABLE),
            {"positions": IDS, "position_table": TABLE[:, :7]},
            r"position_table is torch.float32 \[3, 7\]; pass torch.float32 \[M, 8\]",
        ),
        ((IDS, TABLE), {"positions": IDS, "position_table": TABLE.half()}, "position_table is"),
        ((IDS, TABLE), {"starts": IDS}, "starts are given without positions"),
        ((IDS, TABLE), {"positions": IDS, "starts": IDS[:1], **PLACES}, "1 starts of 4 positions"),
        ((IDS, TABLE), {"positions": IDS, "starts": TABLE[0], **PLACES}, "starts are torch.float"),
        ((IDS, TABLE), {"row": TABLE[0, :7]}, r"row is torch.float32 \[7\]; pass .* \[8\]"),
        ((IDS, TABLE), {"row": TABLE[0].half()}, "row is torch.float16"),
        ((IDS, TABLE), {"impl": "c"}, "impl is 'c'"),
    ],
)  # fmt: skip
def test_faults(arguments, options, remedy):
    with pytest.raises(ValueError, match=remedy):
        embed(*arguments, **options)


def test_ids_may_be_strided() -> None:
    table, many = torch.randn(7, 8), torch.arange(6)
    positions = torch.tensor([2]).expand(3)
    for ids in (many[::2], many[3:4].expand(3)):
        found = (
            embed(ids, table, positions=positions, position_table=table, impl=impl)
            for impl in ("triton", "torch")
        )
        assert torch.equal(*found)


def test_a_table_laid_out_for_a_product() -> None:
    """A head that is the embedding too may have its vocabulary side by side in memory."""
    table, ids = torch.randn(7, 8), torch.tensor([3, 6, 0])
    for strided in (table.t().contiguous().t(), table[:, ::2]):
        expected = strided.index_select(0, ids)
        assert torch.equal(embed(ids, strided, impl="triton"), expected)
