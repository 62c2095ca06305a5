"""`beam_topk` in plain torch: as few passes over the scores as torch allows, and no waiting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .call import TopKCall


def topk_in_torch(call: TopKCall) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, tokens and parents `[B, count]`."""
    vocab_size = call.logits.shape[2]
    scores = _scores(call).flatten(1)
    if call.candidates == 1:
        # One pass, several times as fast as `topk` and `argmax`. Both prefer the first index.
        best, index = scores.max(dim=1, keepdim=True)
    else:
        best, index = scores.topk(call.candidates, dim=1)
    return best, index % vocab_size, index.div(vocab_size, rounding_mode="floor")


def _scores(call: TopKCall) -> Tensor:
    """The score of every continuation, `[B, K, V]` float32: the logits if nothing changes them."""
    if call.log_softmax:
        scores = call.logits.log_softmax(-1, dtype=torch.float32)
    else:
        scores = call.logits.float()
    ours = call.log_softmax or scores is not call.logits
    offset = _offset(call)
    if offset is not None:
        scores = scores.add_(offset[:, :, None]) if ours else scores + offset[:, :, None]
    # The sum of -inf and any running score is -inf: bans may follow it.
    ids = _banned_ids(call)
    if ids is not None:
        scores = scores if ours or offset is not None else scores.clone()
        _write(scores, ids, torch.full_like(ids, -math.inf, dtype=torch.float32), "amin")
    if call.forced is not None:
        ids = call.forced[:, None, None].expand(-1, call.logits.shape[1], 1)
        value = torch.zeros_like(ids, dtype=torch.float32)
        if call.running is not None:
            value = call.running[:, :, None]
        _write(scores, ids, value, "amax")
    return scores


def _offset(call: TopKCall) -> Tensor | None:
    """What the scores of each beam `[B, K]` are raised by: -inf where a token is forced.

    So all other tokens are banned in the pass that adds the running score.
    """
    if call.forced is None:
        return call.running
    running = call.running
    if running is None:
        running = call.logits.new_zeros(call.logits.shape[:2], dtype=torch.float32)
    return torch.where((call.forced >= 0)[:, None], -math.inf, running)


def _banned_ids(call: TopKCall) -> Tensor | None:
    """The banned tokens of each beam, `[B, K, N]`; ids outside the vocabulary stand for none."""
    if call.ends is None:
        return call.banned
    assert call.length is not None
    assert call.min_length is not None
    ends = torch.where((call.length < call.min_length)[:, None], call.ends, -1)
    ends = ends[:, None].expand(-1, call.logits.shape[1], -1)
    return ends if call.banned is None else torch.cat([call.banned, ends], 2)


def _write(scores: Tensor, ids: Tensor, values: Tensor, pick: str) -> None:
    """Lower ("amin") or raise ("amax") scores `[B, K, V]` to `values` at `ids`, both `[B, K, N]`.

    Ids outside the vocabulary go to token 0 with a value that changes nothing there.
    """
    inside = (ids >= 0) & (ids < scores.shape[2])
    nothing = math.inf if pick == "amin" else -math.inf
    index = torch.where(inside, ids, 0).long()
    scores.scatter_reduce_(2, index, torch.where(inside, values, nothing), pick)
