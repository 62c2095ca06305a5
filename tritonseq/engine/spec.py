"""Engine spec: what a request asks of an engine, its search and the sizes of its buffers."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tritonseq.decoding.beam_search import BeamOptions, BeamSearch
from tritonseq.decoding.outputs import Recorder
from tritonseq.decoding.processor_list import build_processors, forced_first
from tritonseq.decoding.search import Greedy
from tritonseq.decoding.stopping import Stopping
from tritonseq.decoding.trie import Trie
from tritonseq.decoding.unilm_search import ENDED, UniLMBeamSearch, UniLMOptions
from tritonseq.kernels import is_gpu
from tritonseq.memory.kv_cache import Sizes

from .lengths import Lengths

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from torch import Tensor

    from tritonseq.decoding.search import Search
    from tritonseq.decoding.stop_strings import StopStrings
    from tritonseq.decoding.stopping import Criterion
    from tritonseq.options.config import GenerationConfig

    from .decoder_protocol import Decoder, Seq2SeqDecoder
    from .inputs import Prompts


# Options that a search does not hold: of lengths, and of what comes first.
_IN_BUFFERS = frozenset(
    (
        "decoder_start_token_id",
        "forced_bos_token_id",
        "max_length",
        "max_new_tokens",
        "max_time",
        "min_length",
        "min_new_tokens",
        "return_dict_in_generate",
    )
)

# Of a refilled engine's slots, one in so many can be filled at once by a sample that is not beside
# the others.
STAGED = 2


@dataclass(frozen=True)
class Hooks:
    """What of the caller's takes part in every step: functions, on the host, a trie and strings."""

    logits_processor: Sequence[Callable[[Tensor, Tensor], Tensor]] = ()
    stopping_criteria: Sequence[Criterion] = ()
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | Trie | None = None
    generator: torch.Generator | None = None
    """What is drawn from, on the CPU; None is torch's global generator."""
    stops: StopStrings | None = None

    @property
    def trie(self) -> Trie | None:
        allowed = self.prefix_allowed_tokens_fn
        return allowed if isinstance(allowed, Trie) else None

    @property
    def has_functions(self) -> bool:
        """Whether there is a function that the host must call."""
        function = self.prefix_allowed_tokens_fn is not None and self.trie is None
        return bool(self.logits_processor) or bool(self.stopping_criteria) or function


class Batch(NamedTuple):
    """Checked inputs, and how long their hypotheses may become."""

    prompts: Prompts
    """What is continued."""
    sources: Prompts | None
    """What is read and answered, if anything."""
    lengths: Lengths
    roots: Tensor | None
    """`[B, 1]` where samples start in a trie, if they follow one."""
    first: Tensor | None = None
    """`[B]` the tokens that must come first, -1 where any may; None if that is so in all."""
    skipped: int = 0
    """So many first tokens are no part of a trie's sequences: one, if one is forced that they do
    not start with."""
    stops: Tensor | None = None
    """`[B, 1]` what their prompts leave open of stop strings, if there are any."""

    @classmethod
    def of(
        cls,
        decoder: Decoder | Seq2SeqDecoder,
        prompts: Prompts,
        sources: Prompts | None,
        config: GenerationConfig,
        hooks: Hooks,
    ) -> Batch:
        """Raises ValueError for too few positions, and for a trie that does not fit."""
        samples, prompt_length = prompts.ids.shape
        lengths = Lengths.resolve(as_searched(config), decoder, prompts, sources)
        stops, trie = None, hooks.trie
        if hooks.stops is not None:
            stops = hooks.stops.behind(prompts.ids, prompts.starts)
        device, forced = prompts.ids.device, forced_first(config, prompt_length, samples)
        first = None
        if any(token is not None for token in forced):
            first = torch.tensor([-1 if t is None else t for t in forced], device=device)
        if trie is None:
            return cls(prompts, sources, lengths, None, first, stops=stops)
        check_trie(
            trie,
            config,
            vocab_size=decoder.vocab_size,
            samples=samples,
            prompt_length=prompt_length,
            start_token_ids=() if sources is None else config.decoder_start_token_ids,
        )
        roots = trie.starts(samples).to(device)
        return cls(prompts, sources, lengths, roots, first, int(trie.is_behind(forced)), stops)

    @property
    def read(self) -> Prompts:
        """What the network reads first; without sources, the prompts."""
        return self.prompts if self.sources is None else self.sources

    @property
    def samples(self) -> int:
        return self.prompts.ids.shape[0]


class EngineSpec:
    """Slots for samples, their number and sizes, and the search that runs in them."""

    def __init__(
        self,
        decoder: Decoder | Seq2SeqDecoder,
        config: GenerationConfig,
        hooks: Hooks,
        batches: Sequence[Batch],
        *,
        slots: int,
        is_refilled: bool = False,
        is_watched: bool = False,
    ) -> None:
        """`slots` that have room for any sample of the `batches`.

        `is_refilled`: samples take the places of others; `is_watched`: the caller looks at every
        step.
        """
        self.decoder = decoder
        self.config = config = as_searched(config)
        self.hooks = hooks
        self.device = device = batches[0].prompts.ids.device
        prompt_length = max(batch.prompts.ids.shape[1] for batch in batches)
        new_tokens = max(batch.lengths.new_tokens for batch in batches)
        self._most_new_tokens = bucket(new_tokens, device)
        source_length = bucket(max(batch.read.ids.shape[1] for batch in batches), device)
        self.has_decoder_prompts = decoder.is_encoder_decoder and not decoder.is_prefix_lm
        """Whether prompts are what targets start with, all of one length."""
        self.is_refilled = is_refilled
        self.sizes = Sizes(
            samples=slots,
            beams=self.beams,
            source_length=source_length,
            # The last token is chosen but never fed back.
            target_length=self._most_new_tokens - 1,
            prompt_length=prompt_length if self.has_decoder_prompts else 0,
        )
        self.buffers: dict[str, Any] = {
            "samples": slots,
            "beams": self.beams,
            "prompt_length": bucket(prompt_length, device),
            "new_tokens": self._most_new_tokens,
            "source_length": source_length if self.has_source_options else None,
            "follows_trie": hooks.trie is not None,
            "has_stops": hooks.stops is not None,
        }
        """Arguments of `Hypotheses.allocate`."""
        records = config.return_dict_in_generate and (config.output_scores or config.output_logits)
        self.is_watched = is_watched
        self.retires = not (is_watched or records or hooks.has_functions)
        """Whether samples rest as soon as their own search has ended: the host takes no part."""
        (self._skipped,) = {batch.skipped for batch in batches}

    @property
    def beams(self) -> int:
        """Rows of every sample: beams, or sequences that are drawn side by side."""
        config = self.config
        return config.num_beams if config.num_beams > 1 else config.num_return_sequences

    @property
    def has_source_options(self) -> bool:
        """Whether any option speaks of the source."""
        config = self.config
        return config.encoder_repetition_penalty != 1.0 or config.encoder_no_repeat_ngram_size > 0

    @property
    def pad_token_id(self) -> int:
        """What rows go on with that have ended before the others of their batch.

        The network is fed with it, so it is a token in any case.
        """
        fill = self.config.fill_token_id or 0
        return fill if 0 <= fill < self.decoder.vocab_size else 0

    @property
    def staging(self) -> Sizes:
        """Of the caches that samples are read into before they come to slots here and there."""
        samples = -(-self.sizes.samples // STAGED)
        target_length = min(self.sizes.target_length, 1)
        return self.sizes._replace(samples=samples, target_length=target_length)

    @property
    def key(self) -> Hashable:
        """Requests with equal keys can use the same engine.

        How long a hypothesis may and must become is written in its buffers.
        """
        # What is captured on a GPU goes by the places of the weights.
        weights = () if self.device.type == "cpu" else self.decoder.addresses
        search = self._search_key if self.retires else None
        return self.sizes, self.is_refilled, tuple(self.buffers.items()), search, weights

    @property
    def _runs_out(self) -> bool:
        """Whether a search of UniLM goes on to the very end.

        A result without the scores of sequences asks for the search itself, as traces do; other
        results end where all their hypotheses have.
        """
        config = self.config
        is_search_wanted = config.return_dict_in_generate and not config.output_scores
        return config.early_stopping == "never" and is_search_wanted

    @property
    def _search_key(self) -> Hashable:
        trie, config = self.hooks.trie, self.config
        options = {
            field.name: getattr(config, field.name)
            for field in fields(config)
            if field.name not in _IN_BUFFERS
        }
        given = (
            bool(config.min_length),
            bool(config.min_new_tokens),
            config.forced_bos_token_id is not None,
            self._runs_out,
        )
        timed = config.max_time is not None
        tables = None if trie is None else trie.identity
        return repr(options), given, timed, self._skipped, tables

    def build_search(self) -> Search:
        """The search that the options ask for."""
        config, hooks = self.config, self.hooks
        is_unilm = config.num_beams > 1 and config.has_unilm_search
        processors = build_processors(
            config,
            user=hooks.logits_processor,
            prefix_allowed_tokens_fn=hooks.prefix_allowed_tokens_fn,
            most_new_tokens=self._most_new_tokens,
            skipped=self._skipped,
            # What functions of the caller's get to see has transformers' minus infinity.
            softly=ENDED if is_unilm and not hooks.logits_processor else None,
            device=self.device,
        )
        stopping = Stopping(
            eos_token_ids=config.eos_token_ids,
            max_time=config.max_time,
            stops=None if hooks.stops is None else hooks.stops.on(self.device),
            # Where no token ends rows, transformers lets them go on until all have ended.
            fills=hooks.stops is not None and not config.hf_exact,
            criteria=hooks.stopping_criteria,
            device=self.device,
        )
        wanted = config.return_dict_in_generate
        recorder = Recorder(
            scores=wanted and config.output_scores, logits=wanted and config.output_logits
        )
        parts = (processors, stopping, recorder)
        if config.num_beams == 1:
            return Greedy(
                *parts,
                sample=config.do_sample,
                pad_token_id=None if config.fill_token_id is None else self.pad_token_id,
                fill_token_id=config.fill_token_id,
                retires=self.retires,
                infinite=bool(hooks.logits_processor) or _can_be_infinite(config),
                keeps_token_scores=config.output_token_scores,
                generator=hooks.generator,
            )
        how: dict[str, Any] = {
            "retires": self.retires,
            "device": self.device,
            "keeps_token_scores": config.output_token_scores,
        }
        if is_unilm:
            return UniLMBeamSearch(*parts, self._unilm_options(), **how)
        return BeamSearch(*parts, self._beam_options(), **how, generator=hooks.generator)

    def _beam_options(self) -> BeamOptions:
        config = self.config
        return BeamOptions(
            beams=config.num_beams,
            groups=config.num_beam_groups,
            diversity_penalty=config.diversity_penalty,
            candidates_per_beam=config.candidates_per_beam,
            sample=config.do_sample,
            early_stopping=config.early_stopping,
            length_penalty=config.length_penalty,
            most_new_tokens=self._most_new_tokens,
            num_return_sequences=config.num_return_sequences,
            fill_token_id=_fill_token_id(config),
        )

    def _unilm_options(self) -> UniLMOptions:
        config = self.config
        return UniLMOptions(
            beams=config.num_beams,
            length_penalty=config.length_penalty,
            stops_early=config.early_stopping != "never",
            runs_out=self._runs_out,
            has_strangers=bool(self.hooks.logits_processor),
            most_new_tokens=self._most_new_tokens,
            num_return_sequences=config.num_return_sequences,
            fill_token_id=_fill_token_id(config),
        )


def bucket(length: int, device: torch.device) -> int:
    """The places that a buffer has for `length`: few different numbers, where graphs are kept.

    Multiples of 64. On the CPU exactly what is asked for: there the cost of a step follows the
    width of its buffers.
    """
    return -(-length // 64) * 64 if is_gpu(device) else length


def check_trie(
    trie: Trie,
    config: GenerationConfig,
    *,
    vocab_size: int,
    samples: int,
    prompt_length: int,
    start_token_ids: Sequence[int],
) -> None:
    """Raise ValueError if a batch cannot follow the trie; `Trie.check` says when."""
    trie.check(
        vocab_size=vocab_size,
        samples=samples,
        end_token_ids=config.eos_token_ids,
        start_token_ids=start_token_ids,
        forced_token_ids=forced_first(config, prompt_length, samples),
    )


def as_searched(config: GenerationConfig) -> GenerationConfig:
    """Without what the greedy decoding of UniLM takes no notice of."""
    if not config.has_unilm_search or config.num_beams > 1 or config.do_sample:
        return config
    return config.merged(no_repeat_ngram_size=0, min_length=0, min_new_tokens=None)


def _can_be_infinite(config: GenerationConfig) -> bool:
    """Whether options make a score infinite: by a bias, or by what an end gains with the length.

    A banned end that remove_invalid_values has made finite gains more than float32 holds.
    """
    has_bias = math.inf in dict(config.sequence_bias or ()).values()
    return has_bias or config.exponential_decay_length_penalty is not None


def _fill_token_id(config: GenerationConfig) -> int:
    """What stands behind the end of shorter beams."""
    if config.hf_exact:
        # transformers takes a pad token 0 for none, and fills with -1 where nothing can end.
        return (config.pad_token_id or config.eos_token_ids[0]) if config.eos_token_ids else -1
    return -1 if config.fill_token_id is None else config.fill_token_id
