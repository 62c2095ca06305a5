"""From a GenerationConfig to the list of processors that every step runs, in fixed order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import constraints, prefixes, warpers
from .constraints import TokenSet, without_pads
from .trie import Trie

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .config import GenerationConfig
    from .constraints import Apply
    from .hypotheses import Hypotheses


class Processor(NamedTuple):
    """One change to the scores `[R, V]` of a step, made in place where that is possible."""

    name: str
    """The transformers class that it stands for; a user's object of that class replaces it."""
    apply: Apply


def build_processors(
    config: GenerationConfig,
    *,
    prompt_length: int,
    max_length: int,
    min_length: int,
    min_new_tokens: int | None,
    source_ids: Tensor,
    source_starts: Tensor | None = None,
    source_ends: Tensor | None = None,
    user: Sequence[Callable[[Tensor, Tensor], Tensor]] = (),
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | Trie | None = None,
    vocab_size: int | None = None,
    start_token_ids: Sequence[int] = (),
    device: torch.device,
) -> list[Processor]:
    """The processors that `config` asks for, in the order of transformers 5.23.0.

    `prompt_length`, `max_length` and `min_length` count the prompt of the decoder, pads included.
    `source_ids [B, S]`, text from `source_starts [B]` to `source_ends [B]` (None: from edge to
    edge), is what the `encoder_` options speak of: the encoder's input, or the prompt where there
    is no encoder. `user` callables take `(ids [R, L], scores [R, V])`; they come after the
    constraints and before the warpers, except that one whose class has the name of a constraint
    takes its place. A Trie must fit `vocab_size`, where it is known, and begin behind
    `start_token_ids`: what the prompts of a decoder with an encoder start with.

    Raises ValueError for options that only together with the others turn out to mean nothing.
    """
    if config.hf_exact:
        source_starts = source_ends = None
    built = [
        *_over_text(config, source_ids, source_starts, source_ends, device),
        *_over_ends(config, prompt_length, min_length, min_new_tokens),
    ]
    if prefix_allowed_tokens_fn is not None:
        if isinstance(prefix_allowed_tokens_fn, Trie):
            prefix_allowed_tokens_fn.check(
                vocab_size=vocab_size,
                samples=source_ids.shape[0],
                end_token_ids=config.eos_token_ids,
                start_token_ids=start_token_ids,
                forced_token_id=_forced_first(config, prompt_length),
            )
        built.append(_over_prefix(config, prefix_allowed_tokens_fn, prompt_length))
    built += _over_steps(config, prompt_length, max_length, device)
    built = _with_user(built, user)
    if config.do_sample:
        built += _warpers(config)
    if config.renormalize_logits:
        built.append(Processor("LogitNormalization", warpers.normalize))
    return built


def hamming_penalty(scores: Tensor, chosen: Tensor, penalty: float, live: Tensor) -> Tensor:
    """Make tokens dearer that earlier groups of the same sample have just chosen, in place.

    `scores`: `[B * G, V]`, the beams of one diverse group; `chosen`: `[B, C]`, the tokens of the
    groups before it in this step; `live`: `[B, C]` bool, which of them count. A token costs
    `penalty` for each time it was chosen. Vijayakumar et al., "Diverse Beam Search", 2016.
    """
    counts = ((chosen[:, :, None] == chosen[:, None, :]) & live[:, None, :]).sum(dim=-1)
    group = scores.shape[0] // chosen.shape[0]
    columns = chosen.repeat_interleave(group, dim=0)
    costs = (penalty * counts).repeat_interleave(group, dim=0)
    # A token that was chosen twice is written twice, with the same value.
    return scores.scatter_(1, columns, scores.gather(1, columns) - costs)


def _over_text(
    config: GenerationConfig,
    source: Tensor,
    source_starts: Tensor | None,
    source_ends: Tensor | None,
    device: torch.device,
) -> Iterator[Processor]:
    """What depends on the tokens of the hypothesis, the prompt or the source."""
    count_pads = config.hf_exact
    if config.sequence_bias is not None:
        apply = constraints.bias_sequences(
            dict(config.sequence_bias), count_pads=count_pads, device=device
        )
        yield Processor("SequenceBiasLogitsProcessor", apply)
    if config.encoder_repetition_penalty != 1.0:
        text = without_pads(source, source_starts, source_ends)
        apply = constraints.favour_source(config.encoder_repetition_penalty, text)
        yield Processor("EncoderRepetitionPenaltyLogitsProcessor", apply)
    if config.repetition_penalty != 1.0:
        apply = constraints.penalize_repetition(config.repetition_penalty)
        yield Processor("RepetitionPenaltyLogitsProcessor", apply)
    if config.no_repeat_ngram_size > 0:
        apply = constraints.no_repeat_ngram(
            config.no_repeat_ngram_size,
            count_pads=count_pads,
            ignored=config.no_repeat_ngram_ignore_ids,
        )
        yield Processor("NoRepeatNGramLogitsProcessor", apply)
    if config.encoder_no_repeat_ngram_size > 0:
        apply = constraints.no_repeat_ngram(
            config.encoder_no_repeat_ngram_size,
            count_pads=count_pads,
            source=source,
            source_starts=source_starts,
            source_lengths=source_ends,
        )
        yield Processor("EncoderNoRepeatNGramLogitsProcessor", apply)
    # transformers never bans end tokens as words.
    ends = {(token,) for token in config.eos_token_ids}
    words = [tuple(word) for word in config.bad_words_ids or () if tuple(word) not in ends]
    if words:
        biases = dict.fromkeys(words, -float("inf"))
        apply = constraints.bias_sequences(biases, count_pads=count_pads, device=device)
        yield Processor("NoBadWordsLogitsProcessor", apply)


def _over_ends(
    config: GenerationConfig, prompt_length: int, min_length: int, min_new_tokens: int | None
) -> Iterator[Processor]:
    """What keeps hypotheses from ending too early."""
    if not config.eos_token_ids:
        return
    ends = TokenSet(config.eos_token_ids)
    if min_length > 0:
        apply = constraints.ban(ends, lambda h: h.length < min_length)
        yield Processor("MinLengthLogitsProcessor", apply)
    if min_new_tokens:
        first_end = prompt_length + min_new_tokens
        apply = constraints.ban(ends, lambda h: h.length < first_end)
        yield Processor("MinNewTokensLengthLogitsProcessor", apply)


def _over_prefix(
    config: GenerationConfig,
    allowed: Callable[[int, Tensor], Sequence[int]] | Trie,
    prompt_length: int,
) -> Processor:
    """What the caller says may follow."""
    name = "PrefixConstrainedLogitsProcessor"
    independent = config.num_beams == 1
    if not isinstance(allowed, Trie):
        return Processor(name, prefixes.constrain_prefix(allowed, independent=independent))
    forced = _forced_first(config, prompt_length)
    apply = prefixes.follow_trie(
        allowed,
        TokenSet(config.eos_token_ids),
        independent=independent,
        skipped=int(forced is not None and allowed.leaves_out(forced)),
    )
    return Processor(name, apply)


def _forced_first(config: GenerationConfig, prompt_length: int) -> int | None:
    """The token that is forced to come first: none behind prompts of more than one token."""
    return config.forced_bos_token_id if prompt_length <= 1 else None


def _over_steps(
    config: GenerationConfig, prompt_length: int, max_length: int, device: torch.device
) -> Iterator[Processor]:
    """What depends on the step alone, and what repairs the scores."""
    if config.forced_bos_token_id is not None:
        apply = constraints.force([config.forced_bos_token_id], min(prompt_length, 1), device)
        yield Processor("ForcedBOSTokenLogitsProcessor", apply)
    if config.forced_eos_token_id is not None:
        forced = config.forced_eos_token_id
        tokens = [forced] if isinstance(forced, int) else forced
        apply = constraints.force(tokens, max_length - 1, device)
        yield Processor("ForcedEOSTokenLogitsProcessor", apply)
    if config.remove_invalid_values:
        yield Processor("InfNanRemoveLogitsProcessor", constraints.remove_invalid)
    if config.exponential_decay_length_penalty is not None:
        if not config.eos_token_ids:
            raise ValueError(
                "exponential_decay_length_penalty raises the scores of end tokens, and there is "
                "none: pass eos_token_id"
            )
        start, factor = config.exponential_decay_length_penalty
        ends = TokenSet(config.eos_token_ids)
        apply = constraints.decay_length(ends, prompt_length + int(start), factor)
        yield Processor("ExponentialDecayLengthPenalty", apply)
    if config.suppress_tokens is not None:
        apply = constraints.ban(TokenSet(config.suppress_tokens), lambda h: True)
        yield Processor("SuppressTokensLogitsProcessor", apply)
    if config.begin_suppress_tokens is not None:
        # A forced first token is no beginning.
        begin = prompt_length + int(_forced_first(config, prompt_length) is not None)
        apply = constraints.ban(TokenSet(config.begin_suppress_tokens), lambda h: h.length == begin)
        yield Processor("SuppressTokensAtBeginLogitsProcessor", apply)


def _warpers(config: GenerationConfig) -> Iterator[Processor]:
    # Beams need a token that goes on beside every one that ends.
    keep = 1 if config.num_beams == 1 else config.candidates_per_beam
    if config.temperature != 1.0:
        yield Processor("TemperatureLogitsWarper", warpers.temperature(config.temperature))
    if config.top_k != 0:
        yield Processor("TopKLogitsWarper", warpers.top_k(config.top_k, keep))
    if config.top_p < 1.0:
        yield Processor("TopPLogitsWarper", warpers.top_p(config.top_p, keep))
    if config.min_p is not None:
        yield Processor("MinPLogitsWarper", warpers.min_p(config.min_p, keep))
    if config.typical_p < 1.0:
        yield Processor("TypicalLogitsWarper", warpers.typical(config.typical_p, keep))
    if config.epsilon_cutoff > 0.0:
        yield Processor("EpsilonLogitsWarper", warpers.epsilon(config.epsilon_cutoff, keep))


def _with_user(
    built: Iterable[Processor], user: Sequence[Callable[[Tensor, Tensor], Tensor]]
) -> list[Processor]:
    """The first user object with a built-in's class name takes its place, the others follow."""
    waiting = [_adapted(callable_) for callable_ in user]
    merged: list[Processor] = []
    for processor in built:
        place = next((i for i, own in enumerate(waiting) if own.name == processor.name), None)
        merged.append(processor if place is None else waiting.pop(place))
    return merged + waiting


def _adapted(callable_: Any) -> Processor:
    """A user's `(ids, scores) -> scores` as a Processor."""
    name = type(callable_).__name__

    def apply(hypotheses: Hypotheses, scores: Tensor) -> Tensor:
        shape = scores.shape
        changed = callable_(hypotheses.ids, scores)
        if not isinstance(changed, Tensor) or changed.shape != shape:
            got = list(changed.shape) if isinstance(changed, Tensor) else changed
            raise ValueError(f"logits_processor {name} must return scores {list(shape)}, not {got}")
        return changed

    return Processor(name, apply)
