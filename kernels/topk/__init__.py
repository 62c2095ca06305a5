"""`beam_topk`: the best continuations of each sample, in one read of the logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tritonseq.kernels.checks import (
    FLOATS,
    INTEGERS,
    Impl,
    check_flags,
    check_integers,
    check_last_dim,
    check_tensors,
    takes_triton,
    whole,
)

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
    tensors = {
        "logits": logits,
        "running": running,
        "banned": banned,
        "ends": ends,
        "length": length,
        "min_length": min_length,
        "forced": forced,
    }
    check_tensors(tensors, optional=TopK._fields[2:])
    check_flags(log_softmax=log_softmax)
    count = whole("count", count)
    call = TopK(logits, count, running, log_softmax, banned, ends, length, min_length, forced)
    call.check()
    with torch.no_grad():
        if takes_triton(impl, logits.device):
            from .kernel import fits, topk_in_triton

            if fits(call):
                return topk_in_triton(call)
        return topk_in_torch(call)


class TopK(NamedTuple):
    """The arguments of one call of `beam_topk`."""

    logits: Tensor
    candidates: int
    """How many are wanted: the argument `count`."""
    running: Tensor | None
    log_softmax: bool
    banned: Tensor | None
    ends: Tensor | None
    length: Tensor | None
    min_length: Tensor | None
    forced: Tensor | None

    def check(self) -> None:
        """Raise ValueError unless the arguments, dense tensors all, fit together."""
        logits = self.logits
        if logits.dim() != 3 or logits.dtype not in FLOATS:
            raise ValueError(
                f"logits are {logits.dtype} {list(logits.shape)}; "
                "pass float16, bfloat16 or float32 [B, K, V]"
            )
        check_last_dim("logits", logits)
        samples, beams, vocab_size = logits.shape
        if not 1 <= self.candidates <= beams * vocab_size:
            raise ValueError(
                f"count is {self.candidates}; {beams} beams of {vocab_size} tokens have 1 to "
                f"{beams * vocab_size} continuations"
            )
        running = self.running
        if running is not None and (
            running.shape != (samples, beams) or running.dtype != torch.float32
        ):
            raise ValueError(
                f"running is {running.dtype} {list(running.shape)}; pass float32 {[samples, beams]}"
            )
        self._check_bans(samples, beams)
        check_integers("forced", self.forced, (samples,))

    def _check_bans(self, samples: int, beams: int) -> None:
        banned = self.banned
        if banned is not None and (
            banned.dim() != 3
            or banned.shape[:2] != (samples, beams)
            or banned.dtype not in INTEGERS
        ):
            raise ValueError(
                f"banned is {banned.dtype} {list(banned.shape)}; "
                f"pass int32 or int64 [{samples}, {beams}, N]"
            )
        given = [x is not None for x in (self.ends, self.length, self.min_length)]
        if any(given) and not all(given):
            raise ValueError(
                "ends, length and min_length belong together; pass all of them or none"
            )
        if self.ends is not None:
            check_integers("ends", self.ends, (self.ends.numel(),))
        check_integers("length", self.length, (samples,))
        check_integers("min_length", self.min_length, (samples,))
