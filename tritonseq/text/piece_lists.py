"""Piece lists: sentencepiece models whose pieces get their ids from a list.

Marian (Tiedemann and Thottingal, "OPUS-MT", 2020), BARTpho (Tran et al., 2022), and M2M100 with
SMaLL-100 (Fan et al., 2020; Mohammadshahi et al., 2022).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tritonseq.checkpoint.files import read_text

from .languages import STYLES
from .sentencepiece import FAIRSEQ, FAIRSEQ_ROLES, load_model
from .special_tokens import number, read_numbered
from .vocabulary import SPACE, SplitVocabulary, spaced

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from .special_tokens import Stated


class _ListedPieces(SplitVocabulary):
    """What all have in common."""

    def __init__(
        self, model: Any, ids: Mapping[str, int], own: Mapping[str, int], **sides: Collection[str]
    ) -> None:
        """`model` cuts a text into pieces; `ids` are those of all pieces and of `own` tokens."""
        super().__init__(own, **sides)
        self._model, self._ids = model, ids

    def token_id(self, token: str) -> int | None:
        return self._ids.get(token)

    def _between(self, text: str) -> list[int]:
        unknown = self._ids["<unk>"]
        return [self._ids.get(piece, unknown) for piece in self._pieces_of(text)]

    def _pieces_of(self, text: str) -> list[str]:
        pieces: list[str] = self._model.encode(text, out_type=str)
        return pieces


class MarianPieces(_ListedPieces):
    """Pieces of the source's model in, pieces of the target's model out.

    A language such as `>>fra<<` at the start of a text is one token.
    """

    def __init__(self, folder: Path, stated: Stated, *, separate: bool = False) -> None:
        """Read `source.spm`, `target.spm` and `vocab.json`.

        With `separate`, targets have a list of their own, `target_vocab.json`.
        """
        stated.expect("MarianTokenizer", eos_token="</s>", unk_token="<unk>")
        source, target_model = (load_model(folder / f"{side}.spm") for side in ("source", "target"))
        ids = _read_vocabulary(folder / "vocab.json")
        # As in transformers 5; pieces that are not in the model keep their marks of spaces.
        self._decoder = target_model if separate else source
        target = _read_vocabulary(folder / "target_vocab.json") if separate else ids
        by_id = {token: name for name, token in ids.items()}
        added = number(stated.all_special(), ids.get, len(ids), by_id.get)
        # Where padding is called otherwise, "<pad>" is text as any other.
        usual = ("</s>", stated.roles.get("pad_token", "<pad>"), "<unk>")
        own = {name: ids[name] for name in usual if name in ids}
        own |= {**added.special, **added.plain}
        super().__init__(source, {**ids, **own}, own)
        special = {*usual, *added.special}
        names = {**target, **added.plain}
        self._pieces = {token: name for name, token in names.items() if name not in special}
        self._special = {target.get(name, own.get(name)): name for name in special}
        written = {name: target.get(name, token) for name, token in own.items()}
        self.target = _ListedPieces(target_model, {**target, **written}, written)
        """What reads texts as the model writes them, such as words that it must not."""

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        texts = [self._text(row, {} if skip_special_tokens else self._special) for row in rows]
        return [text.replace(SPACE, " ").strip() for text in texts]

    def frame(self) -> tuple[list[int], list[int]]:
        return [], [self._ids["</s>"]]

    def pieces(self) -> dict[int, bytes]:
        special = {token: name for token, name in self._special.items() if token is not None}
        return {token: spaced(name) for token, name in {**self._pieces, **special}.items()}

    def languages(self) -> list[str]:
        """Codes of the languages that can be asked for: "fra" for `>>fra<<`."""
        return STYLES["marian"].codes(self._ids)

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

    def _pieces_of(self, text: str) -> list[str]:
        code = re.match(r">>.*?<<", text, re.DOTALL)
        if code is None:
            return super()._pieces_of(text)
        return [code.group(), *super()._pieces_of(text[code.end() :])]


def _read_vocabulary(path: Path) -> dict[str, int]:
    content = read_numbered(path)
    for name in ("</s>", "<unk>"):
        if name not in content:
            raise ValueError(f"{path} has no {name}, which every vocabulary of its kind has")
    return content


class M2M100Pieces(_ListedPieces):
    """M2M100 and SMaLL-100: a list of pieces, and behind it the languages."""

    def __init__(self, folder: Path, codes: Sequence[str], stated: Stated) -> None:
        """Read `sentencepiece.bpe.model` and `vocab.json`; `codes` name the languages in order.

        Raises ValueError if one of the files is damaged.
        """
        stated.expect("M2M100Tokenizer", eos_token="</s>", unk_token="<unk>")
        model = load_model(folder / "sentencepiece.bpe.model")
        ids = _read_vocabulary(folder / "vocab.json")
        size = max(ids.values()) + 1
        languages = {STYLES["m2m100"].form.format(code): size + n for n, code in enumerate(codes)}
        known = {**ids, **languages}
        names = {token: name for name, token in known.items()}
        added = number(stated, known.get, size + len(codes), names.get)
        special = {name: ids[name] for name in FAIRSEQ if name in ids} | languages | added.special
        own = {**special, **added.plain}
        flags = {"left": "lstrip", "right": "rstrip", "words": "single_word"}
        sides = {side: stated.having(flag) for side, flag in flags.items()}
        super().__init__(model, {**known, **own}, own, **sides)
        self._special = {token: name for name, token in special.items()}
        self._names = {token: name for name, token in self._ids.items()}

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        return [self._text(row, is_whole=not skip_special_tokens) for row in rows]

    def frame(self) -> tuple[list[int], list[int]]:
        return [], [self._ids["</s>"]]

    def pieces(self) -> dict[int, bytes]:
        return {token: spaced(name) for token, name in self._names.items()}

    def _text(self, row: Sequence[int], *, is_whole: bool) -> str:
        """Runs of pieces, and special tokens between them if the text is to be whole."""
        parts, run = list[str](), list[str]()
        for token in row:
            if token not in self._special:
                run.append(self._names.get(token, ""))
            elif is_whole:
                parts += [self._model.decode(run), self._special[token]]
                run = []
        return "".join((*parts, self._model.decode(run))).strip()


class BartphoPieces(_ListedPieces):
    """BARTpho: the pieces of XLM-R's model, numbered by a list of those that Vietnamese has."""

    def __init__(self, folder: Path, stated: Stated) -> None:
        """Read `sentencepiece.bpe.model`, and `dict.txt` with a piece at the start of each line.

        Raises ValueError if one of them is damaged.
        """
        stated.expect("BartphoTokenizer", **FAIRSEQ_ROLES)
        model = load_model(folder / "sentencepiece.bpe.model")
        ids = _read_pieces(folder / "dict.txt")
        names = {token: name for name, token in ids.items()}
        added = number(stated, ids.get, len(ids), names.get)
        special = {name: ids[name] for name in (*FAIRSEQ, "<mask>")} | added.special
        own = {**special, **added.plain}
        left = {"<mask>", *stated.having("lstrip")}
        super().__init__(model, {**ids, **own}, own, left=left, right=stated.having("rstrip"))
        self._skipped = frozenset(special.values())
        self._names = {token: name for name, token in self._ids.items()}

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        skipped = self._skipped if skip_special_tokens else frozenset()
        names = [
            [self._names.get(token, "") for token in row if token not in skipped] for row in rows
        ]
        return ["".join(row).replace(SPACE, " ").strip() for row in names]

    def frame(self) -> tuple[list[int], list[int]]:
        return [self._ids["<s>"]], [self._ids["</s>"]]

    def pieces(self) -> dict[int, bytes]:
        return {token: spaced(name) for token, name in self._names.items()}


def _read_pieces(path: Path) -> dict[str, int]:
    """fairseq's tokens, those at the start of lines, and the mask last."""
    ids = {name: token for token, name in enumerate(FAIRSEQ)}
    lines = read_text(path).removesuffix("\n").split("\n")
    for count, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            raise ValueError(f"line {count} of {path} has no piece: fetch the file again")
        ids[words[0]] = len(ids)
    ids.setdefault("<mask>", len(ids))
    return ids
