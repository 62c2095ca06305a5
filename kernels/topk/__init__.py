"""`beam_topk`: the best continuations of each sample, in one read of the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from tritonseq.kernels.checks import Impl, check_flags, check_tensors, is_for_triton, whole

from .call import TopKCall
from .eager import topk_in_torch


def beam_topk(
    logits: Tensor,
    count: int,
    *,
    running: Tensor | None = None,
    log_softmax: bool = True,
    banned: Tensor | None = None,
    ends: Tensor | None = None,
    length: Tensor | None = None,
    min_length: Tensor | None = None,
    forced: Tensor | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` best continuations of each sample, over all of its beams.

    The score of a token is its log-probability among all tokens, banned or not, plus the running
    score of its beam. Bans make it -inf and force makes it 0, in that order, before the running
    score is added: the order of transformers. All arithmetic is in float32.

    Args:
        logits: `[B, K, V]` float16, bfloat16 or float32, left as they are. The last dimension is
            contiguous; rows may be padded. Where they reach to the next multiple of 64, Triton
            reads whole vectors, whatever the padding holds.
        count: 1 to `K * V`.
        running: `[B, K]` float32, the score of each beam so far; 0 by default.
        log_softmax: False takes the logits themselves for scores.
        banned: `[B, K, N]` int32 or int64 token ids, as `ngram_bans` lists them.
        ends: `[E]` int32 or int64 token ids, banned in samples with `length < min_length`.
        length, min_length: `[B]` int32 or int64; they come with `ends`.
        forced: `[B]` int32 or int64: the only token that the sample may continue with. It gets
            score 0, even if banned, and all others get -inf; a negative id forces nothing.
        impl: "torch", "triton" or, by default, what suits the device. Triton leaves a count above
            64 and samples of more than 8 million scores to torch.

    Ids outside `0..V-1` ban nothing. Where fewer than `count` tokens are left, others follow with
    score -inf. The pairs of token and parent are always distinct. Equal scores come in any order
    in torch, by beam and then by token in Triton and, in both, for a count of 1. As in torch a
    row with NaN, or with no finite logit, has log-probabilities NaN, and these sort first; logits
    themselves that are NaN may come anywhere. No gradient flows and no GPU is waited for.

    Returns:
        Scores `[B, count]` float32, best first; tokens and parents (beams) `[B, count]` int64.

    Raises:
        ValueError: for shapes, dtypes, devices or strides that do not fit; the text says what
            would.
        TypeError: for what is no tensor, integer or flag.
    """
    tensors = (logits, running, banned, ends, length, min_length, forced)
    check_tensors(TopKCall._fields, tensors)
    check_flags(log_softmax=log_softmax)
    call = TopKCall(*tensors, whole("count", count), log_softmax)
    call.check()
    with torch.no_grad():
        if is_for_triton(impl, logits.device):
            from .kernel import can_search, topk_in_triton

            if can_search(call):
                return topk_in_triton(call)
        return topk_in_torch(call)
