"""tokenizer.json and byte-level BPE, by the `tokenizers` library."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any

from .json_files import read_json, refuse_pointer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

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


class FastVocabulary:
    """A tokenizer of the `tokenizers` library, with the frame of special tokens that it has."""

    def __init__(self, backend: Any) -> None:
        # A tokenizer.json may carry the padding and truncation of whoever saved it.
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend

    @classmethod
    def from_folder(
        cls, folder: Path, config: dict[str, Any], *, framed: bool = False
    ) -> FastVocabulary:
        """Read `tokenizer.json`, else byte-level BPE of `vocab.json` and `merges.txt`.

        Special tokens named by `tokenizer_config.json` (`config`) and `special_tokens_map.json`
        are added. With `framed`, byte-level BPE puts <s> before and </s> behind every text, as
        BART wants it. Raises ValueError if files are damaged, or the `text` extra is missing.
        """
        library = tokenizers_library()
        whole, vocab, merges = (
            folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt")
        )
        for path in (whole, vocab, merges):
            refuse_pointer(path)
        try:
            if whole.is_file():
                backend = library.Tokenizer.from_file(str(whole))
            else:
                backend = _byte_level(library, vocab, merges, bool(config.get("add_prefix_space")))
        except Exception as error:  # the library raises bare Exceptions
            raise ValueError(f"the tokenizer in {folder} cannot be read: {error}") from error
        _add_special_tokens(library, backend, folder)
        if framed and not whole.is_file():
            backend.post_processor = _frame(library, backend, folder)
        return cls(backend)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        texts: list[str] = self.backend.decode_batch(rows, skip_special_tokens=True)
        return texts

    def frame(self) -> tuple[list[int], list[int]]:
        # What the post-processor puts around any token at all.
        tokens = map(self.backend.id_to_token, range(self.backend.get_vocab_size()))
        encodings = (self.backend.encode(t, add_special_tokens=False) for t in tokens if t)
        inner = next(encoding for encoding in encodings if encoding.ids)
        framed = self.backend.post_process(inner)
        first = framed.special_tokens_mask.index(0)
        return framed.ids[:first], framed.ids[first + len(inner.ids) :]

    def token_id(self, token: str) -> int | None:
        found: int | None = self.backend.token_to_id(token)
        return found


class OneLineVocabulary(FastVocabulary):
    """That of a UniLM trained from RoBERTa: an answer ends at </s> or <pad>, and is one line."""

    def __init__(self, backend: Any, *, pos_shift: bool = False) -> None:
        """With `pos_shift`, no </s> ends a source."""
        super().__init__(backend)
        self._pos_shift = pos_shift
        self._ends = {self.token_id(name) for name in ("</s>", "<pad>")}
        self.unknown_id = self.token_id("<unk>")
        """What stands for unknown tokens of texts that are cut already."""

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        cut = [list(takewhile(lambda token: token not in self._ends, row)) for row in rows]
        texts: list[str] = self.backend.decode_batch(cut, skip_special_tokens=False)
        return [text.replace("\n", " [X_SEP] ") for text in texts]

    def frame(self) -> tuple[list[int], list[int]]:
        before, behind = super().frame()
        return before, [] if self._pos_shift else behind


def tokenizers_library() -> Any:
    """The `tokenizers` library; ValueError if the `text` extra is missing."""
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


def _frame(library: Any, backend: Any, folder: Path) -> Any:
    """<s> and </s> around every text, and BART's other special tokens."""
    for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>"):
        if backend.token_to_id(name) is None:
            raise ValueError(f"the vocabulary in {folder} has no {name}, which BART's have")
        strip = name == "<mask>"
        backend.add_special_tokens([library.AddedToken(name, lstrip=strip, normalized=False)])
    ends = [(name, backend.token_to_id(name)) for name in ("<s>", "</s>")]
    return library.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)


def _add_special_tokens(library: Any, backend: Any, folder: Path) -> None:
    known = {
        token.content for token in backend.get_added_tokens_decoder().values() if token.special
    }
    for path in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        try:
            tokens = [
                library.AddedToken(content, special=True, **flags)
                for content, flags in _special_tokens(_optional_json(path))
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


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
