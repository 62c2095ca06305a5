"""An engine: slots for samples, and the step that moves all of them on at once.

Everything that a step reads and writes is a buffer with one entry per slot. A sample is admitted
to a slot by its prefill, may leave it as soon as its own search has ended, and another may take
its place while the others go on: no rule of any search looks beyond its sample. The host hears of
the end by copies of a flag, and makes no device wait.
"""

from __future__ import annotations

from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from tritonseq.decoding.not_finite import NotFinite, explain
from tritonseq.decoding.search import Greedy
from tritonseq.kernels import is_gpu
from tritonseq.memory.kv_cache import Sizes, gather, of_samples, overwrite, scatter

from .cuda_graph import Replay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tritonseq.decoding.hypotheses import Hypotheses
    from tritonseq.decoding.outputs import GenerateOutput
    from tritonseq.decoding.search import Search

    from .decoder_protocol import Decoder, EncoderDecoder
    from .inputs import Prompts


P = ParamSpec("P")
R = TypeVar("R")

# Steps that a GPU may be ahead of what the host knows: one that runs and one that waits. They
# change nothing where a search has ended.
LAG = 2

# One in so many slots can be filled at once by a sample that is not beside the others.
STAGED = 2


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


def _explaining(method: Callable[P, R]) -> Callable[P, R]:
    """A method of Engine that says where scores come from that are no numbers."""

    @wraps(method)
    def explaining(*args: P.args, **how: P.kwargs) -> R:
        try:
            return method(*args, **how)
        except NotFinite:
            engine: Any = args[0]
            dtype = next(engine.decoder.parameters()).dtype
            raise explain(engine.decoder, dtype) from None

    return explaining


class Engine:
    """A bucket of slots for one search.

    On a GPU the step is captured in a graph, once, and replayed. A search that calls functions of
    the caller, or records what it saw, runs between replays of the network alone: slower, and with
    the host in every step.
    """

    def __init__(
        self,
        decoder: Decoder | EncoderDecoder,
        search: Search,
        sizes: Sizes,
        hypotheses: Hypotheses,
        cache: Any,
        *,
        graphs: bool = True,
    ) -> None:
        """`hypotheses` and `cache` are buffers for `sizes`, and share their `step`."""
        self.decoder = decoder
        self.search = search
        self.sizes = sizes
        self.cache = cache
        self.hypotheses = hypotheses
        """What the slots have written."""
        self.state: Any = search.begin(hypotheses)
        self._waits = not search.retires
        written = hypotheses.written
        self._device = written.step.device
        runs_ahead = is_gpu(self._device) and not self._waits
        self.flags = Flags(written.done, lag=LAG if runs_ahead else 0)
        self._replay = Replay(self._device, enabled=graphs)
        self._left: torch.cuda.Event | None = None

    def adopt(self, search: Search) -> None:
        """Let `search` decide from now on; its key is that of the one before.

        One that the step was captured with goes on in its place: they are equal but for the clock.
        """
        if self._left is not None:
            torch.cuda.current_stream(self._device).wait_event(self._left)
        if self._waits:
            self.search = search
            self.state = search.begin(self.hypotheses)
        self.search.stopping.restart(search.stopping)

    def leave(self) -> None:
        """The request is over: let go of what was the caller's, and note where work ends."""
        if self._waits:
            # Its search holds functions and records; `adopt` brings another.
            del self.search, self.state
        if self._device.type == "cuda":
            self._left = torch.cuda.current_stream(self._device).record_event()

    @_explaining
    @torch.no_grad()
    def admit(self, slots: Sequence[int], read: Prompts, prompt: Tensor | None = None) -> None:
        """Read samples into slots, and choose their first tokens.

        `read`: what the network reads; `prompt [B, P]`: what the targets of an encoder-decoder
        model start with. The hypotheses of these slots have been loaded. Slots that are no
        neighbours take copies: their samples are read beside each other, as many as `staging` has.
        """
        first, count = slots[0], len(slots)
        self.search.stopping.look_at_the_clock()
        with self._replay.alone():
            if list(slots) == list(range(first, first + count)):
                state = of_samples(self.state, first, count)
                self._begin(state, self.cache.of_samples(first, count), read, prompt)
                return
            stage = self._stage.of_samples(0, count)
            samples = torch.tensor(slots, device=self._device)
            self.hypotheses.forget_texts()
            state = gather(self.state, samples)
            self._begin(state, stage, read, prompt)
            state.hypotheses.forget_texts()
            self.cache.take_sources(stage, samples)
            scatter(self.state, samples, state)

    def _begin(self, state: Any, cache: Any, read: Prompts, prompt: Tensor | None) -> None:
        overwrite(state, self.search.begin(state.hypotheses))
        decoder: Any = self.decoder
        own = {} if prompt is None else {"prompt": prompt}
        with self._plain():
            logits = decoder.prefill(read.right_padded(), read.lengths, cache, **own)
        self.search.select(logits.repeat_interleave(self.sizes.beams, dim=0), state)

    @cached_property
    def _stage(self) -> Any:
        """Caches for samples that are read for slots here and there."""
        # They may serve a later call as well.
        with torch.inference_mode(False):
            return self.decoder.new_cache(staging(self.sizes))

    @_explaining
    @torch.no_grad()
    def step(self) -> None:
        """Move every sample on that does not rest: one token per beam."""
        self.search.stopping.look_at_the_clock()
        output = self._replay(self._captured)
        if self._waits:
            self.search.select(output, self.state)

    def empty(self) -> None:
        """Let all slots rest."""
        self.hypotheses.written.step.fill_(-1)

    @property
    def is_captured(self) -> bool:
        """Is the step a graph?"""
        return self._replay.is_captured

    def capture(self) -> None:
        """Capture the step, while all slots rest."""
        self.empty()
        self._replay.capture(self._captured)

    @_explaining
    def check(self) -> None:
        """Raise NotFinite if the scores of a search without beams were no numbers so far."""
        if isinstance(self.search, Greedy):
            self.search.check(self.state)

    @_explaining
    @torch.no_grad()
    def output(self, prompt: Tensor, slots: Sequence[int] | None = None) -> GenerateOutput:
        """What was found for the samples in `slots` (None: the first), behind their prompts."""
        if slots is None:
            state = of_samples(self.state, 0, prompt.shape[0])
        elif len(slots) == 1:
            state = of_samples(self.state, slots[0], 1)
        else:
            self.hypotheses.forget_texts()
            state = gather(self.state, torch.tensor(slots, device=self._device))
        return self.search.output(state, prompt)

    def _captured(self) -> Tensor | None:
        """What a graph holds: the network, and the decision unless that waits for the host."""
        logits = self._network()
        if self._waits:
            return logits
        self.search.select(logits, self.state)
        return None

    def _network(self) -> Tensor:
        """Logits `[R, V]` after the newest tokens."""
        written = self.hypotheses.written
        # The token of the last position is never fed back, so the caches have no place for it.
        sizes = self.sizes
        lineage = written.lineage[:, : sizes.target_length] if sizes.beams > 1 else None
        with self._plain():
            logits: Tensor = self.decoder.step(written.newest, lineage, self.cache)
        return logits.flatten(0, 1)

    def _plain(self) -> torch.autocast:
        """An autocast around the call must not change what the weights' dtype promises."""
        return torch.autocast(self.hypotheses.prompt.device.type, enabled=False)


def staging(sizes: Sizes) -> Sizes:
    """Of the caches that samples are read into before they come to slots here and there."""
    samples = -(-sizes.samples // STAGED)
    return sizes._replace(samples=samples, target_length=min(sizes.target_length, 1))
