"""The list of logits processors of a request, in the order in which every step runs them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import logits_processors, prefix_constraint, warpers
from .logits_processors import TokenSet
from .trie import Trie

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tritonseq.options.config import GenerationConfig

    from .hypotheses import Hypotheses
    from .logits_processors import Apply, Terms


class Processor(NamedTuple):
    """One change to the scores `[R, V]` of a step, made in place where that is possible."""

    name: str
    """The transformers class that it stands for; a user's object of that class replaces it."""
    apply: Apply
    terms: Terms | None = None
    """The same for `beam_topk`, where that can be said; see `logits_processors`."""


def build_processors(
    config: GenerationConfig,
    *,
    user: Sequence[Callable[[Tensor, Tensor], Tensor]] = (),
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | Trie | None = None,
    most_new_tokens: int,
    skipped: int = 0,
    softly: float | None = None,
    device: torch.device,
) -> list[Processor]:
    """The processors that `config` asks for, in the order of transformers 5.24.0.

    They read from the hypotheses how far a sample is, how far it may go, and its source; so they
    serve any batch. `user` callables take `(ids [R, L], scores [R, V])`; they come after the
    constraints and before the warpers, except that one whose class has the name of a constraint
    takes its place. `most_new_tokens`: the limit of the longest hypothesis. `skipped`: so many
    first tokens are no part of a Trie's sequences. `softly`: bans of repetition add this to the
    scores, and bans of tokens set it, in place of minus infinity.

    Raises ValueError for options that only together with the others turn out to mean nothing.
    """
    built = [*_over_text(config, softly, device), *_over_ends(config, softly)]
    if prefix_allowed_tokens_fn is not None:
        built.append(_over_prefix(config, prefix_allowed_tokens_fn, skipped))
    built += _over_steps(config, most_new_tokens, softly, device)
    built = _with_user(built, user)
    if config.do_sample:
        built += _warpers(config)
    if config.renormalize_logits:
        built.append(Processor("LogitNormalization", warpers.normalize))
    return built


def forced_first(
    config: GenerationConfig, prompt_length: int, samples: int
) -> tuple[int | None, ...]:
    """The token that is forced to come first, of each sample: none behind prompts of more than one
    token. Raises ValueError if there are tokens for another number of samples."""
    forced = config.forced_bos_token_ids
    if len(forced) not in (0, 1, samples):
        raise ValueError(
            f"forced_bos_token_id has {len(forced)} tokens for {samples} samples: pass one, or one "
            "for each"
        )
    if not forced or prompt_length > 1:
        return (None,) * samples
    return forced * samples if len(forced) == 1 else forced


def hamming_penalty(scores: Tensor, chosen: Tensor, penalty: float, live: Tensor) -> Tensor:
    """Make tokens dearer that earlier groups of the same sample have just chosen, in place.

    `scores`: `[B * G, V]`, the beams of one diverse group; `chosen`: `[B, C]`, the tokens of the
    groups before it in this step; `live`: `[B, C]` bool, which of them count. A token costs
    `penalty` for each time it was chosen. Vijayakumar et al., "Diverse Beam Search", 2016.
    """
    counts = ((chosen[:, :, None] == chosen[:, None, :]) & live[:, None, :]).sum(dim=-1)
    group = scores.shape[0] // chosen.shape[0]
    columns = chosen.repeat_interleave(group, dim=0)
    costs = (penalty * counts.to(scores.dtype)).repeat_interleave(group, dim=0)
    # A token that was chosen twice is written twice, with the same value.
    return scores.scatter_(1, columns, scores.gather(1, columns) - costs)


def _over_text(
    config: GenerationConfig, softly: float | None, device: torch.device
) -> Iterator[Processor]:
    """What depends on the tokens of the hypothesis, the prompt or the source."""
    count_pads = config.hf_exact
    if config.sequence_bias is not None:
        apply = logits_processors.bias_sequences(
            dict(config.sequence_bias), count_pads=count_pads, device=device
        )
        yield Processor("SequenceBiasLogitsProcessor", apply)
    if config.encoder_repetition_penalty != 1.0:
        apply = logits_processors.favour_source(config.encoder_repetition_penalty)
        yield Processor("EncoderRepetitionPenaltyLogitsProcessor", apply)
    if config.repetition_penalty != 1.0:
        apply = logits_processors.penalize_repetition(config.repetition_penalty)
        yield Processor("RepetitionPenaltyLogitsProcessor", apply)
    if config.no_repeat_ngram_size > 0:
        ignored = config.no_repeat_ngram_ignore_ids
        apply = logits_processors.no_repeat_ngram(
            config.no_repeat_ngram_size,
            count_pads=count_pads,
            ignored=ignored,
            added=softly,
        )
        terms = logits_processors.ngram_terms(
            config.no_repeat_ngram_size,
            count_pads=count_pads,
            ignored=None if ignored is None else TokenSet(ignored),
        )
        yield Processor("NoRepeatNGramLogitsProcessor", apply, terms if softly is None else None)
    if config.encoder_no_repeat_ngram_size > 0:
        apply = logits_processors.no_repeat_ngram(
            config.encoder_no_repeat_ngram_size, count_pads=count_pads, of_source=True
        )
        yield Processor("EncoderNoRepeatNGramLogitsProcessor", apply)
    # transformers never bans end tokens as words.
    ends = {(token,) for token in config.eos_token_ids}
    words = [tuple(word) for word in config.bad_words_ids or () if tuple(word) not in ends]
    if words:
        biases = dict.fromkeys(words, -float("inf"))
        apply = logits_processors.bias_sequences(biases, count_pads=count_pads, device=device)
        yield Processor("NoBadWordsLogitsProcessor", apply)


def _over_ends(config: GenerationConfig, softly: float | None) -> Iterator[Processor]:
    """What keeps hypotheses from ending too early."""
    if not config.eos_token_ids or not (config.min_length > 0 or config.min_new_tokens):
        return
    ends = TokenSet(config.eos_token_ids)
    score = -math.inf if softly is None else softly
    apply = logits_processors.ban(ends, lambda h: h.generated < h.minimum, score=score)
    terms = logits_processors.end_terms(ends) if softly is None else None
    yield Processor("MinLengthLogitsProcessor", apply, terms)
    if config.min_new_tokens:
        yield Processor("MinNewTokensLengthLogitsProcessor", apply, terms)


def _over_prefix(
    config: GenerationConfig, allowed: Callable[[int, Tensor], Sequence[int]] | Trie, skipped: int
) -> Processor:
    """What the caller says may follow."""
    name = "PrefixConstrainedLogitsProcessor"
    independent = config.num_beams == 1
    if not isinstance(allowed, Trie):
        return Processor(name, prefix_constraint.constrain_prefix(allowed, independent=independent))
    ends = TokenSet(config.eos_token_ids)
    apply = prefix_constraint.follow_trie(allowed, ends, independent=independent, skipped=skipped)
    return Processor(name, apply)


def _over_steps(
    config: GenerationConfig, most_new_tokens: int, softly: float | None, device: torch.device
) -> Iterator[Processor]:
    """What depends on the step alone, and what repairs the scores."""
    if config.forced_bos_token_id is not None:
        yield Processor(
            "ForcedBOSTokenLogitsProcessor",
            logits_processors.force_first,
            logits_processors.first_terms,
        )
    if config.forced_eos_token_id is not None:
        forced = config.forced_eos_token_id
        tokens = [forced] if isinstance(forced, int) else forced
        apply = logits_processors.force(tokens, _is_forced_last, device)
        alone = (
            logits_processors.force_terms(tokens[0], _is_forced_last) if len(tokens) == 1 else None
        )
        yield Processor("ForcedEOSTokenLogitsProcessor", apply, alone)
    if config.remove_invalid_values:
        yield Processor("InfNanRemoveLogitsProcessor", logits_processors.remove_invalid)
    if config.exponential_decay_length_penalty is not None:
        if not config.eos_token_ids:
            raise ValueError(
                "exponential_decay_length_penalty raises the scores of end tokens, and there is "
                "none: pass eos_token_id"
            )
        start, factor = config.exponential_decay_length_penalty
        ends = TokenSet(config.eos_token_ids)
        apply = logits_processors.decay_length(
            ends, int(start), factor, longest=most_new_tokens, device=device
        )
        yield Processor("ExponentialDecayLengthPenalty", apply)
    score = -math.inf if softly is None else softly
    if config.suppress_tokens is not None:
        apply = logits_processors.ban(TokenSet(config.suppress_tokens), score=score)
        yield Processor("SuppressTokensLogitsProcessor", apply)
    if config.begin_suppress_tokens is not None:
        apply = logits_processors.ban(TokenSet(config.begin_suppress_tokens), _begins)
        yield Processor("SuppressTokensAtBeginLogitsProcessor", apply)


def _begins(h: Hypotheses) -> Tensor:
    """A forced first token is no beginning."""
    return h.generated == (h.first >= 0)


def _is_forced_last(h: Hypotheses) -> Tensor:
    return h.generated == h.written.limit - 1


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
        shape, before = scores.shape, scores.amax()
        changed = callable_(hypotheses.ids, scores)
        if not isinstance(changed, Tensor) or changed.shape != shape:
            got = list(changed.shape) if isinstance(changed, Tensor) else changed
            raise ValueError(f"logits_processor {name} must return scores {list(shape)}, not {got}")
        if changed.layout != scores.layout or changed.device != scores.device:
            got = f"{changed.layout} ones on {changed.device}"
            raise ValueError(
                f"logits_processor {name} must return scores as it was given them, not {got}"
            )
        if not changed.is_floating_point():
            raise ValueError(
                f"logits_processor {name} must return scores of {scores.dtype}, not {changed.dtype}"
            )
        # The host takes part in this step anyway. NaN is the greatest of all numbers here.
        if bool(changed.amax().isnan()) and not bool(before.isnan()):
            raise ValueError(f"logits_processor {name} returned NaN where it was given numbers")
        return changed.to(scores.dtype)

    return Processor(name, apply)
