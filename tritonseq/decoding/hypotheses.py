"""Hypotheses: prompts, the tokens written in their slots, and the lineage that orders them.

Everything is a buffer with one entry per sample, changed in place, so that a step is the same
whatever the lengths, and a sample can begin while others are in the middle of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tritonseq.kernels.advance.state import Written


class SourceText(NamedTuple):
    """What the `encoder_` options speak of."""

    ids: Tensor
    """`[B, S]` int64."""
    starts: Tensor
    """`[B]` int64: where the text starts and ends; what is outside is padding."""
    ends: Tensor


class TrieState(NamedTuple):
    """Where the beams of every sample stand in a trie."""

    roots: Tensor
    """`[B, 1]` the node that a sample starts from."""
    nodes: Tensor
    """`[B, T, K]` the node that every written token leads to."""


@dataclass
class Hypotheses:
    """The prompt of every sample and the tokens of its beams.

    `widths` are the lengths of the prompts as they were given, their own pads included: what
    transformers counts. The buffer may be wider than any of them.
    """

    prompt: Tensor
    """`[B, P]` int64, padded on the left."""
    widths: Tensor
    """`[B]` int64."""
    prompt_starts: Tensor
    """`[B]` int64: where the text of each prompt starts."""
    minimum: Tensor
    """`[B]` int64: so many tokens must be written before one that ends."""
    first: Tensor
    """`[B]` int64: the token that must come first; -1 where any may."""
    written: Written
    source: SourceText | None = None
    trie: TrieState | None = None
    stops: Tensor | None = None
    """`[B, K]` int64: what each beam has open of stop strings, as `StopTables` numbers it."""
    _texts: Tensor | None = None

    @classmethod
    def allocate(
        cls,
        *,
        samples: int,
        beams: int,
        prompt_length: int,
        new_tokens: int,
        source_length: int | None = None,
        follows_trie: bool = False,
        has_stops: bool = False,
        step: Tensor | None = None,
        device: torch.device,
    ) -> Hypotheses:
        """Buffers for prompts of up to `prompt_length` tokens and what continues them.

        They are to be loaded before anything is written.

        `source_length`: room for the texts that `encoder_` options speak of. `step [B]` is that
        of the caches, which the search advances.
        """

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device, dtype=torch.int64)

        shape = (samples, new_tokens, beams)
        written = Written(
            tokens=zeros(*shape),
            lineage=zeros(*shape),
            parents=zeros(*shape),
            newest=zeros(samples, beams),
            generated=zeros(samples),
            step=zeros(samples) if step is None else step,
            limit=torch.ones(samples, device=device, dtype=torch.int64),
            done=torch.zeros(samples, device=device, dtype=torch.bool),
        )
        source = None
        if source_length is not None:
            ends = torch.ones(samples, device=device, dtype=torch.int64)
            source = SourceText(zeros(samples, source_length), zeros(samples), ends)
        return cls(
            prompt=zeros(samples, prompt_length),
            widths=zeros(samples),
            prompt_starts=zeros(samples),
            minimum=zeros(samples),
            first=torch.full((samples,), -1, device=device),
            written=written,
            source=source,
            trie=TrieState(zeros(samples, 1), zeros(*shape)) if follows_trie else None,
            stops=zeros(samples, beams) if has_stops else None,
        )

    def load(
        self,
        prompt: Tensor,
        starts: Tensor | None,
        *,
        new_tokens: int,
        minimum: int = 0,
        first: Tensor | None = None,
        fill: int = 0,
        source: SourceText | None = None,
        roots: Tensor | None = None,
        stops: Tensor | None = None,
    ) -> None:
        """Begin anew, with nothing written behind the prompts.

        `prompt`: `[B, P]` int64, padded on the left; `starts`: `[B]` number of pads, or None;
        `first`: `[B]` what must come first, None if nothing must in any sample. Places that
        nothing will be written to hold `fill`.
        """
        width, written = prompt.shape[1], self.written
        edge = self.prompt_length - width
        self.prompt[:, edge:] = prompt
        self.widths.fill_(width)
        self.prompt_starts.fill_(edge)
        if starts is not None:
            self.prompt_starts += starts
        self.minimum.fill_(minimum)
        self.first.fill_(-1)
        if first is not None:
            self.first.copy_(first)
        written.tokens.fill_(fill)
        # A token that is written stands in its own slot.
        written.lineage.copy_(torch.arange(self.beams, device=prompt.device))
        written.generated.zero_()
        written.step.zero_()
        written.limit.fill_(new_tokens)
        written.done.zero_()
        if self.source is not None and source is not None:
            self.source.ids[:, : source.ids.shape[1]] = source.ids
            self.source.starts.copy_(source.starts)
            self.source.ends.copy_(source.ends)
        if self.trie is not None and roots is not None:
            self.trie.roots.copy_(roots)
        if self.stops is not None and stops is not None:
            self.stops.copy_(stops.expand_as(self.stops))
        self.forget_texts()

    @property
    def beams(self) -> int:
        """`K`, of this view."""
        return self.written.lineage.shape[2]

    @property
    def prompt_length(self) -> int:
        """`P`, the places for prompts."""
        return self.prompt.shape[1]

    @property
    def generated(self) -> Tensor:
        """`[B]` how many tokens each beam has written."""
        return self.written.generated

    @property
    def lengths(self) -> Tensor:
        """`[B]` tokens of every hypothesis as transformers counts: prompt with pads, and new."""
        return self.widths + self.generated

    @property
    def edges(self) -> Tensor:
        """`[B]` where each prompt starts as it was given, its own pads included."""
        return self.prompt_length - self.widths

    @property
    def ends(self) -> Tensor:
        """`[B]` where each hypothesis ends in `texts`."""
        return self.generated + self.prompt_length

    def by_row(self, per_sample: Tensor) -> Tensor:
        """`[B]` to `[R]`: the same for all beams of a sample."""
        return per_sample[:, None].expand(-1, self.beams).flatten()

    @property
    def texts(self) -> Tensor:
        """`[R, P + T]` the hypotheses written out; what lies outside of each means nothing."""
        if self._texts is None:
            own = self.written.tokens.gather(2, self.written.lineage).transpose(1, 2)
            prompt = self.prompt[:, None].expand(-1, self.beams, -1)
            self._texts = torch.cat((prompt, own), dim=2).flatten(0, 1)
        return self._texts

    def forget_texts(self) -> None:
        """Something was written, here or in a view: `texts` must be made anew."""
        self._texts = None

    @property
    def ids(self) -> Tensor:
        """`[R, L]` the hypotheses of samples that are all equally far; waits for the device."""
        return self.texts[:, : self.prompt_length + int(self.generated.max())]

    def of_beams(self, first: int, count: int) -> Hypotheses:
        """A view of `count` beams of every sample, from beam `first` on; it is for reading."""
        if count == self.beams:
            return self
        lineage = self.written.lineage[:, :, first : first + count]
        return replace(self, written=self.written._replace(lineage=lineage), _texts=None)
