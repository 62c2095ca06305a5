"""`beam_advance` and `greedy_advance`: the bookkeeping of a search after a step, in place.

Nothing here waits for the device or depends on it for a shape, so that a step which ends with one
of these operations can be captured in a graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tritonseq.kernels.checks import (
    FLOATS,
    Impl,
    check_flags,
    check_shape,
    check_tensors,
    check_written,
    is_for_triton,
    whole,
)

from . import eager
from .state import Group, Pool, Written


def beam_advance(
    written: Written,
    group: Group,
    scores: Tensor,
    tokens: Tensor,
    parents: Tensor,
    *,
    powers: Tensor,
    ends: Tensor | None = None,
    hits: Tensor | None = None,
    stops_when_full: bool = False,
    bounds_by_limit: bool = False,
    retire: bool = True,
    impl: Impl = "auto",
) -> None:
    """One step of beam search by transformers' rules, once the candidates are known.

    The best `K` candidates that do not end go on; those that end, and stand among the best `K`,
    compete for a place in the pool by score over length to the power of the length penalty. At its
    limit a sample ends whatever it holds. Wolf et al., "Transformers", 2020.

    Args:
        written, group: the state of `B` samples, changed in place.
        scores, tokens, parents: `[B, C]` float32 and int64, `C >= K`: candidates, best first, with
            the beam that each continues, clamped to `0..K-1`.
        powers: `[N]` float32, `n` to the power of the length penalty at place `n`, for lengths up
            to the limits; lengths beyond take the nearest.
        ends: `[E]` int64: the tokens that end a hypothesis.
        hits: `[B, C]` bool: the candidates that complete their hypothesis, where more than `ends`
            and the limit decides about that.
        stops_when_full: `early_stopping=True`: a full pool ends the search of a sample.
        bounds_by_limit: `early_stopping="never"` with a positive penalty: what a live beam could
            still reach is judged by the limit, not by its present length.
        retire: let a sample rest as soon as its search has ended.
        impl: "torch", "triton" or, by default, what suits the device.

    Raises:
        ValueError: for shapes, dtypes, devices or memory that do not fit; the text says what would.
        TypeError: for what is no tensor, record or flag.
    """
    own = {**_named(written, Written), **_named(group, Group)}
    given = {
        "scores": scores,
        "tokens": tokens,
        "parents": parents,
        "powers": powers,
        "ends": ends,
        "hits": hits,
    }
    check_tensors((*own, *given), (*own.values(), *given.values()), len(own) + len(given) - 2)
    check_flags(stops_when_full=stops_when_full, bounds_by_limit=bounds_by_limit, retire=retire)
    samples, beams = _check_state(written)
    _check_group(group, samples, beams)
    count = scores.shape[1] if scores.dim() == 2 else 0
    if count < beams:
        raise ValueError(f"scores are {list(scores.shape)}; pass [{samples}, C], C >= {beams}")
    for name, tensor in (("scores", scores), ("tokens", tokens), ("parents", parents)):
        kind = torch.float32 if name == "scores" else torch.int64
        check_shape(name, tensor, kind, (samples, count))
    check_shape("hits", hits, torch.bool, (samples, count))
    _check_ends(ends)
    if powers.dim() != 1 or powers.dtype != torch.float32 or len(powers) < 2:
        raise ValueError(f"powers are {powers.dtype} {list(powers.shape)}; pass float32 [N]")
    check_written(own, given)
    rules = eager.AdvanceRules(powers, ends, stops_when_full, bounds_by_limit, retire)
    with torch.no_grad():
        if hits is None and is_for_triton(impl, scores.device) and _can_hold(beams, count):
            from .kernel import advance_in_triton

            advance_in_triton(written, group, scores, tokens, parents, rules)
        else:
            eager.advance(written, group, scores, tokens, parents, hits, rules)


def greedy_advance(
    written: Written,
    ended: Tensor,
    logits: Tensor,
    *,
    ends: Tensor | None = None,
    pad_token_id: int = 0,
    retire: bool = True,
    impl: Impl = "auto",
) -> None:
    """One step of greedy search: the best token of every row, and the bookkeeping after it.

    The `K` beams of a sample are rows of their own here. A row that has ended goes on as padding
    until its sample has.

    Args:
        written: the state, changed in place; lineage and parents are not touched.
        ended: `[B, K]` bool: which rows have ended; changed in place.
        logits: `[B, K, V]` float16, bfloat16 or float32; rows may be strided.
        ends: `[E]` int64: the tokens that end a row.
        pad_token_id: what rows that have ended go on with.
        retire: let a sample rest as soon as all its rows have ended.
        impl: "torch", "triton" or, by default, what suits the device.

    Raises:
        ValueError: for shapes, dtypes, devices or memory that do not fit; the text says what would.
        TypeError: for what is no tensor, record, integer or flag.
    """
    own = {**_named(written, Written), "ended": ended}
    check_tensors((*own, "logits", "ends"), (*own.values(), logits, ends), len(own) + 1)
    check_flags(retire=retire)
    pad_token_id = _token("pad_token_id", pad_token_id)
    samples, beams = _check_state(written)
    check_shape("ended", ended, torch.bool, (samples, beams))
    _check_ends(ends)
    fits = logits.dim() == 3 and logits.shape[:2] == (samples, beams) and logits.shape[2] > 0
    if not fits or logits.dtype not in FLOATS:
        raise ValueError(
            f"logits are {logits.dtype} {list(logits.shape)}; pass float16, bfloat16 or float32 "
            f"[{samples}, {beams}, V]"
        )
    read = {"logits": logits, "ends": ends}
    read |= {name: own.pop(name) for name in ("written.lineage", "written.parents")}
    check_written(own, read)
    with torch.no_grad():
        if is_for_triton(impl, logits.device):
            from .kernel import greedy_in_triton

            greedy_in_triton(written, ended, logits, ends, pad_token_id, retire)
        else:
            tokens = logits.argmax(dim=-1).masked_fill_(ended, pad_token_id)
            eager.advance_rows(written, ended, tokens, None, ends, retire)


def row_advance(
    written: Written,
    ended: Tensor,
    tokens: Tensor,
    *,
    ends: Tensor | None = None,
    hits: Tensor | None = None,
    retire: bool = True,
) -> None:
    """`greedy_advance` for tokens `[B, K]` that something else has chosen, padding included.

    `hits [B, K]` bool: the rows that end with their token, where more than `ends` and the limit
    decides about that. Plain torch on every device.
    """
    if tokens.shape != ended.shape:
        raise ValueError(f"tokens are {list(tokens.shape)}; pass {list(ended.shape)}")
    with torch.no_grad():
        eager.advance_rows(written, ended, tokens, hits, ends, retire)


def _named(record: Any, kind: type[Written] | type[Group]) -> dict[str, Tensor]:
    """The tensors of a record under their names; those of a pool are `pool.scores` and so on."""
    word = kind.__name__.lower()
    if not isinstance(record, kind):
        raise TypeError(f"{word} is a {type(record).__name__}; pass a {kind.__name__}")
    named: dict[str, Any] = {
        f"{word}.{name}": x for name, x in zip(record._fields, record, strict=True)
    }
    pool = named.pop("group.pool", None)
    if kind is Group:
        if not isinstance(pool, Pool):
            raise TypeError(f"group.pool is a {type(pool).__name__}; pass a Pool")
        named |= {f"pool.{name}": x for name, x in zip(pool._fields, pool, strict=True)}
    return named


def _token(name: str, token: int) -> int:
    """`token`, which must be an integer of 64 bits."""
    token = whole(name, token)
    if not -(2**63) <= token < 2**63:
        raise ValueError(f"{name} is {token}; pass an integer of 64 bits")
    return token


def _check_state(written: Written) -> tuple[int, int]:
    """Samples and beams; ValueError unless all fields fit together."""
    if written.tokens.dim() != 3:
        raise ValueError(f"tokens are {list(written.tokens.shape)}; pass [B, T, K]")
    samples, length, beams = written.tokens.shape
    if not length or not beams:
        raise ValueError(
            f"tokens are {[samples, length, beams]}; pass room for one token and one beam or more"
        )
    shapes = {"newest": (samples, beams), **dict.fromkeys(("tokens", "lineage", "parents"))}
    for name, tensor in written._asdict().items():
        shape = shapes.get(name, (samples,)) or (samples, length, beams)
        check_shape(name, tensor, torch.bool if name == "done" else torch.int64, shape)
    return samples, beams


def _check_group(group: Group, samples: int, beams: int) -> None:
    check_shape("running", group.running, torch.float32, (samples, beams))
    check_shape("improvable", group.improvable, torch.bool, (samples,))
    kinds = {"scores": torch.float32, "done": torch.bool}
    for name, tensor in group.pool._asdict().items():
        check_shape(f"pool.{name}", tensor, kinds.get(name, torch.int64), (samples, beams))


def _check_ends(ends: Tensor | None) -> None:
    if ends is not None and (ends.dim() != 1 or ends.dtype != torch.int64):
        raise ValueError(f"ends are {ends.dtype} {list(ends.shape)}; pass int64 [E]")


def _can_hold(beams: int, candidates: int) -> bool:
    """Whether the beams and candidates of a sample fit one program's registers."""
    return beams <= 32 and candidates <= 128
