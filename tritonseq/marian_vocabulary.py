"""Marian's vocabulary: two sentencepiece models, and a list that numbers their pieces."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .json_files import read_json
from .sentencepieces import load_model
from .vocabularies import splitter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SPECIAL = ("</s>", "<pad>", "<unk>")


class MarianPieces:
    """Pieces of the source's model in, pieces of the target's model out.

    A language such as `>>fra<<` at the start of a text is one token.
    """

    def __init__(self, folder: Path) -> None:
        """Read `source.spm`, `target.spm`, `vocab.json`, and a `target_vocab.json` of its own."""
        self._source = load_model(folder / "source.spm")
        self._target = load_model(folder / "target.spm")
        self._ids = _read_vocabulary(folder / "vocab.json")
        own = folder / "target_vocab.json"
        target = _read_vocabulary(own) if own.is_file() else self._ids
        self._pieces = {token: name for name, token in target.items() if name not in _SPECIAL}
        self._cut = splitter(_SPECIAL)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        unknown = self._ids["<unk>"]
        return [[self._ids.get(piece, unknown) for piece in self._split(text)] for text in texts]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        pieces = [[self._pieces[token] for token in row if token in self._pieces] for row in rows]
        texts: list[str] = [self._target.decode(row) for row in pieces]
        # Pieces that only the source's model knows keep their marks of spaces.
        return [text.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").strip() for text in texts]

    def frame(self) -> tuple[list[int], list[int]]:
        return [], [self._ids["</s>"]]

    def token_id(self, token: str) -> int | None:
        return self._ids.get(token)

    def languages(self) -> list[str]:
        """Codes of the languages that can be asked for: "fra" for `>>fra<<`."""
        return [token[2:-2] for token in self._ids if re.fullmatch(r">>.+<<", token)]

    def _split(self, text: str) -> list[str]:
        pieces: list[str] = []
        for part in self._cut(text):
            code = re.match(r">>.*?<<", part, re.DOTALL)
            if part in _SPECIAL:
                pieces.append(part)
            elif code:
                pieces += [code.group(), *self._source.encode(part[code.end() :], out_type=str)]
            else:
                pieces += self._source.encode(part, out_type=str)
        return pieces


def _read_vocabulary(path: Path) -> dict[str, int]:
    content = read_json(path)
    if not all(isinstance(token, int) for token in content.values()):
        raise ValueError(f"{path} must map tokens to ids")
    for name in ("</s>", "<unk>"):
        if name not in content:
            raise ValueError(f"{path} has no {name}, which Marian's vocabularies have")
    return content
