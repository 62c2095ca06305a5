"""What encoder-decoder models share: sources are read once per sample, targets step by step."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tritonseq.memory.kv_cache import EncoderDecoderCache

from .network import Network
from .varlen import split_prompts

if TYPE_CHECKING:
    from tritonseq.memory.kv_cache import Sizes

    from .varlen import Prompt

    Stream = tuple[Tensor, Tensor | None]


class EncoderDecoder(Network):
    """Tokens and caches in, logits out, by the parts that an architecture provides."""

    is_encoder_decoder = True
    is_prefix_lm = False

    vocab_size: int
    """Of the target; `source_vocab_size` is that of the source."""
    source_vocab_size: int
    shares_vocabulary: bool
    """Do equal ids of source and target mean the same token?"""
    max_positions: int | None
    """Of the target; None where positions are relative."""
    max_source_positions: int | None
    heads: int
    """Of the decoder's attentions."""
    head_dim: int

    decoder: nn.ModuleList
    """Its blocks have parts `attention` and `cross`. They map `(x, branch, attend, cache)` to
    `(x, branch)`: the residual stream, changed in place, and what is yet to be added to it."""

    def encode(self, source: Prompt) -> Tensor:
        """The encoder's states `[N, d]` of some packed sources."""
        raise NotImplementedError

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """What the decoder starts from: a stream `[N, d]` of its own for target tokens `[N]`.

        `positions`: `[P]`, each that of `N / P` adjacent tokens.
        """
        raise NotImplementedError

    def logits(self, x: Tensor, branch: Tensor | None) -> Tensor:
        """`[N, V]` of what the decoder's last block returns, `[N, d]` each."""
        raise NotImplementedError

    def biases(self) -> list[Tensor | None]:
        """Per layer of the decoder, what self-attention adds by distance: `[H, N]` or None."""
        return [None] * len(self.decoder)

    def new_cache(self, sizes: Sizes, device: torch.device | None = None) -> EncoderDecoderCache:
        """Caches for sources of up to `sizes.source_length` tokens, and for targets."""
        return EncoderDecoderCache.allocate(
            sizes,
            biases=self.biases(),
            heads=self.heads,
            head_dim=self.head_dim,
            device=self.device if device is None else device,
            dtype=self.dtype,
        )

    @torch.no_grad()
    def prefill(
        self, tokens: Tensor, lengths: Tensor, cache: EncoderDecoderCache, *, prompt: Tensor
    ) -> Tensor:
        """Read the sources and the decoder's prompts, once per sample, into caches of `B` samples.

        `tokens`: `[B, S]` int64, padded on the right; `lengths`: `[B]` int64, all at least 1;
        `prompt`: `[B, P]` int64, the tokens that every target starts with. Returns the logits
        `[B, V]` that follow each prompt.
        """
        cache.source_len.copy_(lengths)
        cache.own.source_len.fill_(prompt.shape[1])
        cache.own.step.zero_()
        for source in split_prompts(tokens, lengths, padded=False):
            states = self.encode(source)
            for block in self._blocks:
                block.cross.store(states, source, cache)
        positions = torch.arange(prompt.shape[1], device=prompt.device).expand_as(prompt)
        x, branch = self.embed(prompt.flatten(), positions.flatten()), None
        for block in self._blocks:
            attend = partial(block.attention.prefill, cache=cache)
            x, branch = block(x, branch, attend, cache)
        last = slice(prompt.shape[1] - 1, None, prompt.shape[1])
        return self.logits(x[last], None if branch is None else branch[last])

    @torch.no_grad()
    def step(self, tokens: Tensor, lineage: Tensor | None, cache: EncoderDecoderCache) -> Tensor:
        """Feed the newest token of every beam.

        `tokens`: `[B, K]` int64; `lineage`: `[B, T, K]` int64, the slot of each generated position
        that each beam descends from, or None when beams never change places. Writes position
        `cache.step`, which the caller advances, and returns logits `[B, K, V]`.
        """
        x, branch = self.embed(tokens.flatten(), cache.own.next_positions()), None
        for block in self._blocks:
            attend = partial(block.attention.step, lineage=lineage, cache=cache)
            x, branch = block(x, branch, attend, cache)
        return self.logits(x, branch).view(*tokens.shape, -1)

    @property
    def _blocks(self) -> list[Any]:
        return list(self.decoder)
