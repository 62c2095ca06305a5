"""Text to ids and back, with the tokenizer files that lie beside a checkpoint's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_ROLES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


class Tokenizer:
    """A tokenizer of the `tokenizers` library that speaks in padded batches.

    Made by `from_folder`; the wrapped object is `backend`.
    """

    def __init__(self, backend: Any) -> None:
        # A tokenizer.json may carry the padding and truncation of whoever saved it.
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read `tokenizer.json`, else GPT-2's byte-level BPE of `vocab.json` and `merges.txt`.

        Special tokens named by `tokenizer_config.json` and `special_tokens_map.json` are added.
        Raises ValueError if the files are missing or damaged, or the `text` extra is.
        """
        library = _library()
        folder = Path(folder)
        whole, vocab, merges = (
            folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt")
        )
        config = _read_json(folder / "tokenizer_config.json")
        if not whole.is_file() and not (vocab.is_file() and merges.is_file()):
            raise ValueError(
                f"{folder} has no tokenizer: tokenizer.json, or vocab.json and merges.txt, must "
                "lie beside the weights; without them, call generate with token ids"
            )
        try:
            if whole.is_file():
                backend = library.Tokenizer.from_file(str(whole))
            else:
                backend = _byte_level(library, vocab, merges, bool(config.get("add_prefix_space")))
        except Exception as error:  # the library raises bare Exceptions
            raise ValueError(f"the tokenizer in {folder} cannot be read: {error}") from error
        _add_special_tokens(library, backend, folder)
        return cls(backend)

    def encode(
        self, texts: Iterable[str], *, pad_id: int, side: str = "left"
    ) -> tuple[Tensor, Tensor]:
        """Tokenize any iterable of strings: int64 ids `[B, L]` and mask `[B, L]`, 0 on padding.

        L is the longest text; shorter ones are filled with `pad_id` on `side`, "left" or "right".
        Raises ValueError for an empty batch, for a single text that is not in a list, and for
        one that is no string or has no tokens.
        """
        if side not in ("left", "right"):
            raise ValueError(f"side is {side!r}: it must be 'left' or 'right'")
        batch = _checked(texts)
        rows = [encoding.ids for encoding in self.backend.encode_batch(batch)]
        for index, row in enumerate(rows):
            if not row:
                raise ValueError(f"text {index} is empty: every prompt needs at least one token")
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), pad_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            start = width - len(row) if side == "left" else 0
            ids[index, start : start + len(row)] = torch.tensor(row)
            mask[index, start : start + len(row)] = 1
        return ids, mask

    def decode(self, rows: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """The texts of `[B, L]` ids, without special tokens.

        Negative ids, which fill rows where a model has no pad token, are passed over.
        """
        lists = rows.tolist() if isinstance(rows, Tensor) else rows
        kept = [[token for token in row if token >= 0] for row in lists]
        texts: list[str] = self.backend.decode_batch(kept, skip_special_tokens=True)
        return texts


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ValueError(
            "text needs the tokenizers library: pip install 'tritonseq[text]' "
            "(generate and stream take token ids without it)"
        ) from None
    return tokenizers


def _byte_level(library: Any, vocab: Path, merges: Path, add_prefix_space: bool) -> Any:
    """GPT-2's scheme: words with their leading space, as bytes, merged in the order learnt."""
    backend = library.Tokenizer(library.models.BPE.from_file(str(vocab), str(merges)))
    backend.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = library.decoders.ByteLevel()
    if backend.token_to_id("<|endoftext|>") is not None:
        backend.add_special_tokens(["<|endoftext|>"])
    return backend


def _add_special_tokens(library: Any, backend: Any, folder: Path) -> None:
    known = {
        token.content for token in backend.get_added_tokens_decoder().values() if token.special
    }
    for path in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        try:
            tokens = [
                library.AddedToken(content, special=True, **flags)
                for content, flags in _special_tokens(_read_json(path))
            ]
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} names special tokens in a form that cannot be read: each must be a "
                f"string or an object with 'content' ({type(error).__name__}: {error})"
            ) from None
        for token in tokens:
            if token.content not in known:
                backend.add_special_tokens([token])
                known.add(token.content)


def _special_tokens(source: dict[str, Any]) -> Iterator[tuple[str, dict[str, bool]]]:
    """Content and flags, by id, then by role; a file may hold strings or objects."""
    by_id = (source.get("added_tokens_decoder") or {}).items()
    additional = source.get("additional_special_tokens") or []
    if not isinstance(additional, list):
        raise TypeError(f"additional_special_tokens is {additional!r}, not a list")
    tokens = [token for _, token in sorted(by_id, key=_token_id) if token.get("special")]
    tokens += [source[role] for role in _ROLES if source.get(role)]
    tokens += additional
    for token in tokens:
        if isinstance(token, str):
            yield token, {"normalized": False}
        else:
            yield token["content"], {flag: token[flag] for flag in _FLAGS if flag in token}


def _token_id(item: tuple[str, Any]) -> int:
    if not item[0].isdecimal():
        raise TypeError(f"added_tokens_decoder has the key {item[0]!r}, not a token id")
    return int(item[0])


def _checked(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise ValueError("texts must be a list of strings: wrap a single text as [text]")
    if not hasattr(texts, "__iter__"):
        raise ValueError(f"texts must be a list of strings, not {texts!r}")
    batch = list(texts)
    if not batch:
        raise ValueError("texts is empty: pass at least one text")
    for index, text in enumerate(batch):
        if not isinstance(text, str):
            raise ValueError(f"text {index} is {text!r}, not a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"text {index} is not valid Unicode: {error}") from None
    return batch


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content
