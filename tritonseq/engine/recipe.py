"""What a request decides by: options and callables, and the search that they make."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from tritonseq.decoding.beam_search import BeamSearch, Rules
from tritonseq.decoding.outputs import Recorder
from tritonseq.decoding.processor_list import build_processors, forced_first
from tritonseq.decoding.search import Greedy
from tritonseq.decoding.stopping import Stopping
from tritonseq.decoding.trie import Trie
from tritonseq.decoding.unilm_search import ENDED, UniLMBeamSearch, UniLMRules

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    import torch
    from torch import Tensor

    from tritonseq.decoding.search import Search
    from tritonseq.decoding.stopping import Criterion
    from tritonseq.options.config import GenerationConfig


@dataclass(frozen=True)
class Callables:
    """What of the caller's takes part in every step: functions, on the host, and a trie."""

    logits_processor: Sequence[Callable[[Tensor, Tensor], Tensor]] = ()
    stopping_criteria: Sequence[Criterion] = ()
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | Trie | None = None
    generator: torch.Generator | None = None
    """What is drawn from, on the CPU; None is torch's global generator."""

    @property
    def trie(self) -> Trie | None:
        allowed = self.prefix_allowed_tokens_fn
        return allowed if isinstance(allowed, Trie) else None

    @property
    def are_called(self) -> bool:
        """Is there any function that the host must call?"""
        function = self.prefix_allowed_tokens_fn is not None and self.trie is None
        return bool(self.logits_processor) or bool(self.stopping_criteria) or function


class Recipe:
    """Makes the search of a request, which serves any batch that its lengths allow."""

    def __init__(
        self,
        config: GenerationConfig,
        callables: Callables,
        *,
        most_new_tokens: int,
        prompt_length: int,
        vocab_size: int,
    ) -> None:
        """`most_new_tokens`: room for generated tokens; `prompt_length`: of the decoder's."""
        self._vocab_size = vocab_size
        self.config = config = as_upstream(config)
        self.callables = callables
        self.most_new_tokens = most_new_tokens
        trie, forced = callables.trie, forced_first(config, prompt_length)
        # Of a trie's sequences, a first token that is forced may be no part.
        self._skipped = int(trie is not None and forced is not None and trie.leaves_out(forced))

    @property
    def beams(self) -> int:
        """Rows of every sample: beams, or sequences that are drawn side by side."""
        config = self.config
        return config.num_beams if config.num_beams > 1 else config.num_return_sequences

    @property
    def reads_source(self) -> bool:
        """Does any option speak of the source?"""
        config = self.config
        return config.encoder_repetition_penalty != 1.0 or config.encoder_no_repeat_ngram_size > 0

    @property
    def watches(self) -> bool:
        """Does the host take part in every step, to call functions or to record?"""
        config = self.config
        records = config.return_dict_in_generate and (config.output_scores or config.output_logits)
        return self.callables.are_called or bool(records)

    @property
    def pad_token_id(self) -> int:
        """What rows go on with that have ended before the others of their batch.

        The network is fed with it, so it is a token in any case.
        """
        fill = self.config.fill_token_id or 0
        return fill if 0 <= fill < self._vocab_size else 0

    @property
    def key(self) -> Hashable:
        """Requests with equal keys can use the same search.

        How long a hypothesis may and must become is written in its buffers.
        """
        trie, config = self.callables.trie, self.config
        options = {
            field.name: getattr(config, field.name)
            for field in fields(config)
            if field.name not in _IN_BUFFERS
        }
        given = tuple(bool(getattr(config, name)) for name in ("min_length", "min_new_tokens"))
        timed = config.max_time is not None
        tables = None if trie is None else trie.identity
        return repr(options), given, timed, self.most_new_tokens, self._skipped, tables

    def search(self, *, retires: bool, device: torch.device) -> Search:
        """A search; with `retires`, samples rest as soon as their own has ended."""
        config, callables = self.config, self.callables
        by_upstream = config.num_beams > 1 and config.searches_as_unilm
        processors = build_processors(
            config,
            user=callables.logits_processor,
            prefix_allowed_tokens_fn=callables.prefix_allowed_tokens_fn,
            most_new_tokens=self.most_new_tokens,
            skipped=self._skipped,
            # What functions of the caller's get to see has transformers' minus infinity.
            softly=ENDED if by_upstream and not callables.logits_processor else None,
            device=device,
        )
        stopping = Stopping(
            eos_token_ids=config.eos_token_ids,
            max_time=config.max_time,
            criteria=callables.stopping_criteria,
            device=device,
        )
        wanted = config.return_dict_in_generate
        recorder = Recorder(
            scores=wanted and config.output_scores, logits=wanted and config.output_logits
        )
        parts = (processors, stopping, recorder)
        how: dict[str, Any] = {"retires": retires, "device": device}
        if config.num_beams == 1:
            return Greedy(
                *parts,
                sample=config.do_sample,
                pad_token_id=None if config.fill_token_id is None else self.pad_token_id,
                fill_token_id=config.fill_token_id,
                retires=retires,
                infinite=bool(callables.logits_processor) or _has_infinite_bias(config),
                generator=callables.generator,
            )
        if by_upstream:
            return UniLMBeamSearch(*parts, self._unilm_rules(), **how)
        return BeamSearch(*parts, self._rules(), **how, generator=callables.generator)

    def _rules(self) -> Rules:
        config = self.config
        return Rules(
            beams=config.num_beams,
            groups=config.num_beam_groups,
            diversity_penalty=config.diversity_penalty,
            candidates_per_beam=config.candidates_per_beam,
            sample=config.do_sample,
            early_stopping=config.early_stopping,
            length_penalty=config.length_penalty,
            most_new_tokens=self.most_new_tokens,
            num_return_sequences=config.num_return_sequences,
            fill_token_id=_fill_token_id(config),
        )

    def _is_traced(self) -> bool:
        """Is the search itself what is asked for, in a result without the scores of sequences?

        That is what traces are made of; other results end where all their hypotheses have.
        """
        config = self.config
        is_result = config.return_dict_in_generate and not config.output_scores
        return config.early_stopping == "never" and is_result

    def _unilm_rules(self) -> UniLMRules:
        config = self.config
        return UniLMRules(
            beams=config.num_beams,
            length_penalty=config.length_penalty,
            stops_early=config.early_stopping != "never",
            runs_out=self._is_traced(),
            has_strangers=bool(self.callables.logits_processor),
            most_new_tokens=self.most_new_tokens,
            num_return_sequences=config.num_return_sequences,
            fill_token_id=_fill_token_id(config),
        )


# Options that a search does not hold: of lengths and what targets start with.
_IN_BUFFERS = frozenset(
    (
        "decoder_start_token_id",
        "max_length",
        "max_new_tokens",
        "max_time",
        "min_length",
        "min_new_tokens",
        "return_dict_in_generate",
    )
)


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
        forced_token_id=forced_first(config, prompt_length),
    )


def as_upstream(config: GenerationConfig) -> GenerationConfig:
    """Without what the greedy decoding of UniLM takes no notice of."""
    if not config.searches_as_unilm or config.num_beams > 1 or config.do_sample:
        return config
    return config.merged(no_repeat_ngram_size=0, min_length=0, min_new_tokens=None)


def _has_infinite_bias(config: GenerationConfig) -> bool:
    return math.inf in dict(config.sequence_bias or ()).values()


def _fill_token_id(config: GenerationConfig) -> int:
    """What stands behind the end of shorter beams."""
    if config.hf_exact:
        # transformers takes a pad token 0 for none, and fills with -1 where nothing can end.
        return (config.pad_token_id or config.eos_token_ids[0]) if config.eos_token_ids else -1
    return -1 if config.fill_token_id is None else config.fill_token_id
