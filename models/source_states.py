"""EL-attention: cross-attention over the encoder's states themselves, which all layers share.

Yan et al., "EL-Attention: Memory Efficient Lossless Attention for Generation", ICML 2021. Instead
of the source, the query is projected. With `k = x W_k + b_k` and `v = x W_v + b_v` of a head,

    q . k_s = (W_k q) . x_s + q . b_k    and    sum_s p_s v_s = (sum_s p_s x_s) W_v + b_v,

since the weights `p` of a softmax sum to one. So states `x`, kept once, are keys and values of all
heads of all layers: `2 L` times less memory. It costs operations: every head multiplies all `d`
channels of every position, not `D` of its own. The same numbers in real arithmetic, and other
roundings.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tritonseq.kernels import decode_attention, is_gpu

from .attention import CrossAttention, store

if TYPE_CHECKING:
    from tritonseq.memory.kv_cache import EncoderDecoderCache

    from .varlen import VarlenBatch


class StatesCrossAttention(CrossAttention):
    """Every beam attends to the states of the source, by the parameters of a `CrossAttention`."""

    @classmethod
    def in_place_of(cls, cross: CrossAttention) -> StatesCrossAttention:
        """A part of the same sizes, which has no weights yet."""
        own = cls(
            cross.layer,
            cross.width,
            cross.heads,
            cross.head_dim,
            scale=cross.scale,
            has_bias=cross.kv.bias is not None,
        )
        # Every head multiplies by its own part, and from both sides: no packed weight can be
        # indexed, and a second copy would be memory.
        own.kv.packed = False
        return own

    def store(self, states: Tensor, batch: VarlenBatch, cache: EncoderDecoderCache) -> None:
        """Put the encoder's states `[N, d]` of some samples into the cache, once for all layers."""
        if self.layer > 0:
            return
        assert cache.states is not None
        store(states[:, None], batch, cache.states[:, None])
        for sample, length in enumerate(batch.lengths, batch.samples.start):
            # Products reach beyond the end, where their weights are zero: zero times NaN, which
            # an earlier sample may have left there, is NaN.
            cache.states[sample, length:] = 0

    def attend(self, query: Tensor, cache: EncoderDecoderCache) -> Tensor:
        """As `CrossAttention.attend`."""
        assert cache.states is not None
        samples, _, width = cache.states.shape
        # [H, d, D] each, views of the one weight
        key, value = self.kv.weight.unflatten(1, (2, self.heads, -1)).permute(1, 2, 0, 3)
        # What q . b_k adds to a score is the same for all positions, and no softmax sees it.
        asking = torch.bmm(self._by_head(query), key.transpose(1, 2))
        rows = asking.transpose(0, 1).reshape(samples, -1, width)
        seen = attend_to_states(rows, cache, self.scale).view(-1, self.heads, width)
        attended = torch.bmm(seen.transpose(0, 1), value).transpose(0, 1).flatten(1)
        return attended if self.kv.bias is None else attended.add_(self.kv.bias.chunk(2)[1])

    def _by_head(self, rows: Tensor) -> Tensor:
        """`[H, N, D]` of rows `[N, H * D]`."""
        return rows.unflatten(1, (self.heads, self.head_dim)).transpose(0, 1)


def attend_to_states(query: Tensor, cache: EncoderDecoderCache, scale: float) -> Tensor:
    """`[B, N, d]`: queries `[B, N, d]` of every sample attend to its states, as far as it goes.

    Samples that rest get zeros.
    """
    states = cache.states
    assert states is not None
    if is_gpu(states.device):
        return _attend_by_products(query, states, cache.source_len, cache.step, scale)
    # For torch's attention on the CPU they are one head, however wide, that is keys and values at
    # once. It reads no further than each source goes, and no sample that rests.
    one_head = states[:, None]
    return decode_attention(
        query[:, :, None, None],
        source_key=one_head,
        source_value=one_head,
        source_len=cache.source_len,
        step=cache.step,
        scale=scale,
    ).flatten(1, 3)


def _attend_by_products(
    query: Tensor, states: Tensor, source_len: Tensor, step: Tensor, scale: float
) -> Tensor:
    """In two products that wait for nothing: heads and beams are rows of one matrix."""
    places = torch.arange(states.shape[1], device=states.device)
    outside = places >= source_len[:, None]
    scores = _scores(query, states).mul_(scale).masked_fill_(outside[:, None], -math.inf)
    seen = torch.bmm(scores.softmax(dim=-1).to(states.dtype), states)
    return seen.masked_fill_((step < 0)[:, None, None], 0)


def _scores(query: Tensor, states: Tensor) -> Tensor:
    """`[B, N, S]` float32, of products in half precision as they were summed if that can be had."""
    keys = states.transpose(1, 2)
    has_wide_sums = states.is_cuda and torch.version.hip is None
    if has_wide_sums and states.dtype != torch.float32:
        return torch.bmm(query, keys, out_dtype=torch.float32)
    return torch.bmm(query, keys).float()
