"""Request: the arguments of `generate`, checked once, for one batch of ids or several."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from tritonseq.callers import warn
from tritonseq.decoding.stopping import check_limits
from tritonseq.decoding.trie import Trie
from tritonseq.options.containers import check_container, plain
from tritonseq.shown import shown

from .encoder_states import EncoderStates
from .inputs import (
    check_decoder_mask,
    empty_prompts,
    read_decoder_prompts,
    read_prompts,
    read_sources,
)
from .lengths import Lengths, default_new_tokens, is_short_of_positions
from .pool import refuse_absurd
from .scheduler import run
from .spec import Batch, EngineSpec, Hooks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tritonseq.decoding.outputs import GenerateOutput
    from tritonseq.decoding.stop_strings import StopStrings
    from tritonseq.options.config import GenerationConfig

    from .inputs import Prompts
    from .pool import EnginePool, MemoryPlan
    from .scheduler import Step

Ids = Tensor | Sequence[Sequence[int]] | None
Sources = Ids | EncoderStates
AllowedTokens = Callable[[int, Tensor], Sequence[int]] | Trie


class Streamer(Protocol):
    """Receives the prompt, then every token as it is chosen; transformers' streamers are such."""

    def put(self, value: Tensor) -> None: ...

    def end(self) -> None: ...


def _nothing() -> None:
    """What most requests do between steps."""


@dataclass(frozen=True)
class Request:
    """What is the same for all batches of a call; made by `of`."""

    decoder: Any
    config: GenerationConfig
    hooks: Hooks
    engines: EnginePool
    decoder_input_ids: Ids = None
    streamer: Streamer | None = None
    before_step: Callable[[], object] = _nothing
    """Called before every step but the first; what it raises ends the work."""

    @classmethod
    def of(
        cls,
        decoder: Any,
        config: GenerationConfig,
        engines: EnginePool,
        *,
        decoder_input_ids: Ids = None,
        decoder_attention_mask: Any = None,
        logits_processor: Any = (),
        stopping_criteria: Any = (),
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        streamer: Streamer | None = None,
        stops: StopStrings | None = None,
    ) -> Request:
        """Check what can be checked without ids; ValueError for what is wrong.

        `stops`: what the stop strings of the `config` are to the vocabulary.
        """
        allowed = prefix_allowed_tokens_fn
        if not (allowed is None or callable(allowed) or isinstance(allowed, Trie)):
            raise ValueError(f"prefix_allowed_tokens_fn must be callable, not {allowed!r}")
        hooks = Hooks(
            _listed("logits_processor", logits_processor),
            _listed("stopping_criteria", stopping_criteria),
            allowed,
            stops=stops,
        )
        if stops is not None and config.fill_token_id is None and not config.hf_exact:
            raise ValueError(
                "stop_strings end some rows of a batch before others, which are filled up with "
                "pad_token_id, and the model has none: pass one"
            )
        if allowed is not None and not isinstance(allowed, Trie):
            _check_callable("prefix_allowed_tokens_fn", allowed)
        if streamer is not None:
            _check_streamer(streamer, config)
        begun = {
            "decoder_input_ids": decoder_input_ids,
            "decoder_attention_mask": decoder_attention_mask,
        }
        if decoder.is_prefix_lm:
            # transformers' own configurations hold a None.
            begun["decoder_start_token_id"] = config.decoder_start_token_id
        for name, value in begun.items():
            if value is not None and decoder.is_prefix_lm:
                raise ValueError(f"{name}: the targets of this model start empty; leave it out")
            if value is not None and not decoder.is_encoder_decoder:
                raise ValueError(f"{name} is for models with an encoder; pass input_ids alone")
        if config.has_unilm_search and config.num_beams > decoder.vocab_size:
            raise ValueError(
                f"num_beams={config.num_beams} exceeds the vocabulary of {decoder.vocab_size} "
                'tokens: pass fewer, or search="transformers"'
            )
        check_decoder_mask(decoder_attention_mask)
        for name in ("encoder_repetition_penalty", "encoder_no_repeat_ngram_size"):
            if decoder.is_encoder_decoder and name in config and not decoder.shares_vocabulary:
                raise ValueError(
                    f"{name} compares ids of source and target, and this model has a vocabulary "
                    "for each: leave it out"
                )
        return cls(decoder, config, hooks, engines, decoder_input_ids, streamer)

    @property
    def per_sample_arguments(self) -> tuple[str, ...]:
        """The arguments that tell samples apart by their place in the batch."""
        allowed = self.hooks.prefix_allowed_tokens_fn
        by_place = {
            "decoder_input_ids": self.decoder_input_ids is not None,
            "decoder_start_token_id": len(self.config.decoder_start_token_ids) > 1,
            "forced_bos_token_id": len(self.config.forced_bos_token_ids) > 1,
            "prefix_allowed_tokens_fn": allowed is not None
            and not (isinstance(allowed, Trie) and allowed.is_shared),
        }
        return tuple(name for name, given in by_place.items() if given)

    @property
    def is_width_dependent(self) -> bool:
        """Whether lengths depend on the width of a batch's prompts, as transformers counts them."""
        config = self.config
        if self.decoder.is_encoder_decoder:
            return False
        least = bool(config.min_length) and config.min_new_tokens is None
        return config.max_new_tokens is None or least or config.hf_exact

    def is_cut_short_by(self, longest: int) -> bool:
        """Whether a batch with an input of `longest` tokens would end all of its samples early.

        Positions that are too few for one sample are taken from all that are beside it.
        """
        reads_alone = self.decoder.is_encoder_decoder
        return not reads_alone and is_short_of_positions(self.decoder, self.config, longest)

    @property
    def is_order_dependent(self) -> bool:
        """Whether a caller's function or a seed would notice the order of samples."""
        watched = self.hooks.logits_processor or self.hooks.stopping_criteria
        return bool(watched) or self.streamer is not None or self.config.do_sample

    @property
    def can_refill(self) -> bool:
        """Whether samples that are not equally far can be moved on together."""
        config = self.config
        watched = self.hooks.has_functions or self.streamer is not None
        return not (watched or config.output_scores or config.output_logits)

    def run(self, input_ids: Sources, attention_mask: Any) -> GenerateOutput:
        """Generate for one batch of prompts or sources."""
        batch = self._checked_batch(input_ids, attention_mask)
        streamer = self.streamer
        if streamer is not None:
            streamer.put(batch.prompts.ids.cpu())
        for step in self._steps([batch], batch.samples, is_watched=streamer is not None):
            if streamer is not None and step.tokens is not None:
                streamer.put(step.tokens.flatten().cpu())
        if streamer is not None:
            streamer.end()
        return step.ended[0][1]

    def stream(self, input_ids: Sources, attention_mask: Any) -> Iterator[int]:
        """The tokens of one prompt, each as soon as it is chosen; faults are raised here."""
        # The caller may change a tensor between two tokens.
        if isinstance(input_ids, Tensor):
            input_ids = plain(input_ids, "input_ids").clone()
        if isinstance(input_ids, EncoderStates):
            input_ids = input_ids.copied()
        batch = self._checked_batch(input_ids, attention_mask)
        config = self.config
        if config.num_beams > 1 or config.num_return_sequences > 1 or batch.samples > 1:
            raise ValueError(
                "stream yields the tokens of one hypothesis: pass one prompt, "
                "num_beams=1 and num_return_sequences=1"
            )
        steps = self._steps([batch], 1, is_watched=True)
        return (int(step.tokens) for step in steps if step.tokens is not None)

    def each(self, inputs: Sequence[Any], slots: int) -> Iterator[tuple[int, GenerateOutput]]:
        """Every input by itself, `slots` of them side by side; faults are raised here."""
        batches = self._single_batches(inputs, slots)
        steps = self._steps(batches, slots) if batches else iter(())
        return ((numbers[0], output) for step in steps for numbers, output in step.ended)

    def together(
        self, inputs: Sequence[Any], slots: int, admits: Callable[[], bool]
    ) -> Iterator[tuple[list[int], GenerateOutput]]:
        """As `each`, but several that have ended come as one output.

        Without an encoder its sequences hold what was generated alone. Inputs that have not begun
        when `admits()` says no are left out.
        """
        batches = self._single_batches(inputs, slots)
        arrivals = itertools.takewhile(lambda _: admits(), batches)
        steps = self._steps(batches, slots, arrivals=arrivals, together=True)
        return (found for step in steps for found in step.ended)

    def plan(self, samples: int, source_length: int, *, refilled: bool) -> MemoryPlan:
        """The memory that `samples` slots take for inputs of up to `source_length` tokens.

        Raises ValueError if the model cannot read so many.
        """
        # Any token will do that is not taken for padding.
        token = 1 if self.config.pad_token_id == 0 else 0
        batch = self.part([0], 1)._batch_of(_as_row([token] * source_length))
        return self.engines.plan(self._spec([batch], samples, is_refilled=refilled))

    def part(self, places: Sequence[int], samples: int) -> Request:
        """The request for those of its `samples` that stand at `places`, in this order."""
        if not self.per_sample_arguments:
            return self
        config, begun = self.config, self.decoder_input_ids
        for name, tokens in (
            ("decoder_start_token_id", config.decoder_start_token_ids),
            ("forced_bos_token_id", config.forced_bos_token_ids),
        ):
            if len(tokens) > 1:
                each = _rows(name, tokens, samples)
                config = config.merged(**{name: [each[place] for place in places]})
        if begun is not None and hasattr(begun, "__len__"):
            rows = _rows("decoder_input_ids", begun, samples)
            begun = rows[list(places)] if isinstance(rows, Tensor) else [rows[p] for p in places]
        allowed = self.hooks.prefix_allowed_tokens_fn
        if isinstance(allowed, Trie):
            allowed = allowed.part(places, samples)
        elif allowed is not None:
            allowed = _allowed_at(places, allowed)
        hooks = replace(self.hooks, prefix_allowed_tokens_fn=allowed)
        return replace(self, config=config, hooks=hooks, decoder_input_ids=begun)

    def _steps(
        self,
        batches: Sequence[Batch],
        slots: int,
        *,
        arrivals: Iterable[Batch] | None = None,
        is_watched: bool = False,
        together: bool = False,
    ) -> Iterator[Step]:
        """All batches through up to `slots` slots, as they come: in order, or as `arrivals`."""
        samples = sum(batch.samples for batch in batches)
        spec = self._spec(
            batches, min(slots, samples), is_refilled=slots < samples, is_watched=is_watched
        )
        waiting = batches if arrivals is None else arrivals
        return run(self.engines, spec, waiting, before_step=self.before_step, together=together)

    def _spec(self, batches: Sequence[Batch], slots: int, **how: bool) -> EngineSpec:
        spec = EngineSpec(self.decoder, self.config, self.hooks, batches, slots=slots, **how)
        refuse_absurd(spec)
        return spec

    def _single_batches(self, inputs: Sequence[Any], slots: int) -> list[Batch]:
        """A batch for every input; ValueError for one that cannot be, and for the arguments."""
        if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
            raise ValueError(f"slots is {slots!r}: it must be an integer >= 1")
        if not self.can_refill:
            raise ValueError(
                "generate_each moves samples on that are not equally far: functions of yours, "
                "streamers, output_scores and output_logits work with generate only"
            )
        rows = _separate(inputs)
        batches = [self._single_batch(place, ids, len(rows)) for place, ids in enumerate(rows)]
        if batches:
            _check_alike(batches)
        return batches

    def _single_batch(self, place: int, ids: Any, samples: int) -> Batch:
        part = self.part([place], samples)
        try:
            batch = part._batch_of(_as_row(ids))
        except ValueError as error:
            message = str(error).replace("input_ids[0]", "its ids").replace("input_ids", "its ids")
            raise ValueError(f"inputs[{place}]: {message}") from None
        if batch.samples != 1:
            raise ValueError(
                f"inputs[{place}] holds {batch.samples} rows: pass the ids [L] of one text each"
            )
        _warn_of_lengths(part.config, part.decoder, batch.lengths)
        return batch

    def _batch_of(self, input_ids: Sources, attention_mask: Any = None) -> Batch:
        sources, prompts = self._read(input_ids, attention_mask)
        return Batch.of(self.decoder, prompts, sources, self.config, self.hooks)

    def _checked_batch(self, input_ids: Sources, attention_mask: Any) -> Batch:
        """All samples of a call, with the warnings that they deserve."""
        batch = self._batch_of(input_ids, attention_mask)
        check_limits(self.hooks.stopping_criteria, batch.lengths.total)
        _warn_of_lengths(self.config, self.decoder, batch.lengths)
        return batch

    def _read(self, input_ids: Sources, attention_mask: Any) -> tuple[Prompts | None, Prompts]:
        """Sources, if the model answers such, and what is continued."""
        decoder, config = self.decoder, self.config
        device: torch.device = decoder.device
        if not decoder.is_encoder_decoder:
            assert not isinstance(input_ids, EncoderStates), "EncoderStates.of has refused them"
            return None, read_prompts(
                input_ids,
                attention_mask,
                vocab_size=decoder.vocab_size,
                pad_token_id=config.pad_token_id,
                eos_token_ids=config.eos_token_ids,
                bos_token_id=config.bos_token_id,
                device=device,
            )
        sources = self._sources(input_ids, attention_mask)
        if decoder.is_prefix_lm:
            return sources, empty_prompts(sources.ids.shape[0], device)
        prompts = read_decoder_prompts(
            self.decoder_input_ids,
            samples=sources.ids.shape[0],
            start_token_ids=config.decoder_start_token_ids,
            vocab_size=decoder.vocab_size,
            device=device,
        )
        exact = decoder.longest_exact_prompt
        if config.hf_exact and exact is not None and prompts.ids.shape[1] > exact:
            raise ValueError(
                f"hf_exact is True and the targets start with {prompts.ids.shape[1]} tokens: "
                f"transformers reads more than {exact} of a {type(decoder).__name__} wrong, which "
                "is not reproduced; leave out hf_exact or decoder_input_ids"
            )
        return sources, prompts

    def _sources(self, input_ids: Sources, attention_mask: Any) -> Prompts:
        decoder, config = self.decoder, self.config
        if not isinstance(input_ids, EncoderStates):
            return read_sources(
                input_ids,
                attention_mask,
                vocab_size=decoder.source_vocab_size,
                pad_token_id=config.pad_token_id,
                # A pad token that also ends texts says nothing about where one ends.
                infer_mask=not config.hf_exact and config.pad_token_id not in config.eos_token_ids,
                max_positions=decoder.max_source_positions,
                device=decoder.device,
            )
        options = {"encoder_repetition_penalty": 1.0, "encoder_no_repeat_ngram_size": 0}
        for name, idle in options.items():
            if getattr(config, name) != idle:
                raise ValueError(
                    f"{name}={getattr(config, name)} speaks of the ids of sources, and "
                    f"encoder_outputs has none: pass {name}=None"
                )
        return input_ids.read(attention_mask, decoder)


def _separate(inputs: Any) -> list[Any]:
    """The inputs of `generate_each`, one by one."""
    if isinstance(inputs, Tensor):
        inputs = plain(inputs, "inputs")
    check_container("inputs", inputs, are_ids=True)
    is_listed = hasattr(inputs, "__len__") and hasattr(inputs, "__iter__")
    if isinstance(inputs, (str, type)) or not is_listed or getattr(inputs, "ndim", 1) == 0:
        raise ValueError(f"inputs must be a list of lists of ids, not {shown(inputs)}")
    return list(inputs)


def _as_row(ids: Any) -> Any:
    """A batch of the one input `ids [L]`, which the caller may change meanwhile."""
    if isinstance(ids, EncoderStates):
        return ids.copied()
    if isinstance(ids, Tensor):
        ids = plain(ids, "input_ids")
        return ids.clone()[None] if ids.dim() == 1 else ids.clone()
    return [ids]


def _check_alike(batches: Sequence[Batch]) -> None:
    """Raise ValueError unless all samples can be in the slots of one engine."""
    widths = sorted({batch.prompts.ids.shape[1] for batch in batches})
    if batches[0].sources is not None and len(widths) > 1:
        raise ValueError(
            f"decoder_input_ids have from {widths[0]} to {widths[-1]} tokens: generate_each wants "
            "the same number for every input"
        )
    if len({batch.skipped for batch in batches}) > 1:
        raise ValueError(
            "forced_bos_token_id comes before the sequences of the Trie in some inputs only: pass "
            "those with prompts of one token, and a first token that no sequence starts with, "
            "apart from others"
        )


def _warn_of_lengths(config: GenerationConfig, decoder: Any, lengths: Lengths) -> None:
    """Warn of a maximum beyond the positions, and of a minimum above the maximum.

    As in transformers, the maximum ends generation.
    """
    if lengths.total < lengths.asked:
        # The same words for every batch, so that they are said once.
        warn(
            f"more new tokens are asked for than the {decoder.max_positions} positions of the "
            "model leave room for: generation stops at the last one",
        )
    name = "min_length" if config.min_new_tokens is None else "min_new_tokens"
    if lengths.minimum > lengths.total and getattr(config, name):
        limit = f"the default of {default_new_tokens(decoder)} new tokens"
        for option in ("max_length", "max_new_tokens"):
            if getattr(config, option) is not None:
                limit = f"{option}={getattr(config, option)}"
        warn(
            f"unfeasible lengths: {name}={getattr(config, name)} asks for more than {limit} "
            "leaves room for; no end token is chosen, and generation stops at the maximum",
        )


def _listed(name: str, callables: Any) -> list[Any]:
    """One callable or several, as a list; transformers' lists of processors are lists too."""
    if callables is None:
        return []
    listed = list(callables) if isinstance(callables, (list, tuple)) else [callables]
    for item in listed:
        if not callable(item):
            raise ValueError(f"{name} must hold callables, not {item!r}")
        _check_callable(name, item)
    return listed


def _check_callable(name: str, function: Any) -> None:
    """Raise ValueError for a function that cannot be called with two arguments, as all are here."""
    if isinstance(function, type):
        raise ValueError(
            f"{name} is the class {function.__name__}, not an object of it: pass "
            f"{function.__name__}(...)"
        )
    try:
        # A module hands on to `forward` whatever it is called with.
        called = function.forward if isinstance(function, torch.nn.Module) else function
        inspect.signature(called).bind(None, None)
    except TypeError as error:
        what = "(sample, ids)" if name == "prefix_allowed_tokens_fn" else "(ids, scores)"
        raise ValueError(f"{name} {function!r} cannot be called with {what}: {error}") from None
    except ValueError:
        return  # one written in C, which does not say what it takes


def _check_streamer(streamer: Any, config: GenerationConfig) -> None:
    if config.num_beams > 1:
        raise ValueError("streamer works with num_beams=1 only: beams rewrite their past")
    if isinstance(streamer, type):
        raise ValueError(
            f"streamer is the class {streamer.__name__}, not an object of it: pass "
            f"{streamer.__name__}(...)"
        )
    if not all(callable(getattr(streamer, name, None)) for name in ("put", "end")):
        raise ValueError(f"streamer must have put and end, which {type(streamer)} has not")


def _allowed_at(
    places: Sequence[int], allowed: Callable[[int, Tensor], Sequence[int]]
) -> Callable[[int, Tensor], Sequence[int]]:
    """A function that is told samples of a part by what they are in the whole."""
    return lambda sample, ids: allowed(places[sample], ids)


def _rows(name: str, values: Any, samples: int) -> Any:
    if isinstance(values, Tensor) and plain(values, name).dim() == 0:
        raise ValueError(f"{name} must have shape [B, P], not []")
    if len(values) != samples:
        raise ValueError(f"{name} has {len(values)} rows for {samples} texts: pass one each")
    return values
