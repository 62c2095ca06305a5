"""`decode_attention` in plain torch: by definition on any device, and fast on the CPU."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tritonseq.kernels.private_torch import flash_attention

from .reference import FARTHEST, decode_attention

if TYPE_CHECKING:
    from .call import AttentionCall

# Up to this many beams it is faster to multiply every beam with every slot and to mask what is
# not its own; beyond it, to gather each beam's own keys and values first.
MASKED_BEAMS = 16

# Bytes of keys and values that are read in the time that one more call takes.
SPLIT_BYTES = 2**18

# The same for one more run of samples, with masks of its own.
RUN_BYTES = 2**22


def attend_by_definition(call: AttentionCall) -> Tensor:
    """The reference: for any device, whatever the memory beyond the lengths holds."""
    return decode_attention(**call._asdict())


def attend_on_cpu(call: AttentionCall) -> Tensor:
    """One call of torch's flash attention, or one per part, merged by their log-sum-exp.

    The second of two new rows, which is stored nowhere and seen by itself alone, comes last. All
    beams of a sample are query rows of one product with the source, so its keys and values
    are read once. Masks are additive and let NaN in masked positions through (0 x NaN), so an
    output that is not finite is computed again by definition. Idle samples are left out, or, where
    that would take too many calls, computed and forgotten.
    """
    query = call.query
    if query.numel() == 0:
        return torch.empty_like(query)
    if call.source_len is not None:
        _check_lengths(call, call.source_len.tolist())
    steps: list[int] = [0] * query.shape[0] if call.step is None else call.step.tolist()
    if call.target_key is not None:
        _append(call, steps)
    else:
        steps = [min(step, FARTHEST) for step in steps]
    if min(steps) >= 0:
        return _attend(call, steps, [])
    runs = _active_runs(steps)
    if not _is_leaving_out_faster(call, steps, len(runs)):
        # At the longest step an idle sample needs no mask that the others do not.
        longest, idle = max(steps), [sample for sample, step in enumerate(steps) if step < 0]
        return _attend(call, [longest if step < 0 else step for step in steps], idle)
    output = torch.zeros(query.shape, dtype=query.dtype)
    for run in runs:
        output[run] = _attend(call.of_samples(run), steps[run], [])
    return output


def _attend(call: AttentionCall, steps: list[int], idle: list[int]) -> Tensor:
    """The attention of samples at `steps`, none of them negative, and zeros for the idle ones."""
    query = call.query
    # [B, H, K * Q, D], stored as [B, K * Q, H, D]
    flat = query.flatten(1, 2).transpose(1, 2)
    joined = _join(call, steps)
    if joined is None:
        output, lse = _attend_parts(call, flat, steps)
    else:
        key, value, mask = joined
        output, lse = flash_attention(flat, key, value, attn_mask=mask, scale=call.scale)
    if call.new_rows == 2:
        _add_own_row(call, output, lse)
    for sample in idle:
        output[sample].zero_()
    if joined is not None and mask is None:
        # Nothing is masked, so there is nothing that could get through.
        return output.transpose(1, 2).reshape(query.shape)
    # A sum is finite only if every term is. That it might overflow costs time, not truth.
    if not math.isfinite(output.sum(dtype=torch.float32).item()):
        return attend_by_definition(call)
    return output.transpose(1, 2).contiguous().view(query.shape)


def _active_runs(steps: list[int]) -> list[slice]:
    """Neighbouring samples that are not idle."""
    runs: list[slice] = []
    for idle, group in itertools.groupby(range(len(steps)), lambda sample: steps[sample] < 0):
        samples = list(group)
        if not idle:
            runs.append(slice(samples[0], samples[-1] + 1))
    return runs


def _is_leaving_out_faster(call: AttentionCall, steps: list[int], runs: int) -> bool:
    """Whether a call for each run between idle samples is faster than one that reads them too."""
    idle = sum(step < 0 for step in steps)
    end = max(max(steps), 0) + 1
    read = 0 if call.source_key is None else call.source_key[0].numel()
    if call.target_key is not None:
        read += call.target_key[0, :, :end].numel()
    return 2 * read * call.query.element_size() * idle > RUN_BYTES * (runs - 1)


def _attend_parts(call: AttentionCall, flat: Tensor, steps: list[int]) -> tuple[Tensor, Tensor]:
    """`[B, H, K * Q, D]` and its log-sum-exp: the parts one by one, then merged."""
    parts = []
    if call.source_key is not None and call.source_key.shape[2]:
        parts.append(_attend_source(call, flat, steps))
    if call.new_key is not None:
        parts.append(_attend_target(call, flat, steps))
    if not parts:
        return _nothing(flat)
    return parts[0] if len(parts) == 1 else _merge(*parts)


def _join(call: AttentionCall, steps: list[int]) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Keys and values of both parts as one `[B, H, S + T * K, D]`, and its mask.

    Only where the generated part stands right behind the source, so that this is a mere view:
    one call instead of two and a merge halves the cost of short attentions.
    """
    key, value, source_key, source_value = (
        call.target_key, call.target_value, call.source_key, call.source_value
    )  # fmt: skip
    if (
        key is None or value is None or source_key is None or source_value is None
        or call.query.shape[1] > MASKED_BEAMS
    ):  # fmt: skip
        return None
    if _is_split_faster(call, _source_lengths(call)):
        return None
    end = max(steps) + 1
    keys, values = _continued(source_key, key, end), _continued(source_value, value, end)
    if keys is None or values is None:
        return None
    slots = _slots(call.lineage, steps, end, call.query.shape[1])
    masks = _source_mask(call, steps, source_key.shape[2]), _slot_mask(call, slots, steps)
    if masks[0] is None and masks[1] is None:
        return keys, values, None
    return keys, values, _side_by_side(call, masks, (source_key.shape[2], end * key.shape[3]))


def _side_by_side(
    call: AttentionCall, masks: tuple[Tensor | None, Tensor | None], widths: tuple[int, int]
) -> Tensor:
    """The masks of both parts, zeros for one that is None, as `[B or 1, H or 1, K * Q, widths]`."""
    given = [mask for mask in masks if mask is not None]
    samples, heads = (max(mask.shape[dim] for mask in given) for dim in (0, 1))
    shape = (samples, heads, *call.query.shape[1:3])
    zero = torch.zeros((), dtype=torch.float32)
    return torch.cat(
        [
            (zero if mask is None else mask).expand(*shape, width)
            for mask, width in zip(masks, widths, strict=True)
        ],
        dim=4,
    ).flatten(2, 3)


def _by_row(call: AttentionCall, mask: Tensor | None) -> Tensor | None:
    """`[B or 1, H or 1, K * Q or 1, width]` from a mask that fits `[B, H, K, Q, width]`."""
    if mask is None:
        return None
    if mask.shape[2:4] != (1, 1):
        mask = mask.expand(-1, -1, *call.query.shape[1:3], -1)
    return mask.flatten(2, 3)


def _continued(source: Tensor, target: Tensor, end: int) -> Tensor | None:
    """`source [B, H, S, D]` with `end` positions of `target`, if that follows in memory."""
    samples, heads, length, head_dim = source.shape
    stride, beams = source.stride(), target.shape[3]
    if target.stride()[:2] != stride[:2] or target.stride()[3] != stride[2]:
        return None
    if beams > 1 and target.stride()[2] != beams * stride[2]:
        return None
    if target.untyped_storage().data_ptr() != source.untyped_storage().data_ptr():
        return None
    if target.data_ptr() != source.data_ptr() + length * stride[2] * source.element_size():
        return None
    return source.as_strided((samples, heads, length + end * beams, head_dim), stride)


def _append(call: AttentionCall, steps: list[int]) -> None:
    assert call.target_key is not None and call.target_value is not None
    assert call.new_key is not None and call.new_value is not None
    length = call.target_key.shape[2]
    if max(steps) >= length:
        raise ValueError(f"step {max(steps)} is beyond the {length} positions of target_key")
    # [B, H, K, D], and the caches as [B, T, H, K, D]
    rows = [new.select(2, 0).transpose(1, 2) for new in (call.new_key, call.new_value)]
    if min(steps) == max(steps) >= 0:
        for cache, new in zip((call.target_key, call.target_value), rows, strict=True):
            cache.select(2, steps[0]).copy_(new)
        return
    active = [sample for sample, step in enumerate(steps) if step >= 0]
    if not active:
        return
    place = torch.tensor(active), torch.tensor([steps[sample] for sample in active])
    for cache, new in zip((call.target_key, call.target_value), rows, strict=True):
        own = new if len(active) == len(steps) else new[place[0]]
        cache.transpose(1, 2).index_put_(place, own)


def _attend_source(call: AttentionCall, flat: Tensor, steps: list[int]) -> tuple[Tensor, Tensor]:
    key, value = call.source_key, call.source_value
    assert key is not None and value is not None
    lengths = _source_lengths(call)
    longest = max(lengths)
    if longest == 0:
        return _nothing(flat)
    if _is_split_faster(call, lengths):
        # Nothing is masked: every sample reads as far as it goes.
        own = [
            flash_attention(rows, k[:, :, :length], v[:, :, :length], scale=call.scale)
            if length > 0
            else _nothing(rows)
            for rows, k, v, length in zip(
                flat.split(1), key.split(1), value.split(1), lengths, strict=True
            )
        ]
        return torch.cat([output for output, _ in own]), torch.cat([lse for _, lse in own])
    mask = _by_row(call, _source_mask(call, steps, longest))
    output, lse = flash_attention(
        flat, key[:, :, :longest], value[:, :, :longest], attn_mask=mask, scale=call.scale
    )
    if min(lengths) == 0:
        # The log-sum-exp of a row that sees nothing comes back as 0.
        lse[[length == 0 for length in lengths]] = -math.inf
    return output, lse


def _nothing(flat: Tensor) -> tuple[Tensor, Tensor]:
    """What rows `[B, H, K * Q, D]` that see nothing get, and their log-sum-exp."""
    return torch.zeros_like(flat), flat.new_full(flat.shape[:3], -math.inf, dtype=torch.float32)


def _is_split_faster(call: AttentionCall, lengths: list[int]) -> bool:
    """Whether a call per sample is faster than one that reads all sources as far as the longest."""
    if call.source_key is None or call.bias is not None:
        return False
    _, heads, _, head_dim = call.source_key.shape
    unread = max(lengths) * len(lengths) - sum(lengths)
    saved = 2 * unread * heads * head_dim * call.source_key.element_size()
    return saved > SPLIT_BYTES * len(lengths)


def _source_lengths(call: AttentionCall) -> list[int]:
    assert call.source_key is not None
    samples, _, size, _ = call.source_key.shape
    if call.source_len is None:
        return [size] * samples
    lengths: list[int] = call.source_len.tolist()
    return lengths


def _check_lengths(call: AttentionCall, lengths: list[int]) -> None:
    """Demand lengths from 0 to those of the source."""
    assert call.source_key is not None
    size = call.source_key.shape[2]
    if max(lengths) > size:
        raise ValueError(f"source_len {max(lengths)} is beyond the {size} positions of source_key")
    if min(lengths) < 0:
        raise ValueError(f"source_len {min(lengths)} is negative; pass 0 to {size}")


def _source_mask(call: AttentionCall, steps: list[int], width: int) -> Tensor | None:
    """The additive mask, with the bias, that fits `[B, H, K, Q, width]`; None if there is none."""
    if call.source_len is None and call.bias is None:
        return None
    lengths = _source_lengths(call)
    mask = None
    if min(lengths) < width:
        outside = torch.arange(width) >= torch.tensor(lengths)[:, None]
        mask = _additive(outside)[:, None, None, None]
    if call.bias is not None:
        origins = [length + step for length, step in zip(lengths, steps, strict=True)]
        bias = _bias_by_distance(call, origins, width)
        mask = bias if mask is None else bias + mask
    return mask


def _attend_target(call: AttentionCall, flat: Tensor, steps: list[int]) -> tuple[Tensor, Tensor]:
    key, value, lineage = call.target_key, call.target_value, call.lineage
    if key is None or value is None:
        # Nothing is stored: the first new row is the only position.
        assert call.new_key is not None and call.new_value is not None
        key = call.new_key[:, :, :1].permute(0, 3, 2, 1, 4)
        value = call.new_value[:, :, :1].permute(0, 3, 2, 1, 4)
        steps = [0] * len(steps)
    end = max(steps) + 1
    key, value = key[:, :, :end], value[:, :, :end]
    slots = _slots(lineage, steps, end, call.query.shape[1])
    if call.query.shape[1] > MASKED_BEAMS:
        return _attend_gathered(call, key, value, slots, steps)
    mask = _by_row(call, _slot_mask(call, slots, steps))
    return flash_attention(
        flat, key.flatten(2, 3), value.flatten(2, 3), attn_mask=mask, scale=call.scale
    )


def _slots(lineage: Tensor | None, steps: list[int], end: int, beams: int) -> Tensor:
    """`[B or 1, end, K]`: the lineage with the new rows in their own slots."""
    own = torch.arange(beams)
    if lineage is None:
        return own.expand(1, end, beams)
    newest = torch.arange(end)[:, None] == torch.tensor(steps)[:, None, None]
    return torch.where(newest, own, lineage[:, :end])


def _slot_mask(call: AttentionCall, slots: Tensor, steps: list[int]) -> Tensor | None:
    """The additive mask, with the bias, that fits `[B, H, K, Q, T * K]`."""
    beams, end = call.query.shape[1], slots.shape[1]
    mask = None
    if beams > 1 or min(steps) < end - 1:
        # [B, T, beam, slot]
        hidden = slots[..., None] != torch.arange(beams)
        if min(steps) < end - 1:
            later = torch.arange(end) > torch.tensor(steps)[:, None]
            hidden = hidden | later[..., None, None]
        shape = (hidden.shape[0], 1, beams, 1, end, beams)
        mask = _additive(hidden.transpose(1, 2).view(shape))
    if call.bias is not None:
        bias = _bias_by_distance(call, steps, end)[..., None]
        mask = bias if mask is None else bias + mask
    return None if mask is None else mask.flatten(4, 5)


def _attend_gathered(
    call: AttentionCall, key: Tensor, value: Tensor, slots: Tensor, steps: list[int]
) -> tuple[Tensor, Tensor]:
    """Every beam by itself, over a copy of its own history."""
    samples, beams, _, _, _ = call.query.shape
    end = slots.shape[1]
    # Beyond the step the lineage may hold anything, and before it what is no slot.
    index = slots.clamp(0, beams - 1).transpose(1, 2)
    hidden = index != slots.transpose(1, 2)  # [B, K, T]
    if min(steps) < end - 1:
        hidden |= (torch.arange(end) > torch.tensor(steps)[:, None])[:, None]
    sample, position = torch.arange(samples)[:, None, None], torch.arange(end)
    own = (
        part.permute(0, 2, 3, 1, 4)[sample, position, index].flatten(0, 1).transpose(1, 2)
        for part in (key, value)
    )
    mask = _additive(hidden.flatten(0, 1))[:, None, None] if hidden.any() else None
    if call.bias is not None:
        bias = _bias_by_distance(call, steps, end).expand(samples, -1, beams, -1, -1)
        bias = bias.transpose(1, 2).flatten(0, 1)
        mask = bias if mask is None else bias + mask
    query = call.query.flatten(0, 1).transpose(1, 2)
    output, lse = flash_attention(query, *own, attn_mask=mask, scale=call.scale)
    # [B * K, H, Q, ...] to [B, H, K * Q, ...]
    output, lse = (part.unflatten(0, (samples, beams)).transpose(1, 2) for part in (output, lse))
    return output.flatten(2, 3), lse.flatten(2, 3)


def _add_own_row(call: AttentionCall, output: Tensor, lse: Tensor) -> None:
    """Let the last query of every beam see the second new row, which is its own.

    `output [B, H, K * Q, D]`, with its log-sum-exp, is what it has seen so far; changed in place.
    """
    assert call.new_key is not None and call.new_value is not None
    query, key, value = (x[:, :, -1] for x in (call.query, call.new_key, call.new_value))
    scores = (query.float() * key).sum(-1) * call.scale  # [B, K, H]
    if call.bias is not None:
        own = call.bias[:, :, -1] if call.has_bias_by_row else call.bias
        scores = scores + own[..., 0]
    seen = output.transpose(1, 2).unflatten(1, call.query.shape[1:3])[:, :, -1]
    seen_lse = lse.transpose(1, 2).unflatten(1, call.query.shape[1:3])[:, :, -1]
    weight = torch.sigmoid(scores - seen_lse)
    seen.copy_(torch.lerp(seen.float(), value.float(), weight[..., None]))


def _additive(hidden: Tensor) -> Tensor:
    """A boolean mask as what is added to scores; float32 whatever torch's default is."""
    return torch.zeros(hidden.shape, dtype=torch.float32).masked_fill_(hidden, -math.inf)


def _bias_by_distance(call: AttentionCall, origins: list[int], end: int) -> Tensor:
    """The bias of row `r` for position `n`, `origin + r - n` away: it fits `[B, H, K, Q, end]`."""
    assert call.bias is not None
    if min(origins) == max(origins):
        origins = origins[:1]
    row = call.first_row + torch.arange(call.query.shape[2])[:, None]
    distance = torch.tensor(origins)[:, None, None] + row - torch.arange(end)
    distance = distance.clamp_(0, call.bias.shape[-1] - 1)  # [B or 1, Q, end]
    if call.has_bias_by_row:
        own = call.bias.permute(0, 3, 1, 2, 4)
        return own.gather(4, distance[:, None, None].expand(*own.shape[:4], -1))
    table = call.bias.index_select(1, distance.flatten()).unflatten(1, distance.shape)
    return table.transpose(0, 1)[:, :, None]


def _merge(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The attention over two parts together, from the output and log-sum-exp of each."""
    (output, lse), (more, more_lse) = one, other
    weight = torch.sigmoid(more_lse - lse)
    merged = torch.lerp(output.float(), more.float(), weight[..., None])
    return merged.to(output.dtype), torch.logaddexp(lse, more_lse)
