"""Vocabularies of one sentencepiece model: T5 and its relatives, Pegasus, mBART.

Kudo and Richardson, "SentencePiece", 2018.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from .json_files import refuse_pointer
from .vocabularies import splitter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PEGASUS_OFFSET = 103


class Added(NamedTuple):
    """Tokens that a checkpoint has beside its sentencepiece model, with their ids."""

    special: dict[str, int]
    plain: dict[str, int]


class SentencePieces:
    """A sentencepiece model, whose ids the checkpoint may have moved."""

    def __init__(
        self,
        model: Any,
        special: Mapping[str, int],
        added: Added,
        *,
        offset: int = 0,
    ) -> None:
        """`offset` is added to the model's ids; tokens of `special` and `added` have their own.

        Decoding leaves special tokens out, and keeps plain ones.
        """
        self._model = model
        self._offset = offset
        special = {**special, **added.special}
        self._own = {**special, **added.plain}
        self._unknown = special["<unk>"]
        self._skipped = frozenset(special.values())
        self._names = {token: name for name, token in added.plain.items()}
        self._cut = splitter(self._own)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._ids(text) for text in texts]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        pieces = [[self._piece(token) for token in row] for row in rows]
        return [self._model.decode([piece for piece in row if piece]) for row in pieces]

    def frame(self) -> tuple[list[int], list[int]]:
        return [], [self._own["</s>"]]

    def token_id(self, token: str) -> int | None:
        return self._own.get(token)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self._cut(text):
            if part in self._own:
                ids.append(self._own[part])
            else:
                ids += [self._moved(piece) for piece in self._model.encode(part)]
        return ids

    def _moved(self, piece: int) -> int:
        return self._unknown if piece == self._model.unk_id() else piece + self._offset

    def _piece(self, token: int) -> str:
        """The piece of text that an id stands for; nothing for special and unknown ids."""
        if token in self._names:
            return self._names[token]
        number = token - self._offset
        if token in self._skipped or not 0 <= number < self._model.get_piece_size():
            return ""
        piece: str = self._model.id_to_piece(number)
        return piece


def t5_pieces(path: Path, extra_ids: int, added: Added) -> SentencePieces:
    """T5, mT5, UMT5: the model's own ids, and sentinels behind them, the first one last.

    Sentinels that the model itself has keep their ids; beyond `extra_ids` they are text.
    """
    model = load_model(path)
    special = {name: _required(model, name, path) for name in ("</s>", "<unk>")}
    special["<pad>"] = model.piece_to_id("<pad>")
    last = model.get_piece_size() + extra_ids - 1
    special |= {f"<extra_id_{n}>": last - n for n in range(extra_ids)}
    sentinels = map("<extra_id_{}>".format, itertools.count())
    inside = {
        name: model.piece_to_id(name)
        for name in itertools.takewhile(lambda name: _has(model, name), sentinels)
    }
    special |= {name: token for name, token in inside.items() if name in special}
    plain = {name: token for name, token in inside.items() if name not in special}
    return SentencePieces(model, special, Added(added.special, {**plain, **added.plain}))


def pegasus_pieces(path: Path, added: Added) -> SentencePieces:
    """Pegasus: over a hundred tokens of its pre-training stand before the model's pieces."""
    model = load_model(path)
    special = {"<pad>": 0, "</s>": 1, "<mask_1>": 2, "<mask_2>": 3}
    special |= {f"<unk_{n}>": n + 2 for n in range(2, PEGASUS_OFFSET)}
    special["<unk>"] = model.unk_id() + PEGASUS_OFFSET
    return SentencePieces(model, special, added, offset=PEGASUS_OFFSET)


def mbart_pieces(path: Path, languages: Sequence[str], added: Added) -> SentencePieces:
    """mBART: fairseq's four tokens first, the model's pieces, the languages, and the mask."""
    model = load_model(path)
    special = {name: token for token, name in enumerate(("<s>", "<pad>", "</s>", "<unk>"))}
    behind = model.get_piece_size() + 1
    special |= {code: behind + index for index, code in enumerate(languages)}
    special["<mask>"] = behind + len(languages)
    return SentencePieces(model, special, added, offset=1)


def load_model(path: Path) -> Any:
    """A sentencepiece model; ValueError if it, or the library, cannot be had."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise ValueError(
            "this checkpoint's text needs the sentencepiece library: pip install "
            "'tritonseq[text]' (generate and stream take token ids without it)"
        ) from None
    refuse_pointer(path)
    try:
        return SentencePieceProcessor(model_file=str(path))
    except Exception as error:  # the library raises what its C++ side throws
        raise ValueError(f"{path} is no sentencepiece model: {error}") from None


def _required(model: Any, name: str, path: Path) -> int:
    if not _has(model, name):
        raise ValueError(f"{path} has no piece {name}, which every model of this family has")
    found: int = model.piece_to_id(name)
    return found


def _has(model: Any, name: str) -> bool:
    known: bool = model.id_to_piece(model.piece_to_id(name)) == name
    return known
