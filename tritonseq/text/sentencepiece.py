"""Sentencepiece: vocabularies of one model, of T5, Pegasus, mBART, XLM-R, ALBERT and relatives.

Kudo and Richardson, "SentencePiece", 2018; Conneau et al., "XLM-R", 2020; Martin et al.,
"CamemBERT", 2020; Kamal Eddine et al., "BARThez", 2021; Lan et al., "ALBERT", 2020.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from tritonseq.checkpoint.files import refuse_unfit

from .fast import tokenizers_library
from .special_tokens import number
from .vocabulary import SPACE, SplitVocabulary, spaced
from .wordpiece import PROPHETNET_LONGEST, PROPHETNET_ROLES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from .special_tokens import Stated


PEGASUS_OFFSET = 103
FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
"""The first tokens of every vocabulary that fairseq has made."""
FAIRSEQ_ROLES = {
    **{"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"},
    **{"unk_token": "<unk>", "mask_token": "<mask>"},
}

_ENDS = (("<s>",), ("</s>",))


class SentencePieces(SplitVocabulary):
    """A sentencepiece model, whose ids the checkpoint may have moved."""

    def __init__(
        self,
        model: Any,
        special: Mapping[str, int],
        stated: Stated,
        *,
        offset: int = 0,
        frame: tuple[Sequence[str], Sequence[str]] = ((), ("</s>",)),
        plain: Mapping[str, int] | None = None,
        clean: Callable[[str], str] | None = None,
    ) -> None:
        """`offset` is added to the model's ids; tokens of `special`, `plain` and `stated` have
        their own.

        Decoding leaves special tokens out, and keeps plain ones. `frame` names what stands before
        and behind every text; `clean` is done to what is between the tokens in it.
        """
        self._model = model
        self._offset = offset
        self._unknown = special["<unk>"]
        size = max((model.get_piece_size() + offset - 1, *special.values())) + 1
        known = {**special, **(plain or {})}
        names = {token: name for name, token in known.items()}
        added = number(
            stated,
            lambda name: known.get(name, self._inside(name)),
            size,
            lambda token: names.get(token, self._at(token)),
        )
        special = {**special, **added.special}
        plain = {**(plain or {}), **added.plain}
        super().__init__(
            {**special, **plain},
            left=stated.having("lstrip"),
            right=stated.having("rstrip"),
            words=stated.having("single_word"),
        )
        self._skipped = frozenset(special.values())
        self._names = {token: name for name, token in plain.items()}
        self._shown = {token: name for name, token in self._own.items()}
        self._frame = tuple([self._own[name] for name in names] for names in frame)
        self._clean = clean

    def token_id(self, token: str) -> int | None:
        own = super().token_id(token)
        return self._inside(token) if own is None else own

    def names(self) -> list[str]:
        """What the pieces of the model are called."""
        return [self._model.id_to_piece(number) for number in range(self._model.get_piece_size())]

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        if not skip_special_tokens:
            return [self._with_special(row) for row in rows]
        pieces = [[self._piece(token) for token in row] for row in rows]
        return [self._model.decode([piece for piece in row if piece]) for row in pieces]

    def frame(self) -> tuple[list[int], list[int]]:
        before, behind = self._frame
        return list(before), list(behind)

    def pieces(self) -> dict[int, bytes]:
        own, offset = self._model, self._offset
        numbers = range(own.get_piece_size())
        found = {n + offset: self._bytes(n) for n in numbers if n + offset not in self._skipped}
        return {**found, **{token: name.encode() for name, token in self._own.items()}}

    def _bytes(self, number: int) -> bytes:
        """The text of a piece of the model; of one that stands for a byte, that."""
        name: str = self._model.id_to_piece(number)
        return bytes((int(name[3:5], 16),)) if self._model.is_byte(number) else spaced(name)

    def _between(self, text: str) -> list[int]:
        text = self._clean(text) if self._clean else text
        return [self._moved(piece) for piece in self._model.encode(text)]

    def _inside(self, name: str) -> int | None:
        """The id of a piece of the model; None if it has none of this name."""
        return self._moved(self._model.piece_to_id(name)) if has_piece(self._model, name) else None

    def _moved(self, piece: int) -> int:
        return self._unknown if piece == self._model.unk_id() else piece + self._offset

    def _piece(self, token: int) -> str:
        """The piece of text that an id stands for; nothing for special and unknown ids."""
        if token in self._names:
            return self._names[token]
        return "" if token in self._skipped else self._at(token) or ""

    def _at(self, token: int) -> str | None:
        """The name of the model's piece that has an id, if one has it."""
        number = token - self._offset
        if not 0 <= number < self._model.get_piece_size():
            return None
        piece: str = self._model.id_to_piece(number)
        return piece

    def _with_special(self, row: Sequence[int]) -> str:
        """Runs of pieces, and special tokens between them as they are."""
        parts, run = list[str](), list[str]()
        for token in row:
            if token in self._shown:
                parts += [self._run(run, is_first=not parts), self._shown[token]]
                run = []
            elif piece := self._piece(token):
                run.append(piece)
        return "".join((*parts, self._run(run, is_first=not parts)))

    def _run(self, pieces: list[str], *, is_first: bool) -> str:
        """The text of pieces; a space at its start is left out at the start of the whole only."""
        spaced = not is_first and pieces and pieces[0].startswith(SPACE)
        text: str = self._model.decode(pieces)
        return f" {text}" if spaced else text


def t5_pieces(path: Path, extra_ids: int, stated: Stated) -> SentencePieces:
    """T5, mT5, UMT5: the model's own ids, and sentinels behind them, the first one last.

    Sentinels that the model itself has keep their ids; beyond `extra_ids` they are text.
    """
    stated.expect("T5Tokenizer", eos_token="</s>", unk_token="<unk>")
    model = load_model(path)
    special = {name: required(model, name, path) for name in ("</s>", "<unk>")}
    if has_piece(model, "<pad>"):
        special["<pad>"] = model.piece_to_id("<pad>")
    last = model.get_piece_size() + extra_ids - 1
    special |= {f"<extra_id_{n}>": last - n for n in range(extra_ids)}
    sentinels = map("<extra_id_{}>".format, itertools.count())
    inside = {
        name: model.piece_to_id(name)
        for name in itertools.takewhile(lambda name: has_piece(model, name), sentinels)
    }
    special |= {name: token for name, token in inside.items() if name in special}
    plain = {name: token for name, token in inside.items() if name not in special}
    return SentencePieces(model, special, stated, plain=plain)


def pegasus_pieces(path: Path, stated: Stated) -> SentencePieces:
    """Pegasus: over a hundred tokens of its pre-training stand before the model's pieces."""
    stated.expect("PegasusTokenizer", eos_token="</s>", unk_token="<unk>", mask_token="<mask_2>")
    model = load_model(path)
    special = {"<pad>": 0, "</s>": 1, "<mask_1>": 2, "<mask_2>": 3}
    special |= {f"<unk_{n}>": n + 2 for n in range(2, PEGASUS_OFFSET)}
    special["<unk>"] = model.unk_id() + PEGASUS_OFFSET
    return SentencePieces(model, special, stated, offset=PEGASUS_OFFSET)


def mbart_pieces(
    path: Path, languages: Sequence[str], stated: Stated, *, has_mask: bool = True
) -> SentencePieces:
    """mBART, NLLB and PLBart: fairseq's four tokens first, the model's pieces, the languages, and
    the mask."""
    stated.expect("MBartTokenizer", eos_token="</s>", unk_token="<unk>", mask_token="<mask>")
    model = load_model(path)
    special = {name: token for token, name in enumerate(FAIRSEQ)}
    behind = model.get_piece_size() + 1
    special |= {code: behind + index for index, code in enumerate(languages)}
    if has_mask:
        special["<mask>"] = behind + len(languages)
    return SentencePieces(model, special, stated, offset=1)


def xlm_roberta_pieces(path: Path, stated: Stated) -> SentencePieces:
    """XLM-R: fairseq's four tokens first, the model's pieces, and the mask; <s> and </s> around."""
    stated.expect("XLMRobertaTokenizer", **FAIRSEQ_ROLES)
    model = load_model(path)
    special = {name: token for token, name in enumerate(FAIRSEQ)}
    special["<mask>"] = model.get_piece_size() + 1
    return SentencePieces(model, special, stated, offset=1, frame=_ENDS)


def camembert_pieces(path: Path, stated: Stated) -> SentencePieces:
    """CamemBERT: fairseq's tokens in disuse first, the model's pieces from the fifth id on."""
    stated.expect("CamembertTokenizer", **FAIRSEQ_ROLES)
    model, offset = load_model(path), 4
    special = {"<s>NOTUSED": 0, "<pad>": 1, "</s>NOTUSED": 2, "<unk>": 3, "<unk>NOTUSED": 4}
    special |= {name: required(model, name, path) + offset for name in ("<s>", "</s>")}
    special["<mask>"] = model.get_piece_size() + offset
    return SentencePieces(model, special, stated, offset=offset, frame=_ENDS)


def barthez_pieces(path: Path, stated: Stated) -> SentencePieces:
    """BARThez: the model's own ids, and it has fairseq's tokens and the mask among its pieces."""
    stated.expect("BarthezTokenizer", **FAIRSEQ_ROLES)
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
    library = tokenizers_library()
    clean = library.normalizers.Sequence(albert_normalizers(library, config)).normalize_str
    return SentencePieces(model, special, stated, frame=(("[CLS]",), ("[SEP]",)), clean=clean)


def albert_normalizers(library: Any, config: Mapping[str, Any]) -> list[Any]:
    """What ALBERT does to texts first, in steps of the `tokenizers` library."""
    parts = library.normalizers
    steps = [parts.Replace("``", '"'), parts.Replace("''", '"')]
    if not config.get("keep_accents"):
        steps += [parts.NFKD(), parts.StripAccents()]
    if config.get("do_lower_case") is not False:
        steps.append(parts.Lowercase())
    return steps


def load_model(path: Path) -> Any:
    """A sentencepiece model; ValueError if it, or the library, cannot be had."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise ValueError(
            "this checkpoint's text needs the sentencepiece library: pip install "
            "'tritonseq[text]' (generate and stream take token ids without it)"
        ) from None
    refuse_unfit(path)
    try:
        return SentencePieceProcessor(model_file=str(path))
    except Exception as error:  # the library raises what its C++ side throws
        raise ValueError(f"{path} is no sentencepiece model: {error}") from None


def required(model: Any, name: str, path: Path) -> int:
    """The id of a piece in the model at `path`; ValueError if it has none of this name."""
    if not has_piece(model, name):
        raise ValueError(f"{path} has no piece {name}, which every model of this family has")
    found: int = model.piece_to_id(name)
    return found


def has_piece(model: Any, name: str) -> bool:
    """Whether this is the name of a piece; others have the id of the unknown one."""
    known: bool = model.id_to_piece(model.piece_to_id(name)) == name
    return known


class XLMProphetNetPieces(SplitVocabulary):
    """A sentencepiece model behind tokens of BERT's names and ten that are not used."""

    max_length = PROPHETNET_LONGEST
    OFFSET = 12
    """What is added to the ids of the model."""
    FIRST = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")

    def __init__(self, path: Path, stated: Stated) -> None:
        """Read the model at `path`; ValueError if it, or the library, cannot be had."""
        roles = {
            **PROPHETNET_ROLES,
            "bos_token": "[SEP]",
            "eos_token": "[SEP]",
            "cls_token": "[CLS]",
        }
        stated.expect("XLMProphetNetTokenizer", **roles)
        self._model = load_model(path)
        first = {name: token for token, name in enumerate(self.FIRST)}
        count = self._model.get_piece_size()
        self._names = {
            piece + self.OFFSET: self._model.id_to_piece(piece) for piece in range(count)
        }
        # They take the places of the model's own first pieces, which are no text.
        self._names |= {token: f"[unused{token - 5}]" for token in range(5, 15)}
        self._ids = {name: token for token, name in self._names.items()} | first
        self._names |= {token: name for name, token in first.items()}
        added = number(stated.all_special(), self._ids.get, count + self.OFFSET, self._names.get)
        special = {**first, **added.special}
        super().__init__(
            {**special, **added.plain},
            left=stated.having("lstrip"),
            right=stated.having("rstrip"),
            words=stated.having("single_word"),
        )
        self._names |= {token: name for name, token in self._own.items()}
        self._skipped = frozenset(special.values())

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        skipped = self._skipped if skip_special_tokens else ()
        named = (
            [self._names.get(token, "") for token in row if token not in skipped] for row in rows
        )
        return ["".join(names).replace(SPACE, " ").strip() for names in named]

    def frame(self) -> tuple[list[int], list[int]]:
        return [], [self._own["[SEP]"]]

    def pieces(self) -> dict[int, bytes]:
        return {token: spaced(name) for token, name in self._names.items()}

    def token_id(self, token: str) -> int | None:
        return self._own.get(token, self._ids.get(token))

    def _between(self, text: str) -> list[int]:
        unknown = self._own["[UNK]"]
        return [piece + self.OFFSET if piece else unknown for piece in self._model.encode(text)]
