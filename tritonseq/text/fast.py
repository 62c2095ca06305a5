"""Vocabularies of the `tokenizers` library: tokenizer.json, and GPT-2's byte-level BPE."""

from __future__ import annotations

import contextlib
import json
import math
import re
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from tritonseq.checkpoint.files import read_bytes, refuse_unfit
from tritonseq.errors import TextError

from .special_tokens import FLAGS, MOST_IDS, differing, read_numbered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .special_tokens import Stated, Token

    Frame = tuple[list[int], list[int]]


MOST_TIMES = 4096
"""By which steps may make a text longer: those of published tokenizers, two or three times."""


BEHIND = "abcdef"
"""A text that tokens are put behind to see what they add."""


class FastVocabulary:
    """A tokenizer of the `tokenizers` library, with the frame of special tokens that it has."""

    def __init__(self, backend: Any, frame: Frame | None = None) -> None:
        """`frame` are the ids around every text; by default what the post-processor puts there."""
        # A tokenizer.json may carry the padding and truncation of the run that saved it.
        saved = backend.truncation or {}
        self.saved_side: str | None = saved.get("direction")
        """The side on which that cuts texts."""
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.own_frame = frame

    @property
    def is_bpe(self) -> bool:
        """Whether its tokens are merged from smaller ones, with their spaces."""
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
                except TextError as fault:
                    raise fault.at(index) from None
            raise TextError(0, f": the tokenizer fails at it: {error}") from None
        return [encoding.ids for encoding in encodings]

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        known = [[token for token in row if token < MOST_IDS] for row in rows]
        texts: list[str] = self.backend.decode_batch(known, skip_special_tokens=skip_special_tokens)
        return texts

    def frame(self) -> Frame:
        if self.own_frame is None:
            self.own_frame = _found_frame(self.backend)
        return self.own_frame

    def token_id(self, token: str) -> int | None:
        found: int | None = self.backend.token_to_id(token)
        return found

    def pieces(self) -> dict[int, bytes]:
        return _pieces(self.backend)

    def names(self) -> list[str]:
        """What all tokens are called, by their ids."""
        ids = self.backend.get_vocab()
        return sorted(ids, key=ids.__getitem__)


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


def read_saved(path: Path) -> Any:
    """What a `tokenizer.json` describes, as an object of the library.

    Raises ValueError if it is damaged, or the `text` extra is missing.
    """
    library = tokenizers_library()
    refuse_unfit(path)
    _check_table(path)
    with library_errors(path):
        backend = library.Tokenizer.from_file(str(path))
    _refuse_growth(path, backend)
    return backend


def saved_vocabulary(path: Path, backend: Any, stated: Stated) -> FastVocabulary:
    """That of a `tokenizer.json` as it is, with the tokens that files beside it name.

    `backend` was read from `path`. Raises ValueError for tokens that are not where they are said
    to be, and for a model that cuts texts at random.
    """
    if getattr(backend.model, "dropout", None):
        raise ValueError(
            f"{path} says dropout is {backend.model.dropout}: the same text would have other ids "
            "each time. That is for training; put null there"
        )
    add_tokens(backend, stated)
    check_ids(path, backend)
    return FastVocabulary(backend)


def merged_bytes(folder: Path) -> Any:
    """GPT-2's scheme by `vocab.json` and `merges.txt`: words with their leading space, as bytes.

    What is around that scheme, its class brings. Raises ValueError if files are damaged, or the
    `text` extra is missing.
    """
    library = tokenizers_library()
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    refuse_unfit(merges)
    read_numbered(vocab)
    with library_errors(merges):
        return library.Tokenizer(library.models.BPE.from_file(str(vocab), str(merges)))


def add_tokens(backend: Any, stated: Stated) -> None:
    """Add what files beside a vocabulary name; ValueError if a token is not where they say."""
    library = tokenizers_library()
    held = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    wanted = ((token, _added(token, held.get(token.content))) for token in stated.tokens)
    # In one call: the library goes through all that it has in each. A special token stays one.
    backend.add_tokens(
        [library.AddedToken(token.content, **added) for token, added in wanted if added is not None]
    )
    for token in stated.tokens:
        found = backend.token_to_id(token.content)
        if token.id is not None and found != token.id:
            raise differing(stated, token, found)


def _added(token: Token, held: Any) -> dict[str, bool] | None:
    """The flags to add a token with; None if it is `held` already as it should be."""
    known = {} if held is None else {flag: getattr(held, flag) for flag in ("special", *FLAGS)}
    stated = {**token.flags, "special": token.special}
    if held is None or token.is_whole:
        return stated if stated != known else None
    return {**known, "special": True} if token.special and not held.special else None


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
def library_errors(
    path: Path | str, says: str = "the tokenizer in {path} cannot be read: {error}"
) -> Iterator[None]:
    """What the library raises while it works on a file, as ValueErrors that name the file."""
    try:
        yield
    except BaseException as error:
        if not _is_of_library(error):
            raise
        raise ValueError(says.format(path=path, error=error)) from error


def _pieces(backend: Any) -> dict[int, bytes]:
    """What each token adds to a text, by the steps that put texts together.

    Tokens that are bytes are those bytes; the others are asked for behind a text, since the first
    token of a text may lose its space.
    """
    steps = (
        set()
        if backend.decoder is None
        else set(_kinds(json.loads(backend.decoder.__getstate__())))
    )
    found, base = {}, backend.encode(BEHIND, add_special_tokens=False).tokens
    join = " ".join if backend.decoder is None else backend.decoder.decode
    before = join(base)
    for name, token in backend.get_vocab().items():
        if "ByteFallback" in steps and re.fullmatch("<0x[0-9A-Fa-f]{2}>", name):
            found[token] = bytes((int(name[3:5], 16),))
        elif "ByteLevel" in steps and "ByteFallback" not in steps and set(name) <= _BYTES.keys():
            found[token] = bytes(_BYTES[character] for character in name)
        else:
            found[token] = join([*base, name]).removeprefix(before).encode()
    return found


def _kinds(step: dict[str, Any]) -> Iterator[str]:
    """The kinds of a step and of those within it."""
    yield str(step.get("type"))
    for inner in step.get("decoders") or ():
        yield from _kinds(inner)


def _byte_names() -> dict[str, int]:
    """The byte that each character of byte-level BPE stands for: itself where it is visible, and
    else one of the characters from 256 on, in order. Radford et al., "GPT-2", 2019."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


_BYTES = _byte_names()


def _is_of_library(error: BaseException) -> bool:
    """Whether the library raised it: bare Exceptions, and panics, which are BaseExceptions."""
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
    """What the post-processor puts around any token at all.

    Raises ValueError if it does anything else than that.
    """
    inner = _any_token(backend)
    if inner is None:
        raise ValueError(
            "tokenizer.json is damaged: no token of its vocabulary comes out of it again; fetch it "
            "again, or call generate with token ids"
        )
    with library_errors(
        "tokenizer.json",
        "the post_processor of {path} fails at a text: {error}; call generate with token ids",
    ):
        framed = backend.post_process(inner)
    marks, count = framed.special_tokens_mask, len(inner.ids)
    first = marks.index(0) if 0 in marks else 0
    last = first + count
    if framed.ids[first:last] != inner.ids or sum(marks) != len(marks) - count:
        raise ValueError(
            "the post_processor of tokenizer.json does not put special tokens around every text, "
            "which is all that is supported: write such a one there, or call generate with token "
            "ids"
        )
    return framed.ids[:first], framed.ids[last:]


def _any_token(backend: Any) -> Any:
    """What comes of a text that is the name of a token; None if nothing comes of any of them."""
    for name in _names(backend):
        try:
            inner = backend.encode(name, add_special_tokens=False)
        except Exception:
            continue  # it has a character that the model does not know
        except BaseException as error:
            if not _is_of_library(error):
                raise
            return None  # it would panic at all of them, and say so each time
        if inner.ids:
            return inner
    return None


def _names(backend: Any) -> Iterator[str]:
    """The names of tokens: first of added ones, which nothing is done to before they are found."""
    for token in backend.get_added_tokens_decoder().values():
        yield token.content
    yield from backend.get_vocab()


def check_ids(path: Path, backend: Any) -> None:
    """Raise ValueError if an added token got the id of another one: where ids have holes."""
    ids = backend.get_vocab().values()
    if len(set(ids)) < len(ids):
        raise ValueError(
            f"{path} is damaged: with the tokens that are added to it, several have the same id; "
            "fetch it again"
        )


def _refuse_growth(path: Path, backend: Any) -> None:
    """Raise ValueError if what changes texts, or what joins tokens, can make them too long.

    By what the steps would put there, at every place where they could.
    """
    for name in ("normalizer", "decoder"):
        part = getattr(backend, name)
        times = 1 if part is None else _times(json.loads(part.__getstate__()))
        if times > MOST_TIMES:
            raise ValueError(
                f"{path} is refused: its {name} can make texts more than {MOST_TIMES} times "
                "longer, which no tokenizer does: fetch it again, or call generate with token ids"
            )


def _times(step: dict[str, Any]) -> float:
    """By how much a step can multiply the length of a text that is not empty."""
    kind = step.get("type")
    if kind == "Sequence":
        return math.prod(map(_times, step.get("normalizers") or step.get("decoders") or ()))
    if kind == "Prepend":
        return 1 + len(step["prepend"])
    if kind == "Replace":
        return _replaced(step["pattern"], len(step["content"]))
    return 1


def _replaced(pattern: dict[str, str], length: int) -> float:
    """A pattern of no length is found between all characters, which stay."""
    if shown := pattern.get("String"):
        return max(1, length / len(shown))
    return 1 + length if _can_match_nothing(pattern.get("Regex", "")) else max(1, length)


def _can_match_nothing(pattern: str) -> bool:
    try:
        return re.search(pattern, "") is not None
    except re.error:  # of Oniguruma's own syntax
        return False
