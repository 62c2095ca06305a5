"""What encoder-decoder models share: sources are read once per sample, targets step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tritonseq.cache import EncoderDecoderCache

from .layers import Head, Linear
from .packing import split_prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .attention import CrossAttention
    from .packing import Prompt


class EncoderDecoder(nn.Module):
    """Tokens and caches in, logits out, by the parts that an architecture provides."""

    is_encoder_decoder = True

    vocab_size: int
    """Of the target; `source_vocab_size` is that of the source."""
    source_vocab_size: int
    max_positions: int | None
    """Of the target; None where positions are relative."""
    max_source_positions: int | None
    heads: int
    """Of the decoder's attentions."""
    head_dim: int

    def encode(self, source: Prompt) -> Tensor:
        """The encoder's states `[N, d]` of some packed sources."""
        raise NotImplementedError

    def cross_attentions(self) -> Sequence[CrossAttention]:
        """Of the decoder's layers, in order."""
        raise NotImplementedError

    def biases(self) -> list[Tensor | None]:
        """Per layer of the decoder, what self-attention adds by distance: `[H, N]` or None."""
        return [None] * len(self.cross_attentions())

    def read(self, tokens: Tensor, cache: EncoderDecoderCache) -> Tensor:
        """States `[B * P, d]` of the decoder's prompts `[B, P]`, which go into the cache."""
        raise NotImplementedError

    def feed(self, tokens: Tensor, lineage: Tensor | None, cache: EncoderDecoderCache) -> Tensor:
        """States `[B * K, d]` of the newest tokens `[B, K]`, appended to the cache."""
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        """`[N, V]` of the decoder's states `[N, d]`."""
        raise NotImplementedError

    @torch.no_grad()
    def prefill(
        self, tokens: Tensor, lengths: Tensor, *, prompt: Tensor, beams: int, target_length: int
    ) -> tuple[EncoderDecoderCache, Tensor]:
        """Read the sources and the decoder's prompts, once per sample.

        `tokens`: `[B, S]` int64, padded on the right; `lengths`: `[B]` int64, all at least 1;
        `prompt`: `[B, P]` int64, the tokens that every target starts with. Returns the caches,
        with room for `target_length` more tokens of each of `beams` beams, and the logits
        `[B, V]` that follow each prompt.
        """
        samples, width = tokens.shape
        cross = self.cross_attentions()
        weight = next(self.parameters())
        cache = EncoderDecoderCache.allocate(
            biases=self.biases(),
            samples=samples,
            beams=beams,
            heads=self.heads,
            head_dim=self.head_dim,
            source_length=width,
            prompt_length=prompt.shape[1],
            target_length=target_length,
            source_len=lengths if bool((lengths < width).any()) else None,
            device=weight.device,
            dtype=weight.dtype,
        )
        for source in split_prompts(tokens, lengths):
            states = self.encode(source)
            for attention in cross:
                attention.store(states, source, cache)
        x = self.read(prompt, cache).view(*prompt.shape, -1)
        return cache, self.logits(x[:, -1])

    @torch.no_grad()
    def step(self, tokens: Tensor, lineage: Tensor | None, cache: EncoderDecoderCache) -> Tensor:
        """Feed the newest token of every beam.

        `tokens`: `[B, K]` int64; `lineage`: `[B, T, K]` int64, the slot of each generated position
        that each beam descends from, or None when beams never change places. Writes the caches
        and returns logits `[B, K, V]`.
        """
        lineage = None if lineage is None else lineage[:, : cache.own.bound + 1]
        x = self.feed(tokens, lineage, cache)
        cache.own.advance()
        return self.logits(x).view(*tokens.shape, -1)

    def input_dim(self, name: str) -> int | None:
        """Which dimension of the parameter `name` is the input side of a matrix product."""
        owner, _, leaf = name.rpartition(".")
        module: Any = self.get_submodule(owner)
        if leaf != "weight":
            return None
        return 0 if isinstance(module, Linear) else 1 if isinstance(module, Head) else None
