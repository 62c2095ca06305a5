"""The arguments of `ban_ngrams` and its relatives as one record that checks itself."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tritonseq.kernels.checks import (
    INTEGERS,
    check_floats,
    check_integers,
    check_tensors,
    check_written,
    whole,
)


class NgramCall(NamedTuple):
    """The arguments that `ban_ngrams` and its relatives share; the former explains them."""

    tokens: Tensor
    n: int
    rows: int
    vocab_size: int
    lengths: Tensor | None = None
    starts: Tensor | None = None
    lineage: Tensor | None = None
    prefix: Tensor | None = None
    prefix_starts: Tensor | None = None
    prefix_lengths: Tensor | None = None
    source: Tensor | None = None
    source_starts: Tensor | None = None
    source_lengths: Tensor | None = None
    ignored: Tensor | None = None

    @property
    def places(self) -> int:
        """In how many places of a row an n-gram may start, as far as shapes can tell."""
        searched = self.tokens.shape[1] if self.source is None else self.source.shape[1]
        if self.source is None and self.prefix is not None:
            searched += self.prefix.shape[1]
        return max(searched - self.n + 1, 0)

    def check(self) -> None:
        """Raise ValueError unless the arguments, dense tensors all, fit together."""
        if self.n < 1:
            raise ValueError(f"n is {self.n}; an n-gram has 1 token or more")
        if not 0 <= self.vocab_size < 2**31:
            raise ValueError(f"vocab_size is {self.vocab_size}; pass 0 or more, in 31 bits")
        if self.tokens.dtype not in INTEGERS:
            raise ValueError(f"tokens are {self.tokens.dtype}; pass int32 or int64")
        samples = self._check_tokens()
        check_integers("lengths", self.lengths, (samples,))
        self._check_side("prefix", self.prefix, self.prefix_starts, self.prefix_lengths)
        self._check_side("source", self.source, self.source_starts, self.source_lengths)
        if self.starts is not None:
            if self.lineage is not None or self.prefix is not None:
                raise ValueError(
                    "starts goes with plain tokens only; pads of a prefix are told by prefix_starts"
                )
            check_integers("starts", self.starts, (self.rows,))
        self._check_ignored()

    def _check_tokens(self) -> int:
        """Return the number of samples that lengths are for."""
        shape = list(self.tokens.shape)
        if self.lineage is None:
            if len(shape) != 2 or shape[0] != self.rows:
                raise ValueError(f"tokens are {shape}; pass [{self.rows}, T], or a lineage too")
            return self.rows
        if len(shape) != 3 or shape[0] * shape[2] != self.rows:
            raise ValueError(
                f"tokens are {shape}; with a lineage pass [B, T, K], B * K = {self.rows}"
            )
        check_integers("lineage", self.lineage, tuple(shape))
        return shape[0]

    def _check_ignored(self) -> None:
        table = self.ignored
        if table is not None and (table.dtype != torch.bool or table.shape != (self.vocab_size,)):
            raise ValueError(
                f"ignored is {table.dtype} {list(table.shape)}; pass bool [{self.vocab_size}], "
                "True for the tokens to pass over"
            )

    def _check_side(
        self, name: str, tokens: Tensor | None, starts: Tensor | None, lengths: Tensor | None
    ) -> None:
        if tokens is None:
            if starts is not None or lengths is not None:
                raise ValueError(f"{name}_starts and {name}_lengths need {name}; pass it too")
            return
        samples = tokens.shape[0] if tokens.dim() == 2 else 0
        if self.lineage is not None and samples != self.tokens.shape[0]:
            samples = 0
        if not samples or self.rows % samples or tokens.dtype not in INTEGERS:
            raise ValueError(
                f"{name} is {tokens.dtype} {list(tokens.shape)}; pass int32 or int64 [B, L], "
                f"one row for each sample of the {self.rows} rows"
            )
        check_integers(f"{name}_starts", starts, (samples,))
        check_integers(f"{name}_lengths", lengths, (samples,))


SPANS = tuple(NgramCall._field_defaults)
"""Arguments that may be left out, in the order of the record: which tokens are looked at."""


def checked(
    scores: Tensor | None,
    tokens: Tensor,
    n: int,
    vocab_size: int | None,
    spans: tuple[Tensor | None, ...],
) -> NgramCall:
    """The call for scores, or for a vocabulary; ValueError or TypeError where it does not fit.

    `spans` are the values of `SPANS`.
    """
    given = dict(zip(SPANS, spans, strict=True))
    if scores is None:
        check_tensors(("tokens", *SPANS), (tokens, *spans))
        size = whole("vocab_size", vocab_size)
        # Tokens of other dimensions are refused below.
        rows = math.prod(tokens.shape[:1] if given["lineage"] is None else tokens.shape[::2])
    else:
        check_tensors(("scores", "tokens", *SPANS), (scores, tokens, *spans), required=2)
        check_floats("scores", scores, "R, V")
        rows, size = scores.shape
    call = NgramCall(tokens, whole("n", n), rows, size, *spans)
    call.check()
    if scores is not None:
        check_written({"scores": scores}, {"tokens": tokens, **given})
    return call
