"""Encoder-decoder models: sources are read once per sample, targets are written step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from tritonseq.memory.kv_cache import EncoderDecoderCache

from .network import Network
from .source_states import StatesCrossAttention
from .varlen import varlen_batches

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritonseq.memory.kv_cache import Sizes

    from .attention import CrossAttention, DecoderAttention, EncoderAttention
    from .layers import Norm, ResidualStream
    from .relative_bias import RelativeBias
    from .varlen import VarlenBatch


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward, each with a norm, added to the residual stream."""

    def __init__(
        self,
        attention: EncoderAttention,
        feed_forward: nn.Module,
        norm: Callable[[], Norm],
        relative: RelativeBias | None = None,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = norm()
        self.relative = relative
        self.feed_forward = feed_forward
        self.feed_forward_norm = norm()

    def forward(self, stream: ResidualStream, batch: VarlenBatch, bias: Tensor | None) -> None:
        self.attention(stream, self.attention_norm, batch, bias)
        self.feed_forward(stream, self.feed_forward_norm)


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each with a norm."""

    def __init__(
        self,
        attention: DecoderAttention,
        cross: CrossAttention,
        feed_forward: nn.Module,
        norm: Callable[[], Norm],
        relative: RelativeBias | None = None,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = norm()
        self.relative = relative
        self.cross = cross
        self.cross_norm = norm()
        self.feed_forward = feed_forward
        self.feed_forward_norm = norm()

    def prefill(self, stream: ResidualStream, cache: EncoderDecoderCache) -> None:
        self.attention.prefill(stream, self.attention_norm, cache)
        self._finish(stream, cache)

    def step(
        self, stream: ResidualStream, lineage: Tensor | None, cache: EncoderDecoderCache
    ) -> None:
        self.attention.step(stream, self.attention_norm, lineage, cache)
        self._finish(stream, cache)

    def _finish(self, stream: ResidualStream, cache: EncoderDecoderCache) -> None:
        self.cross(stream, self.cross_norm, cache)
        self.feed_forward(stream, self.feed_forward_norm)


class EncoderDecoder(Network):
    """Tokens and caches in, logits out, by the parts that an architecture provides."""

    is_encoder_decoder = True
    is_prefix_lm = False

    vocab_size: int
    """Of the target; `source_vocab_size` is that of the source."""
    source_vocab_size: int
    shares_vocabulary: bool
    """Whether equal ids of source and target mean the same token."""
    max_positions: int | None
    """Of the target; None where positions are relative."""
    max_source_positions: int | None
    heads: int
    """Of the decoder's attentions."""
    head_dim: int

    rows: int = 1
    """That a beam brings to a step."""
    longest_exact_prompt: int | None = None
    """The most tokens of a decoder's prompt that transformers reads right; None for any number."""

    encoder: nn.ModuleList
    encoder_norm: Norm | None
    """At the end of the encoder, if there is one."""
    decoder: nn.ModuleList

    def embed_source(self, batch: VarlenBatch) -> ResidualStream:
        """What the encoder starts from: a stream `[N, d]` of some packed sources."""
        raise NotImplementedError

    def embed_target(self, tokens: Tensor, positions: Tensor) -> ResidualStream:
        """What the decoder starts from: a stream `[N, d]` for target tokens `[N]`.

        `positions`: `[P]`, each that of `N / P` adjacent tokens.
        """
        raise NotImplementedError

    def logits(self, stream: ResidualStream) -> Tensor:
        """`[N, V]` of the stream `[N, d]` above the decoder's last block."""
        raise NotImplementedError

    def encode(self, batch: VarlenBatch) -> Tensor:
        """The encoder's states `[N, d]` of some packed sources."""
        stream, bias = self.embed_source(batch), None
        for block in cast("list[EncoderBlock]", list(self.encoder)):
            if block.relative is not None:
                bias = block.relative.bidirectional(max(batch.lengths))
            block(stream, batch, bias)
        return stream.normed(self.encoder_norm)

    def biases(self) -> list[Tensor | None]:
        """Per layer of the decoder, what self-attention adds by distance: `[H, N]` or None.

        A layer without a table of its own has that of the layer below.
        """
        tables: list[Tensor | None] = [None]
        for block in self._blocks:
            tables.append(tables[-1] if block.relative is None else block.relative.causal())
        return tables[1:]

    @property
    def states_width(self) -> int:
        """The width `d` of the encoder's states."""
        return self._blocks[0].cross.width

    def new_cache(self, sizes: Sizes, device: torch.device | None = None) -> EncoderDecoderCache:
        """Caches for sources of up to `sizes.source_length` tokens, and for targets."""
        return EncoderDecoderCache.allocate(
            sizes,
            biases=self.biases(),
            heads=self.heads,
            head_dim=self.head_dim,
            rows=self.rows,
            device=self.device if device is None else device,
            dtype=self.dtype,
            states_width=self._blocks[0].cross.width if self.source_cache == "states" else None,
        )

    @torch.no_grad()
    def prefill(
        self, tokens: Tensor, lengths: Tensor, cache: EncoderDecoderCache, *, prompt: Tensor
    ) -> Tensor:
        """Read the sources and the decoder's prompts, once per sample, into caches of `B` samples.

        `tokens`: `[B, S]` int64, or the states `[B, S, d]` of another encoder, padded on the right;
        `lengths`: `[B]` int64, all at least 1;
        `prompt`: `[B, P]` int64, the tokens that every target starts with. Returns the logits
        `[B, V]` that follow each prompt.
        """
        self.read(tokens, lengths, cache, prompt)
        positions = torch.arange(prompt.shape[1], device=prompt.device).expand_as(prompt)
        stream = self.embed_target(prompt.flatten(), positions.flatten())
        for block in self._blocks:
            block.prefill(stream, cache)
        return self.logits(stream.at(slice(prompt.shape[1] - 1, None, prompt.shape[1])))

    def read(
        self, tokens: Tensor, lengths: Tensor, cache: EncoderDecoderCache, prompt: Tensor
    ) -> None:
        """Of a prefill what comes first: the sources, and the lengths of all that is read."""
        cache.source_len.copy_(lengths)
        cache.own.source_len.fill_(prompt.shape[1])
        cache.own.step.zero_()
        for batch in varlen_batches(tokens, lengths, padded=False):
            states = self.encode(batch) if tokens.dim() == 2 else batch.tokens
            for block in self._blocks:
                block.cross.store(states, batch, cache)

    @torch.no_grad()
    def step(self, tokens: Tensor, lineage: Tensor | None, cache: EncoderDecoderCache) -> Tensor:
        """Feed the newest token of every beam.

        `tokens`: `[B, K]` int64; `lineage`: `[B, T, K]` int64, the slot of each generated position
        that each beam descends from, or None when beams never change places. Writes position
        `cache.step`, which the caller advances, and returns logits `[B, K, V]`.
        """
        stream = self.embed_target(tokens.flatten(), cache.own.next_positions())
        for block in self._blocks:
            block.step(stream, lineage, cache)
        return self.logits(stream).unflatten(0, tokens.shape)

    def _read_states(self) -> None:
        for block in self._blocks:
            block.cross = StatesCrossAttention.in_place_of(block.cross)

    @property
    def _blocks(self) -> list[DecoderBlock]:
        return cast("list[DecoderBlock]", list(self.decoder))
