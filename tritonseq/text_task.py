"""Texts through one model: all are read first, then answered in batches of like lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritonseq.decoding.completion import Completion, completions
from tritonseq.engine.lengths import longest_answered
from tritonseq.errors import TextError
from tritonseq.options.containers import check_first, check_texts
from tritonseq.text.encoding import Encoding, at_places, check_tokens, is_blank

from .callers import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from tritonseq.engine.request import Request
    from tritonseq.text.encoding import Text
    from tritonseq.text.tokenizer import Tokenizer


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
    add_special_tokens: bool = True
    """Do those of the checkpoint stand around texts?"""
    skip_special_tokens: bool = True
    """Are they left out of answers?"""
    clean_up_tokenization_spaces: bool | None = None
    """Are spaces before punctuation? None is what the checkpoint says."""

    @property
    def encoding(self) -> Encoding:
        """How texts become ids, apart from the tokenizer and the network."""
        decoder = self.request.decoder
        room = longest_answered(decoder, self.request.config)
        return Encoding(
            src_lang=self.src_lang,
            tgt_lang=self.tgt_lang,
            prefix=self.prefix,
            max_length=self.max_length,
            # What is continued is continued from its end.
            truncation_side="right" if decoder.is_encoder_decoder else "left",
            add_special_tokens=self.add_special_tokens,
            skip_special_tokens=self.skip_special_tokens,
            clean_up_tokenization_spaces=self.clean_up_tokenization_spaces,
            room=room,
            tokens=getattr(decoder, "source_vocab_size", decoder.vocab_size),
            remedy="" if room is None else self._remedy(room),
        )

    def ids(self, texts: Iterable[Text]) -> list[list[int]]:
        """The ids of each text; ValueError, as from `Tokenizer.rows`, if one cannot be had."""
        return self.encoding.ids(self.tokenizer, texts)

    def read(self, texts: Iterable[Text]) -> list[list[int]]:
        """The ids of each text, if the model can answer it; [] of one that is blank.

        Raises ValueError, which starts with "text" and its index, for the first text that has no
        tokens or more than there is room for. Warns if it is left open which language to write.
        """
        check_texts("texts", texts)
        if not hasattr(texts, "__iter__"):
            raise ValueError("these texts come asynchronously: pass them to tritonseq.pipeline")
        texts = list(texts)
        if texts:
            check_first("texts", texts[0])
            check_tokens(lambda: self.tokenizer, texts[0])
        places = [place for place, text in enumerate(texts) if not is_blank(text)]
        if not places:
            return [[] for _ in texts]
        encoding = self.encoding
        told = at_places(lambda some: encoding.ids(self.tokenizer, some), texts, places)
        self.warn_of_open_target([texts[place] for place in places])
        rows: list[list[int]] = [[] for _ in texts]
        for place, row in zip(places, told, strict=True):
            if (excess := encoding.excess(row)) is not None:
                raise TextError(place, excess)
            rows[place] = row
        return rows

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of ids."""
        return self.encoding.texts(self.tokenizer, rows)

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids `[B, S]` and mask `[B, S]`, padded on the side that the model wants."""
        side = "right" if self.request.decoder.is_encoder_decoder else "left"
        return self.tokenizer.pad(rows, pad_id=self.request.config.fill_token_id or 0, side=side)

    def answers(
        self,
        rows: Sequence[Sequence[int]],
        batch_size: int,
        *,
        window: int | None = None,
        after_batch: Callable[[int, int], object] = lambda rows, tokens: None,
    ) -> Iterator[Completion]:
        """The completions of `rows`, in their order; blank ones of blank ones.

        Batches are formed by length within each `window` of rows (None: within all), and answers
        come when a window is done; `after_batch` is told of every batch how many rows and tokens
        are done so far. Rows keep their order where it could be noticed: when
        sampling, and with functions of the caller's that are handed whole batches.
        """
        span = window or max(len(rows), 1)
        done = tokens = 0
        for first in range(0, len(rows), span):
            places = range(first, min(first + span, len(rows)))
            # The longest first: if a batch does not fit into memory, it is the first one.
            order = [place for place in places if rows[place]]
            if not self.request.counts_rows:
                order.sort(key=lambda place: -len(rows[place]))
            blank = Completion(texts=[""] * self.request.config.num_return_sequences)
            answered = {place: blank for place in places if not rows[place]}
            for batch in self._batches(rows, order, batch_size):
                found = self._batch(rows, batch)
                answered |= zip(batch, found, strict=True)
                done += len(batch)
                tokens += sum(each.tokens for each in found)
                after_batch(done, tokens)
            for place in places:
                yield answered[place]

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

    def _batch(self, rows: Sequence[Sequence[int]], places: Sequence[int]) -> list[Completion]:
        """What becomes of each of the rows at `places`, with its texts."""
        request = self.request.part(places, len(rows))
        found = self.complete([rows[place] for place in places], request)
        texts = iter(self.texts([row for each in found for row in each.sequences]))
        return [each._replace(texts=[next(texts) for _ in each.sequences]) for each in found]

    def complete(
        self, rows: Sequence[Sequence[int]], request: Request | None = None
    ) -> list[Completion]:
        """What is generated for each of the rows, in one batch; `request` in place of the job's."""
        ids, mask = self.pad(rows)
        decoder = self.request.decoder
        return completions(
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
        return (
            f"and beside what is generated there is room for {max(room, 0)}: shorten it, or have "
            "its end kept by truncation=True (--truncation)"
        )

    def warn_of_open_target(self, texts: Iterable[Text]) -> None:
        """Warn if neither options nor texts say which of several languages to write."""
        if not self.asks_for_language:
            return
        message = open_target(self.tokenizer, self.prefix, texts)
        if message is not None:
            warn(message)

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
