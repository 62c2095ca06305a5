"""Containers of ids and texts that callers pass: what is read, and what is refused by name.

To iterate over a table gives the names of its columns, over a dictionary its keys, over a file
lines with their ends, over bytes numbers. None of them is what the caller meant. Libraries that
make such containers are never imported: what they make is known by what it has. Nor is torch,
which texts do without; where it is not imported, nothing is a tensor.
"""

from __future__ import annotations

import os
import sys
from array import array as Array
from collections.abc import ItemsView, Iterable, KeysView, Mapping, Set
from typing import TYPE_CHECKING, Any, TypeGuard

from tritonseq.shown import shown

from .validation import integer

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_INT64 = range(-(2**63), 2**63)

_MASKS = ("bool", "uint8", "int8", "int16", "int32", "int64")
_WIDER_MASKS = ("uint16", "uint32", "uint64", "float16", "bfloat16", "float32", "float64")
"""Dtypes that have 0 and 1, but lack some operators, or have values beside them."""


def plain(tensor: Tensor, name: str) -> Tensor:
    """The tensor, if it has an element in memory for each place; else ValueError.

    A negated view of other memory, which kernels cannot read, becomes its values.
    """
    kind, remedy = "", ""
    if tensor.is_meta:
        kind, remedy = "on the meta device, where there are no values", "pass one that has values"
    elif tensor.is_nested:
        kind, remedy = "nested", f"pass [ids.tolist() for ids in {name}.unbind()]"
    elif str(tensor.layout) != "torch.strided":
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
        if not isinstance(row, Iterable) or (_is_tensor(row) and row.dim() == 0):
            if integer(row) is None:
                raise ValueError(f"{where} is {shown(row)}: {name} must be lists of token ids")
            raise ValueError(f"{name} must be a batch: {single}")
        rows.append(_ids(_items(row, where), where))
    return rows


def read_mask(values: Any, name: str) -> Tensor:
    """A mask as a tensor, of any shape and of a dtype that has 0 and 1; ValueError for others."""
    import torch

    if isinstance(values, torch.Tensor):
        mask = plain(values, name)
    else:
        try:
            mask = torch.as_tensor(values, device="cpu")
        except (ValueError, TypeError, RuntimeError, OverflowError) as error:
            raise ValueError(f"{name} must be integers of shape [B, P]: {error}") from None
    dtype = str(mask.dtype).removeprefix("torch.")
    if dtype in _WIDER_MASKS:
        marked = mask.double()
        if bool(((marked != 0) & (marked != 1)).any()):
            raise ValueError(f"{name} must hold 0 and 1 only")
        return marked.long()
    if dtype not in _MASKS:
        raise ValueError(f"{name} must be integers of shape [B, P], not {mask.dtype}")
    return mask


def _is_tensor(value: Any) -> TypeGuard[Tensor]:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _items(values: Any, name: str) -> list[Any]:
    """What a container of ids holds, in its order."""
    if _is_tensor(values):
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
    number = integer(item)
    if number is None:
        raise ValueError(f"{where} is {shown(item)}: token ids must be integers")
    if number not in _INT64:
        raise ValueError(f"{where} is {number}, outside every vocabulary: pass token ids")
    return number


def check_container(name: str, values: Any, *, are_ids: bool = False) -> None:
    """Raise ValueError, with the remedy, for an argument `name` that is no list of its items.

    These are texts, if they are not ids.
    """
    remedy = _of_ids(name, values) if are_ids else None
    remedy = remedy or _remedy(name, values)
    if remedy is not None:
        raise ValueError(f"{name} is a {_type(values)}{remedy}")


def check_texts(name: str, texts: Any) -> None:
    """Raise ValueError for what is no iterable of texts, before anything of it is used up."""
    if isinstance(texts, str):
        raise ValueError(f"{name} must be a list of texts: wrap a single text as [text]")
    check_container(name, texts)
    if isinstance(texts, Array):
        raise ValueError(
            f"{name} is an array of single characters or numbers: pass a list of texts"
        )
    if hasattr(texts, "ndim") and hasattr(texts, "dtype"):
        _check_array(name, texts)
    elif isinstance(texts, type) or not (hasattr(texts, "__iter__") or hasattr(texts, "__aiter__")):
        raise ValueError(f"{name} must be a list or another iterable of texts, not {shown(texts)}")
    if isinstance(texts, (list, tuple)) and texts:
        check_first(name, texts[0])


def check_first(name: str, text: Any) -> None:
    """Raise ValueError if the first of many texts is none, such as a row of a table.

    So are the others then. Of texts behind it, each that is none is a fault of its own.
    """
    if isinstance(text, Mapping):
        keys = [key for key in text if isinstance(key, str)]
        raise ValueError(
            f"{name} holds dictionaries{_listed(keys, 'keys')}: pass the texts of one key, such as "
            f"[row[{_example(keys)}] for row in rows]"
        )
    if isinstance(text, tuple) and hasattr(text, "_fields"):
        raise ValueError(
            f"{name} holds rows of the fields {', '.join(text._fields)}: pass the texts of one "
            f"field, such as [row.{text._fields[-1]} for row in rows]"
        )
    if isinstance(text, tuple):
        raise ValueError(
            f"{name} holds tuples, such as {shown(text)}: pass one side of pairs, such as "
            "[pair[0] for pair in pairs], and lists of strings for texts that are tokens already"
        )
    if not isinstance(text, str) and not is_token_list(text):
        raise ValueError(
            f"text 0 is {shown(text)}, no text and no list of tokens: pass a list of strings"
        )


def is_token_list(text: Any) -> TypeGuard[list[str]]:
    """Whether it is a text that is tokenized already; tuples are none: they are pairs, or rows."""
    return isinstance(text, list) and all(isinstance(token, str) for token in text)


def unicode_fault(text: str) -> str | None:
    """Why a string is no valid Unicode, which no library takes; None of one that is."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return str(error)
    return None


def _of_ids(name: str, values: Any) -> str | None:
    """As `_remedy`, of what could hold ids."""
    if isinstance(values, Set) and not isinstance(values, KeysView):
        return f", which has no order: pass {name} as a list"
    if isinstance(values, (bytes, bytearray, memoryview)):
        return f": pass list({name}) if its bytes are ids"
    return None


def _remedy(name: str, values: Any) -> str | None:
    """How the sentence "NAME is a TYPE" goes on, for what is refused."""
    if isinstance(values, (list, tuple)):
        return None
    if isinstance(values, Mapping):
        keys = [key for key in values if isinstance(key, str)]
        return f"{_listed(keys, 'keys')}: pass what is under one of them, mapping[{_example(keys)}]"
    columns = _columns(values)
    if columns is not None:
        column = f"table[{_example(columns)}]{_to_list(values)}"
        return f"{_listed(columns, 'columns')}: pass one of them, such as {column}"
    return next((remedy for is_such, remedy in _OTHERS if is_such(values)), None)


def _has(*attributes: str) -> Callable[[Any], bool]:
    return lambda values: all(hasattr(values, attribute) for attribute in attributes)


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, types)


_KEYS: tuple[type, ...] = (type(iter({})), type(reversed({})))
_LETTERS = (type(iter("a")), type(iter("\xe9")))  # some versions have one of its own for ASCII

_OTHERS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (_has("to_pylist"), ": pass array.to_pylist()"),
    (_is(ItemsView, zip, enumerate), " of pairs: pass one side of them, in a list"),
    (lambda values: _is(Set)(values) and not _is(KeysView)(values),
     ", which has no order: pass sorted(texts)"),
    (_is(bytes, bytearray, memoryview), ", which is not decoded: pass [data.decode()]"),
    (_is(*_KEYS), " over the keys of a dictionary: pass list(mapping.values()), or its keys in a "
     "list"),
    (_is(*_LETTERS), " over single letters: wrap a single text as [text]"),
    (_is(type(iter(set()))), " over what has no order: pass sorted(texts)"),
    (_is(os.PathLike), ": read the file, path.read_text().splitlines()"),
    (_has("read", "readline"),
     ", whose lines keep their ends: pass (line.rstrip('\\n') for line in file)"),
    (_has("fetchall"), ", whose rows are tuples: pass (row[0] for row in cursor)"),
    (_has("line_num"), ", whose rows have several fields: pass (row[0] for row in reader)"),
    (_has("collate_fn"), ", which gives batches: pass loader.dataset"),
)  # fmt: skip
"""What else gives other items than it seems to, and the remedy."""


def _to_list(table: Any) -> str:
    """What makes a list of a column of such a table."""
    if hasattr(table, "to_pylist"):
        return ".to_pylist()"
    if hasattr(table, "with_columns"):
        return ".to_list()"
    return "" if hasattr(table, "column_names") else ".tolist()"


def _columns(values: Any) -> list[str] | None:
    """The names of a table's columns; None for what is no table."""
    for attribute in ("column_names", "columns"):
        columns = getattr(values, attribute, None)
        if columns is not None and not callable(columns) and not isinstance(values, type):
            try:
                return [str(column) for column in columns]
            except TypeError:
                return []
    return None


def _check_array(name: str, array: Any) -> None:
    if array.ndim != 1:
        raise ValueError(
            f"{name} is a {_type(array)} of {array.ndim} dimensions: pass {name}.ravel().tolist(), "
            "or one column of it"
        )
    kind = getattr(array.dtype, "kind", "")
    if kind == "V" and array.dtype.names:
        columns = list(array.dtype.names)
        raise ValueError(
            f"{name} is a {_type(array)}{_listed(columns, 'columns')}: pass one of them, such as "
            f"array[{_example(columns)}].tolist()"
        )
    if kind == "S":
        raise ValueError(f"{name} is an array of bytes: pass {name}.astype(str)")
    if kind in tuple("iufcbMm") or str(array.dtype).startswith("torch."):
        raise ValueError(
            f"{name} is a {_type(array)} of {array.dtype}, not of texts; ids are for generate"
        )


def _listed(names: list[str], what: str) -> str:
    if not names:
        return ""
    shown = ", ".join(repr(name) for name in names[:5])
    return f" with {what} {shown}{', ...' if len(names) > 5 else ''}"


def _example(names: list[str]) -> str:
    """The name of a column that an example takes: the one of texts, if it is called so."""
    likely = [name for name in names if name.lower() in ("text", "texts", "source", "input")]
    return repr((likely or names or ["text"])[0])


def _type(values: Any) -> str:
    return type(values).__name__
