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
            return Numerals(self.vocabulary)

        def load_model(self, *args: Any, **options: Any) -> Any:
            model = super().load_model(*args, **options)
            self.vocabulary = model.config.vocab_size
            return model

    Converter(str(folder)).convert(str(copy))
    return copy


class Numerals:
    """As much of a tokenizer as the converter asks for, where a token is its id in figures."""

    pad_token = "0"
    bos_token = "1"
    eos_token = "2"
    unk_token = "3"

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def get_vocab(self) -> dict[str, int]:
        return {str(token): token for token in range(self.vocabulary)}

    def convert_ids_to_tokens(self, token: int) -> str:
        return str(token)
