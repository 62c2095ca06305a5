"""A text task: texts through one model; all are read first, then batched by length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tritonseq.decoding.completion import Completion, completions, together
from tritonseq.engine.lengths import longest_answered
from tritonseq.errors import TextError
from tritonseq.options.containers import check_first, check_texts
from tritonseq.sentences import joined, split
from tritonseq.text.encoding import (
    Encoding,
    TextEncoder,
    at_places,
    bare,
    check_tokens,
    is_blank,
    with_languages,
)
from tritonseq.text.languages import each_language

from .callers import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from tritonseq.decoding.outputs import GenerateOutput
    from tritonseq.engine.request import Request
    from tritonseq.text.encoding import Text
    from tritonseq.text.tokenizer import Tokenizer

T = TypeVar("T")


@dataclass(frozen=True)
class TextJob:
    """How texts become ids, and what is done with them: `Model.generate_text` in its steps."""

    encoder: TextEncoder
    request: Request
    settled: frozenset[str] = frozenset()
    """Options that count whatever language a text is to be written in."""

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, request: Request, settled: Iterable[str] = (), **how: Any
    ) -> TextJob:
        """`how`: fields of `Encoding`; the others are those of the network."""
        decoder = request.decoder
        room = longest_answered(decoder, request.config)
        encoding = Encoding(
            # What is continued is continued from its end.
            truncation_side="right" if decoder.is_encoder_decoder else "left",
            room=room,
            tokens=getattr(decoder, "source_vocab_size", decoder.vocab_size),
            remedy="" if room is None else _remedy(decoder, room),
            **how,
        )
        return cls(TextEncoder(tokenizer, encoding), request, frozenset(settled))

    def read(
        self,
        texts: Iterable[Text],
        src_lang: Sequence[str | None] | None = None,
        tgt_lang: Sequence[str | None] | None = None,
    ) -> list[list[int]]:
        """The ids of each text, if the model can answer it; [] of one that is blank.

        `src_lang` and `tgt_lang`: of each text, where they are not those of all. Raises ValueError,
        which starts with "text" and its index, for the first text that has no tokens or more than
        there is room for. Warns if it is left open which language to write.
        """
        check_texts("texts", texts)
        if not hasattr(texts, "__iter__"):
            raise ValueError("these texts come asynchronously: pass them to tritonseq.pipeline")
        texts = self.told(list(texts), src_lang, tgt_lang)
        if texts:
            check_first("texts", bare(texts[0]))
            check_tokens(lambda: self.encoder.tokenizer, bare(texts[0]))
        places = [place for place, text in enumerate(texts) if not is_blank(text)]
        rows: list[list[int]] = [[] for _ in texts]
        if not places:
            return rows
        told = at_places(self.encoder.ids, texts, places)
        self.warn_of_open_target([texts[place] for place in places])
        for place, row in zip(places, told, strict=True):
            if (excess := self.encoder.excess(row)) is not None:
                raise TextError(place, excess)
            rows[place] = row
        return rows

    def told(
        self,
        texts: Sequence[Text],
        src_lang: Sequence[str | None] | None = None,
        tgt_lang: Sequence[str | None] | None = None,
    ) -> list[Any]:
        """Texts with the languages that are listed for each; ValueError for another number."""
        sources = each_language("src_lang", src_lang, len(texts))
        return with_languages(texts, sources, each_language("tgt_lang", tgt_lang, len(texts)))

    def to(self, targets: Sequence[str | None]) -> TextJob:
        """The job for so many rows, of which each may name the language that it is written in."""
        options_of = self.encoder.tokenizer.target_options
        named = {code: options_of(code) for code in {*targets} if code is not None}
        told = {name for options in named.values() for name in options} - self.settled
        if not told:
            return self
        config = self.request.config
        first = {
            "forced_bos_token_id": config.forced_bos_token_id,
            "decoder_start_token_id": next(iter(config.decoder_start_token_ids), None),
        }
        each = {
            name: [
                first[name] if code is None else named[code].get(name, first[name])
                for code in targets
            ]
            for name in told
        }
        one = {name: ids[0] if len({*ids}) == 1 else ids for name, ids in each.items()}
        return replace(self, request=replace(self.request, config=config.merged(**one)))

    def warn_of_open_target(self, texts: Iterable[Text]) -> None:
        """Warn if neither options nor texts say which of several languages to write."""
        if self.asks_for_language and (message := self.encoder.open_target(texts)) is not None:
            warn(message)

    @property
    def asks_for_language(self) -> bool:
        """Whether it is for the texts to say which of several languages to write."""
        begun = self.request.decoder_input_ids is not None
        is_named = self.encoder.encoding.tgt_lang or begun
        return not (is_named or self.request.config.forced_bos_token_id is not None)

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids `[B, S]` and mask `[B, S]`, padded on the side that the model wants."""
        side = "right" if self.request.decoder.is_encoder_decoder else "left"
        pad_id = self.request.config.fill_token_id or 0
        return self.encoder.tokenizer.pad(rows, pad_id=pad_id, side=side)

    def run(
        self, rows: Sequence[Sequence[int]], batch_size: int, window: int | None = None
    ) -> Iterator[dict[int, Completion]]:
        """Completions, with their texts, by the place of their row, batch by batch; blank rows,
        whose outputs are blank, come first.

        Batches are formed by length within each `window` of rows (None: within all). Rows keep
        their order where it could be noticed: when sampling, and with functions of the caller's
        that are handed whole batches.
        """
        blank = Completion(texts=[""] * self.request.config.num_return_sequences)
        if blanks := {place: blank for place, row in enumerate(rows) if not row}:
            yield blanks
        for start in range(0, len(rows), window or max(len(rows), 1)):
            part = range(len(rows))[start:][:window]
            for places in self._batches(rows, [place for place in part if rows[place]], batch_size):
                request = self.request.part(places, len(rows))
                done = self.complete([rows[place] for place in places], request)
                texts = iter(self.encoder.texts([ids for each in done for ids in each.sequences]))
                done = [each._replace(texts=[next(texts) for _ in each.sequences]) for each in done]
                yield dict(zip(places, done, strict=True))

    def _batches(
        self, rows: Sequence[Sequence[int]], places: list[int], batch_size: int
    ) -> Iterator[list[int]]:
        """The places in batches, the longest rows first, as `by_length` says; one that runs out of
        positions is alone, and so ends no other."""
        if not self.request.is_order_dependent:
            places = by_length(places, lambda place: len(rows[place]))
            runs_out = {place: self.request.is_cut_short_by(len(rows[place])) for place in places}
            yield from ([place] for place in places if runs_out[place])
            places = [place for place in places if not runs_out[place]]
        for start in range(0, len(places), batch_size):
            yield places[start : start + batch_size]

    def complete(
        self, rows: Sequence[Sequence[int]], request: Request | None = None
    ) -> list[Completion]:
        """What is generated for each of the rows, in one batch; `request` in place of the job's."""
        ids, mask = self.pad(rows)
        output = (request or self.request).run(ids, mask)
        start = 0 if self.request.decoder.is_encoder_decoder else ids.shape[1]
        return self._completions(output, len(rows), start)

    def refill(
        self, rows: Sequence[Sequence[int]], slots: int, admits: Callable[[], bool]
    ) -> Iterator[list[tuple[int, Completion]]]:
        """The rows through slots: one that has ended makes room for the next. By their places.

        Those that have not begun when `admits()` says no are left out.
        """
        for places, output in self.request.together(rows, slots, admits):
            done = self._completions(output, len(places), 0)
            yield list(zip(places, done, strict=True))

    def _completions(self, output: GenerateOutput, samples: int, start: int) -> list[Completion]:
        # The decoder's own start is decoded, and was not chosen.
        decoder, config = self.request.decoder, self.request.config
        given = int(decoder.is_encoder_decoder and not decoder.is_prefix_lm)
        return completions(output, config, samples=samples, start=start, given=given)


@dataclass(frozen=True)
class SplitJob:
    """A `TextJob` whose texts are answered sentence by sentence, and come back as texts."""

    job: TextJob

    def __post_init__(self) -> None:
        """Raises ValueError for arguments that have something for each text: sentences are more."""
        if names := self.job.request.per_sample_arguments:
            raise ValueError(
                f"{names[0]} speaks of texts by their place, and split_sentences makes several "
                "rows of a text: leave one of them out, or use one Trie for what is allowed"
            )

    def read(self, texts: Iterable[Text]) -> list[SplitRow]:
        """The sentences of each text, as `TextJob.read` reads them."""
        check_texts("texts", texts)
        cut = self.job.encoder.encoding.sentences
        parts = [split(text, cut) for text in texts]
        owners = [place for place, each in enumerate(parts) for _ in each.sentences]
        try:
            rows = iter(self.job.read([text for each in parts for text in each.sentences]))
        except TextError as error:
            place = owners[error.index]
            if len(parts[place].sentences) == 1:
                raise error.at(place) from None
            number = error.index - owners.index(place) + 1
            raise TextError(place, f": {error.of(f'sentence {number}')}") from None
        return [SplitRow([next(rows) for _ in each.sentences], each.gaps) for each in parts]

    def run(
        self, texts: Sequence[SplitRow], batch_size: int, window: int | None = None
    ) -> Iterator[dict[int, Completion]]:
        """As `TextJob.run`: each text is there when all its sentences are."""
        owners = [
            (place, part) for place, text in enumerate(texts) for part in range(len(text.rows))
        ]
        found: dict[int, dict[int, Completion]] = {place: {} for place in range(len(texts))}
        for batch in self.job.run([row for text in texts for row in text.rows], batch_size, window):
            ready = {}
            for row, completion in batch.items():
                place, part = owners[row]
                found[place][part] = completion
                if len(found[place]) == len(texts[place].rows):
                    done = [each for _, each in sorted(found.pop(place).items())]
                    ready[place] = _whole(done, texts[place].gaps)
            if ready:
                yield ready


class SplitRow(NamedTuple):
    """The ids of a text's sentences, and what stands between these."""

    rows: list[list[int]]
    gaps: Sequence[str]


def _whole(parts: Sequence[Completion], gaps: Sequence[str]) -> Completion:
    """The completion of a text by those of its sentences, all decoded."""
    texts = zip(*(part.texts or () for part in parts), strict=True)
    return together(parts)._replace(texts=[joined(each, gaps) for each in texts])


def by_length(things: Iterable[T], length: Callable[[T], int]) -> list[T]:
    """The longest first: what does not fit into memory is found out early."""
    return sorted(things, key=length, reverse=True)


def _remedy(decoder: Any, room: int) -> str:
    cut = "shorten it, or have it cut by truncation=True (--truncation)"
    if decoder.is_prefix_lm:
        return f"and beside what is generated there is room for {max(room, 0)}: {cut}"
    if decoder.is_encoder_decoder:
        return f"and the encoder has {room} positions: {cut}"
    return (
        f"and beside what is generated there is room for {max(room, 0)}: shorten it, or have "
        "its end kept by truncation=True (--truncation)"
    )
