"""Lengths that hypotheses may and must reach, by the options and the positions of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from tritonseq.options.config import GenerationConfig

    from .decoder_protocol import Decoder, Seq2SeqDecoder
    from .inputs import Prompts

DEFAULT_NEW_TOKENS = 20
MOST_NEW_TOKENS = 2**22
"""There is a place for each, and a power of its length: some 100 MB for so many."""


@dataclass(frozen=True)
class Lengths:
    """Totals over prompt (pads included) and generated tokens, as transformers counts them."""

    prompt: int
    total: int
    minimum: int
    asked: int
    """What `total` would be if there were positions for it."""

    @property
    def new_tokens(self) -> int:
        return self.total - self.prompt

    @classmethod
    def resolve(
        cls,
        config: GenerationConfig,
        decoder: Decoder | Seq2SeqDecoder,
        prompts: Prompts,
        sources: Prompts | None,
    ) -> Lengths:
        """Apply max_new_tokens, else max_length, else the model's default.

        `prompts` are what is continued, `sources` what is answered, if anything. Where the model
        has fewer positions than are asked for, hypotheses go up to the last one. Raises
        ValueError if there is no room for a token.
        """
        prompt = prompts.ids.shape[1]
        if config.max_new_tokens is not None:
            total = prompt + config.max_new_tokens
        elif config.max_length is not None:
            total = config.max_length
        else:
            total = prompt + default_new_tokens(decoder)
            if decoder.max_positions is not None and not decoder.is_prefix_lm:
                total = min(total, max(decoder.max_positions, prompt + 1))
        if total <= prompt:
            raise ValueError(
                f"the prompt has {prompt} tokens and max_length is {total}: nothing can be "
                "generated; pass max_new_tokens, or shorten the prompt"
            )
        asked = total
        if decoder.max_positions is not None:
            read = sources if decoder.is_prefix_lm else prompts
            total = prompt + _fitting(
                decoder, decoder.max_positions, _longest(read), total - prompt
            )
        if total - prompt > MOST_NEW_TOKENS:
            name = "max_length" if config.max_new_tokens is None else "max_new_tokens"
            raise ValueError(
                f"{name}={getattr(config, name)} asks for room that nothing needs: pass at most "
                f"{MOST_NEW_TOKENS}"
            )
        minimum = config.min_length
        if config.min_new_tokens is not None:
            minimum = prompt + config.min_new_tokens
        return cls(prompt, total, minimum, asked)


def default_new_tokens(decoder: Decoder | Seq2SeqDecoder) -> int:
    """How many tokens a model writes where no option says it.

    Where source and target share the positions, a quarter of them at most. It is never less for a
    long source: then the length of a target would depend on the other sources of its batch.
    """
    count: int = getattr(decoder, "default_new_tokens", DEFAULT_NEW_TOKENS)
    if decoder.is_prefix_lm and decoder.max_positions is not None:
        return min(count, max(1, decoder.max_positions // 4))
    return count


def longest_text(decoder: Decoder | Seq2SeqDecoder, config: GenerationConfig) -> int | None:
    """The most tokens that a source or prompt may have under `config`; None for any number."""
    if decoder.is_encoder_decoder and not decoder.is_prefix_lm:
        limit: int | None = cast("Seq2SeqDecoder", decoder).max_source_positions
        return limit
    positions = decoder.max_positions
    if decoder.is_prefix_lm and positions is not None:
        new_tokens = config.max_new_tokens or config.max_length or default_new_tokens(decoder)
        return positions - new_tokens
    if config.max_new_tokens is None and config.max_length is not None:
        return min(config.max_length - 1, positions or config.max_length)
    if positions is None:
        return None
    return positions - positions_needed(decoder, 0, config.max_new_tokens or 1)


def longest_answered(decoder: Decoder | Seq2SeqDecoder, config: GenerationConfig) -> int | None:
    """The most tokens of a text that is not refused; None for any number.

    A prompt is continued as far as positions go. A source that shares them with its target is to
    be shortened instead, which `longest_text` knows how far.
    """
    if decoder.is_encoder_decoder or decoder.max_positions is None:
        return longest_text(decoder, config)
    if config.max_new_tokens is None and config.max_length is not None:
        return min(config.max_length - 1, decoder.max_positions)
    return decoder.max_positions


def is_short_of_positions(
    decoder: Decoder | Seq2SeqDecoder, config: GenerationConfig, read: int
) -> bool:
    """Whether `max_new_tokens` asks for more than there are positions behind `read` tokens."""
    asked = config.max_new_tokens
    if asked is None or decoder.max_positions is None:
        return False
    return positions_needed(decoder, read, asked) > decoder.max_positions


def positions_needed(decoder: Decoder | Seq2SeqDecoder, read: int, new_tokens: int) -> int:
    """How many positions `new_tokens` take behind the `read` tokens of a prompt (or source).

    The last token is chosen but never fed back, so it needs no position; but a prefix language
    model asks for it at one.
    """
    return read + new_tokens - (0 if decoder.is_prefix_lm else 1)


def _longest(prompts: Prompts | None) -> int:
    return 0 if prompts is None else int(prompts.lengths.max())


def _fitting(decoder: Decoder | Seq2SeqDecoder, positions: int, read: int, new_tokens: int) -> int:
    """`new_tokens`, or so many as the model has positions for.

    Raises ValueError if that is none, or if source and target share the positions.
    """
    needed = positions_needed(decoder, read, new_tokens)
    room = new_tokens - (needed - positions)
    if room >= new_tokens:
        return new_tokens
    what, remedy = "prompt", "shorten the prompt (decoder_input_ids, where there is an encoder)"
    if decoder.is_prefix_lm:
        what, remedy = "source", "shorten the source (truncation=True in generate_text)"
    if room < 1:
        raise ValueError(
            f"the {what} alone has {read} tokens, the model {positions} positions: {remedy}"
        )
    if decoder.is_prefix_lm:
        # A source can be cut, and how long a target becomes is not for its neighbours to say.
        raise ValueError(
            f"{what} plus new tokens need {needed} positions, the model has {positions}: "
            f"{remedy}, or pass max_new_tokens <= {room}"
        )
    return room
