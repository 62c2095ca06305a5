"""`decode_attention` by definition."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tritonseq.kernels.checks import Impl


FARTHEST = 2**30
"""A step that is beyond every cache and every bias, and that 32 bits can still be added to."""


def decode_attention(
    query: Tensor,
    new_key: Tensor | None = None,
    new_value: Tensor | None = None,
    *,
    source_key: Tensor | None = None,
    source_value: Tensor | None = None,
    source_len: Tensor | None = None,
    target_key: Tensor | None = None,
    target_value: Tensor | None = None,
    lineage: Tensor | None = None,
    step: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    splits: int | None = None,
    counters: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Every beam's keys and values side by side, one softmax in float32.

    Arguments, result and effect are those of `tritonseq.kernels.decode_attention`; `splits`,
    `counters` and `impl` change nothing here, and arguments are taken to fit together.
    """
    samples, beams, rows, _, head_dim = query.shape
    first = 0 if new_key is None else new_key.shape[2] - rows
    device = query.device
    if step is None:
        step = torch.zeros(samples, dtype=torch.int64, device=device)
    step = step.clamp(-1, FARTHEST)
    # Of each stored part: keys and values [B, K, H, N, D], visible [B, K, N], and the distance
    # [B, N] from row 0.
    stored = []
    if source_key is not None and source_value is not None:
        place = torch.arange(source_key.shape[2], device=device)
        length = torch.full_like(step, len(place)) if source_len is None else source_len
        length = length.clamp(0, len(place))
        inside = place < length[:, None]
        keys, values = (
            torch.where(inside[:, None, :, None], part, 0)[:, None].expand(-1, beams, -1, -1, -1)
            for part in (source_key, source_value)
        )
        seen = inside[:, None].expand(-1, beams, -1)
        stored.append((keys, values, seen, (length + step)[:, None] - place))
    if new_key is not None and target_key is not None:
        assert new_value is not None and target_value is not None
        _append(target_key, new_key, step)
        _append(target_value, new_value, step)
        place = torch.arange(target_key.shape[2], device=device)
        inside = (place < step[:, None])[..., None].expand(-1, -1, beams)
        slots = torch.zeros_like(inside) if lineage is None or beams == 1 else lineage
        inside = inside & (slots >= 0) & (slots < beams)
        slots = torch.where(inside, slots, 0).long()
        keys, values = (_follow(part, slots, inside) for part in (target_key, target_value))
        stored.append((keys, values, inside.transpose(1, 2), step[:, None] - place))
    output = []
    for row in range(first, first + rows):
        parts = [(*part[:3], part[3] + row) for part in stored]
        if new_key is not None and new_value is not None:
            keys, values = (part[:, :, : row + 1].transpose(2, 3) for part in (new_key, new_value))
            distance = torch.arange(row, -1, -1, device=device).expand(samples, -1)
            seen = torch.ones(samples, beams, row + 1, dtype=torch.bool, device=device)
            parts.append((keys, values, seen, distance))
        keys, values = (torch.cat(part, 3) for part in list(zip(*parts, strict=True))[:2])
        visible, distance = (torch.cat(part, -1) for part in list(zip(*parts, strict=True))[2:])
        asking = query[:, :, row - first, :, :, None].float()
        scores = (keys.float() @ asking).squeeze(-1)  # [B, K, H, N]
        scores = scores * (head_dim**-0.5 if scale is None else scale)
        if bias is not None:
            scores = scores + _by_distance(bias, row - first, distance)
        hidden = ~visible[:, :, None]
        weights = torch.softmax(scores.masked_fill(hidden, -math.inf), -1).masked_fill(hidden, 0)
        output.append((weights[..., None, :] @ values.float()).squeeze(-2))
    idle = (step < 0)[:, None, None, None, None]
    return torch.stack(output, 2).masked_fill(idle, 0).to(query.dtype)


def _by_distance(bias: Tensor, asking: int, distance: Tensor) -> Tensor:
    """What query row `asking` gets for distances `[B, N]`, to be added to `[B, K, H, N]`."""
    distance = distance.clamp(0, bias.shape[-1] - 1)
    if bias.dim() == 2:
        return bias[:, distance].transpose(0, 1)[:, None]
    own = bias[:, :, asking]
    return own.gather(3, distance[:, None, None].expand(*own.shape[:3], -1))


def _append(cache: Tensor, new: Tensor, step: Tensor) -> None:
    """Write row 0 of `new [B, K, R, H, D]` to `cache[b, :, step[b]]` where that exists."""
    length = cache.shape[2]
    if length == 0:
        return
    sample = torch.arange(len(step), device=step.device)
    position = step.clamp(0, length - 1).long()
    stored = (step == position)[:, None, None, None]
    row = torch.where(stored, new[:, :, 0].transpose(1, 2), cache[sample, :, position])
    cache[sample, :, position] = row


def _follow(cache: Tensor, slots: Tensor, inside: Tensor) -> Tensor:
    """`cache [B, H, T, K, D]` as each beam sees it through `slots [B, T, K]`: `[B, K, H, T, D]`.

    Zeros where a beam sees nothing, which `inside [B, T, K]` tells.
    """
    sample = torch.arange(cache.shape[0], device=cache.device)[:, None, None]
    position = torch.arange(cache.shape[2], device=cache.device)[:, None]
    own = cache.permute(0, 2, 3, 1, 4)[sample, position, slots]  # [B, T, K, H, D]
    return torch.where(inside[:, :, :, None, None], own, 0).permute(0, 2, 3, 1, 4)
