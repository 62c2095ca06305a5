"""Vocabularies of one sentencepiece model that come from XLM-R, ALBERT and their relatives.

Conneau et al., "XLM-R", 2020; Martin et al., "CamemBERT", 2020; Kamal Eddine et al., "BARThez",
2021; Lan et al., "ALBERT", 2020; Tran et al., "BARTpho", 2022.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritonseq.checkpoint.files import read_text

from .fast import tokenizers_library
from .sentencepiece import FAIRSEQ, SentencePieces, has_piece, load_model, required
from .special_tokens import number
from .vocabulary import splitter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from .special_tokens import Stated

_ENDS = (("<s>",), ("</s>",))


def xlm_roberta_pieces(path: Path, stated: Stated) -> SentencePieces:
    """XLM-R: fairseq's four tokens first, the model's pieces, and the mask; <s> and </s> around."""
    _expect(stated, "XLMRobertaTokenizer")
    model = load_model(path)
    special = {name: token for token, name in enumerate(FAIRSEQ)}
    special["<mask>"] = model.get_piece_size() + 1
    return SentencePieces(model, special, stated, offset=1, frame=_ENDS)


def camembert_pieces(path: Path, stated: Stated) -> SentencePieces:
    """CamemBERT: fairseq's tokens in disuse first, the model's pieces from the fifth id on."""
    _expect(stated, "CamembertTokenizer")
    model, offset = load_model(path), 4
    special = {"<s>NOTUSED": 0, "<pad>": 1, "</s>NOTUSED": 2, "<unk>": 3, "<unk>NOTUSED": 4}
    special |= {name: required(model, name, path) + offset for name in ("<s>", "</s>")}
    special["<mask>"] = model.get_piece_size() + offset
    return SentencePieces(model, special, stated, offset=offset, frame=_ENDS)


def barthez_pieces(path: Path, stated: Stated) -> SentencePieces:
    """BARThez: the model's own ids, and it has fairseq's tokens and the mask among its pieces."""
    _expect(stated, "BarthezTokenizer")
    model = load_model(path)
    special = {name: required(model, name, path) for name in (*FAIRSEQ, "<mask>")}
    return SentencePieces(model, special, stated, frame=_ENDS)


def albert_pieces(path: Path, config: Mapping[str, Any], stated: Stated) -> SentencePieces:
    """ALBERT: the model's own ids; [CLS] and [SEP] around every text.

    `config` may say `do_lower_case` (yes) and `keep_accents` (no).
    """
    stated.expect("AlbertTokenizer", cls_token="[CLS]", sep_token="[SEP]", unk_token="<unk>")
    model = load_model(path)
    special = {name: required(model, name, path) for name in ("[CLS]", "[SEP]", "<unk>")}
    others = ("<pad>", "[MASK]")
    special |= {name: model.piece_to_id(name) for name in others if has_piece(model, name)}
    frame = (("[CLS]",), ("[SEP]",))
    return SentencePieces(model, special, stated, frame=frame, clean=_albert_cleaner(config))


class BartphoPieces:
    """BARTpho: the pieces of XLM-R's model, numbered by a list of those that Vietnamese has."""

    def __init__(self, folder: Path, stated: Stated) -> None:
        """Read `sentencepiece.bpe.model`, and `dict.txt` with a piece at the start of each line.

        Raises ValueError if one of them is damaged.
        """
        _expect(stated, "BartphoTokenizer")
        self._model = load_model(folder / "sentencepiece.bpe.model")
        self._ids = _read_pieces(folder / "dict.txt")
        names = {token: name for name, token in self._ids.items()}
        added = number(stated, self._ids.get, len(self._ids), names.get)
        special = {name: self._ids[name] for name in (*FAIRSEQ, "<mask>")} | added.special
        self._own = {**special, **added.plain}
        self._ids |= self._own
        self._skipped = frozenset(special.values())
        self._names = {token: name for name, token in self._ids.items()}
        left = {"<mask>", *(t.content for t in stated.tokens if t.flags.get("lstrip"))}
        right = {token.content for token in stated.tokens if token.flags.get("rstrip")}
        self._cut = splitter(self._own, left=left, right=right)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        unknown = self._ids["<unk>"]
        return [[self._ids.get(piece, unknown) for piece in self._split(text)] for text in texts]

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        skipped = self._skipped if skip_special_tokens else frozenset()
        names = [
            [self._names.get(token, "") for token in row if token not in skipped] for row in rows
        ]
        return ["".join(row).replace("\N{LOWER ONE EIGHTH BLOCK}", " ").strip() for row in names]

    def frame(self) -> tuple[list[int], list[int]]:
        return [self._ids["<s>"]], [self._ids["</s>"]]

    def token_id(self, token: str) -> int | None:
        return self._ids.get(token)

    def _split(self, text: str) -> list[str]:
        pieces: list[str] = []
        for part in self._cut(text):
            pieces += [part] if part in self._own else self._model.encode(part, out_type=str)
        return pieces


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


def _expect(stated: Stated, kind: str) -> None:
    stated.expect(
        kind,
        bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", unk_token="<unk>",
        mask_token="<mask>",
    )  # fmt: skip


def _albert_cleaner(config: Mapping[str, Any]) -> Callable[[str], str]:
    library = tokenizers_library().normalizers
    steps = [library.Replace("``", '"'), library.Replace("''", '"')]
    if not config.get("keep_accents"):
        steps += [library.NFKD(), library.StripAccents()]
    if config.get("do_lower_case") is not False:
        steps.append(library.Lowercase())
    clean: Callable[[str], str] = library.Sequence(steps).normalize_str
    return clean
