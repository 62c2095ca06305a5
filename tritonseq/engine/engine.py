"""Engine: slots for samples, and the step that moves all of them on at once.

Everything that a step reads and writes is a buffer with one entry per slot. A sample is admitted
to a slot by its prefill, may leave it as soon as its own search has ended, and another may take
its place while the others go on: no rule of any search looks beyond its sample. The host hears of
the end by copies of a flag, and makes no device wait.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tritonseq.decoding.hypotheses import Hypotheses, SourceText
from tritonseq.decoding.search import Greedy
from tritonseq.kernels import is_gpu
from tritonseq.memory.kv_cache import gather, of_samples, scatter

from .cuda_graph import LAUNCHING, Replay
from .inputs import Prompts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from tritonseq.decoding.outputs import GenerateOutput
    from tritonseq.decoding.search import Search

    from .spec import Batch, EngineSpec

# Steps that a GPU may be ahead of what the host knows: one that runs and one that waits. They
# change nothing where a search has ended.
LAG = 2


class Flags:
    """Copies of a `[B]` bool buffer, each read some steps after it was made.

    With a lag the device runs on while the host still waits for an older copy; the steps beyond
    the end of a search change nothing. Where memory is shared there is nothing to wait for.
    """

    def __init__(self, flags: Tensor, *, lag: int) -> None:
        self._flags = flags
        self._lag = lag
        # Pinned memory takes copies while the host goes on.
        self._copies = [
            torch.empty(flags.shape, dtype=flags.dtype, device="cpu", pin_memory=flags.is_cuda)
            for _ in range(self._lag + 1)
        ]
        self._events = [torch.cuda.Event() for _ in self._copies] if flags.is_cuda else []
        self._sent = 0

    def send(self) -> None:
        """Copy the flags as they will be after what has been launched so far."""
        place = self._sent % len(self._copies)
        self._copies[place].copy_(self._flags, non_blocking=True)
        if self._events:
            self._events[place].record(torch.cuda.current_stream(self._flags.device))
        self._sent += 1

    def read(self) -> tuple[int, list[bool]]:
        """The newest copy that is old enough, and how many were sent before it.

        Before there is one, nothing has ended.
        """
        number = self._sent - 1 - self._lag
        if number < 0:
            return number, [False] * self._flags.shape[0]
        place = number % len(self._copies)
        if self._events:
            self._events[place].synchronize()
        return number, self._copies[place].tolist()

    @property
    def sent(self) -> int:
        """How many copies have been sent."""
        return self._sent

    def restart(self) -> None:
        """Forget what was sent: other samples are in the slots."""
        self._sent = 0


class Engine:
    """Slots for one search.

    On a GPU the step is captured in a graph, once, and replayed. A search that calls functions of
    the caller, or records what it saw, runs between replays of the network alone: slower, and with
    the host in every step.
    """

    def __init__(self, spec: EngineSpec, search: Search, *, graphs: bool = True) -> None:
        self.spec = spec
        self.search = search
        self.decoder: Any = spec.decoder
        self.sizes = spec.sizes
        self.cache = self.decoder.new_cache(spec.sizes)
        self.hypotheses = Hypotheses.allocate(
            **spec.buffers, step=self.cache.step, device=spec.device
        )
        """What the slots have written."""
        self._device = spec.device
        self._waits = not search.retires
        # Each request brings its own search where the host takes part.
        self.state: Any = None if self._waits else self._fresh_state()
        runs_ahead = is_gpu(self._device) and not self._waits
        self.flags = Flags(self.hypotheses.written.done, lag=LAG if runs_ahead else 0)
        on_cuda = self._device.type == "cuda"
        self._replay = Replay(self._device, enabled=graphs) if on_cuda else None
        self._released: torch.cuda.Event | None = None

    def bind(self, spec: EngineSpec, search: Search) -> None:
        """Serve another request, whose spec has the same key; all slots rest.

        A search that the step was captured with goes on in place of the new one: they are equal
        but for the clock.
        """
        if self._released is not None:
            torch.cuda.current_stream(self._device).wait_event(self._released)
        self.spec = spec
        if self._waits:
            self.search = search
            self.state = self._fresh_state()
        self.search.stopping.restart(search.stopping)
        self.empty()
        self.flags.restart()

    def release(self) -> None:
        """The request is over: let go of what was the caller's, and note where work ends."""
        del self.spec
        if self._waits:
            # Its search holds functions and records; `bind` brings another.
            del self.search, self.state
        if self._device.type == "cuda":
            self._released = torch.cuda.current_stream(self._device).record_event()

    @torch.no_grad()
    def admit(self, arrivals: Mapping[int, Batch]) -> None:
        """Read batches into the slots that start at their keys, and choose their first tokens.

        Slots that are no neighbours take copies: their samples are read beside each other, as many
        as `EngineSpec.staging` has.
        """
        self.search.stopping.look_at_the_clock()
        for slot, batch in arrivals.items():
            self._load(of_samples(self.hypotheses, slot, batch.samples), batch)
        for slots, batches in _prefills(arrivals, self.spec.staging.samples):
            read = _side_by_side([batch.read for batch in batches])
            own = {}
            if self.spec.has_decoder_prompts:
                own = {"prompt": torch.cat([batch.prompts.ids for batch in batches])}
            first, count = slots[0], len(slots)
            with self._alone():
                samples = None
                if slots == list(range(first, first + count)):
                    state = of_samples(self.state, first, count)
                    cache = self.cache.of_samples(first, count)
                else:
                    samples = torch.tensor(slots, device=self._device)
                    self.hypotheses.forget_texts()
                    state, cache = gather(self.state, samples), self._stage.of_samples(0, count)
                self.search.reset(state)
                logits = self.decoder.prefill(read.right_padded(), read.lengths, cache, **own)
                self.search.select(logits.repeat_interleave(self.sizes.beams, dim=0), state)
                if samples is not None:
                    state.hypotheses.forget_texts()
                    self.cache.take_sources(cache, samples)
                    scatter(self.state, samples, state)

    @torch.no_grad()
    def step(self) -> None:
        """Move every sample on that does not rest: one token per beam."""
        self.search.stopping.look_at_the_clock()
        logits = self._advance() if self._replay is None else self._replay(self._advance)
        if logits is not None:
            self.search.select(logits, self.state)

    def empty(self) -> None:
        """Let all slots rest."""
        self.hypotheses.written.step.fill_(-1)

    @property
    def is_captured(self) -> bool:
        """Whether the step is a graph."""
        return self._replay is not None and self._replay.is_captured

    def capture(self) -> None:
        """Capture the step, while all slots rest."""
        self.empty()
        if self._replay is not None:
            self._replay.capture(self._advance)

    @property
    def newest(self) -> Tensor:
        """`[B, K]` the tokens that were chosen last, of a search without beams.

        Raises NotFinite if it has met scores that are no numbers.
        """
        assert isinstance(self.search, Greedy)
        self.search.check(self.state)
        return self.hypotheses.written.newest.clone()

    @torch.no_grad()
    def output(self, prompt: Tensor, slots: Sequence[int]) -> GenerateOutput:
        """What was found for the samples in `slots`, behind their prompts `[B, P]`."""
        first, count = slots[0], len(slots)
        if slots == list(range(first, first + count)):
            return self.search.output(of_samples(self.state, first, count), prompt)
        self.hypotheses.forget_texts()
        state = gather(self.state, torch.tensor(slots, device=self._device))
        return self.search.output(state, prompt)

    def _advance(self) -> Tensor | None:
        """What a graph holds: the network, and the decision unless that waits for the host.

        Returns the logits `[R, V]` in that case.
        """
        written, sizes = self.hypotheses.written, self.sizes
        # The token of the last position is never fed back, so the caches have no place for it.
        lineage = written.lineage[:, : sizes.target_length] if sizes.beams > 1 else None
        logits = self.decoder.step(written.newest, lineage, self.cache).flatten(0, 1)
        if self._waits:
            return logits
        self.search.select(logits, self.state)
        return None

    def _fresh_state(self) -> Any:
        """What the search keeps. Slots that rest are read as well, so nothing in it is chance."""
        state = self.search.allocate(self.hypotheses)
        self.search.reset(state)
        return state

    @cached_property
    def _stage(self) -> Any:
        """Caches for samples that are read for slots here and there."""
        # They may serve a later call as well.
        with torch.inference_mode(False):
            return self.decoder.new_cache(self.spec.staging)

    def _alone(self) -> AbstractContextManager[Any]:
        """While no other thread launches work; where nothing is captured that does not matter."""
        return nullcontext() if self._replay is None else LAUNCHING

    def _load(self, hypotheses: Hypotheses, batch: Batch) -> None:
        prompts, lengths, spec = batch.prompts, batch.lengths, self.spec
        hypotheses.load(
            prompts.ids,
            prompts.starts,
            new_tokens=lengths.new_tokens,
            minimum=lengths.minimum - lengths.prompt,
            first=batch.first,
            fill=spec.pad_token_id,
            source=_text(batch.read, spec.config.hf_exact) if spec.has_source_options else None,
            roots=batch.roots,
            stops=batch.stops,
        )


def _prefills(
    arrivals: Mapping[int, Batch], staged: int
) -> Iterator[tuple[list[int], list[Batch]]]:
    """Slots and batches in parts, each of which is admitted by one prefill.

    A part are neighbours, or up to `staged` slots here and there if those are more.
    """
    slots = [
        slot + sample for slot, batch in sorted(arrivals.items()) for sample in range(batch.samples)
    ]
    while slots:
        run = 1
        while run < len(slots) and slots[run] == slots[0] + run:
            run += 1
        part, slots = slots[: max(run, staged)], slots[max(run, staged) :]
        yield part, [arrivals[slot] for slot in part if slot in arrivals]


def _side_by_side(parts: Sequence[Prompts]) -> Prompts:
    """What is read for several batches, as one."""
    if len(parts) == 1:
        return parts[0]
    rows = [part.right_padded() for part in parts]
    width = max(part.shape[1] for part in rows)
    # Behind the end of a row, and not of each state in it.
    inner = (0, 0) * (rows[0].dim() - 2)
    ids = torch.cat([F.pad(part, (*inner, 0, width - part.shape[1])) for part in rows])
    return Prompts(ids, torch.cat([part.lengths for part in parts]), None)


def _text(read: Prompts, counts_pads: bool) -> SourceText:
    """The source with its edges, as the `encoder_` options want it."""
    starts = torch.zeros_like(read.lengths)
    if counts_pads:
        return SourceText(read.ids, starts, starts + read.ids.shape[1])
    if read.starts is not None:
        starts = read.starts
    return SourceText(read.ids, starts, starts + read.lengths)
