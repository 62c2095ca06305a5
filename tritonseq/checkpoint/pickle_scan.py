"""What the opcodes of a pickle would do, looked at before any is carried out.

torch's unpickler for weights runs no code of a checkpoint. But what it builds may take more than
there is: it calls `bytearray` with any size, and hashes tuples within tuples, which takes a stack
as deep as they are nested, and a time that doubles with every tuple that holds another one twice.
"""

from __future__ import annotations

import pickletools
import re
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class RefusedPickle(ValueError):
    """The file is whole, and asks for what is not given."""


MOST_IN_TUPLE = 256
"""Values in a tuple, with those of tuples in it. A tensor has twenty or so, and eight more for
each dimension are too many already."""

# Functions and classes that checkpoints call. They make tensors over memory that the file has.
_CALLED = re.compile(
    r"collections OrderedDict"
    r"|torch (Size|device)"
    r"|torch\.nn\.parameter Parameter"
    r"|torch\.serialization _get_layout"
    r"|torch\._tensor _rebuild_from_type_v2"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state|qtensor"
    r"|sparse_tensor|meta_tensor_no_storage|nested_tensor|wrapper_subclass"
    r"|device_tensor_from_numpy|device_tensor_from_cpu_tensor)"
)
# What they are told of: types of memory, of numbers and of tensors.
_NAMED = re.compile(
    r"torch(\.cuda)? \w+Storage"
    r"|torch\.storage (Typed|Untyped)Storage"
    r"|torch(\.cuda)?(\.sparse)? \w*Tensor"
    r"|torch (u?int\d+|b?float\d+\w*|bfloat16|complex\d+|bool|quint\d\w*|qu?int\d+\w*|bits\w+)"
    r"|torch per_(tensor|channel)_\w+"
)
_PLAIN = frozenset(
    (
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINSTRING", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "EMPTY_TUPLE"),
    )
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_TAKEN = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}
_PUTS = frozenset(("BINPUT", "LONG_BINPUT"))
_GETS = frozenset(("BINGET", "LONG_BINGET"))


def check_opcodes(pickle: bytes | IO[bytes]) -> None:
    """Raise RefusedPickle unless one pickle makes plain values and tensors only, none out of size.

    Reads to its end. Raises what damaged opcodes stumble over, as unpickling does.
    """
    _Scan().run(pickle)


class _Scan:
    """The stack of an unpickler, with a value's size, or the name of a global, for each value.

    The size of a tuple counts what is in it. All else counts once: it has no hash, or a short one.
    """

    def __init__(self) -> None:
        self._stack: list[int | str] = []
        self._marks: list[int] = []
        self._memo: dict[int, int | str] = {}

    def run(self, pickle: bytes | IO[bytes]) -> None:
        stack, memo = self._stack, self._memo
        argument: Any  # of the type that the opcode has
        for opcode, argument, _ in pickletools.genops(pickle):
            name = opcode.name
            if name in _PLAIN:
                stack.append(1)
            elif name in _PUTS:
                memo[argument] = stack[-1]
            elif name in _GETS:
                stack.append(memo[argument])
            elif name == "MARK":
                self._marks.append(len(stack))
            elif name in _TAKEN:
                self._take(_TAKEN[name])
            else:
                self._rarer(name, argument)

    def _rarer(self, name: str, argument: Any) -> None:
        if name in ("APPENDS", "SETITEMS"):
            self._take(len(self._stack) - self._marks.pop())
        elif name == "TUPLE":
            self._tuple(len(self._stack) - self._marks.pop())
        elif name in _TUPLES:
            self._tuple(_TUPLES[name])
        elif name == "GLOBAL":
            self._stack.append(_known(argument))
        elif name in ("REDUCE", "NEWOBJ"):
            self._call()
        elif name == "BINPERSID":
            self._take(1)
            self._stack.append(1)
        elif name not in ("PROTO", "STOP"):
            raise RefusedPickle(
                f"its pickle holds more than tensors (by {name}), and reading it could run code"
            )

    def _take(self, count: int) -> list[int | str]:
        stack = self._stack
        first = len(stack) - count
        if first < (self._marks[-1] if self._marks else 0):
            raise ValueError("an opcode takes more than there is")
        taken = stack[first:]
        del stack[first:]
        return taken

    def _tuple(self, count: int) -> None:
        size = 1 + _total(self._take(count))
        if size > MOST_IN_TUPLE:
            raise RefusedPickle(
                f"its pickle has tuples of more than {MOST_IN_TUPLE} values, or nested so deep; "
                "tensors have none"
            )
        self._stack.append(size)

    def _call(self) -> None:
        function, arguments = self._take(2)
        if not isinstance(function, str) or not _CALLED.fullmatch(function):
            raise RefusedPickle(f"its pickle calls {_dotted(function)}, which makes no tensor")
        # A size of torch's is a tuple; others have hashes of their own.
        self._stack.append(arguments if function == "torch Size" else 1)


def _total(sizes: Iterable[int | str]) -> int:
    return sum(size if isinstance(size, int) else 1 for size in sizes)


def _known(name: str) -> str:
    """The name of a global, "module name", if checkpoints need it."""
    if not _CALLED.fullmatch(name) and not _NAMED.fullmatch(name):
        raise RefusedPickle(f"its pickle asks for {_dotted(name)}, and reading it could run code")
    return name


def _dotted(name: int | str) -> str:
    return name.replace(" ", ".")[:60] if isinstance(name, str) else "a value"
