"""Readers of weight files: tensor by tensor, so that no file stays in memory as a whole.

The pages of a mapped file that have been read count as memory of the process until the mapping
goes. So a mapping here lives for one tensor, or a few megabytes of them.
"""

from __future__ import annotations

import contextlib
import math
import re
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from tritonseq.shown import first_line

from .files import is_there, read_json, refuse_irregular, refuse_pointer
from .pickles import RefusedPickle, check_pickle, checked_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    Shapes = dict[str, tuple[int, ...]]

# Bytes to read through one mapping of a pickled checkpoint: each mapping costs an unpickling of
# the whole table of tensors, a few milliseconds.
MAPPED_BYTES = 16 * 2**20

# Bytes that are looked at through one mapping when tensors are compared.
PIECE_BYTES = 16 * 2**20


class WeightReader(Protocol):
    """Named tensors in one file or several."""

    shapes: Shapes

    def read(self, name: str) -> Tensor:
        """The tensor as stored; drop it before the next call, or its mapping stays."""

    def pieces(self, name: str) -> Iterator[Tensor]:
        """Its rows, some at a time, to be looked at; drop each before the next."""


def row_ranges(shape: Sequence[int]) -> list[slice]:
    """Where to cut a float32 tensor of `shape` into rows of at most `PIECE_BYTES`.

    Tensors of one shape are cut alike, whatever their dtypes.
    """
    rows = shape[0] if shape else 1
    step = max(1, PIECE_BYTES // (4 * max(1, math.prod(shape[1:]))))
    return [slice(start, start + step) for start in range(0, rows, step)]


def rows_of(tensor: Tensor) -> Iterator[Tensor]:
    """The pieces of a tensor that is in memory."""
    table = tensor.detach() if tensor.dim() else tensor.detach()[None]
    return (table[rows] for rows in row_ranges(table.shape))


class SafetensorsFile:
    """One safetensors file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        refuse_irregular(path)
        with self._open() as file:
            # The handle is no mapping: its names come from keys() only.
            names = list(file.keys())
            self.shapes: Shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}

    def read(self, name: str) -> Tensor:
        with self._open() as file:
            try:
                tensor: Tensor = file.get_tensor(name)
            except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
                # Of a type that this torch does not have.
                message = f"{self.path}: {name} cannot be read: {first_line(error)}"
                raise ValueError(message) from error
        return tensor

    def pieces(self, name: str) -> Iterator[Tensor]:
        if not self.shapes[name]:
            yield self.read(name)
            return
        for rows in row_ranges(self.shapes[name]):
            with self._open() as file:
                yield file.get_slice(name)[rows]

    def _open(self) -> Any:
        try:
            return safe_open(self.path, framework="pt", device="cpu")
        except SafetensorError as error:
            raise _damaged(self.path, error) from error


class PickleFile:
    """One file written by torch.save, read by torch's unpickler that can only build tensors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        refuse_irregular(path)
        with path.open("rb") as file:
            # Files from before torch 1.6 are no zip archives and cannot be mapped.
            self._mapped = file.read(4) == b"PK\x03\x04"
        with self._words():
            check_pickle(path, zipped=self._mapped)
        self._tensors = self._load()
        self._read_bytes = 0
        self.shapes: Shapes = {name: tuple(t.shape) for name, t in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        if name not in self._tensors or (self._mapped and self._read_bytes > MAPPED_BYTES):
            self._tensors.clear()
            self._tensors, self._read_bytes = self._load(), 0
        # Popped, so that what was read from an unmapped file is freed as soon as it is copied.
        tensor = self._tensors.pop(name)
        self._read_bytes += tensor.numel() * tensor.itemsize
        return tensor

    def pieces(self, name: str) -> Iterator[Tensor]:
        if not self._mapped:
            # In memory all the same, and not popped: it is still to be read.
            if name not in self._tensors:
                self._tensors = self._load()
            yield from rows_of(self._tensors[name])
            return
        tensor = self._load()[name]
        for rows in row_ranges(self.shapes[name] or (1,)):
            yield tensor.detach()[rows if self.shapes[name] else None]

    def _load(self) -> dict[str, Tensor]:
        with self._words():
            table = torch.load(self.path, map_location="cpu", weights_only=True, mmap=self._mapped)
        return checked_table(self.path, table)

    @contextlib.contextmanager
    def _words(self) -> Iterator[None]:
        """Faults of the file, in words that name it."""
        try:
            yield
        except UnpicklingError as error:
            raise _refused(self.path, error) from error
        except RefusedPickle:
            raise
        except Exception as error:  # a damaged pickle raises whatever its opcodes stumble over
            raise _damaged(self.path, error) from error


class RenamedTensors:
    """Tensors of other readers, under names of their own."""

    def __init__(self, places: Mapping[str, tuple[WeightReader, str]]) -> None:
        """`places`: the reader of each tensor, and its name there."""
        self._places = places
        self.shapes: Shapes = {name: file.shapes[old] for name, (file, old) in places.items()}

    def read(self, name: str) -> Tensor:
        reader, old = self._places[name]
        return reader.read(old)

    def pieces(self, name: str) -> Iterator[Tensor]:
        reader, old = self._places[name]
        return reader.pieces(old)


def sharded(index: Path, reader: Callable[[Path], WeightReader]) -> WeightReader:
    """The tensors of all files that an index lists, each read by `reader`."""
    listed = read_json(index).get("weight_map") or {}
    files: dict[str, WeightReader] = {}
    for shard in shard_names(index):
        path = index.parent / shard
        if not is_there(path):
            raise ValueError(f"{index} names {shard}, which is not there: fetch it again")
        files[shard] = reader(path)
    places: dict[str, tuple[WeightReader, str]] = {}
    for shard, file in files.items():
        for name in file.shapes:
            # Of a tensor that several files have, the index says which one counts.
            other = files.get(str(listed.get(name, shard)), file)
            if other is file or name not in other.shapes:
                places[name] = (file, name)
    return RenamedTensors(places)


FORMATS: dict[str, Callable[[Path], WeightReader]] = {
    "model.safetensors": SafetensorsFile,
    "pytorch_model.bin": PickleFile,
}
SUFFIXES: dict[str, Callable[[Path], WeightReader]] = {
    ".safetensors": SafetensorsFile,
    ".bin": PickleFile,
}
# Shards, adapters, and what training keeps beside its models.
NO_WEIGHTS = re.compile(r"-\d+-of-\d+\.|^(adapter|optim|rng|scaler|sched|training_args)")


def open_weights(path: Path) -> WeightReader:
    """The weights in a checkpoint folder, or in one file.

    Of a folder: safetensors if it has them, else pytorch_model.bin, else the only other file with
    weights. Raises ValueError that names the file at fault.
    """
    if path.is_file():
        return _open_file(path)
    for name, reader in FORMATS.items():
        if is_there(path / name):
            return reader(path / name)
        if is_there(index_of(path / name)):
            return sharded(index_of(path / name), reader)
    others = [file for file in sorted(path.iterdir()) if is_weight_file(file)]
    if not others:
        raise ValueError(
            f"{path} has no weights: neither {' nor '.join(FORMATS)}, whole or sharded"
        )
    if len(others) > 1:
        names = ", ".join(file.name for file in others)
        raise ValueError(f"{path} has several files with weights, pass one of them: {names}")
    return _open_file(others[0])


def is_weight_file(path: Path) -> bool:
    """Whether this is a file with all weights of a model, by its name."""
    named = path.suffix in SUFFIXES and not NO_WEIGHTS.search(path.name)
    return named and path.is_file()


def _open_file(path: Path) -> WeightReader:
    return SUFFIXES.get(path.suffix, PickleFile)(path)


def index_of(weights: Path) -> Path:
    """Where the list of shards of a weight file is."""
    return weights.with_name(f"{weights.name}.index.json")


def shard_names(index: Path) -> list[str]:
    """The files that an index of shards names; ValueError if it is malformed."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map")
    shards = sorted({str(shard) for shard in weight_map.values()})
    for shard in shards:
        # An index comes with its checkpoint and has no business elsewhere on the disk.
        if not re.fullmatch(r"\w[\w.-]*", shard) or shard == index.name:
            raise ValueError(f"{index} names {shard!r}, which is not a plain file name")
    return shards


def _damaged(path: Path, error: Exception) -> ValueError:
    try:
        refuse_pointer(path)
    except ValueError as pointer:
        return pointer
    return ValueError(f"{path} is damaged or incomplete, fetch it again: {first_line(error)}")


def _refused(path: Path, error: Exception) -> ValueError:
    asked = re.search(r"GLOBAL (\S+)", str(error))
    wish = f"asks for {asked[1]}" if asked else "holds more than tensors"
    return ValueError(
        f"{path} is refused: its pickle {wish}, and reading it could run code. "
        "Use a checkpoint in safetensors format."
    )
