"""The life of a request: prompts are read once, then one verb per step until search is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .memory_plan import refuse_absurd
from .pool import bucket
from .recipe import Recipe
from .slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from tritonseq.decoding.outputs import GenerateOutput
    from tritonseq.options.config import GenerationConfig

    from .decoder_protocol import Decoder, EncoderDecoder
    from .engine import Engine
    from .pool import Engines
    from .recipe import Callables
    from .slots import Batch


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
    recipe = Recipe(
        config,
        callables,
        most_new_tokens=bucket(new_tokens, device),
        prompt_length=prompt_length,
        vocab_size=decoder.vocab_size,
    )
    return Slots(
        decoder,
        recipe,
        samples=count,
        source_length=max(batch.read.ids.shape[1] for batch in batches),
        prompt_length=prompt_length,
        refilled=refilled,
        device=device,
    )
