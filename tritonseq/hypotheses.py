"""What has been written so far: tokens in their slots, and the lineage that orders them."""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor


class Hypotheses:
    """The prompt of every sample and the tokens of its beams.

    A token stays in the slot where it was written, `tokens[b, t, k]`. Beams change places in the
    lineage alone: beam `k` of sample `b` reads its history at position `t` from slot
    `lineage[b, t, k]`. The attention caches are laid out alike and use the same lineage.
    """

    def __init__(
        self, prompt: Tensor, starts: Tensor | None, *, beams: int, new_tokens: int
    ) -> None:
        """`prompt`: `[B, P]` int64, padded on the left; `starts`: `[B]` number of pads, or None."""
        samples, device = prompt.shape[0], prompt.device
        self.prompt = prompt
        self.prompt_starts = starts
        self.beams = beams
        self.generated = 0
        self.tokens = torch.zeros(samples, new_tokens, beams, device=device, dtype=torch.int64)
        self.lineage = torch.arange(beams, device=device).repeat(samples, new_tokens, 1)
        self._ids: Tensor | None = None
        self._starts = None if starts is None else starts.repeat_interleave(beams)

    @property
    def prompt_length(self) -> int:
        """`P`, the pads included."""
        return self.prompt.shape[1]

    @property
    def length(self) -> int:
        """Tokens of every hypothesis: the prompt, pads included, and what was generated."""
        return self.prompt_length + self.generated

    @property
    def starts(self) -> Tensor | None:
        """`[R]` number of left pads of every row, or None when there are none."""
        return self._starts

    @property
    def ids(self) -> Tensor:
        """`[R, length]` the hypotheses written out, one row per beam, samples in order."""
        if self._ids is None:
            generated = self.tokens[:, : self.generated]
            written = generated.gather(2, self.lineage[:, : self.generated])
            prompt = self.prompt.repeat_interleave(self.beams, dim=0)
            rows = written.transpose(1, 2).reshape(prompt.shape[0], -1)
            self._ids = torch.cat((prompt, rows), dim=1)
        return self._ids

    def of_beams(self, first: int, count: int) -> Hypotheses:
        """A view of `count` beams of every sample, from beam `first` on; it is for reading."""
        if count == self.beams:
            return self
        view = copy(self)
        view.beams = count
        view.lineage = self.lineage[:, :, first : first + count]
        view._ids = None
        if self.prompt_starts is not None:
            view._starts = self.prompt_starts.repeat_interleave(count)
        return view

    def append(self, tokens: Tensor, parents: Tensor | None) -> None:
        """Write one token per beam, `[B, K]`; `parents[b, k]` is the beam that each continues.

        None stands for parents in place: every beam continues itself.
        """
        t = self.generated
        if parents is not None:
            history = self.lineage[:, :t]
            self.lineage[:, :t] = history.gather(2, parents[:, None].expand_as(history))
        self.tokens[:, t] = tokens
        self.generated = t + 1
        self._ids = None
