"""Driving a network by hand: caches, prefill, then one step after the other."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tritonseq.decoding.hypotheses import Hypotheses, SourceText
from tritonseq.kernels.advance.eager import append_beams
from tritonseq.memory.kv_cache import Sizes

if TYPE_CHECKING:
    from collections.abc import Iterator


def begin(
    decoder: Any,
    tokens: Tensor,
    lengths: Tensor,
    *,
    beams: int,
    target_length: int,
    prompt: Tensor | None = None,
) -> tuple[Any, Tensor]:
    """New caches, and the logits `[B, V]` after reading; `prompt [B, P]` with an encoder."""
    own = {} if prompt is None else {"prompt": prompt}
    prompt_length = 0 if prompt is None else prompt.shape[1]
    sizes = Sizes(*tokens.shape[:1], beams, tokens.shape[1], target_length, prompt_length)
    cache = decoder.new_cache(sizes)
    return cache, decoder.prefill(tokens, lengths, cache, **own)


def feed(decoder: Any, tokens: Tensor, lineage: Tensor | None, cache: Any) -> Tensor:
    """One step, and on to the next position; returns logits `[B, K, V]`."""
    logits: Tensor = decoder.step(tokens, lineage, cache)
    cache.advance()
    return logits


def begun(
    ids: Tensor,
    starts: list[int] | None = None,
    *,
    beams: int = 1,
    new_tokens: int = 9,
    roots: Tensor | None = None,
) -> Hypotheses:
    """Prompts with nothing behind them; the source is the prompt."""
    samples, width = ids.shape
    made = Hypotheses.allocate(
        samples=samples,
        beams=beams,
        prompt_length=width,
        new_tokens=new_tokens,
        source_length=width,
        follows_trie=roots is not None,
        device=ids.device,
    )
    pads = None if starts is None else torch.tensor(starts)
    edges = torch.zeros(samples, dtype=torch.int64) if pads is None else pads
    text = SourceText(ids, edges, torch.full((samples,), width))
    made.load(ids, pads, new_tokens=new_tokens, source=text, roots=roots)
    return made


def write(h: Hypotheses, tokens: Tensor, parents: Tensor | None = None) -> None:
    append_beams(h.written, tokens, parents, torch.zeros(len(tokens), dtype=torch.bool))
    h.forget_texts()


class NoKeys:
    """The caches of a decoder that has no attention: where its samples are, and what they wrote."""

    nbytes = source_nbytes = 0

    def __init__(self, sizes: Sizes) -> None:
        self.step = torch.zeros(sizes.samples, dtype=torch.int64)
        shape = (sizes.samples, sizes.target_length, sizes.beams)
        self.tokens = torch.zeros(shape, dtype=torch.int64)
        self.sources = torch.zeros(sizes.samples, dtype=torch.int64)
        self.target_length = sizes.target_length

    def of_samples(self, first: int, count: int) -> NoKeys:
        view = copy.copy(self)
        for name in ("step", "tokens", "sources"):
            setattr(view, name, getattr(self, name)[first : first + count])
        return view

    def advance(self) -> None:
        self.step += self.step >= 0


class OfOneTensor:
    """What a decoder has to say of its weights, for those that consist of one tensor."""

    def parameters(self) -> Iterator[Tensor]:
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def nbytes(self) -> int:
        return next(self.parameters()).nbytes

    @property
    def addresses(self) -> tuple[int, ...]:
        return (next(self.parameters()).data_ptr(),)
