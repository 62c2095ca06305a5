"""Decoder protocol: what generation asks of a model, `prefill` per sample and `step` per token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tritonseq.memory.kv_cache import Sizes


class Decoder(Protocol):
    """A model that reads prompts and then one token per beam; its caches are opaque to search.

    A prefix language model is one as well: what it reads is a source, as of an encoder-decoder
    model, and its targets start empty.
    """

    is_encoder_decoder: bool
    """Whether what is read is a source to answer, rather than a prompt to continue."""
    is_prefix_lm: bool
    """Whether source and target are one sequence to the network, with positions that go on."""
    vocab_size: int
    max_positions: int | None
    """Of all that is read and written."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of logits and caches, and of the weights that are no int8."""
        ...

    @property
    def nbytes(self) -> int:
        """The bytes of the weights."""
        ...

    @property
    def addresses(self) -> tuple[int, ...]:
        """Where the weights are in memory: what was captured on a GPU knows no others."""
        ...

    def new_cache(self, sizes: Sizes, device: torch.device | None = None) -> Any:
        """Caches that `prefill` and `step` write, on the device of the weights by default.

        The engine knows of them `step`, `of_samples` and `take_sources`, and the memory plan
        `nbytes` and `source_nbytes`.
        """
        ...

    def prefill(self, tokens: Tensor, lengths: Tensor, cache: Any) -> Tensor:
        """Read `tokens [B, S]`, padded on the right to true `lengths [B]`, into caches.

        Returns the logits `[B, V]` that follow each prompt.
        """
        ...

    def step(self, tokens: Tensor, lineage: Tensor | None, cache: Any) -> Tensor:
        """Feed the newest tokens `[B, K]`; returns logits `[B, K, V]`.

        `lineage [B, T, K]` tells the slot at each generated position that each beam descends
        from; None when every beam only ever continues itself. Position `cache.step` is written,
        and the step is not advanced. Nothing waits for the device.
        """
        ...


class Seq2SeqDecoder(Protocol):
    """A model that reads sources first, and then writes targets one token per beam."""

    is_encoder_decoder: bool
    is_prefix_lm: bool
    vocab_size: int
    """Of the target."""
    source_vocab_size: int
    shares_vocabulary: bool
    max_positions: int | None
    """Of the target; None where there is no limit."""
    max_source_positions: int | None
    longest_exact_prompt: int | None
    """The most tokens of a decoder's prompt that transformers reads right; None for any number."""

    @property
    def states_width(self) -> int:
        """The width of what is attended to, the encoder's states."""
        ...

    @property
    def device(self) -> torch.device:
        """As in `Decoder`."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """As in `Decoder`."""
        ...

    @property
    def nbytes(self) -> int:
        """As in `Decoder`."""
        ...

    @property
    def addresses(self) -> tuple[int, ...]:
        """As in `Decoder`."""
        ...

    def new_cache(self, sizes: Sizes, device: torch.device | None = None) -> Any:
        """As in `Decoder`."""
        ...

    def prefill(self, tokens: Tensor, lengths: Tensor, cache: Any, *, prompt: Tensor) -> Tensor:
        """Read the sources `tokens [B, S]`, padded on the right to true `lengths [B]`.

        Or what another encoder read: `[B, S, d]` states of `states_width`.
        `prompt [B, P]` is what the targets start with. Returns the logits `[B, V]` that follow it.
        """
        ...

    def step(self, tokens: Tensor, lineage: Tensor | None, cache: Any) -> Tensor:
        """As in `Decoder`."""
        ...
