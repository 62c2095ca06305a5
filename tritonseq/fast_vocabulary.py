"""tokenizer.json and byte-level BPE, by the `tokenizers` library."""

from __future__ import annotations

import contextlib
import re
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from .json_files import read_bytes, refuse_unfit
from .special_tokens import differing, read_numbered
from .text_growth import refuse_growth

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .special_tokens import Stated

    Frame = tuple[list[int], list[int]]

# The most that a token of generated ids can be; the library has 32 bits for them.
_MOST = 2**32


class FastVocabulary:
    """A tokenizer of the `tokenizers` library, with the frame of special tokens that it has."""

    def __init__(self, backend: Any, frame: Frame | None = None) -> None:
        """`frame` are the ids around every text; by default what the post-processor puts there."""
        # A tokenizer.json may carry the padding and truncation of whoever saved it.
        saved = backend.truncation or {}
        self.saved_side: str | None = saved.get("direction")
        """The side on which that cuts texts."""
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.own_frame = frame

    @property
    def is_bpe(self) -> bool:
        """Are its tokens merged from smaller ones, with their spaces?"""
        return type(self.backend.model).__name__ == "BPE"

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        except BaseException as error:
            if not _is_of_library(error):
                raise
            for index, text in enumerate(texts if len(texts) > 1 else ()):
                try:
                    self.encode([text])
                except ValueError as fault:
                    raise ValueError(str(fault).replace("text 0", f"text {index}", 1)) from None
            raise ValueError(f"text 0: the tokenizer fails at it: {error}") from None
        return [encoding.ids for encoding in encodings]

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        known = [[token for token in row if token < _MOST] for row in rows]
        texts: list[str] = self.backend.decode_batch(known, skip_special_tokens=skip_special_tokens)
        return texts

    def frame(self) -> Frame:
        if self.own_frame is None:
            self.own_frame = _found_frame(self.backend)
        return self.own_frame

    def token_id(self, token: str) -> int | None:
        found: int | None = self.backend.token_to_id(token)
        return found


class OneLineVocabulary(FastVocabulary):
    """That of a UniLM trained from RoBERTa: an answer ends at </s> or <pad>, and is one line."""

    def __init__(self, fast: FastVocabulary, *, pos_shift: bool = False) -> None:
        """With `pos_shift`, no </s> ends a source."""
        super().__init__(fast.backend, fast.own_frame)
        self._pos_shift = pos_shift
        self._ends = {self.token_id(name) for name in ("</s>", "<pad>")}
        self.unknown_id = self.token_id("<unk>")
        """What stands for unknown tokens of texts that are cut already."""

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        ends = self._ends if skip_special_tokens else set()
        cut = [list(takewhile(lambda token: token not in ends, row)) for row in rows]
        texts = super().decode(cut, skip_special_tokens=False)
        return [text.replace("\n", " [X_SEP] ") for text in texts]

    def frame(self) -> Frame:
        before, behind = super().frame()
        return before, [] if self._pos_shift else behind


def saved_vocabulary(path: Path, stated: Stated) -> FastVocabulary:
    """That of a `tokenizer.json`, with the special tokens that files beside it name.

    Raises ValueError if it is damaged, or the `text` extra is missing.
    """
    library = tokenizers_library()
    refuse_unfit(path)
    _check_table(path)
    with library_errors(path):
        backend = library.Tokenizer.from_file(str(path))
    refuse_growth(path, backend)
    add_tokens(backend, stated)
    check_ids(path, backend)
    return FastVocabulary(backend)


def byte_level(
    folder: Path, stated: Stated, *, framed: bool, add_prefix_space: bool
) -> FastVocabulary:
    """GPT-2's scheme by `vocab.json` and `merges.txt`: words with their leading space, as bytes.

    With `framed`, <s> stands before and </s> behind every text, as BART wants it; without, the
    end of text is special where the vocabulary has it. Raises ValueError if files are damaged, or
    the `text` extra is missing.
    """
    library = tokenizers_library()
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    refuse_unfit(merges)
    read_numbered(vocab)
    with library_errors(merges):
        backend = library.Tokenizer(library.models.BPE.from_file(str(vocab), str(merges)))
    backend.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = library.decoders.ByteLevel()
    if not framed and backend.token_to_id("<|endoftext|>") is not None:
        backend.add_special_tokens(["<|endoftext|>"])
    add_tokens(backend, stated)
    frame = _frame_of_bart(library, backend, folder, stated) if framed else ([], [])
    check_ids(vocab, backend)
    return FastVocabulary(backend, frame)


def add_tokens(backend: Any, stated: Stated) -> None:
    """Add what files beside a vocabulary name; ValueError if a token is not where they say."""
    library = tokenizers_library()
    added = {token.content: token.special for token in backend.get_added_tokens_decoder().values()}
    # In one call: the library goes through all that it has in each. A special token stays one.
    backend.add_tokens(
        [
            library.AddedToken(token.content, special=token.special, **token.flags)
            for token in stated.tokens
            if token.content not in added or token.special > added[token.content]
        ]
    )
    for token in stated.tokens:
        found = backend.token_to_id(token.content)
        if token.id is not None and found != token.id:
            raise differing(stated, token, found)


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


@contextlib.contextmanager
def library_errors(path: Path) -> Iterator[None]:
    """What the library raises while it reads a file, as ValueErrors that name the file."""
    try:
        yield
    except BaseException as error:
        if not _is_of_library(error):
            raise
        raise ValueError(f"the tokenizer in {path} cannot be read: {error}") from error


def _is_of_library(error: BaseException) -> bool:
    """It raises bare Exceptions; its panics derive from nothing narrower than BaseException."""
    if isinstance(error, MemoryError):
        return False
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _check_table(path: Path) -> None:
    """Raise ValueError for a table of equal characters that the library would panic at."""
    content = read_bytes(path)
    tables = re.findall(rb'"precompiled_charsmap"\s*:\s*"([A-Za-z0-9+/]*={0,2})"', content)
    if len(tables) < len(re.findall(rb'"type"\s*:\s*"Precompiled"', content)) or any(
        len(table) % 4 for table in tables
    ):
        raise ValueError(
            f"the tokenizer in {path} cannot be read: precompiled_charsmap is no base64"
        )


def _found_frame(backend: Any) -> Frame:
    """What the post-processor puts around any token at all."""
    for name in backend.get_vocab():
        with contextlib.suppress(Exception):
            inner = backend.encode(name, add_special_tokens=False)
            if not inner.ids:
                continue
            framed = backend.post_process(inner)
            first = framed.special_tokens_mask.index(0)
            return framed.ids[:first], framed.ids[first + len(inner.ids) :]
    raise ValueError(
        "tokenizer.json is damaged: no token of its vocabulary comes out of it again, framed by "
        "its special tokens; fetch it again, or call generate with token ids"
    )


def _frame_of_bart(library: Any, backend: Any, folder: Path, stated: Stated) -> Frame:
    """<s> and </s> around every text, and BART's other special tokens."""
    stated.expect("BartTokenizer", cls_token="<s>", sep_token="</s>", unk_token="<unk>")
    for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>"):
        if backend.token_to_id(name) is None:
            raise ValueError(f"the vocabulary in {folder} has no {name}, which BART's have")
        strip = name == "<mask>"
        backend.add_special_tokens([library.AddedToken(name, lstrip=strip, normalized=False)])
    return [backend.token_to_id("<s>")], [backend.token_to_id("</s>")]


def check_ids(path: Path, backend: Any) -> None:
    """Raise ValueError if an added token got the id of another one: where ids have holes."""
    ids = backend.get_vocab().values()
    if len(set(ids)) < len(ids):
        raise ValueError(
            f"{path} is damaged: with the tokens that are added to it, several have the same id; "
            "fetch it again"
        )
