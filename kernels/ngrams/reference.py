"""`ban_ngrams`, `ngram_mask` and `ngram_bans` by definition."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from tritonseq.kernels import ngrams

from .call import SPANS, NgramCall, checked

_Function = TypeVar("_Function", bound=Callable[..., Tensor])


def _called_as(public: _Function) -> Callable[[Callable[..., Tensor]], _Function]:
    """Give a definition, which takes a checked call, the arguments of a public function."""

    def decorate(definition: Callable[..., Tensor]) -> _Function:
        @functools.wraps(public)
        def run(*args: Any, **options: Any) -> Tensor:
            given = inspect.signature(public).bind(*args, **options).arguments
            scores, spans = given.get("scores"), tuple(map(given.get, SPANS))
            call = checked(scores, given["tokens"], given["n"], given.get("vocab_size"), spans)
            return definition(call) if scores is None else definition(scores, call)

        return cast("_Function", run)

    return decorate


def _mask(call: NgramCall) -> Tensor:
    """The banned tokens as a boolean `[R, V]`, one row after the other, on lists of integers."""
    mask = torch.zeros(call.rows, call.vocab_size, dtype=torch.bool)
    free = set() if call.ignored is None else set(call.ignored.nonzero().flatten().tolist())
    for row in range(call.rows):
        own = _own(call, row)
        if call.prefix is not None:
            own = _of_sample(call, "prefix", row) + own
        searched = own if call.source is None else _of_sample(call, "source", row)
        if len(own) < call.n - 1:
            continue
        suffix = own[len(own) - (call.n - 1) :]
        if free.intersection(suffix):
            continue
        for start in range(len(searched) - call.n + 1):
            *head, token = searched[start : start + call.n]
            if head == suffix and 0 <= token < call.vocab_size and token not in free:
                mask[row, token] = True
    return mask.to(call.tokens.device)


def _own(call: NgramCall, row: int) -> list[int]:
    """The tokens of a row itself, by its lineage if there is one."""
    tokens = call.tokens
    if call.lineage is None:
        return _valid(tokens, row, call.starts, call.lengths)
    sample, beam = divmod(row, tokens.shape[2])
    slots = _valid(call.lineage[:, :, beam], sample, None, call.lengths)
    last = tokens.shape[2] - 1
    return [int(tokens[sample, t, min(max(s, 0), last)]) for t, s in enumerate(slots)]


def _of_sample(call: NgramCall, side: str, row: int) -> list[int]:
    """The tokens of the prefix or the source that belongs to a row."""
    tokens, starts, lengths = (getattr(call, side + end) for end in ("", "_starts", "_lengths"))
    return _valid(tokens, row * len(tokens) // call.rows, starts, lengths)


def _valid(tokens: Tensor, row: int, starts: Tensor | None, ends: Tensor | None) -> list[int]:
    """The tokens of a row from its start up to its end, both clamped to what is there."""
    size = tokens.shape[1]
    end = size if ends is None else min(max(int(ends[row]), 0), size)
    start = 0 if starts is None else min(max(int(starts[row]), 0), end)
    values: list[int] = tokens[row, start:end].tolist()
    return values


@_called_as(ngrams.ban_ngrams)
def ban_ngrams(scores: Tensor, call: NgramCall) -> Tensor:
    return scores.masked_fill_(_mask(call), -math.inf)


ngram_mask = _called_as(ngrams.ngram_mask)(_mask)


@_called_as(ngrams.ngram_bans)
def ngram_bans(call: NgramCall) -> Tensor:
    """The tokens of the mask, in order, once each."""
    mask = _mask(call)
    bans = torch.full((call.rows, call.places), -1, dtype=torch.int32, device=mask.device)
    for row, banned in enumerate(mask):
        found = banned.nonzero().flatten()
        bans[row, : len(found)] = found.int()
    return bans
