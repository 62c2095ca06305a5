"""Slots for the samples of a request: how many of which sizes, and what goes into them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F

from tritonseq.decoding.hypotheses import Hypotheses, Text
from tritonseq.memory.kv_cache import Sizes
from tritonseq.memory.tensor_tree import of_samples

from .engine import Engine, staging
from .inputs import Prompts
from .lengths import Lengths
from .memory_plan import Plan
from .pool import bucket
from .recipe import as_upstream, check_trie

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from tritonseq.decoding.search import Search
    from tritonseq.decoding.trie import Trie
    from tritonseq.options.config import GenerationConfig

    from .decoder_protocol import Decoder, EncoderDecoder
    from .pool import Engines
    from .recipe import Recipe


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
        refilled: bool,
        device: torch.device,
    ) -> None:
        """`refilled`: samples take the places of others."""
        self._refilled = refilled
        self._decoder = decoder
        self._recipe = recipe
        self._device = device
        self.has_encoder = decoder.is_encoder_decoder and not decoder.is_prefix_lm
        """Are prompts what targets start with, all of the same length?"""
        source_length = bucket(source_length, device)
        self._sizes = Sizes(
            samples=samples,
            beams=recipe.beams,
            source_length=source_length,
            # The last token is chosen but never fed back.
            target_length=recipe.most_new_tokens - 1,
            prompt_length=prompt_length if self.has_encoder else 0,
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
        # What serves other calls too must not hold inference tensors.
        with torch.inference_mode(False):
            search = self._recipe.search(retires=retires, device=self._device)
        plan = self._plan(search)

        def build(graphs: bool) -> Engine:
            cache = self._decoder.new_cache(self._sizes)
            hypotheses = Hypotheses.allocate(**self._buffers, step=cache.step, device=self._device)
            return Engine(self._decoder, search, self._sizes, hypotheses, cache, graphs=graphs)

        buffers = tuple(self._buffers.items())
        # What is captured on a GPU goes by the places of the weights.
        weights = () if self._device.type == "cpu" else self._decoder.addresses
        key = (self._sizes, self._refilled, buffers, self._recipe.key if retires else None, weights)
        return engines.lend(key, plan, self._device, build, search)

    def plan(self) -> Plan:
        """The memory that they take."""
        return self._plan(self._recipe.search(retires=True, device=self._device))

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
        prompts, lengths, recipe = batch.prompts, batch.lengths, self._recipe
        hypotheses.load(
            prompts.ids,
            prompts.starts,
            new_tokens=lengths.new_tokens,
            minimum=lengths.minimum - lengths.prompt,
            fill=recipe.pad_token_id,
            source=_text(batch.read, recipe.config.hf_exact) if recipe.reads_source else None,
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
