"""Pickled weights: what a file of torch.save may hold, checked before it is unpickled, and after.

torch's unpickler for weights runs no code of a checkpoint. But it believes sizes: members of an
archive that are compressed inflate to a thousand times the file, and a tensor may claim any shape
over one number. And what it builds may take more than there is: it calls `bytearray` with any
size, and hashes tuples within tuples, which takes a stack as deep as they are nested, and a time
that doubles with every tuple that holds another one twice. The opcodes of a pickle tell what it
would do, before any of it is carried out.
"""

from __future__ import annotations

import mmap
import pickletools
import re
import zipfile
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor

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

MOST_SHARED = 8
"""All tensors together may be so many times the file: an embedding has up to four names."""

_LEGACY = 5
"""Pickles in a file from before torch 1.6: a number, a version, the system, the table, the keys."""

# Bytes of what ends an archive without a comment; with what stands before it in large ones, which
# is twenty bytes that say where the other fifty-six are.
_END = 22
_TAIL = _END + 20 + 56


class RefusedPickle(ValueError):
    """The file is whole, and asks for what is not given."""


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


def check_pickle(path: Path, *, zipped: bool) -> None:
    """Raise RefusedPickle for a file that holds more than tensors, or claims more than it has.

    Raises whatever a damaged one makes its readers stumble over.
    """
    if zipped:
        _check_archive(path)
    else:
        _check_legacy(path)


def _check_archive(path: Path) -> None:
    """As `check_pickle`, for the zip archives of torch.save, which compresses nothing."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if archive.comment or not _has_one_table(path, members):
            raise RefusedPickle(
                f"{path} is refused: its archive can be read in two ways: save it anew, in "
                "safetensors format best"
            )
        _check_members(path, members)
        for member in members:
            # Whichever of them torch takes for the one.
            if member.filename.lower().endswith("data.pkl"):
                _check_opcodes(path, archive.read(member))


def _has_one_table(path: Path, members: list[zipfile.ZipInfo]) -> bool:
    """Whether the table of contents is where the end of the archive says.

    torch goes where that says, and Python to the table just before the end: what is checked would
    not be what is read. Python counts members from there; the first one is at the start else.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _TAIL))
        end = file.read()
    large = end[-_END - 20 : -_END]
    is_apart = large[:4] == b"PK\x06\x07" and large[8:16] != (size - _TAIL).to_bytes(8, "little")
    return not is_apart and min((member.header_offset for member in members), default=0) == 0


def _check_legacy(path: Path) -> None:
    with (
        path.open("rb") as file,
        # What a string says of its length is not believed: no more is read than there is.
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        for _ in range(_LEGACY):
            _check_opcodes(path, content)


def _check_opcodes(path: Path, pickle: Any) -> None:
    try:
        check_opcodes(pickle)
    except RefusedPickle as error:
        raise RefusedPickle(
            f"{path} is refused: {error}. Use a checkpoint in safetensors format."
        ) from None


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    size = path.stat().st_size
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise RefusedPickle(
                f"{path} is refused: {member.filename!r} within it is compressed, "
                f"{member.file_size} bytes in {member.compress_size}; torch.save compresses "
                "nothing: save it anew, in safetensors format best"
            )
    if sum(member.file_size for member in members) > size:
        raise RefusedPickle(f"{path} is refused: its parts claim more than its {size} bytes")


def checked_table(path: Path, table: Any) -> dict[str, Tensor]:
    """A table of plain tensors, by their names; ValueError that names what is none.

    Tensors must lie within their own memory, and all of it within the file.
    """
    if not isinstance(table, dict):
        raise ValueError(f"{path} holds a {type(table).__name__}, not a table of tensors")
    found = {name: _checked(path, name, value) for name, value in dict.items(table)}
    total, size = sum(tensor.nbytes for tensor in found.values()), path.stat().st_size
    if total > MOST_SHARED * size:
        raise ValueError(
            f"{path} is refused: its tensors have {total} bytes, and the file {size}; they share "
            "memory: save it anew, in safetensors format best"
        )
    _check_memories(path, found)
    return found


def _check_memories(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError if memory that is called by two names is only partly the same.

    One says to be longer than it is then, and holds what belongs to its neighbour.
    """
    storages = [(tensor.untyped_storage(), name) for name, tensor in tensors.items()]
    places = sorted(
        {(s.data_ptr(), s.nbytes()): name for s, name in storages if s.nbytes()}.items()
    )
    for ((start, size), name), ((other, _), _) in pairwise(places):
        if start + size > other:
            raise RefusedPickle(f"{path} is damaged: {name!r} reaches into another tensor")


def _checked(path: Path, name: Any, value: Any) -> Tensor:
    if not isinstance(name, str):
        raise ValueError(f"{path}: the key {name!r:.60} is no name of a tensor")
    if not isinstance(value, torch.Tensor):
        kind = type(value).__name__
        raise ValueError(
            f"{path}: {name!r} is a {kind}, not a tensor: save the table of tensors alone, which "
            "is what a model's state_dict() returns"
        )
    # Detached, a parameter is a plain tensor.
    tensor = value.detach()
    is_plain = tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized
    if not is_plain or tensor.is_meta or type(tensor) is not torch.Tensor:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        kind = "quantised" if tensor.is_quantized else "meta" if tensor.is_meta else kind
        raise ValueError(
            f"{path}: {name!r} is a {kind} {type(value).__name__}: only plain weights are supported"
        )
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise ValueError(
            f"{path} is refused: {name!r} has shape {list(tensor.shape)} over only "
            f"{tensor.untyped_storage().nbytes()} bytes: save it anew with .contiguous()"
        )
    return tensor
