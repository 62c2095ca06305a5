"""The tensors of every family of UniLM checkpoint, under one set of names and in one form.

The names are those of BERT in transformers. Upstream's decoders change tensors while they load
them: tables of positions and token types get other sizes, and what was pre-trained for several
tasks is cut down to the slice of one. All of that happens here, tensor by tensor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tritonseq.models.network import OTHER_HEADS, warn_of_unused

from .unilm_family import BIAS, DECODER_BIAS, HEAD, OWN_HEAD, POSITIONS, TYPES, WORDS, standard_name
from .weights import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .weights import WeightReader

# What some writers keep in the place of a tensor that it may equal, or beside it.
COPIES = {OWN_HEAD: WORDS, "cls.predictions.decoder_weight": WORDS, DECODER_BIAS: BIAS}
# Constants, which are no weights, and what every BERT has beside its network, which says nothing
# of what the file is for.
CONSTANTS = (
    *("bert.embeddings.position_ids", "crit_mask_lm_smoothed."),
    *("bert.pooler.", "cls.seq_relationship."),
)
# What training leaves behind and generation does not use.
UNUSED = (
    *OTHER_HEADS,
    "cls2.",
    "secondary_pred_proj.",
    "crit_pair_rel.",
)

FIRST_ROBERTA_POSITION = 2
"""RoBERTa's positions stand behind two rows that fairseq kept for padding."""
SEQ2SEQ = 3
"""The slice of this task, where a tensor holds one for each of four."""
TYPE_ROWS = (0, 1, 0, 0, 0, 1, 1)
"""The old row that each row of a grown table of types starts as: 4 is a source, 5 a target."""


class Piece(NamedTuple):
    """How a tensor is made from one of the file's."""

    origin: str | None
    """Its name in the file; None stands for zeros."""
    shape: tuple[int, ...]
    make: Callable[[Tensor], Tensor]
    is_plain: bool = False
    """Whether it is that tensor as it is."""

    def then(self, shape: Sequence[int], make: Callable[[Tensor], Tensor]) -> Piece:
        """The piece that `make` turns into one of `shape`."""
        before = self.make
        return Piece(self.origin, tuple(shape), lambda tensor: make(before(tensor)))

    def rows(self, rows: Sequence[int]) -> Piece:
        """These rows of a table, without a copy if they are a range."""
        index = slice(rows.start, rows.stop) if isinstance(rows, range) else list(rows)
        return self.then((len(rows), *self.shape[1:]), lambda table: table[index])


class TensorView:
    """A reader of tensors that are made from those of another one."""

    def __init__(self, reader: WeightReader, pieces: Mapping[str, Piece]) -> None:
        self._reader = reader
        self._pieces = pieces
        self.shapes = {name: piece.shape for name, piece in pieces.items()}
        # Query, key and value may be parts of one tensor: it is read once for the three.
        self._last: tuple[str, Tensor] | None = None

    def pieces(self, name: str) -> Iterator[Tensor]:
        if self._pieces[name].is_plain:
            return self._reader.pieces(str(self._pieces[name].origin))
        return rows_of(self.read(name))

    def read(self, name: str) -> Tensor:
        piece = self._pieces[name]
        if piece.origin is None:
            return torch.zeros(piece.shape)
        if self._last is None or self._last[0] != piece.origin:
            self._last = None
            self._last = (piece.origin, self._reader.read(piece.origin))
        return piece.make(self._last[1])


def standard_tensors(
    reader: WeightReader, *, types: int | None = None, positions: int | None = None
) -> TensorView:
    """The tensors of a checkpoint, with tables of so many `types` and `positions` if given.

    Query, key and value stand apart and all have a bias; a head that the file has is still
    there, if there is a table of words beside it. What training left behind is gone, with a
    warning; whatever else is unknown is still there. Raises ValueError for sizes that the tables
    cannot be brought to.
    """
    names = {standard_name(name): name for name in reader.shapes}
    warn_of_unused(old for name, old in names.items() if name.startswith(UNUSED))
    pieces = _renamed(names, reader)
    if any(name.startswith("roberta.") for name in reader.shapes):
        _convert_roberta(pieces)
    _split_products(pieces)
    _slice_tasks(pieces)
    if types is not None:
        _resize_types(pieces, types)
    if positions is not None and POSITIONS in pieces:
        old = pieces[POSITIONS].shape[0]
        # A longer table repeats the old one.
        pieces[POSITIONS] = pieces[POSITIONS].rows([row % old for row in range(positions)])
    return TensorView(reader, pieces)


def _renamed(names: Mapping[str, str], reader: WeightReader) -> dict[str, Piece]:
    """The tensors as they are, by their new names; `names` maps new ones to the file's."""
    found = {n: old for n, old in names.items() if not n.startswith((*UNUSED, *CONSTANTS))}
    for copy, name in COPIES.items():
        if copy in found:
            old = found.pop(copy)
            if found.setdefault(name, old) != old and name == WORDS:
                found[OWN_HEAD] = old
    bias, other = names.get(BIAS), names.get(DECODER_BIAS)
    if bias and other and not torch.equal(reader.read(bias), reader.read(other)):
        raise ValueError(
            f"{bias} and {other} differ, and both are the bias of one head: remove the one that "
            "the model was not trained with"
        )
    return {
        name: Piece(old, tuple(reader.shapes[old]), lambda tensor: tensor, is_plain=True)
        for name, old in found.items()
    }


def _convert_roberta(pieces: dict[str, Piece]) -> None:
    """RoBERTa has one type, which says nothing, and positions with an offset."""
    pieces.pop(TYPES, None)
    if POSITIONS in pieces:
        count = pieces[POSITIONS].shape[0]
        pieces[POSITIONS] = pieces[POSITIONS].rows(range(FIRST_ROBERTA_POSITION, count))


def _split_products(pieces: dict[str, Piece]) -> None:
    """UniLM 2 has one product for query, key and value, and no bias of keys."""
    for name in [name for name in pieces if name.endswith(".attention.self.qkv_linear.weight")]:
        at, fused = name.removesuffix("qkv_linear.weight"), pieces.pop(name)
        width = fused.shape[0] // 3
        for index, part in enumerate(("query", "key", "value")):
            pieces[f"{at}{part}.weight"] = fused.rows(range(index * width, (index + 1) * width))
        for old, part in (("q_bias", "query"), ("v_bias", "value")):
            if at + old in pieces:
                bias = pieces.pop(at + old)
                pieces[f"{at}{part}.bias"] = bias.then((math.prod(bias.shape),), Tensor.flatten)
        pieces[f"{at}key.bias"] = Piece(None, (width,), lambda zeros: zeros)


def _slice_tasks(pieces: dict[str, Piece]) -> None:
    """Keep the slice of sequence-to-sequence of what was trained for several tasks."""
    if WORDS not in pieces:
        return
    width = pieces[WORDS].shape[-1]
    if POSITIONS in pieces and pieces[POSITIONS].shape[-1] != width:
        pieces[POSITIONS] = _slice(POSITIONS, pieces[POSITIONS], 1, width)
    for name in [name for name in pieces if name.startswith(f"{HEAD}.")]:
        if pieces[name].shape[:1] != (width,):
            pieces[name] = _slice(name, pieces[name], 0, width)


def _slice(name: str, piece: Piece, dim: int, width: int) -> Piece:
    """The slice of the task out of dimension `dim`, which holds slices of `width` each."""
    size = piece.shape[dim] if piece.shape else 1
    if size % width or size // width <= SEQ2SEQ:
        raise ValueError(
            f"{name} has shape {list(piece.shape)}: neither one slice of {width} nor one for "
            f"each of {SEQ2SEQ + 1} tasks"
        )
    shape = (*piece.shape[:dim], width, *piece.shape[dim + 1 :])
    return piece.then(shape, lambda tensor: tensor.unflatten(dim, (-1, width)).select(dim, SEQ2SEQ))


def _resize_types(pieces: dict[str, Piece], count: int) -> None:
    """Cut the table of types, or let it grow as version 1 does.

    What grows is filled from its first two rows, rows that were there before included.
    """
    old = pieces[TYPES].shape[0] if TYPES in pieces else 0
    if count == old:
        return
    if count == 0:
        del pieces[TYPES]
    elif count < old:
        pieces[TYPES] = pieces[TYPES].rows(range(count))
    elif old < 2 or count == 5 or count > len(TYPE_ROWS):
        raise ValueError(
            f"type_vocab_size {count}: the checkpoint has {old} token types, and a table of at "
            "least 2 can grow to 3, 4, 6 or 7"
        )
    else:
        pieces[TYPES] = pieces[TYPES].rows(TYPE_ROWS[:count])
