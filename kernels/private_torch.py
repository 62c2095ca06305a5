"""Private operators of torch, each with a plain path where it is missing; named here alone.

A version of torch may rename or drop any of them. Each is looked up once, and where it is missing
a plain path takes its place, which is slower and means the same.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    Operator = Callable[..., Any]


def _found(owner: Any, path: str) -> Operator | None:
    """The attribute at a dotted path below `owner`; None where any part of it is missing."""
    for name in path.split("."):
        owner = getattr(owner, name, None)
    operator: Operator | None = owner
    return operator


_FLASH = _found(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu.default")
_ADDMM_ACTIVATION = _found(torch, "_addmm_activation")
_REORDER = _found(torch.ops.mkldnn, "_reorder_linear_weight")
_POINTWISE = _found(torch.ops.mkldnn, "_linear_pointwise")
_PACKS_BFLOAT16 = _found(torch.ops.mkldnn, "_is_mkldnn_bf16_supported")
_PREPACK_INT8 = _found(torch.ops.onednn, "qlinear_prepack")
_POINTWISE_INT8 = _found(torch.ops.onednn, "qlinear_pointwise")
_CLEAR_WORKSPACES = _found(torch, "_C._cuda_clearCublasWorkspaces")


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    attn_mask: Tensor | None = None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """On the CPU, `[B, H, Q, D]` and the log-sum-exp `[B, H, Q]` in float32, from `[B, H, S, D]`.

    `attn_mask` is added to the scores. A row that sees nothing gets zeros, and 0 for its
    log-sum-exp.
    """
    if _FLASH is not None:
        output, lse = _FLASH(query, key, value, attn_mask=attn_mask, scale=scale)
        return output, lse
    scores = torch.matmul(query.float(), key.float().mT).mul_(scale)
    if attn_mask is not None:
        scores = scores + attn_mask
    lse = scores.logsumexp(-1)
    blind = lse == -math.inf
    chances = scores.sub_(lse.masked_fill(blind, 0.0)[..., None]).exp_()
    output = torch.matmul(chances, value.float()).to(query.dtype)
    return output, lse.masked_fill_(blind, 0.0)


def has_product_with_activation() -> bool:
    """Whether a product can end in an activation, in one launch on a GPU."""
    return _ADDMM_ACTIVATION is not None


def product_with_activation(x: Tensor, weight: Tensor, bias: Tensor, *, gelu: bool) -> Tensor:
    """`act(x W + b)`: GELU by tanh, or else ReLU. Only where `has_product_with_activation()`."""
    assert _ADDMM_ACTIVATION is not None
    result: Tensor = _ADDMM_ACTIVATION(bias, x, weight, use_gelu=gelu)
    return result


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build, on this processor, multiplies by weights in oneDNN's blocked layout."""
    if not torch.backends.mkldnn.is_available() or _REORDER is None or _POINTWISE is None:
        return False
    if dtype == torch.bfloat16:
        return _PACKS_BFLOAT16 is not None and bool(_PACKS_BFLOAT16())
    return dtype == torch.float32


def packed(weight: Tensor, rows: int) -> Tensor:
    """`weight [out, in]` in the blocked layout for products of `rows` rows, if `can_pack`."""
    assert _REORDER is not None
    blocked: Tensor = _REORDER(weight.detach(), rows)
    return blocked


def packed_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, function: str, algorithm: str
) -> Tensor:
    """`f(x W^T + b)` with a `packed` weight; `function` and `algorithm` in oneDNN's names."""
    assert _POINTWISE is not None
    product: Tensor = _POINTWISE(x, weight, bias, function, [], algorithm)
    return product


@cache
def int8_row_max() -> int:
    """The largest magnitude of quantized rows whose products with int8 weights are exact here.

    127 on processors with VNNI. Others add pairs of products up in 16 bits, where 255 * 127 twice
    does not fit, and 127 * 127 twice does: 63. 0 where this build has no such products, or they
    saturate all the same.
    """
    if _PREPACK_INT8 is None or _POINTWISE_INT8 is None:
        return 0
    return next((row_max for row_max in (127, 63) if _is_int8_exact(row_max)), 0)


def _is_int8_exact(row_max: int) -> bool:
    # It may be asked under a default dtype or device of the user's, and is asked once.
    ones = torch.ones(32, dtype=torch.float32, device="cpu")
    for weight in (127, -127):
        q_weight = torch.full((32, 256), weight, dtype=torch.int8, device="cpu")
        for rows in (1, 16):
            x = torch.full((rows, 256), 2 * row_max + 1, dtype=torch.uint8, device="cpu")
            zeros = torch.zeros_like(ones).long()
            found = int8_product(x, row_max + 1, int8_packed(q_weight), ones, zeros)
            if not bool((found == 256 * row_max * weight).all()):
                return False
    return True


def int8_packed(weight: Tensor) -> Tensor:
    """Int8 `weight [out, in]` in oneDNN's layout, as `[in, out]`; only if `int8_row_max()`."""
    assert _PREPACK_INT8 is not None
    blocked: Tensor = _PREPACK_INT8(weight, None)
    return blocked


def int8_product(
    x: Tensor, zero: int, weight: Tensor, scales: Tensor, zero_points: Tensor
) -> Tensor:
    """`((x - zero) W^T) * scales`, `[N, out]` in float32, with exact sums.

    `x: [N, in]` is uint8, since an int8 source is a reference loop, and no further from `zero`
    than `int8_row_max()`; `weight` is of `int8_packed`; `scales [out]` are float32, and
    `zero_points [out]` int64 zeros.
    """
    assert _POINTWISE_INT8 is not None
    product: Tensor = _POINTWISE_INT8(
        x, 1.0, zero, weight, scales, zero_points, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


def clear_workspaces() -> None:
    """Let go of cuBLAS's workspaces; where torch cannot, the next graph holds on to them."""
    if _CLEAR_WORKSPACES is not None:
        _CLEAR_WORKSPACES()
