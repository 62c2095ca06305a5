"""The operations by definition: the same names and signatures, in plain torch.

Slow, and free of every trick that the fast paths play: this is what they are tested against.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ._checks import Impl


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
    impl: Impl = "auto",
) -> Tensor:
    """Every beam's keys and values side by side, one softmax in float32.

    Arguments, result and effect are those of `tritonseq.kernels.decode_attention`; `splits` and
    `impl` change nothing here, and arguments are taken to fit together.
    """
    samples, beams, rows, _, head_dim = query.shape
    first = 0 if new_key is None else new_key.shape[2] - rows
    device = query.device
    if step is None:
        step = torch.zeros(samples, dtype=torch.int64, device=device)
    # Of each stored part: keys and values [B, K, H, N, D], visible [B, N], and the distance [B, N]
    # from row 0.
    stored = []
    if source_key is not None and source_value is not None:
        place = torch.arange(source_key.shape[2], device=device)
        length = torch.full_like(step, len(place)) if source_len is None else source_len
        inside = place < length[:, None]
        keys, values = (
            torch.where(inside[:, None, :, None], part, 0)[:, None].expand(-1, beams, -1, -1, -1)
            for part in (source_key, source_value)
        )
        stored.append((keys, values, inside, (length + step)[:, None] - place))
    if new_key is not None and target_key is not None:
        assert new_value is not None and target_value is not None
        _append(target_key, new_key, step)
        _append(target_value, new_value, step)
        place = torch.arange(target_key.shape[2], device=device)
        inside = place < step[:, None]
        slots = torch.zeros_like(inside)[..., None] if lineage is None else lineage
        slots = torch.where(inside[..., None], slots, 0).long()
        keys, values = (_follow(part, slots, inside) for part in (target_key, target_value))
        stored.append((keys, values, inside, step[:, None] - place))
    output = []
    for row in range(first, first + rows):
        parts = [(*part[:3], part[3] + row) for part in stored]
        if new_key is not None and new_value is not None:
            keys, values = (part[:, :, : row + 1].transpose(2, 3) for part in (new_key, new_value))
            distance = torch.arange(row, -1, -1, device=device).expand(samples, -1)
            parts.append((keys, values, distance >= 0, distance))
        keys, values = (torch.cat(part, 3) for part in list(zip(*parts, strict=True))[:2])
        visible, distance = (torch.cat(part, 1) for part in list(zip(*parts, strict=True))[2:])
        asking = query[:, :, row - first, :, :, None].float()
        scores = (keys.float() @ asking).squeeze(-1)  # [B, K, H, N]
        scores = scores * (head_dim**-0.5 if scale is None else scale)
        if bias is not None:
            by_distance = bias[:, distance.clamp(0, bias.shape[1] - 1)].transpose(0, 1)
            scores = scores + by_distance[:, None]
        hidden = ~visible[:, None, None]
        weights = torch.softmax(scores.masked_fill(hidden, -math.inf), -1).masked_fill(hidden, 0)
        output.append((weights[..., None, :] @ values.float()).squeeze(-2))
    idle = (step < 0)[:, None, None, None, None]
    return torch.stack(output, 2).masked_fill(idle, 0).to(query.dtype)


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
    """`cache [B, H, T, K, D]` as each beam sees it through `slots [B, T, K]`: `[B, K, H, T, D]`."""
    sample = torch.arange(cache.shape[0], device=cache.device)[:, None, None]
    position = torch.arange(cache.shape[2], device=cache.device)[:, None]
    own = cache.permute(0, 2, 3, 1, 4)[sample, position, slots]  # [B, T, K, H, D]
    return torch.where(inside[:, :, None, None, None], own, 0).permute(0, 2, 3, 1, 4)


def ban_ngrams(
    scores: Tensor,
    tokens: Tensor,
    n: int,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    lineage: Tensor | None = None,
    prefix: Tensor | None = None,
    prefix_starts: Tensor | None = None,
    prefix_lengths: Tensor | None = None,
    source: Tensor | None = None,
    source_starts: Tensor | None = None,
    source_lengths: Tensor | None = None,
    ignored: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """`tritonseq.kernels.ban_ngrams`, one row after the other."""
    mask = ngram_mask(
        tokens,
        n,
        scores.shape[1],
        lengths=lengths,
        starts=starts,
        lineage=lineage,
        prefix=prefix,
        prefix_starts=prefix_starts,
        prefix_lengths=prefix_lengths,
        source=source,
        source_starts=source_starts,
        source_lengths=source_lengths,
        ignored=ignored,
    )
    return scores.masked_fill_(mask, -math.inf)


def ngram_mask(
    tokens: Tensor,
    n: int,
    vocab_size: int,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    lineage: Tensor | None = None,
    prefix: Tensor | None = None,
    prefix_starts: Tensor | None = None,
    prefix_lengths: Tensor | None = None,
    source: Tensor | None = None,
    source_starts: Tensor | None = None,
    source_lengths: Tensor | None = None,
    ignored: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """`tritonseq.kernels.ngram_mask`, on lists of Python integers."""
    rows = tokens.shape[0] if lineage is None else tokens.shape[0] * tokens.shape[2]
    mask = torch.zeros(rows, vocab_size, dtype=torch.bool)
    free = set() if ignored is None else set(ignored.nonzero().flatten().tolist())
    for row in range(rows):
        if lineage is None:
            own = _valid(tokens, row, starts, lengths)
        else:
            sample, beam = divmod(row, tokens.shape[2])
            slots = _valid(lineage[:, :, beam], sample, None, lengths)
            own = [int(tokens[sample, t, slot]) for t, slot in enumerate(slots)]
        if prefix is not None:
            own = _valid(prefix, row * len(prefix) // rows, prefix_starts, prefix_lengths) + own
        searched = own
        if source is not None:
            searched = _valid(source, row * len(source) // rows, source_starts, source_lengths)
        if len(own) < n - 1:
            continue
        suffix = own[len(own) - (n - 1) :]
        if free.intersection(suffix):
            continue
        for start in range(len(searched) - n + 1):
            *head, token = searched[start : start + n]
            if head == suffix and 0 <= token < vocab_size and token not in free:
                mask[row, token] = True
    return mask.to(tokens.device)


def _valid(tokens: Tensor, row: int, starts: Tensor | None, ends: Tensor | None) -> list[int]:
    start = 0 if starts is None else int(starts[row])
    end = tokens.shape[1] if ends is None else int(ends[row])
    values: list[int] = tokens[row, start:end].tolist()
    return values
