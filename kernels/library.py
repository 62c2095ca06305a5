"""Custom operators `torch.ops.tritonseq.*`, which `torch.compile` takes as they are.

In eager code the public functions skip the dispatcher, whose cost is that of a small kernel.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .attention import decode_attention
from .ngrams import ban_ngrams, ngram_mask
from .ngrams.call import SPANS

if TYPE_CHECKING:
    from collections.abc import Callable


def _by_name(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take positionally what `function` takes by keyword: operators know no keyword-only tensor."""
    names = tuple(inspect.signature(function).parameters)

    def call(*args: Any, **options: Any) -> Any:
        return function(**dict(zip(names, args, strict=False)), **options)

    return call


def _check_device(*arguments: Any) -> None:
    """Demand one device: what stands for a kernel answers for one meta tensor among others, too."""
    devices = {x.device for x in arguments if isinstance(x, Tensor)}
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"the tensors are on {names}; move them to one device")


_OPTIONS = ", ".join(f"Tensor? {name}=None" for name in SPANS) + ', str impl="auto"'

_decode_attention = torch.library.custom_op(
    "tritonseq::decode_attention",
    _by_name(decode_attention),
    mutates_args=("target_key", "target_value", "counters"),
    schema="(Tensor query, Tensor? new_key=None, Tensor? new_value=None, "
    "Tensor? source_key=None, Tensor? source_value=None, Tensor? source_len=None, "
    "Tensor(a!)? target_key=None, Tensor(b!)? target_value=None, Tensor? lineage=None, "
    "Tensor? step=None, Tensor? bias=None, float? scale=None, SymInt? splits=None, "
    'Tensor(c!)? counters=None, str impl="auto") -> Tensor',
)


@_decode_attention.register_fake
def _(query: Tensor, *args: Any, **options: Any) -> Tensor:
    _check_device(query, *args, *options.values())
    return query.new_empty(query.shape)


def _ban(*args: Any, **options: Any) -> None:
    # An operator must not return its own argument, as the public function does.
    _by_name(ban_ngrams)(*args, **options)


_ban_ngrams_ = torch.library.custom_op(
    "tritonseq::ban_ngrams_",
    _ban,
    mutates_args=("scores",),
    schema=f"(Tensor(a!) scores, Tensor tokens, SymInt n, {_OPTIONS}) -> ()",
)


@_ban_ngrams_.register_fake
def _(*args: Any, **options: Any) -> None:
    _check_device(*args, *options.values())


_ngram_mask = torch.library.custom_op(
    "tritonseq::ngram_mask",
    _by_name(ngram_mask),
    mutates_args=(),
    schema=f"(Tensor tokens, SymInt n, SymInt vocab_size, {_OPTIONS}) -> Tensor",
)


@_ngram_mask.register_fake
def _(tokens: Tensor, n: int, vocab_size: int, *spans: Any, **options: Any) -> Tensor:
    _check_device(tokens, *spans, *options.values())
    lineage = spans[2] if len(spans) > 2 else options.get("lineage")
    rows = tokens.shape[0] if lineage is None else tokens.shape[0] * tokens.shape[2]
    return tokens.new_empty((rows, vocab_size), dtype=torch.bool)
