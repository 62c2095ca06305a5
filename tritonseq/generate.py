"""The life of a request: prompts are read once, then one verb per step until search is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from .buffers import of_samples
from .cache import Sizes
from .engine import Engine
from .engines import bucket
from .hypotheses import Hypotheses, Text
from .lengths import Lengths
from .plan import Plan
from .recipe import Recipe, as_upstream, check_trie
from .refill import refill

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from .config import GenerationConfig
    from .engines import Engines
    from .outputs import GenerateOutput
    from .prompts import Prompts
    from .protocol import Decoder, EncoderDecoder
    from .recipe import Callables
    from .trie import Trie


class Streamer(Protocol):
    """Receives the prompt, then every token as it is chosen; transformers' streamers are such."""

    def put(self, value: Tensor) -> None: ...

    def end(self) -> None: ...


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
        recipe: Recipe,
        *,
        samples: int,
        source_length: int,
        prompt_length: int,
        device: torch.device,
    ) -> None:
        self._decoder = decoder
        self._recipe = recipe
        self._device = device
        self._has_encoder = decoder.is_encoder_decoder and not decoder.is_prefix_lm
        source_length = bucket(source_length, device)
        self._sizes = Sizes(
            samples=samples,
            beams=recipe.beams,
            source_length=source_length,
            # The last token is chosen but never fed back.
            target_length=recipe.most_new_tokens - 1,
            prompt_length=prompt_length if self._has_encoder else 0,
        )
        self._buffers: dict[str, Any] = {
            "samples": samples,
            "beams": recipe.beams,
            "prompt_length": bucket(prompt_length, device),
            "new_tokens": recipe.most_new_tokens,
            "source_length": source_length if recipe.reads_source else None,
            "follows_trie": recipe.callables.trie is not None,
        }

    def lend(self, engines: Engines, *, watched: bool) -> AbstractContextManager[Engine]:
        """An engine with these slots; `watched` if the caller looks at every step."""
        retires = not (watched or self._recipe.watches)
        search = self._recipe.search(retires=retires, device=self._device)
        plan = Plan.of(self._decoder, search, self._sizes, self._buffers)

        def build(graphs: bool) -> Engine:
            cache = self._decoder.new_cache(self._sizes)
            hypotheses = Hypotheses.allocate(**self._buffers, step=cache.step, device=self._device)
            return Engine(self._decoder, search, self._sizes, hypotheses, cache, graphs=graphs)

        buffers = tuple(self._buffers.items())
        key = (self._sizes, buffers, self._recipe.key if retires else None)
        return engines.lend(key, plan, self._device, build, search)

    def admit(self, engine: Engine, first: int, batch: Batch) -> None:
        """Put the samples of a batch into the slots from `first` on."""
        prompts, lengths, recipe = batch.prompts, batch.lengths, self._recipe
        of_samples(engine.hypotheses, first, batch.samples).load(
            prompts.ids,
            prompts.starts,
            new_tokens=lengths.new_tokens,
            minimum=lengths.minimum - lengths.prompt,
            fill=recipe.pad_token_id,
            source=_text(batch.read, recipe.config.hf_exact) if recipe.reads_source else None,
            roots=batch.roots,
        )
        engine.admit(first, batch.read, prompts.ids if self._has_encoder else None)


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
        device = batch.prompts.ids.device
        prompt_length = batch.prompts.ids.shape[1]
        recipe = Recipe(
            config,
            callables,
            most_new_tokens=bucket(batch.lengths.new_tokens, device),
            prompt_length=prompt_length,
        )
        self._batch = batch
        self._engines = engines
        self._slots = Slots(
            decoder,
            recipe,
            samples=batch.samples,
            source_length=batch.read.ids.shape[1],
            prompt_length=prompt_length,
            device=device,
        )
        self._output: GenerateOutput | None = None

    def run(self) -> GenerateOutput:
        """Generate to the end."""
        for _ in self._steps(watched=False):
            pass
        return self.output()

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the tokens `[B, K]` of every step as soon as they are chosen."""
        for engine in self._steps(watched=True):
            yield engine.hypotheses.written.newest.clone()

    def output(self) -> GenerateOutput:
        """The result, once the iteration has ended."""
        assert self._output is not None
        return self._output

    def _steps(self, *, watched: bool) -> Iterator[Engine]:
        """Yield the engine after every step; `watched` if somebody looks at its newest tokens."""
        with self._slots.lend(self._engines, watched=watched) as engine:
            self._slots.admit(engine, 0, self._batch)
            engine.flags.restart()
            engine.flags.send()
            yield engine
            for _ in range(self._batch.lengths.new_tokens - 1):
                if all(engine.flags.read()[1]):
                    break
                engine.step()
                engine.flags.send()
                yield engine
            self._output = engine.output(self._batch.prompts.ids)


def generate_each(
    decoder: Decoder | EncoderDecoder,
    batches: Sequence[Batch],
    config: GenerationConfig,
    callables: Callables,
    engines: Engines,
    *,
    count: int,
) -> Iterator[tuple[int, GenerateOutput]]:
    """Take samples, one to a batch, through `count` slots; yield them as they are done.

    With each comes its place in `batches`. What is found does not depend on who is beside whom.
    """
    device = batches[0].prompts.ids.device
    prompts = [batch.prompts.ids.shape[1] for batch in batches]
    recipe = Recipe(
        config,
        callables,
        most_new_tokens=bucket(max(batch.lengths.new_tokens for batch in batches), device),
        prompt_length=max(prompts),
    )
    slots = Slots(
        decoder,
        recipe,
        samples=count,
        source_length=max(batch.read.ids.shape[1] for batch in batches),
        prompt_length=max(prompts),
        device=device,
    )
    return refill(slots, engines, batches, count)


def _text(read: Prompts, count_pads: bool) -> Text:
    """The source with its edges, as the `encoder_` options want it."""
    starts = torch.zeros_like(read.lengths)
    if count_pads:
        return Text(read.ids, starts, starts + read.ids.shape[1])
    if read.starts is not None:
        starts = read.starts
    return Text(read.ids, starts, starts + read.lengths)
