"""The scheduler: a batch from its prefill to the end, or continuous batching through few slots."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from .memory_plan import refuse_absurd
from .pool import bucket
from .spec import SearchSpec, Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from tritonseq.decoding.outputs import GenerateOutput
    from tritonseq.options.config import GenerationConfig

    from .decoder_protocol import Decoder, EncoderDecoder
    from .engine import Engine
    from .pool import Engines
    from .spec import Batch, Callables


class Streamer(Protocol):
    """Receives the prompt, then every token as it is chosen; transformers' streamers are such."""

    def put(self, value: Tensor) -> None: ...

    def end(self) -> None: ...


class Generation:
    """One request on its way: made of checked inputs, driven by `run` or by iterating over it."""

    def __init__(
        self,
        decoder: Decoder | EncoderDecoder,
        batch: Batch,
        config: GenerationConfig,
        callables: Callables,
        engines: Engines,
    ) -> None:
        self._batch = batch
        self._engines = engines
        self._slots = slots_for(
            decoder, [batch], config, callables, count=batch.samples, refilled=False
        )
        self._output: GenerateOutput | None = None

    def run(self, before_step: Callable[[], object]) -> GenerateOutput:
        """Generate to the end; `before_step()` is called before every step."""
        for _ in self._steps(watched=False):
            before_step()
        return self.output()

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the tokens `[B, K]` of every step as soon as they are chosen."""
        for engine in self._steps(watched=True):
            engine.check()  # who is shown tokens waits for them anyway
            yield engine.hypotheses.written.newest.clone()

    def output(self) -> GenerateOutput:
        """The result, once the iteration has ended."""
        assert self._output is not None
        return self._output

    def _steps(self, *, watched: bool) -> Iterator[Engine]:
        """Yield the engine after every step; `watched` if somebody looks at its newest tokens."""
        with self._slots.lend(self._engines, watched=watched) as engine:
            self._slots.admit(engine, self._batch)
            engine.flags.restart()
            engine.flags.send()
            yield engine
            for _ in range(self._batch.lengths.new_tokens - 1):
                if all(engine.flags.read()[1]):
                    break
                engine.step()
                engine.flags.send()
                yield engine
            self._output = engine.output(self._batch.prompts.shown)


def slots_for(
    decoder: Decoder | EncoderDecoder,
    batches: Sequence[Batch],
    config: GenerationConfig,
    callables: Callables,
    *,
    count: int,
    refilled: bool,
) -> Slots:
    """`count` slots that have room for any sample of the batches."""
    device = batches[0].prompts.ids.device
    prompt_length = max(batch.prompts.ids.shape[1] for batch in batches)
    new_tokens = max(batch.lengths.new_tokens for batch in batches)
    refuse_absurd(count * max(config.num_beams, config.num_return_sequences), new_tokens, device)
    spec = SearchSpec(
        config,
        callables,
        most_new_tokens=bucket(new_tokens, device),
        prompt_length=prompt_length,
        vocab_size=decoder.vocab_size,
    )
    return Slots(
        decoder,
        spec,
        samples=count,
        source_length=max(batch.read.ids.shape[1] for batch in batches),
        prompt_length=prompt_length,
        refilled=refilled,
        device=device,
    )


PATIENCE = 1.0
"""How many steps of all slots may be lost to free ones before they are filled. To read one sample
costs nearly as much as to read several, and about as much as a step: who waits until as much is
lost to waiting never loses more than twice what was to be lost."""


class _Occupant(NamedTuple):
    """Who is in a slot."""

    number: int
    """Its place among all samples."""
    batch: Batch
    since: int
    """How many copies of the flags had been sent when it came: older ones speak of another."""


def refill(
    slots: Slots,
    engines: Engines,
    batches: Iterable[Batch],
    count: int,
    *,
    before_step: Callable[[], object],
    together: bool = False,
    pads: bool = True,
) -> Iterator[tuple[list[int], GenerateOutput]]:
    """Take samples, one to a batch, through `count` slots; yield them as they are done.

    With each comes its number in the order of `batches`, which are asked for more whenever it
    pays to fill slots that are free. What a sample's search finds does not depend on who is beside
    it. With `together` those that have ended come as one output, before others take their places;
    where there is no encoder, without their prompts, which may differ in length. Without `pads`
    each comes alone all the same, for nothing tells the end of a row that is filled up.

    `before_step()` is called before every step; what it raises ends the work.
    """
    with slots.lend(engines, watched=False) as engine:
        yield from _Refill(slots, engine, batches, count, before_step, together, pads)


class _Refill:
    """The slots of an engine, and who is in them."""

    def __init__(
        self,
        slots: Slots,
        engine: Engine,
        batches: Iterable[Batch],
        count: int,
        before_step: Callable[[], object],
        together: bool,
        pads: bool,
    ) -> None:
        self._slots = slots
        self._before_step = before_step
        self._together = together
        self._pads = pads
        self._engine = engine
        self._waiting = enumerate(batches)
        self._count = count
        self._free = list(range(count))
        self._idle = 0.0
        self._busy: dict[int, _Occupant] = {}
        self._ended: dict[int, _Occupant] = {}

    def __iter__(self) -> Iterator[tuple[list[int], GenerateOutput]]:
        engine = self._engine
        engine.empty()
        engine.flags.restart()
        while True:
            self._idle += len(self._free) / self._count
            if not self._busy or self._idle >= PATIENCE:
                # What has ended is read where it stands, before others take the place.
                yield from self._outputs()
                self._fill()
                if not self._busy:
                    return
            engine.flags.send()
            self._release()
            if not self._together:
                yield from self._outputs()
            if self._busy:
                self._before_step()
                engine.step()

    def _fill(self) -> None:
        """Put those who wait into the slots that are free."""
        self._idle = 0.0
        arrivals = list(itertools.islice(self._waiting, len(self._free)))
        if not arrivals:
            return
        self._free.sort()
        taken, self._free = self._free[: len(arrivals)], self._free[len(arrivals) :]
        since = self._engine.flags.sent
        for slot, (number, batch) in zip(taken, arrivals, strict=True):
            self._busy[slot] = _Occupant(number, batch, since)
        self._slots.admit_each(self._engine, {slot: self._busy[slot].batch for slot in taken})

    def _release(self) -> None:
        """Free the slots of those whose search has ended, so far as the host has heard."""
        number, ended = self._engine.flags.read()
        done = [
            slot
            for slot, occupant in self._busy.items()
            if ended[slot] and number >= occupant.since
        ]
        self._ended.update((slot, self._busy.pop(slot)) for slot in done)
        self._free += done

    def _outputs(self) -> Iterator[tuple[list[int], GenerateOutput]]:
        """What those have found who have ended since the last time."""
        ended, self._ended = self._ended, {}
        at_once = self._together and self._pads
        for slots in [list(ended)] if ended and at_once else [[slot] for slot in ended]:
            prompts = [ended[slot].batch.prompts.shown for slot in slots]
            if self._together and not self._slots.has_encoder:
                prompts = [prompt[:, :0] for prompt in prompts]
            numbers = [ended[slot].number for slot in slots]
            yield numbers, self._engine.output(torch.cat(prompts), slots)
