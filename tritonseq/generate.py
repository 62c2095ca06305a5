"""The life of a request: prompts are read once, then one verb per step until search is done."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from .beams import BeamSearch, Rules
from .cache import Sizes
from .hypotheses import Hypotheses
from .lengths import Lengths
from .outputs import GenerateOutput, Recorder
from .processors import build_processors
from .search import Greedy
from .stopping import Stopping
from .unilm_search import UniLMBeamSearch, UniLMRules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from .config import GenerationConfig
    from .processors import Processor
    from .prompts import Prompts
    from .protocol import Decoder, EncoderDecoder
    from .search import Search
    from .stopping import Criterion
    from .trie import Trie


class Streamer(Protocol):
    """Receives the prompt, then every token as it is chosen; transformers' streamers are such."""

    def put(self, value: Tensor) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class Callables:
    """Functions of the caller that take part in every step, on the host."""

    logits_processor: Sequence[Callable[[Tensor, Tensor], Tensor]] = ()
    stopping_criteria: Sequence[Criterion] = ()
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | Trie | None = None


class Generation:
    """One request on its way: made of checked inputs, driven by iterating over it."""

    def __init__(
        self,
        decoder: Decoder | EncoderDecoder,
        prompts: Prompts,
        config: GenerationConfig,
        callables: Callables,
        sources: Prompts | None = None,
    ) -> None:
        """`prompts` are what is continued; `sources` what is read and answered, if anything."""
        config = _as_upstream(config)
        self._decoder = decoder
        self._prompts = prompts
        self._sources = sources
        self._lengths = Lengths.resolve(config, decoder, prompts, sources)
        searching = config.num_beams > 1
        self._beams = config.num_beams if searching else config.num_return_sequences
        self._hypotheses = Hypotheses(
            prompts.ids,
            prompts.starts,
            beams=self._beams,
            new_tokens=self._lengths.new_tokens,
        )
        self._search: Search = self._build_search(config, callables)

    # Not inference mode, whose tensors a caller could not use for training afterwards.
    @torch.no_grad()
    def __iter__(self) -> Iterator[Tensor]:
        """Yield the tokens `[B, K]` of every step as soon as they are chosen."""
        hypotheses, search, beams = self._hypotheses, self._search, self._beams
        # An autocast around the call must not change what the weights' dtype promises.
        plain = partial(torch.autocast, self._prompts.ids.device.type, enabled=False)
        with plain():
            cache, logits = self._prefill()
        logits = logits.float().repeat_interleave(beams, dim=0)
        while True:
            tokens = search.select(logits, hypotheses)
            yield tokens
            if search.finished:
                return
            lineage = hypotheses.lineage[:, :-1] if beams > 1 else None
            with plain():
                logits = self._decoder.step(tokens, lineage, cache)
            cache.advance()
            logits = logits.flatten(0, 1).float()

    def _prefill(self) -> tuple[Any, Tensor]:
        prompts, sources = self._prompts, self._sources
        read = prompts if sources is None else sources
        # The last token is chosen but never fed back.
        target_length = self._lengths.new_tokens - 1
        sizes = Sizes(*read.ids.shape[:1], self._beams, read.ids.shape[1], target_length)
        if sources is None or self._decoder.is_prefix_lm:
            cache = self._decoder.new_cache(sizes)
            decoder = cast("Decoder", self._decoder)
            return cache, decoder.prefill(read.right_padded(), read.lengths, cache)
        cache = self._decoder.new_cache(sizes._replace(prompt_length=prompts.ids.shape[1]))
        encoder_decoder = cast("EncoderDecoder", self._decoder)
        return cache, encoder_decoder.prefill(
            read.right_padded(), read.lengths, cache, prompt=prompts.ids
        )

    def output(self) -> GenerateOutput:
        """The result, once the iteration has ended."""
        return self._search.output(self._hypotheses)

    def _build_search(self, config: GenerationConfig, callables: Callables) -> Search:
        if config.num_beams == 1:
            return self._greedy(config, callables)
        if config.searches_as_unilm:
            return self._unilm_search(config, callables)
        return self._beam_search(config, callables)

    def _greedy(self, config: GenerationConfig, callables: Callables) -> Greedy:
        return Greedy(
            *self._parts(config, callables),
            sample=config.do_sample,
            pad_token_id=config.fill_token_id,
        )

    def _beam_search(self, config: GenerationConfig, callables: Callables) -> BeamSearch:
        rules = Rules(
            beams=config.num_beams,
            groups=config.num_beam_groups,
            diversity_penalty=config.diversity_penalty,
            candidates_per_beam=config.candidates_per_beam,
            sample=config.do_sample,
            early_stopping=config.early_stopping,
            length_penalty=config.length_penalty,
            new_tokens=self._lengths.new_tokens,
            num_return_sequences=config.num_return_sequences,
            fill_token_id=_fill_token_id(config),
        )
        ids = self._prompts.ids
        parts = self._parts(config, callables)
        return BeamSearch(*parts, rules, samples=ids.shape[0], device=ids.device)

    def _unilm_search(self, config: GenerationConfig, callables: Callables) -> UniLMBeamSearch:
        rules = UniLMRules(
            beams=config.num_beams,
            length_penalty=config.length_penalty,
            stops_early=config.early_stopping != "never",
            has_strangers=bool(callables.logits_processor),
            new_tokens=self._lengths.new_tokens,
            num_return_sequences=config.num_return_sequences,
            fill_token_id=_fill_token_id(config),
        )
        ids = self._prompts.ids
        parts = self._parts(config, callables)
        return UniLMBeamSearch(*parts, rules, samples=ids.shape[0], device=ids.device)

    def _parts(
        self, config: GenerationConfig, callables: Callables
    ) -> tuple[list[Processor], Stopping, Recorder]:
        """What every search is made of."""
        processors = self._processors(config, callables)
        return processors, self._stopping(config, callables), _recorder(config)

    def _processors(self, config: GenerationConfig, callables: Callables) -> list[Processor]:
        # Without an encoder, the prompt is the source that encoder_* options speak of.
        source = self._prompts if self._sources is None else self._sources
        return build_processors(
            config,
            prompt_length=self._lengths.prompt,
            max_length=self._lengths.total,
            min_length=self._lengths.minimum,
            min_new_tokens=config.min_new_tokens,
            source_ids=source.ids,
            source_starts=source.starts,
            source_ends=source.ends,
            user=callables.logits_processor,
            prefix_allowed_tokens_fn=callables.prefix_allowed_tokens_fn,
            vocab_size=self._decoder.vocab_size,
            start_token_ids=() if self._sources is None else config.decoder_start_token_ids,
            device=self._prompts.ids.device,
        )

    def _stopping(self, config: GenerationConfig, callables: Callables) -> Stopping:
        return Stopping(
            eos_token_ids=config.eos_token_ids,
            new_tokens=self._lengths.new_tokens,
            max_time=config.max_time,
            criteria=callables.stopping_criteria,
            device=self._prompts.ids.device,
        )


def _as_upstream(config: GenerationConfig) -> GenerationConfig:
    """Without what the greedy decoding of UniLM takes no notice of."""
    if not config.searches_as_unilm or config.num_beams > 1 or config.do_sample:
        return config
    return config.merged(no_repeat_ngram_size=0, min_length=0, min_new_tokens=None)


def _recorder(config: GenerationConfig) -> Recorder:
    wanted = config.return_dict_in_generate
    return Recorder(scores=wanted and config.output_scores, logits=wanted and config.output_logits)


def _fill_token_id(config: GenerationConfig) -> int:
    """What stands behind the end of shorter beams."""
    if config.hf_exact:
        # transformers takes a pad token 0 for none, and fills with -1 where nothing can end.
        return (config.pad_token_id or config.eos_token_ids[0]) if config.eos_token_ids else -1
    return -1 if config.fill_token_id is None else config.fill_token_id
