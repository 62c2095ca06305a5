"""Texts through one model: all are read first, then answered in batches of like lengths."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .lengths import longest_text
from .outputs import BeamTrace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from .config import GenerationConfig
    from .request import Request
    from .text import Tokenizer


Text = str | Sequence[str]
"""A text, or the tokens of one that is tokenized already."""


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

    def ids(self, texts: Iterable[Text]) -> list[list[int]]:
        """The ids of each text; ValueError, as from `Tokenizer.rows`, if one cannot be had."""
        if isinstance(texts, str) or not hasattr(texts, "__iter__"):
            return self._rows(texts)
        texts = list(texts)
        tokenized = [place for place, text in enumerate(texts) if isinstance(text, list | tuple)]
        if not tokenized:
            return self._rows(texts)
        whole = sorted(set(range(len(texts))).difference(tokenized))
        rows: dict[int, list[int]] = {}
        for places, read in ((whole, self._rows), (tokenized, self._token_rows)):
            if places:
                rows |= zip(places, _at_places(read, texts, places), strict=True)
        return [rows[place] for place in range(len(texts))]

    def _rows(self, texts: Any) -> list[list[int]]:
        return self.tokenizer.rows(
            texts,
            src_lang=self.src_lang,
            tgt_lang=self.tgt_lang,
            prefix=self.prefix,
            max_length=self.max_length,
        )

    def _token_rows(self, texts: Any) -> list[list[int]]:
        if self.prefix or self.src_lang or self.tgt_lang:
            raise ValueError("text 0 is a list of tokens, which takes no prefix and no languages")
        return self.tokenizer.token_rows(texts, max_length=self.max_length)

    def read(self, texts: Iterable[Text]) -> list[list[int]]:
        """The ids of each text, if the model can answer it.

        Raises ValueError, which starts with "text" and its index, for the first text that has no
        tokens or more than there is room for. Warns if it is left open which language to write.
        """
        if not isinstance(texts, str) and hasattr(texts, "__iter__"):
            texts = list(texts)  # an iterator can be read once only
        rows = self.ids(texts)
        self._warn_of_open_target(texts)
        room = longest_text(self.request.decoder, self.request.config)
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
        decoder = self.request.decoder
        new = output.sequences[:, 0 if decoder.is_encoder_decoder else ids.shape[1] :].tolist()
        # The decoder's own start is none of the tokens that were chosen.
        started = decoder.is_encoder_decoder and not decoder.is_prefix_lm
        counts = (chosen(row, self.request.config) - started for row in new)
        copies = len(new) // len(places)
        traces = _of_samples(output.beam_trace, len(places))
        traces = [trace for trace in traces for _ in range(copies)]
        answers = list(map(Answer, self.tokenizer.decode(new), counts, traces))
        return (answers[first : first + copies] for first in range(0, len(answers), copies))

    def _remedy(self, room: int) -> str:
        cut = "shorten it, or have it cut by truncation=True (--truncation)"
        if self.request.decoder.is_prefix_lm:
            return f"and beside what is generated there is room for {max(room, 0)}: {cut}"
        if self.request.decoder.is_encoder_decoder:
            return f"and the encoder has {room} positions: {cut}"
        return (
            f"and beside what is generated there is room for {max(room, 0)}: shorten it, or pass "
            "another max_new_tokens (--max-new-tokens)"
        )

    def _warn_of_open_target(self, texts: Iterable[Text]) -> None:
        begun = self.request.decoder_input_ids is not None
        if self.tgt_lang or begun or self.request.config.forced_bos_token_id is not None:
            return
        plain = [self.prefix + text for text in texts if isinstance(text, str)]
        if self.tokenizer.leaves_target_open(plain):
            codes = self.tokenizer.languages()
            warnings.warn(
                f"this checkpoint writes {len(codes)} languages and was not told which one: pass "
                f"tgt_lang (--tgt-lang), such as {codes[0]!r}",
                stacklevel=4,
            )


def _at_places(
    read: Callable[[list[Text]], list[list[int]]], texts: list[Text], places: list[int]
) -> list[list[int]]:
    """The ids of the texts at `places`; an error tells the place that a text has among all."""
    try:
        return read([texts[place] for place in places])
    except ValueError as error:
        message = re.sub(r"^text (\d+)", lambda at: f"text {places[int(at[1])]}", str(error))
        raise ValueError(message) from None


def _of_samples(trace: BeamTrace | None, samples: int) -> list[BeamTrace | None]:
    """`[T, K]` of each sample."""
    if trace is None:
        return [None] * samples
    return [BeamTrace(*(frame[sample] for frame in trace)) for sample in range(samples)]


def chosen(row: Sequence[int], config: GenerationConfig) -> int:
    """Tokens of a row without what fills it up; the end token counts."""
    fill = -1 if config.fill_token_id is None else config.fill_token_id
    count = len(row)
    while count and row[count - 1] == fill:
        count -= 1
    return count + (count < len(row) and fill in config.eos_token_ids)
