"""`ban_ngrams`, `ngram_mask` and `ngram_bans`: tokens that would repeat an n-gram."""

from __future__ import annotations

import torch
from torch import Tensor

from tritonseq.kernels.checks import Impl, is_for_triton

from .call import checked
from .eager import ban_in_torch, list_in_torch, mask_in_torch


def ban_ngrams(
    scores: Tensor,
    tokens: Tensor,
    n: int,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    lineage: Tensor | None = None,
    prefix: Tensor | None = None,
    prefix_starts: Tensor | None = None,
    prefix_lengths: Tensor | None = None,
    source: Tensor | None = None,
    source_starts: Tensor | None = None,
    source_lengths: Tensor | None = None,
    ignored: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Set the score of every token that would repeat an n-gram to -inf, in place.

    A token is banned when the last `n - 1` tokens of a hypothesis, followed by it, already occur
    in the hypothesis; `n = 1` bans every token that occurs. A hypothesis of fewer than `n - 1`
    tokens bans nothing. Any length will do, and no GPU is waited for.

    Args:
        scores: `[R, V]` float16, bfloat16 or float32, changed in place; rows may be strided, and
            share no memory with each other or another argument.
        tokens: `[R, T]` int32 or int64. With a lineage `[B, T, K]`, where row `b * K + k` is
            beam `k` of sample `b` and the token of slot `s` at position `t` is `[b, t, s]`.
        n: 1 or more.
        lengths: `[R]`, or `[B]` with a lineage: where the tokens end; all of `T` by default.
        starts: `[R]`, where the tokens start, that is the pads on the left; plain tokens only.
        lineage: `[B, T, K]` int32 or int64, the slot at position `t` that beam `k` descends from.
        prefix: `[B, P]` tokens that precede those of each row, shared by the `R / B` rows of a
            sample, which are adjacent.
        prefix_starts, prefix_lengths: `[B]`, where the prefix starts and ends; without them all
            of it counts.
        source: `[B, S]` tokens whose n-grams are banned instead of the hypothesis's own; that
            supplies only its last `n - 1` tokens.
        source_starts, source_lengths: `[B]`, as for the prefix.
        ignored: bool `[V]`, True for the tokens that are free to repeat: they are never banned,
            and a hypothesis with one of them among its last `n - 1` tokens bans nothing.
        impl: "torch", "triton" or, by default, what suits the device.

    Tokens outside `0..V-1` ban nothing but may stand within an n-gram. Slots are clamped to
    `0..K-1`, lengths to what is there, and starts to the lengths: whatever they hold, nothing else
    is read.

    Returns:
        `scores`.

    Raises:
        ValueError: for shapes, dtypes, devices or memory that do not fit; the text says what would.
        TypeError: for what is no tensor, or no integer.
    """
    spans = (
        lengths, starts, lineage, prefix, prefix_starts, prefix_lengths,
        source, source_starts, source_lengths, ignored,
    )  # fmt: skip
    call = checked(scores, tokens, n, None, spans)
    if torch.compiler.is_compiling():
        torch.ops.tritonseq.ban_ngrams_(scores, tokens, n, *spans, impl)
        return scores
    if is_for_triton(impl, scores.device):
        from .kernel import ban_in_triton

        ban_in_triton(scores, call)
    else:
        ban_in_torch(scores, call)
    return scores


def ngram_mask(
    tokens: Tensor,
    n: int,
    vocab_size: int,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    lineage: Tensor | None = None,
    prefix: Tensor | None = None,
    prefix_starts: Tensor | None = None,
    prefix_lengths: Tensor | None = None,
    source: Tensor | None = None,
    source_starts: Tensor | None = None,
    source_lengths: Tensor | None = None,
    ignored: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """The tokens that `ban_ngrams` bans, as a boolean `[R, vocab_size]`.

    All arguments, and the errors, are those of `ban_ngrams`.
    """
    spans = (
        lengths, starts, lineage, prefix, prefix_starts, prefix_lengths,
        source, source_starts, source_lengths, ignored,
    )  # fmt: skip
    call = checked(None, tokens, n, vocab_size, spans)
    if torch.compiler.is_compiling():
        result: Tensor = torch.ops.tritonseq.ngram_mask(tokens, n, vocab_size, *spans, impl)
        return result
    if is_for_triton(impl, tokens.device):
        from .kernel import mask_in_triton

        return mask_in_triton(call)
    return mask_in_torch(call)


def ngram_bans(
    tokens: Tensor,
    n: int,
    vocab_size: int,
    *,
    lengths: Tensor | None = None,
    starts: Tensor | None = None,
    lineage: Tensor | None = None,
    prefix: Tensor | None = None,
    prefix_starts: Tensor | None = None,
    prefix_lengths: Tensor | None = None,
    source: Tensor | None = None,
    source_starts: Tensor | None = None,
    source_lengths: Tensor | None = None,
    ignored: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """The tokens that `ban_ngrams` bans, as lists for `beam_topk`: int32 `[R, N]`.

    `N` is the number of places where an n-gram may start, which the shapes alone decide: `n - 1`
    less than the width of the source or, without one, of prefix and tokens together; 0 at least.
    A place holds the token that it bans, or -1. A token may come more than once, and the order of
    places is left open.

    All arguments, and the errors, are those of `ban_ngrams`.
    """
    spans = (
        lengths, starts, lineage, prefix, prefix_starts, prefix_lengths,
        source, source_starts, source_lengths, ignored,
    )  # fmt: skip
    call = checked(None, tokens, n, vocab_size, spans)
    if is_for_triton(impl, tokens.device):
        from .kernel import list_in_triton

        return list_in_triton(call)
    return list_in_torch(call)
