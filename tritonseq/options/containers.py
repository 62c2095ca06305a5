"""What lists are passed in: a container that would be read as something else is refused.

To iterate over a table gives the names of its columns, over a dictionary its keys, over a file
lines with their ends, over bytes numbers. None of them is what the caller meant. Libraries that
make such containers are never imported: what they make is known by what it has.
"""

from __future__ import annotations

import os
from array import array as Array
from collections.abc import ItemsView, KeysView, Mapping, Set
from typing import TYPE_CHECKING, Any, TypeGuard

from tritonseq.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable


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
    """Is it a text that is tokenized already? Tuples are none: they are pairs, or rows."""
    return isinstance(text, list) and all(isinstance(token, str) for token in text)


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
