"""Ids and masks as callers hold them: what is read, and what is refused by name."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from tritonseq.shown import shown

from .containers import check_container

_MASKS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_WIDER_MASKS = (
    torch.uint16, torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32,
    torch.float64,
)  # fmt: skip
"""Dtypes that have 0 and 1, but lack some operators, or have values beside them."""

_INT64 = range(-(2**63), 2**63)


def plain(tensor: Tensor, name: str) -> Tensor:
    """The tensor, if it has an element in memory for each place; else ValueError.

    A negated view of other memory, which kernels cannot read, becomes its values.
    """
    kind, remedy = "", ""
    if tensor.is_meta:
        kind, remedy = "on the meta device, where there are no values", "pass one that has values"
    elif tensor.is_nested:
        kind, remedy = "nested", f"pass [ids.tolist() for ids in {name}.unbind()]"
    elif tensor.layout != torch.strided:
        kind, remedy = f"of layout {tensor.layout}", f"pass {name}.to_dense()"
    elif tensor.is_quantized:
        kind, remedy = "quantized", f"pass {name}.int_repr().long()"
    if kind:
        raise ValueError(f"{name} is a tensor {kind}: {remedy}")
    return tensor.resolve_neg()


def read_rows(
    values: Any, name: str, *, single: str = "wrap a single prompt as [prompt]"
) -> list[list[int]]:
    """Rows of any lengths, as lists of ints in the range of int64.

    Any iterable of iterables of integers will do that has an order. ValueError says which place
    holds what is none, and `single` what to do with one row alone.
    """
    rows = []
    for place, row in enumerate(_items(values, name)):
        where = f"{name}[{place}]"
        if isinstance(row, str):
            raise ValueError(f"{name} must be token ids, not text: pass text to generate_text")
        if not isinstance(row, Iterable) or (isinstance(row, Tensor) and row.dim() == 0):
            if _integer(row) is None:
                raise ValueError(f"{where} is {shown(row)}: {name} must be lists of token ids")
            raise ValueError(f"{name} must be a batch: {single}")
        rows.append(_ids(_items(row, where), where))
    return rows


def read_mask(values: Any, name: str) -> Tensor:
    """A mask as a tensor, of any shape and of a dtype that has 0 and 1; ValueError for others."""
    if isinstance(values, Tensor):
        mask = plain(values, name)
    else:
        try:
            mask = torch.as_tensor(values, device="cpu")
        except (ValueError, TypeError, RuntimeError, OverflowError) as error:
            raise ValueError(f"{name} must be integers of shape [B, P]: {error}") from None
    if mask.dtype in _MASKS:
        return mask
    if mask.dtype in _WIDER_MASKS:
        return _whole(mask, name)
    raise ValueError(f"{name} must be integers of shape [B, P], not {mask.dtype}")


def _whole(mask: Tensor, name: str) -> Tensor:
    """A mask of other numbers as integers; ValueError where it has more than 0 and 1."""
    marked = mask.to(torch.float64)
    if bool(((marked != 0) & (marked != 1)).any()):
        raise ValueError(f"{name} must hold 0 and 1 only")
    return marked.long()


def _items(values: Any, name: str) -> list[Any]:
    """What a container holds, in its order."""
    if isinstance(values, Tensor):
        values = plain(values, name)
    if hasattr(values, "tolist") and hasattr(values, "shape"):
        values = values.tolist()
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        raise ValueError(
            f"{name} must be a tensor or lists of token ids, not {type(values).__name__}: "
            "pass text to generate_text, and the output of a tokenizer as generate(**encoding)"
        )
    check_container(name, values, are_ids=True)
    return list(values)


def _ids(items: list[Any], where: str) -> list[int]:
    """The items as ints; most are such already, and looked at together."""
    are_ints = all(type(item) is int for item in items)
    if are_ints and (not items or (min(items) in _INT64 and max(items) in _INT64)):
        return items
    return [_id(item, f"{where}[{at}]") for at, item in enumerate(items)]


def _id(item: Any, where: str) -> int:
    number = _integer(item)
    if number is None:
        raise ValueError(f"{where} is {shown(item)}: token ids must be integers")
    if number not in _INT64:
        raise ValueError(f"{where} is {number}, outside every vocabulary: pass token ids")
    return number


def _integer(item: Any) -> int | None:
    """The item as an int if it is one, of whatever library."""
    if isinstance(item, bool) or (isinstance(item, Tensor) and item.dtype == torch.bool):
        return None
    try:
        return operator.index(item)
    except (TypeError, RuntimeError):  # a tensor on the meta device has no value
        return None
