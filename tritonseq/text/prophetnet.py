"""ProphetNet's WordPiece and XLM-ProphetNet's sentencepiece, each in a file `prophetnet.tokenizer`.

Qi et al., "ProphetNet", 2020, and "ProphetNet-X", 2021. Both end a text with [SEP], and put nothing
before it.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

from tritonseq.shown import shown

from .fast import tokenizers_library
from .sentencepiece import load_model
from .special_tokens import number
from .vocabulary import SPACE, SplitVocabulary, splitter
from .wordpiece import normalizing, read_pieces

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .special_tokens import Stated

FILE = "prophetnet.tokenizer"
LONGEST = 512
"""The tokens of a text that every published checkpoint has positions for."""

_ROLES = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
_SPECIAL = (*_ROLES.values(), "[X_SEP]")


class ProphetNetPieces(SplitVocabulary):
    """BERT's WordPiece, with [X_SEP] between the sentences of a summary.

    Special tokens stay whole in a text: what asks for a question holds a [SEP] of its own.
    """

    cleans_up = True
    """Decoding removes the spaces before punctuation, unless the files say otherwise."""
    max_length = LONGEST

    def __init__(self, path: Path, config: Mapping[str, Any], stated: Stated) -> None:
        """Read the file `path`, a token a line, whose number is its id.

        `config` may say `do_lower_case` (yes), `strip_accents` (as lower-casing) and
        `tokenize_chinese_chars` (yes). Raises ValueError if the file is no UTF-8, lacks a token
        that it must have, or the `text` extra is missing.
        """
        stated.expect("ProphetNetTokenizer", **_ROLES)
        between = config.get("x_sep_token")
        if between is not None and _content(between) != "[X_SEP]":
            raise ValueError(
                f"{stated.path} says x_sep_token is {shown(between)}, and that of "
                "ProphetNetTokenizer is '[X_SEP]': call generate with token ids"
            )
        how = normalizing(config)
        self._lowers = how["lowercase"]
        strips = how["strip_accents"]
        # What is left to the library: accents, and the cutting into words and pieces. Letters are
        # made small before, by Python's rules, which know a word's end.
        pieces = read_pieces(path, {"do_lower_case": False})
        normalizer = tokenizers_library().normalizers.BertNormalizer
        self._clean = normalizer(
            clean_text=True, handle_chinese_chars=how["handle_chinese_chars"],
            strip_accents=False, lowercase=False,
        )  # fmt: skip
        self._backend = pieces.backend
        self._backend.normalizer = normalizer(
            clean_text=False, handle_chinese_chars=False,
            strip_accents=self._lowers if strips is None else strips, lowercase=False,
        )  # fmt: skip
        self._ids = {name: token for token, name in pieces.names.items()}
        for name in _SPECIAL:
            if name not in self._ids:
                raise ValueError(
                    f"{path} has no {name}, which the vocabulary of a ProphetNet needs: is it that "
                    "of another model?"
                )
        special = {name: self._ids[name] for name in _SPECIAL}
        added = number(stated.all_special(), self._ids.get, len(pieces.names), pieces.names.get)
        special |= added.special
        own = {**special, **added.plain}
        super().__init__(
            own,
            left=stated.having("lstrip"),
            right=stated.having("rstrip"),
            words=stated.having("single_word"),
        )
        self._alone = splitter(special, alone=special)
        self._skipped = frozenset(special.values())
        self._names = {**pieces.names, **{token: name for name, token in own.items()}}

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        skipped = self._skipped if skip_special_tokens else ()
        named = (
            [self._names[token] for token in row if token in self._names and token not in skipped]
            for row in rows
        )
        return [" ".join(names).replace(" ##", "").strip() for names in named]

    def frame(self) -> tuple[list[int], list[int]]:
        return [], [self._own["[SEP]"]]

    def token_id(self, token: str) -> int | None:
        return self._own.get(token, self._ids.get(token))

    def _between(self, text: str) -> list[int]:
        clean = unicodedata.normalize("NFC", self._clean.normalize_str(text))
        # Of what was removed may have been within a special token.
        return [token for part in self._alone(clean) for token in self._part(part)]

    def _part(self, part: str) -> list[int]:
        if part in self._own:
            return [self._own[part]]
        text = part.lower() if self._lowers else part
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def _content(token: str | Mapping[str, Any]) -> Any:
    """That of a token as tokenizer_config.json has it."""
    return token if isinstance(token, str) else token.get("content")


class XLMProphetNetPieces(SplitVocabulary):
    """A sentencepiece model behind tokens of BERT's names and ten that are not used."""

    max_length = LONGEST
    OFFSET = 12
    """What is added to the ids of the model."""
    FIRST = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")

    def __init__(self, path: Path, stated: Stated) -> None:
        """Read the model at `path`; ValueError if it, or the library, cannot be had."""
        roles = {**_ROLES, "bos_token": "[SEP]", "eos_token": "[SEP]", "cls_token": "[CLS]"}
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

    def token_id(self, token: str) -> int | None:
        return self._own.get(token, self._ids.get(token))

    def _between(self, text: str) -> list[int]:
        unknown = self._own["[UNK]"]
        return [piece + self.OFFSET if piece else unknown for piece in self._model.encode(text)]
