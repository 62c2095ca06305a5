"""FSMT, fairseq's models of WMT: words of Moses, cut by fastBPE, and a vocabulary per language.

Ng et al., "Facebook FAIR's WMT19 News Translation Task Submission", 2019; Koehn et al., "Moses:
Open Source Toolkit for Statistical Machine Translation", 2007; Sennrich et al., "Neural Machine
Translation of Rare Words with Subword Units", 2016.
"""

# ruff: noqa: RUF001 (characters that look like others are what Moses is about)

from __future__ import annotations

import heapq
import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tritonseq.checkpoint.files import read_text
from tritonseq.shown import shown

from .sentencepiece import FAIRSEQ
from .special_tokens import read_numbered
from .vocabulary import SplitVocabulary

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path
    from typing import TypeGuard

    from .special_tokens import Stated

_END = "</w>"
"""What the last piece of a word ends with."""

_ROLES = {"bos_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}

_KEPT_WORDS = 2**16
"""Words whose pieces are remembered."""

# Punctuation and digits of other scripts, each beside what it becomes.
_REPLACED = {
    **dict(zip("，、∶：？）！（；～’━〈〉【】％", ",,::?)!(;~'-<>[]%", strict=True)),
    **dict.fromkeys("”“《》」「", '"'),
    **dict(zip("０１２３４５６７８９", "0123456789", strict=True)),
    "…": "...",
}  # fmt: skip
_TABLE = str.maketrans(_REPLACED)
_FULL_STOP = re.compile(r"[。．]\s*")


class FsmtVocabulary:
    """Texts of one language in, texts of another one out; made by `fsmt_vocabulary`."""

    def __init__(self, source: FsmtSide, target: FsmtSide, language: str) -> None:
        self.target = target
        """What reads texts as the model writes them, such as words that it must not."""
        self.language = language
        """That of the texts which are read."""
        self._source = source

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self._source.encode(texts)

    def pieces(self) -> dict[int, bytes]:
        raise ValueError(
            "the text of FSMT is put together from whole words by Moses, so tokens add nothing "
            "to a text that could be known beforehand: leave stop_strings out"
        )

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        return self.target.decode(rows, skip_special_tokens=skip_special_tokens)

    def frame(self) -> tuple[list[int], list[int]]:
        return self._source.frame()

    def token_id(self, token: str) -> int | None:
        return self._source.token_id(token)


class FsmtSide(SplitVocabulary):
    """One of the languages."""

    def __init__(
        self,
        ids: Mapping[str, int],
        special: Collection[str],
        stated: Stated,
        moses: Moses,
        merges: Merges,
        *,
        lowers: bool = False,
    ) -> None:
        """`ids` are those of all tokens; `special`, and what is `stated`, stay whole in a text.

        With `lowers`, what is between them has no capital letters.
        """
        own = {name: ids[name] for name in (*special, *(token.content for token in stated.tokens))}
        super().__init__(
            own,
            left=stated.having("lstrip"),
            right=stated.having("rstrip"),
            words=stated.having("single_word"),
        )
        self._ids, self._unknown, self._end = ids, ids["<unk>"], ids["</s>"]
        self._names = {token: name for name, token in ids.items()}
        self._special = {ids[name] for name in special}
        self._moses, self._merges, self._lowers = moses, merges, lowers

    def decode(
        self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        skipped = self._special if skip_special_tokens else set[int]()
        return [self._text([token for token in row if token not in skipped]) for row in rows]

    def frame(self) -> tuple[list[int], list[int]]:
        return [], [self._end]

    def token_id(self, token: str) -> int | None:
        return self._ids.get(token)

    def _text(self, row: Sequence[int]) -> str:
        pieces = (self._names.get(token, "").replace(" ", "") for token in row)
        return self._moses.join("".join(pieces).replace(_END, " ").split())

    def _between(self, text: str) -> list[int]:
        words = self._moses.split(text.lower() if self._lowers else text)
        pieces = (piece for word in words for piece in self._merges.pieces(word))
        return [self._ids.get(piece, self._unknown) for piece in pieces]


class Merges:
    """fastBPE: which neighbours become one piece, the first of the list before all others.

    The `tokenizers` library wants a vocabulary that has every piece on the way, which fairseq's
    has not, and where a merge makes a piece that an earlier one takes, it takes that at once, and
    not when all of the merge is done.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        """`pairs` in their order; of two that are equal, the later one counts."""
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self.pieces = lru_cache(_KEPT_WORDS)(self._pieces)
        """The pieces of a word, which is not empty."""

    def _pieces(self, word: str) -> tuple[str, ...]:
        """In a time of n log n for n letters."""
        pieces: list[str] = [*word[:-1], word[-1] + _END]
        before, after = list(range(-1, len(pieces) - 1)), list(range(1, len(pieces) + 1))
        places: dict[int, list[int]] = {}  # where a merge can be done, by its rank
        waiting: list[int] = []  # a heap of these ranks

        def rank_at(left: int) -> int | None:
            right = after[left]
            if right == len(pieces):
                return None
            return self._ranks.get((pieces[left], pieces[right]))

        def note(left: int) -> None:
            if (rank := rank_at(left)) is not None:
                if rank not in places:
                    heapq.heappush(waiting, rank)
                places.setdefault(rank, []).append(left)

        for left in range(len(pieces)):
            note(left)
        while waiting:
            rank = heapq.heappop(waiting)
            for left in sorted(places.pop(rank)):
                # A merge before it may have taken one of the two.
                if not pieces[left] or rank_at(left) != rank:
                    continue
                right = after[left]
                pieces[left], pieces[right] = pieces[left] + pieces[right], ""
                after[left] = after[right]
                if after[left] < len(pieces):
                    before[after[left]] = left
                note(left)
                if before[left] >= 0:
                    note(before[left])
        return tuple(piece for piece in pieces if piece)


def fsmt_vocabulary(
    folder: Path, config: Mapping[str, Any], model: Mapping[str, Any], stated: Stated
) -> FsmtVocabulary:
    """Read `vocab-src.json`, `vocab-tgt.json` and `merges.txt`.

    `config` is tokenizer_config.json, which may say `do_lower_case` and the two `langs`; if it does
    not say these, `model` does, the configuration of the network. Raises ValueError for files that
    are damaged, and if the `moses` extra is missing.
    """
    stated.expect("FSMTTokenizer", **_ROLES)
    languages = config.get("langs") or model.get("langs")
    if not _is_pair(languages):
        raise ValueError(
            f"{stated.path} says langs is {shown(languages)}: FSMT's tokenizer needs the language "
            "that it reads and the one that it writes, such as ['en', 'de']"
        )
    paths = [folder / f"vocab-{side}.json" for side in ("src", "tgt")]
    vocabularies = [read_numbered(path) for path in paths]
    _check_own(paths, vocabularies, stated)
    merges = read_merges(folder / "merges.txt")
    lowers = config.get("do_lower_case") is True
    special = {*FAIRSEQ, *(token.content for token in stated.all_special().tokens if token.special)}
    source, target = (
        FsmtSide(ids, special, stated, Moses(language), merges, lowers=lowers)
        for ids, language in zip(vocabularies, languages, strict=True)
    )
    return FsmtVocabulary(source, target, languages[0])


def _is_pair(languages: Any) -> TypeGuard[list[str]]:
    is_list = isinstance(languages, list) and len(languages) == 2
    return is_list and all(isinstance(language, str) for language in languages)


def _check_own(
    paths: Sequence[Path], vocabularies: Sequence[Mapping[str, int]], stated: Stated
) -> None:
    """Raise ValueError unless special and added tokens have one id, on either side."""
    ids = {token.content: token.id for token in stated.tokens}
    for name in (*FAIRSEQ, *ids):
        wanted = ids.get(name)
        for path, vocabulary in zip(paths, vocabularies, strict=True):
            found = vocabulary.get(name)
            wanted = found if wanted is None else wanted
            if found is None or found != wanted:
                raise ValueError(
                    f"{path} has {'no ' if found is None else ''}{shown(name)}"
                    f"{'' if found is None else f' at {found}'}, and elsewhere it has the id "
                    f"{wanted}: special and added tokens of FSMT have the same id in "
                    "vocab-src.json and vocab-tgt.json; are these of one checkpoint?"
                )


def read_merges(path: Path) -> Merges:
    """Two pieces a line, and perhaps how often they were seen."""
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    pairs: list[tuple[str, str]] = []
    for count, line in enumerate(lines, start=1):
        words = line.split()
        if len(words) < 2:
            raise ValueError(
                f"line {count} of {path} is {shown(line)}, not two pieces: fetch it again"
            )
        pairs.append((words[0], words[1]))
    return Merges(pairs)


class Moses:
    """The words of texts in one language."""

    def __init__(self, language: str) -> None:
        """`language`: a code such as "en"; of one that sacremoses does not know, English's rules.

        Raises ValueError if the `moses` extra is missing.
        """
        library = _library()
        self._normalizer = library.MosesPunctNormalizer(lang=language)
        self._tokenizer = library.MosesTokenizer(lang=language)
        self._detokenizer = library.MosesDetokenizer(lang=language)
        # The library makes sets of a hundred thousand letters for every word that a full stop
        # ends, which is most of its time: these say the same.
        lower, letters = frozenset(self._tokenizer.IsLower), frozenset(self._tokenizer.IsAlpha)
        self._tokenizer.islower = lower.issuperset
        self._tokenizer.isanyalpha = lambda text: not letters.isdisjoint(text)

    def split(self, text: str) -> list[str]:
        """The words of a text; "-" within one is "@-@", and what XML escapes is escaped."""
        text = _FULL_STOP.sub(". ", text.translate(_TABLE))
        text = _printing(self._normalizer.normalize(text))
        words: list[str] = self._tokenizer.tokenize(
            text, aggressive_dash_splits=True, return_str=False, escape=True
        )
        return words

    def join(self, words: Sequence[str]) -> str:
        """The text of such words."""
        text: str = self._detokenizer.detokenize(words)
        return text


def _printing(text: str) -> str:
    """Without control characters, line breaks too, and what Unicode has not assigned."""
    return "".join(char for char in text if unicodedata.category(char)[0] != "C")


def _library() -> Any:
    try:
        import sacremoses
    except ImportError:
        raise ValueError(
            "this checkpoint's text needs the sacremoses library: pip install 'tritonseq[moses]' "
            "(generate and stream take token ids without it)"
        ) from None
    return sacremoses
