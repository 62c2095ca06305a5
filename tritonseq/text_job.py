"""Texts through one model: all are read first, then answered in batches of like lengths."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .encoding import Encoding
from .found import found
from .lengths import longest_answered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from .encoding import Text
    from .found import Found
    from .outputs import BeamTrace
    from .request import Request
    from .text import Tokenizer


class Answer(NamedTuple):
    """A text that was generated."""

    text: str
    tokens: int
    """How many tokens were chosen for it; the end token counts, padding does not."""
    trace: BeamTrace | None = None
    """The search that found it, `[T, K]` each, where the search is UniLM's."""


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

    @property
    def encoding(self) -> Encoding:
        """How texts become ids, apart from the tokenizer and the network."""
        room = longest_answered(self.request.decoder, self.request.config)
        return Encoding(
            src_lang=self.src_lang,
            tgt_lang=self.tgt_lang,
            prefix=self.prefix,
            max_length=self.max_length,
            room=room,
            remedy="" if room is None else self._remedy(room),
        )

    def ids(self, texts: Iterable[Text]) -> list[list[int]]:
        """The ids of each text; ValueError, as from `Tokenizer.rows`, if one cannot be had."""
        return self.encoding.ids(self.tokenizer, texts)

    def read(self, texts: Iterable[Text]) -> list[list[int]]:
        """The ids of each text, if the model can answer it.

        Raises ValueError, which starts with "text" and its index, for the first text that has no
        tokens or more than there is room for. Warns if it is left open which language to write.
        """
        if not isinstance(texts, str) and hasattr(texts, "__iter__"):
            texts = list(texts)  # an iterator can be read once only
        encoding = self.encoding
        rows = encoding.ids(self.tokenizer, texts)
        self.warn_of_open_target(texts)
        for index, row in enumerate(rows):
            if (excess := encoding.excess(row)) is not None:
                raise ValueError(f"text {index} {excess}")
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
            for batch in self._batches(rows, order, batch_size):
                answered |= zip(batch, self._batch(rows, batch), strict=True)
            for place in places:
                yield from answered[place]

    def _batches(
        self, rows: Sequence[Sequence[int]], order: list[int], batch_size: int
    ) -> Iterator[list[int]]:
        """The places in `order` in batches; who runs out of positions ends nobody else's answer."""
        if not self.request.counts_rows:
            runs_out = {place: self.request.counts_longest(len(rows[place])) for place in order}
            yield from ([place] for place in order if runs_out[place])
            order = [place for place in order if not runs_out[place]]
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]

    def _batch(
        self, rows: Sequence[Sequence[int]], places: Sequence[int]
    ) -> Iterator[list[Answer]]:
        """The answers to each of the rows at `places`."""
        request = self.request.part(places, len(rows))
        samples = self.found([rows[place] for place in places], request)
        texts = iter(self.tokenizer.decode([row for each in samples for row in each.sequences]))
        for each in samples:
            yield [Answer(next(texts), tokens, each.trace) for tokens in each.tokens]

    def found(self, rows: Sequence[Sequence[int]], request: Request | None = None) -> list[Found]:
        """What is generated for each of the rows, in one batch; `request` in place of the job's."""
        ids, mask = self.pad(rows)
        decoder = self.request.decoder
        return found(
            (request or self.request).run(ids, mask),
            self.request.config,
            samples=len(rows),
            start=0 if decoder.is_encoder_decoder else ids.shape[1],
            given=self.given,
        )

    @property
    def given(self) -> int:
        """Tokens of what is decoded that were not chosen: the decoder's own start."""
        decoder = self.request.decoder
        return int(decoder.is_encoder_decoder and not decoder.is_prefix_lm)

    def _remedy(self, room: int) -> str:
        cut = "shorten it, or have it cut by truncation=True (--truncation)"
        if self.request.decoder.is_prefix_lm:
            return f"and beside what is generated there is room for {max(room, 0)}: {cut}"
        if self.request.decoder.is_encoder_decoder:
            return f"and the encoder has {room} positions: {cut}"
        return f"and beside what is generated there is room for {max(room, 0)}: shorten it"

    def warn_of_open_target(self, texts: Iterable[Text]) -> None:
        """Warn if neither options nor texts say which of several languages to write."""
        if not self.asks_for_language:
            return
        message = open_target(self.tokenizer, self.prefix, texts)
        if message is not None:
            warnings.warn(message, stacklevel=4)

    @property
    def asks_for_language(self) -> bool:
        """Is it for the texts to say which of several languages to write?"""
        begun = self.request.decoder_input_ids is not None
        return not (self.tgt_lang or begun or self.request.config.forced_bos_token_id is not None)


def open_target(tokenizer: Tokenizer, prefix: str, texts: Iterable[Text]) -> str | None:
    """What to tell a user who has left it open which of several languages to write."""
    plain = [prefix + text for text in texts if isinstance(text, str)]
    if not tokenizer.leaves_target_open(plain):
        return None
    codes = tokenizer.languages()
    return (
        f"this checkpoint writes {len(codes)} languages and was not told which one: pass "
        f"tgt_lang (--tgt-lang), such as {codes[0]!r}"
    )
