"""Records of tensors that hold one entry per sample, looked at a few samples at a time."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def of_samples(record: T, first: int, count: int) -> T:
    """The same record for `count` samples from sample `first` on, in the same memory.

    Dataclasses, tuples and lists are looked into; what holds no tensor stays as it is.
    """
    own = slice(first, first + count)
    answer: Any = _map(record, lambda tensor: tensor[own])
    return answer


def gather(record: T, samples: Tensor) -> T:
    """A copy of the record for the samples `[N]`, in this order."""
    answer: Any = _map(record, lambda tensor: tensor.index_select(0, samples))
    return answer


def scatter(record: Any, samples: Tensor, other: Any) -> None:
    """Copy the entries of `other` to those of the samples `[N]` in `record`."""
    if isinstance(record, Tensor):
        record.index_copy_(0, samples, other)
        return
    for part, new in zip(_parts(record), _parts(other), strict=True):
        scatter(part, samples, new)


def nbytes(record: Any) -> int:
    """Bytes of all tensors in a record."""
    if isinstance(record, Tensor):
        return record.nbytes
    return sum(map(nbytes, _parts(record)))


def _map(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(record, Tensor):
        return change(record)
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        parts = {f.name: _map(getattr(record, f.name), change) for f in dataclasses.fields(record)}
        return dataclasses.replace(record, **parts)
    if isinstance(record, tuple) and hasattr(record, "_fields"):
        return type(record)(*(_map(part, change) for part in record))
    if isinstance(record, (tuple, list)):
        return type(record)(_map(part, change) for part in record)
    return record


def _parts(record: Any) -> list[Any]:
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return [getattr(record, f.name) for f in dataclasses.fields(record)]
    return list(record) if isinstance(record, (tuple, list)) else []
