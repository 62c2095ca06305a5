"""Marian's vocabulary: two sentencepiece models, and a list that numbers their pieces."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .sentencepiece import load_model
from .special_tokens import number, read_numbered
from .vocabulary import splitter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .special_tokens import Stated


class MarianPieces:
    """Pieces of the source's model in, pieces of the target's model out.

    A language such as `>>fra<<` at the start of a text is one token.
    """

    def __init__(self, folder: Path, stated: Stated, *, separate: bool = False) -> None:
        """Read `source.spm`, `target.spm` and `vocab.json`.

        With `separate`, targets have a list of their own, `target_vocab.json`.
        """
        stated.expect("MarianTokenizer", eos_token="</s>", unk_token="<unk>")
        self._source = load_model(folder / "source.spm")
        target_model = load_model(folder / "target.spm")
        self._ids = _read_vocabulary(folder / "vocab.json")
        # As in transformers 5; pieces that are not in the model keep their marks of spaces.
        self._decoder = target_model if separate else self._source
        target = _read_vocabulary(folder / "target_vocab.json") if separate else self._ids
        by_id = {token: name for name, token in self._ids.items()}
        added = number(stated.all_special(), self._ids.get, len(self._ids), by_id.get)
        # Where padding is called otherwise, "<pad>" is text as any other.
        usual = ("</s>", stated.roles.get("pad_token", "<pad>"), "<unk>")
        self._own = {name: self._ids[name] for name in usual if name in self._ids}
        self._own |= {**added.special, **added.plain}
        self._ids = {**self._ids, **self._own}
        special = {*usual, *added.special}
        names = {**target, **added.plain}
        self._pieces = {token: name for name, token in names.items() if name not in special}
        self._special = {target.get(name, self._own.get(name)): name for name in special}
        self._cut = splitter(self._own)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        unknown = self._ids["<unk>"]
        return [[self._ids.get(piece, unknown) for piece in self._split(text)] for text in texts]

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        texts = [self._text(row, {} if skip_special_tokens else self._special) for row in rows]
        return [text.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").strip() for text in texts]

    def frame(self) -> tuple[list[int], list[int]]:
        return [], [self._ids["</s>"]]

    def token_id(self, token: str) -> int | None:
        return self._ids.get(token)

    def languages(self) -> list[str]:
        """Codes of the languages that can be asked for: "fra" for `>>fra<<`."""
        return [token[2:-2] for token in self._ids if re.fullmatch(r">>.+<<", token)]

    def _text(self, row: Sequence[int], shown: Mapping[int | None, str]) -> str:
        """Runs of pieces, each followed by the special token that ended it and a space."""
        parts, run = list[str](), list[str]()
        for token in row:
            if token in shown:
                parts.append(f"{self._decoder.decode(run)}{shown[token]} ")
                run = []
            elif token in self._pieces:
                run.append(self._pieces[token])
        return "".join((*parts, self._decoder.decode(run)))

    def _split(self, text: str) -> list[str]:
        pieces: list[str] = []
        for part in self._cut(text):
            code = re.match(r">>.*?<<", part, re.DOTALL)
            if part in self._own:
                pieces.append(part)
            elif code:
                pieces += [code.group(), *self._source.encode(part[code.end() :], out_type=str)]
            else:
                pieces += self._source.encode(part, out_type=str)
        return pieces


def _read_vocabulary(path: Path) -> dict[str, int]:
    content = read_numbered(path)
    for name in ("</s>", "<unk>"):
        if name not in content:
            raise ValueError(f"{path} has no {name}, which Marian's vocabularies have")
    return content
