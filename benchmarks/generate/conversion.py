"""A checkpoint's copy in CTranslate2's own format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def converted(folder: Path) -> Path:
    """CTranslate2's copy of a checkpoint, beside it, made if it is not there yet."""
    copy = folder / "ctranslate2"
    if copy.exists():
        return copy
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_tokenizer(self, *_: Any, **__: Any) -> Numerals:
            return Numerals(self.vocabulary, self.padding)

        def load_model(self, *args: Any, **options: Any) -> Any:
            model = super().load_model(*args, **options)
            self.vocabulary = model.config.vocab_size
            self.padding = model.config.pad_token_id if model.config.model_type == "marian" else 0
            return model

    Converter(str(folder)).convert(str(copy))
    return copy


class Numerals:
    """As much of a tokenizer as the converter asks for, where a token is its id in figures.

    But for padding behind all words, Marian's, which the converter knows by its name and drops.
    """

    bos_token = "1"
    eos_token = "2"
    unk_token = "3"

    def __init__(self, vocabulary: int, padding: int) -> None:
        self.vocabulary = vocabulary
        self.padding = padding
        self.pad_token = self.convert_ids_to_tokens(padding)
        self.special_tokens_map: dict[str, str] = {}

    def get_vocab(self) -> dict[str, int]:
        return {self.convert_ids_to_tokens(token): token for token in range(self.vocabulary)}

    def convert_ids_to_tokens(self, token: int) -> str:
        return "<pad>" if token == self.padding == self.vocabulary - 1 else str(token)
