"""What a request asks of an engine: the search that its options make, and slots of which sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F

from tritonseq.decoding.beam_search import BeamSearch, Rules
from tritonseq.decoding.hypotheses import Hypotheses, Text
from tritonseq.decoding.outputs import Recorder
from tritonseq.decoding.processor_list import build_processors, forced_first
from tritonseq.decoding.search import Greedy
from tritonseq.decoding.stopping import Stopping
from tritonseq.decoding.trie import Trie
from tritonseq.decoding.unilm_search import ENDED, UniLMBeamSearch, UniLMRules
from tritonseq.memory.kv_cache import Sizes, of_samples

from .engine import Engine, staging
from .inputs import Prompts
from .lengths import Lengths
from .memory_plan import Plan
from .pool import bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from tritonseq.decoding.search import Search
    from tritonseq.decoding.stopping import Criterion
    from tritonseq.options.config import GenerationConfig

    from .decoder_protocol import Decoder, EncoderDecoder
    from .pool import Engines


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


class SearchSpec:
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


class Batch(NamedTuple):
    """Checked inputs, and how long their hypotheses may become."""

    prompts: Prompts
    """What is continued."""
    sources: Prompts | None
    """What is read and answered, if anything."""
    lengths: Lengths
    roots: Tensor | None
    """`[B, 1]` where samples start in a trie, if they follow one."""

    @classmethod
    def of(
        cls,
        decoder: Decoder | EncoderDecoder,
        prompts: Prompts,
        sources: Prompts | None,
        config: GenerationConfig,
        trie: Trie | None,
    ) -> Batch:
        """Raises ValueError for too few positions, and for a trie that does not fit."""
        samples, prompt_length = prompts.ids.shape
        lengths = Lengths.resolve(as_upstream(config), decoder, prompts, sources)
        if trie is None:
            return cls(prompts, sources, lengths, None)
        check_trie(
            trie,
            config,
            vocab_size=decoder.vocab_size,
            samples=samples,
            prompt_length=prompt_length,
            start_token_ids=() if sources is None else config.decoder_start_token_ids,
        )
        return cls(prompts, sources, lengths, trie.starts(samples).to(prompts.ids.device))

    @property
    def read(self) -> Prompts:
        """What the network reads first; without sources, the prompts."""
        return self.prompts if self.sources is None else self.sources

    @property
    def samples(self) -> int:
        return self.prompts.ids.shape[0]


class Slots:
    """How many slots of which sizes a request needs, and the search that runs in them."""

    def __init__(
        self,
        decoder: Decoder | EncoderDecoder,
        spec: SearchSpec,
        *,
        samples: int,
        source_length: int,
        prompt_length: int,
        refilled: bool,
        device: torch.device,
    ) -> None:
        """`refilled`: samples take the places of others."""
        self._refilled = refilled
        self._decoder = decoder
        self._spec = spec
        self._device = device
        self.has_encoder = decoder.is_encoder_decoder and not decoder.is_prefix_lm
        """Are prompts what targets start with, all of the same length?"""
        source_length = bucket(source_length, device)
        self._sizes = Sizes(
            samples=samples,
            beams=spec.beams,
            source_length=source_length,
            # The last token is chosen but never fed back.
            target_length=spec.most_new_tokens - 1,
            prompt_length=prompt_length if self.has_encoder else 0,
        )
        self._buffers: dict[str, Any] = {
            "samples": samples,
            "beams": spec.beams,
            "prompt_length": bucket(prompt_length, device),
            "new_tokens": spec.most_new_tokens,
            "source_length": source_length if spec.reads_source else None,
            "follows_trie": spec.callables.trie is not None,
        }

    def lend(self, engines: Engines, *, watched: bool) -> AbstractContextManager[Engine]:
        """An engine with these slots; `watched` if the caller looks at every step."""
        retires = not (watched or self._spec.watches)
        # What serves other calls too must not hold inference tensors.
        with torch.inference_mode(False):
            search = self._spec.search(retires=retires, device=self._device)
        plan = self._plan(search)

        def build(graphs: bool) -> Engine:
            cache = self._decoder.new_cache(self._sizes)
            hypotheses = Hypotheses.allocate(**self._buffers, step=cache.step, device=self._device)
            return Engine(self._decoder, search, self._sizes, hypotheses, cache, graphs=graphs)

        buffers = tuple(self._buffers.items())
        # What is captured on a GPU goes by the places of the weights.
        weights = () if self._device.type == "cpu" else self._decoder.addresses
        key = (self._sizes, self._refilled, buffers, self._spec.key if retires else None, weights)
        return engines.lend(key, plan, self._device, build, search)

    def plan(self) -> Plan:
        """The memory that they take."""
        return self._plan(self._spec.search(retires=True, device=self._device))

    def _plan(self, search: Search) -> Plan:
        staged = staging(self._sizes) if self._refilled else None
        return Plan.of(self._decoder, search, self._sizes, self._buffers, staged)

    def admit(self, engine: Engine, batch: Batch) -> None:
        """Put the samples of a batch into the first slots."""
        self._load(of_samples(engine.hypotheses, 0, batch.samples), batch)
        self._begin(engine, range(batch.samples), [batch])

    def admit_each(self, engine: Engine, arrivals: Mapping[int, Batch]) -> None:
        """Put batches of one sample into the slots that they are given under."""
        for slot, batch in arrivals.items():
            self._load(of_samples(engine.hypotheses, slot, 1), batch)
        for slots in _at_once(sorted(arrivals), staging(self._sizes).samples):
            self._begin(engine, slots, [arrivals[slot] for slot in slots])

    def _begin(self, engine: Engine, slots: Sequence[int], batches: Sequence[Batch]) -> None:
        prompt = torch.cat([batch.prompts.ids for batch in batches]) if self.has_encoder else None
        engine.admit(slots, _side_by_side([batch.read for batch in batches]), prompt)

    def _load(self, hypotheses: Hypotheses, batch: Batch) -> None:
        prompts, lengths, spec = batch.prompts, batch.lengths, self._spec
        hypotheses.load(
            prompts.ids,
            prompts.starts,
            new_tokens=lengths.new_tokens,
            minimum=lengths.minimum - lengths.prompt,
            fill=spec.pad_token_id,
            source=_text(batch.read, spec.config.hf_exact) if spec.reads_source else None,
            roots=batch.roots,
        )


def _at_once(slots: list[int], staged: int) -> Iterator[list[int]]:
    """Ascending slots in parts, each of which an engine can admit by one prefill."""
    while slots:
        run = 1
        while run < len(slots) and slots[run] == slots[0] + run:
            run += 1
        count = max(run, staged)
        yield slots[:count]
        slots = slots[count:]


def _side_by_side(parts: Sequence[Prompts]) -> Prompts:
    """What is read for several batches, as one."""
    if len(parts) == 1:
        return parts[0]
    rows = [part.right_padded() for part in parts]
    width = max(part.shape[1] for part in rows)
    ids = torch.cat([F.pad(part, (0, width - part.shape[1])) for part in rows])
    return Prompts(ids, torch.cat([part.lengths for part in parts]), None)


def _text(read: Prompts, count_pads: bool) -> Text:
    """The source with its edges, as the `encoder_` options want it."""
    starts = torch.zeros_like(read.lengths)
    if count_pads:
        return Text(read.ids, starts, starts + read.ids.shape[1])
    if read.starts is not None:
        starts = read.starts
    return Text(read.ids, starts, starts + read.lengths)
