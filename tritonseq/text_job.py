"""Texts through one model: all are read first, then answered in batches of like lengths."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from .config import GenerationConfig
    from .request import Request
    from .text import Tokenizer


class Answer(NamedTuple):
    """A text that was generated."""

    text: str
    tokens: int
    """How many tokens were chosen for it; the end token counts, padding does not."""


@dataclass(frozen=True)
class TextJob:
    """How texts become ids, and what is done with them: `Model.generate_text` in its steps."""

    tokenizer: Tokenizer
    request: Request
    src_lang: str | None = None
    tgt_lang: str | None = None
    prefix: str = ""
    max_length: int | None = None
    """Longer sources are cut to so many ids; None cuts nothing."""

    def ids(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text; ValueError, as from `Tokenizer.rows`, if one cannot be had."""
        return self.tokenizer.rows(
            texts,
            src_lang=self.src_lang,
            tgt_lang=self.tgt_lang,
            prefix=self.prefix,
            max_length=self.max_length,
        )

    def read(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text, if the model can answer it.

        Raises ValueError, which starts with "text" and its index, for the first text that has no
        tokens or more than there is room for. Warns if it is left open which language to write.
        """
        if not isinstance(texts, str) and hasattr(texts, "__iter__"):
            texts = list(texts)  # an iterator can be read once only
        rows = self.ids(texts)
        self._warn_of_open_target(texts)
        room = self._room()
        for index, row in enumerate(rows):
            if room is not None and len(row) > room:
                raise ValueError(f"text {index} has {len(row)} tokens, {self._remedy(room)}")
        return rows

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids `[B, S]` and mask `[B, S]`, padded on the side that the model wants."""
        side = "right" if self.request.decoder.is_encoder_decoder else "left"
        return self.tokenizer.pad(rows, pad_id=self.request.config.fill_token_id or 0, side=side)

    def answers(
        self, rows: Sequence[Sequence[int]], batch_size: int, *, window: int | None = None
    ) -> Iterator[Answer]:
        """Answers in the order of `rows`, num_return_sequences for each.

        Batches are formed by length within each `window` of rows (None: within all), and answers
        come when a window is done. Rows keep their order where it could be noticed: when
        sampling, and with functions of the caller's that are handed whole batches.
        """
        span = window or len(rows)
        for first in range(0, len(rows), span):
            places = range(first, min(first + span, len(rows)))
            # The longest first: if a batch does not fit into memory, it is the first one.
            order = (
                list(places)
                if self.request.counts_rows
                else sorted(places, key=lambda place: -len(rows[place]))
            )
            answered: dict[int, list[Answer]] = {}
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                answered |= zip(batch, self._batch(rows, batch), strict=True)
            for place in places:
                yield from answered[place]

    def _batch(
        self, rows: Sequence[Sequence[int]], places: Sequence[int]
    ) -> Iterator[list[Answer]]:
        """The answers to each of the rows at `places`."""
        ids, mask = self.pad([rows[place] for place in places])
        output = self.request.part(places, len(rows)).run(ids, mask)
        encodes = self.request.decoder.is_encoder_decoder
        new = output.sequences[:, 0 if encodes else ids.shape[1] :].tolist()
        # The decoder's own start is none of the tokens that were chosen.
        counts = (chosen(row, self.request.config) - encodes for row in new)
        answers = list(map(Answer, self.tokenizer.decode(new), counts))
        copies = len(answers) // len(places)
        return (answers[first : first + copies] for first in range(0, len(answers), copies))

    def _room(self) -> int | None:
        """The most ids that a text may have, by the model's positions; None for any number."""
        decoder, config = self.request.decoder, self.request.config
        if decoder.is_encoder_decoder:
            limit: int | None = decoder.max_source_positions
            return limit
        positions: int | None = decoder.max_positions
        if positions is not None and config.max_new_tokens is not None:
            # The last token is chosen but never fed back, so it needs no position.
            return positions - config.max_new_tokens + 1
        if config.max_new_tokens is None and config.max_length is not None:
            return min(config.max_length - 1, positions or config.max_length)
        return positions

    def _remedy(self, room: int) -> str:
        if self.request.decoder.is_encoder_decoder:
            return (
                f"and the encoder has {room} positions: shorten it, or have it cut by "
                "truncation=True (--truncation)"
            )
        return (
            f"and beside what is generated there is room for {max(room, 0)}: shorten it, or pass "
            "another max_new_tokens (--max-new-tokens)"
        )

    def _warn_of_open_target(self, texts: Iterable[str]) -> None:
        begun = self.request.decoder_input_ids is not None
        if self.tgt_lang or begun or self.request.config.forced_bos_token_id is not None:
            return
        if self.tokenizer.leaves_target_open([self.prefix + text for text in texts]):
            codes = self.tokenizer.languages()
            warnings.warn(
                f"this checkpoint writes {len(codes)} languages and was not told which one: pass "
                f"tgt_lang (--tgt-lang), such as {codes[0]!r}",
                stacklevel=4,
            )


def chosen(row: Sequence[int], config: GenerationConfig) -> int:
    """Tokens of a row without what fills it up; the end token counts."""
    fill = -1 if config.fill_token_id is None else config.fill_token_id
    count = len(row)
    while count and row[count - 1] == fill:
        count -= 1
    return count + (count < len(row) and fill in config.eos_token_ids)
