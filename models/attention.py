"""The three attentions of an encoder-decoder model, with keys and values once per sample.

Vaswani et al., "Attention Is All You Need", 2017. All of them read a residual stream of
rows `[N, d]` without padding, by the norm of their part, and add to it; `bias` is added to the
scores by distance (T5) or None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tritonseq.kernels import decode_attention

from .layers import Linear

if TYPE_CHECKING:
    from tritonseq.memory.kv_cache import EncoderDecoderCache, KVCache

    from .layers import Norm, ResidualStream
    from .varlen import VarlenBatch

# Scores of one block of queries where a bias has to be written out: 64 MiB in float32.
BIAS_ELEMENTS = 2**24
# Devices whose fused attention reads a mask through any strides; others want it laid out.
STRIDED_MASKS = ("cpu",)


class EncoderAttention(nn.Module):
    """Every position of a source attends to all positions of the same source."""

    def __init__(
        self, width: int, heads: int, head_dim: int, *, scale: float, has_bias: bool
    ) -> None:
        super().__init__()
        self.heads, self.head_dim, self.scale = heads, head_dim, scale
        self.qkv = Linear(width, 3 * heads * head_dim, bias=has_bias, packed=True)
        self.out = Linear(heads * head_dim, width, bias=has_bias, packed=True, fp32_output=True)

    def forward(
        self, stream: ResidualStream, norm: Norm, batch: VarlenBatch, bias: Tensor | None = None
    ) -> None:
        """`bias` as for `attend_within`."""
        qkv = stream.read(self.qkv, norm).view(-1, 3, self.heads, self.head_dim)
        query, key, value = qkv.unbind(1)
        attended = attend_within(query, key, value, batch, self.scale, bias)
        stream.add(attended, self.out, norm)


class DecoderAttention(nn.Module):
    """Every beam attends to the decoder's prompt, stored once per sample, and to its lineage."""

    def __init__(
        self, layer: int, width: int, heads: int, head_dim: int, *, scale: float, has_bias: bool
    ) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.head_dim, self.scale = heads, head_dim, scale
        self.qkv = Linear(width, 3 * heads * head_dim, bias=has_bias, packed=True)
        self.out = Linear(heads * head_dim, width, bias=has_bias, packed=True, fp32_output=True)

    def prefill(self, stream: ResidualStream, norm: Norm, cache: EncoderDecoderCache) -> None:
        """Read the decoder's prompt, `[B * P, d]`, and store its keys and values."""
        keys, values = cache.own.source(self.layer)
        samples, _, length, _ = keys.shape
        qkv = stream.read(self.qkv, norm).view(samples, length, 3, self.heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        keys.copy_(key)
        values.copy_(value)
        if length == 1:
            attended = value
        else:
            bias = cache.bias[self.layer]
            if bias is None:
                attended = F.scaled_dot_product_attention(
                    query, key, value, is_causal=True, scale=self.scale
                )
            else:
                attended = _attend_source(query, key, value, self.scale, _causal(bias, length))
        stream.add(attended.transpose(1, 2).reshape(samples * length, -1), self.out, norm)

    def step(
        self,
        stream: ResidualStream,
        norm: Norm,
        lineage: Tensor | None,
        cache: EncoderDecoderCache,
    ) -> None:
        """Attend for the newest token of every beam, `[B * K, d]`, and append its key, value."""
        own, rows = cache.own, stream.read(self.qkv, norm)
        qkv = rows.view(own.step.shape[0], -1, 1, 3, self.heads, self.head_dim)
        query, key, value = qkv.unbind(3)
        bias = cache.bias[self.layer]
        attended = attend_and_append(
            query, key, value, own, self.layer, lineage, scale=self.scale, bias=bias
        )
        stream.add(attended.view(rows.shape[0], -1), self.out, norm)


class CrossAttention(nn.Module):
    """Every beam attends to the source, whose keys and values are projected once per sample."""

    def __init__(
        self, layer: int, width: int, heads: int, head_dim: int, *, scale: float, has_bias: bool
    ) -> None:
        super().__init__()
        self.layer, self.width = layer, width
        self.heads, self.head_dim, self.scale = heads, head_dim, scale
        self.query = Linear(width, heads * head_dim, bias=has_bias, packed=True)
        self.kv = Linear(width, 2 * heads * head_dim, bias=has_bias, packed=True)
        self.out = Linear(heads * head_dim, width, bias=has_bias, packed=True, fp32_output=True)

    def store(self, states: Tensor, batch: VarlenBatch, cache: EncoderDecoderCache) -> None:
        """Project the encoder's states `[N, d]` of some samples into the cache."""
        kv = self.kv(states).view(states.shape[0], 2, self.heads, self.head_dim)
        store(kv[:, 0], batch, cache.cross_keys[self.layer])
        store(kv[:, 1], batch, cache.cross_values[self.layer])

    def forward(self, stream: ResidualStream, norm: Norm, cache: EncoderDecoderCache) -> None:
        """Attend for rows `[B * R, d]`, the beams of every sample or positions of its prompt."""
        query = stream.read(self.query, norm)
        stream.add(self.attend(query, cache), self.out, norm)

    def attend(self, query: Tensor, cache: EncoderDecoderCache) -> Tensor:
        """What queries `[B * R, H * D]` see of the sources, in the same shape."""
        key, value = cache.cross_keys[self.layer], cache.cross_values[self.layer]
        return decode_attention(
            query.view(key.shape[0], -1, 1, self.heads, self.head_dim),
            source_key=key,
            source_value=value,
            source_len=cache.source_len,
            # Nothing is stored: the step says which samples rest.
            step=cache.own.step,
            counters=cache.own.counters,
            scale=self.scale,
        ).view_as(query)


def attend_and_append(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cache: KVCache,
    layer: int,
    lineage: Tensor | None,
    *,
    scale: float,
    bias: Tensor | None = None,
) -> Tensor:
    """One step of every beam over a layer's cache; what and which shapes says `decode_attention`.

    `query [B, K, Q, H, D]`, `key` and `value [B, K, R, H, D]`; returns the shape of the query.
    """
    source_key, source_value = cache.source(layer)
    target_key, target_value = cache.target(layer)
    return decode_attention(
        query,
        key,
        value,
        source_key=source_key,
        source_value=source_value,
        source_len=cache.source_len,
        target_key=target_key,
        target_value=target_value,
        lineage=lineage,
        step=cache.step,
        bias=bias,
        scale=scale,
        counters=cache.counters,
    )


def attend_within(
    query: Tensor, key: Tensor, value: Tensor, batch: VarlenBatch, scale: float, bias: Tensor | None
) -> Tensor:
    """`[N, H * D]`: all positions of a source attend to each other; arguments `[N, H, D]` packed.

    `bias`: `[H, 2 S - 1]` float32 for the offsets `1 - S .. S - 1` of a key, `S` being the longest
    length, or None.
    """
    attended = torch.empty_like(query, memory_format=torch.contiguous_format)
    for samples, rows, length in batch.runs():
        run = (samples.stop - samples.start, length)
        # [b, H, s, D] each
        q, k, v, inside = (
            part[rows].unflatten(0, run).transpose(1, 2) for part in (query, key, value, attended)
        )
        inside.copy_(_attend_source(q, k, v, scale, bias))
    return attended.flatten(1)


def store(rows: Tensor, batch: VarlenBatch, cache: Tensor) -> None:
    """Put the packed `rows [N, H, D]` of some sources into their places of `cache [B, H, S, D]`."""
    for samples, own, length in batch.runs():
        run = rows[own].unflatten(0, (samples.stop - samples.start, length))
        cache[samples, :, :length] = run.transpose(1, 2)


def _attend_source(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None
) -> Tensor:
    """Attention of `[b, H, s, D]` to itself, without a `[H, s, s]` bias in memory.

    A bias that depends on the distance alone is constant along diagonals. With the queries in
    reverse order it is constant along anti-diagonals, and that is a strided view of the table:
    query `i` from the end and key `j` read entry `i + j`.
    """
    attend = F.scaled_dot_product_attention
    if bias is None:
        return attend(query, key, value, scale=scale)
    _, heads, length, _ = query.shape
    first = (bias.shape[1] + 1) // 2 - length
    table = bias[:, first:].to(query.dtype)
    view = table.as_strided((1, heads, length, length), (0, table.stride(0), 1, 1))
    reverse = query.flip(2)
    if query.device.type in STRIDED_MASKS:
        return attend(reverse, key, value, attn_mask=view, scale=scale).flip(2)
    # A block of queries at a time.
    block = max(1, BIAS_ELEMENTS // (query.shape[0] * heads * length))
    parts = [
        attend(
            part, key, value, attn_mask=view[:, :, start : start + block].contiguous(), scale=scale
        )
        for start, part in zip(range(0, length, block), reverse.split(block, dim=2), strict=True)
    ]
    return torch.cat(parts, dim=2).flip(2)


def _causal(bias: Tensor, length: int) -> Tensor:
    """`[H, 2 P - 1]` by offset of a bias by distance `[H, N]`: minus infinity for later keys."""
    distance = torch.arange(length - 1, -1, -1, device=bias.device)
    table = bias[:, distance.clamp(max=bias.shape[1] - 1)]
    return F.pad(table, (0, length - 1), value=-torch.inf)
