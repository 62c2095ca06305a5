"""The life of a request: prompts are read once, then one verb per step until search is done."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from .beams import BeamSearch, Rules
from .hypotheses import Hypotheses
from .outputs import GenerateOutput, Recorder
from .processors import build_processors
from .search import Greedy, Search
from .stopping import Stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from .config import GenerationConfig
    from .processors import Processor
    from .prompts import Prompts
    from .protocol import Decoder, EncoderDecoder
    from .stopping import Criterion
    from .trie import Trie

DEFAULT_NEW_TOKENS = 20


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


@dataclass(frozen=True)
class Lengths:
    """Totals over prompt (pads included) and generated tokens, as transformers counts them."""

    prompt: int
    total: int
    minimum: int

    @property
    def new_tokens(self) -> int:
        return self.total - self.prompt

    @classmethod
    def resolve(
        cls, config: GenerationConfig, prompts: Prompts, max_positions: int | None
    ) -> Lengths:
        """Apply max_new_tokens, else max_length, else the default of 20 new tokens."""
        prompt = prompts.ids.shape[1]
        if config.max_new_tokens is not None:
            total = prompt + config.max_new_tokens
        elif config.max_length is not None:
            total = config.max_length
        else:
            total = prompt + DEFAULT_NEW_TOKENS
            if max_positions is not None:
                total = min(total, max(max_positions, prompt + 1))
        if total <= prompt:
            raise ValueError(
                f"the prompt has {prompt} tokens and max_length is {total}: nothing can be "
                "generated; pass max_new_tokens, or shorten the prompt"
            )
        # The last token is chosen but never fed back, so it needs no position.
        needed = int(prompts.lengths.max()) + total - prompt - 1
        if max_positions is not None and needed > max_positions:
            room = total - prompt - (needed - max_positions)
            if room < 1:
                longest = int(prompts.lengths.max())
                raise ValueError(
                    f"the prompt alone has {longest} tokens, the model {max_positions} positions: "
                    "shorten the prompt (decoder_input_ids, where there is an encoder)"
                )
            raise ValueError(
                f"prompt plus new tokens need {needed} positions, the model has {max_positions}: "
                f"shorten the prompt (decoder_input_ids, where there is an encoder), or pass "
                f"max_new_tokens <= {room}"
            )
        minimum = config.min_length
        if config.min_new_tokens is not None:
            minimum = prompt + config.min_new_tokens
        return cls(prompt, total, minimum)


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
        """`prompts` are what is continued; `sources` what the encoder reads, if there is one."""
        self._decoder = decoder
        self._prompts = prompts
        self._sources = sources
        self._lengths = Lengths.resolve(config, prompts, decoder.max_positions)
        searching = config.num_beams > 1
        self._beams = config.num_beams if searching else config.num_return_sequences
        self._hypotheses = Hypotheses(
            prompts.ids,
            prompts.starts,
            beams=self._beams,
            new_tokens=self._lengths.new_tokens,
        )
        build = self._beam_search if searching else self._greedy
        self._search: Search = build(config, callables)

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
            lineage = hypotheses.lineage if beams > 1 else None
            with plain():
                logits = self._decoder.step(tokens, lineage, cache)
            logits = logits.flatten(0, 1).float()

    def _prefill(self) -> tuple[Any, Tensor]:
        prompts, sources = self._prompts, self._sources
        # The last token is chosen but never fed back.
        beams, target_length = self._beams, self._lengths.new_tokens - 1
        if sources is None:
            decoder = cast("Decoder", self._decoder)
            tokens = prompts.right_padded()
            return decoder.prefill(
                tokens, prompts.lengths, beams=beams, target_length=target_length
            )
        return cast("EncoderDecoder", self._decoder).prefill(
            sources.right_padded(),
            sources.lengths,
            prompt=prompts.ids,
            beams=beams,
            target_length=target_length,
        )

    def output(self) -> GenerateOutput:
        """The result, once the iteration has ended."""
        return self._search.output(self._hypotheses)

    def _greedy(self, config: GenerationConfig, callables: Callables) -> Greedy:
        return Greedy(
            self._processors(config, callables),
            self._stopping(config, callables),
            _recorder(config),
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
        return BeamSearch(
            self._processors(config, callables),
            self._stopping(config, callables),
            _recorder(config),
            rules,
            samples=self._prompts.ids.shape[0],
            device=self._prompts.ids.device,
        )

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


def _recorder(config: GenerationConfig) -> Recorder:
    wanted = config.return_dict_in_generate
    return Recorder(scores=wanted and config.output_scores, logits=wanted and config.output_logits)


def _fill_token_id(config: GenerationConfig) -> int:
    """What stands behind the end of shorter beams."""
    if config.hf_exact:
        # transformers takes a pad token 0 for none, and fills with -1 where nothing can end.
        return (config.pad_token_id or config.eos_token_ids[0]) if config.eos_token_ids else -1
    return -1 if config.fill_token_id is None else config.fill_token_id
