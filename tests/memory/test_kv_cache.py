"""Memory of the caches: the formula, nothing per beam in the prompt, nothing moved."""

from __future__ import annotations

from typing import Any

import networks
import pytest
import tiny
import torch

import tritonseq
from tritonseq.memory.kv_cache import EncoderDecoderCache, KVCache
from tritonseq.models.encoder_decoder import EncoderDecoder
from tritonseq.models.gpt2 import GPT2


def run(monkeypatch: pytest.MonkeyPatch, **options: Any) -> KVCache:
    """Generate and hand out the cache that was used."""
    kept: list[KVCache] = []
    allocate = KVCache.allocate

    def spy(*args: Any, **sizes: Any) -> KVCache:
        made = allocate(*args, **sizes)
        # Caches without memory are for planning.
        kept.extend([made] if sizes["device"].type != "meta" else [])
        return made

    monkeypatch.setattr(KVCache, "allocate", spy)
    ids, mask = tiny.prompts(3, 10)
    tiny.pair().ours.generate(ids, mask, eos_token_id=None, **options)
    (cache,) = kept
    return cache


@pytest.mark.parametrize("beams", [1, 4, 20])
def test_cache_bytes_follow_the_formula(monkeypatch: pytest.MonkeyPatch, beams: int) -> None:
    cache = run(monkeypatch, num_beams=beams, max_new_tokens=7)
    layers, samples, width, item = 2, 3, 32, 4
    # The last token is never fed back.
    source, target = 10, 6 * beams
    assert cache.nbytes == 2 * layers * samples * width * (source + target) * item


def test_caches_are_written_once_and_never_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Re-running a search on the same weights leaves every slot where it was first written."""
    seen: list[torch.Tensor] = []
    step = GPT2.step

    def watch(self: GPT2, tokens: Any, lineage: Any, cache: KVCache) -> torch.Tensor:
        at = int(cache.step[0])
        logits = step(self, tokens, lineage, cache)
        if seen:
            written = cache.target_keys[0][:, :, :at]
            assert torch.equal(written, seen[-1][:, :, :at])
        seen.append(cache.target_keys[0].clone())
        return logits

    monkeypatch.setattr(GPT2, "step", watch)
    cache = run(monkeypatch, num_beams=4, max_new_tokens=9)
    assert len(seen) == 8
    # All that was to be written is, and the samples rest.
    assert (cache.target_keys[0] != 0).any(dim=-1).all()
    assert cache.step.tolist() == [-1, -1, -1]


# Options of a model, and of its decoder the layers, the heads, and their size.
SHAPES: dict[str, tuple[dict[str, int], tuple[int, int, int]]] = {
    "t5": ({"num_layers": 3, "num_decoder_layers": 2, "d_kv": 5}, (2, 3, 5)),
    "umt5": ({}, (2, 3, 8)),
    "bart": ({"encoder_layers": 3, "decoder_attention_heads": 6}, (2, 6, 4)),
    "marian": ({"decoder_layers": 1}, (1, 3, 8)),
}
SOURCE, LENGTHS, START = 11, [11, 2, 7], 5


def run_encoder_decoder(
    monkeypatch: pytest.MonkeyPatch,
    model_type: str,
    *,
    source_cache: str = "projected",
    **options: Any,
) -> EncoderDecoderCache:
    """Generate from sources of mixed lengths and hand out the cache that was used."""
    kept: list[EncoderDecoderCache] = []
    allocate = EncoderDecoderCache.allocate

    def spy(*args: Any, **sizes: Any) -> EncoderDecoderCache:
        made = allocate(*args, **sizes)
        # Caches without memory are for planning.
        kept.extend([made] if sizes["device"].type != "meta" else [])
        return made

    monkeypatch.setattr(EncoderDecoderCache, "allocate", spy)
    ids, _ = networks.sources(LENGTHS)
    mask = (torch.arange(SOURCE) < torch.tensor(LENGTHS)[:, None]).long()
    config, _ = SHAPES[model_type]
    theirs = networks.network(model_type, **config)
    model = tritonseq.from_transformers(theirs, source_cache=source_cache)
    options |= {"decoder_start_token_id": START, "eos_token_id": None, "max_new_tokens": 7}
    model.generate(ids, mask, **options)
    (cache,) = kept
    return cache


@pytest.mark.parametrize("prompt", [1, 4])
@pytest.mark.parametrize("beams", [1, 4, 20])
@pytest.mark.parametrize("model_type", SHAPES)
def test_bytes_of_an_encoder_decoder_follow_the_formula(
    monkeypatch: pytest.MonkeyPatch, model_type: str, beams: int, prompt: int
) -> None:
    """The source once per sample and layer, whatever the number of beams."""
    start = torch.full((3, prompt), START)
    cache = run_encoder_decoder(monkeypatch, model_type, num_beams=beams, decoder_input_ids=start)
    _, (layers, heads, head_dim) = SHAPES[model_type]
    samples, item = 3, 4
    target = 6 * beams
    elements = 2 * layers * samples * heads * head_dim * (SOURCE + prompt + target)
    assert cache.nbytes == elements * item
    for part in (*cache.cross_keys, *cache.cross_values):
        assert part.shape == (samples, heads, SOURCE, head_dim)


@pytest.mark.parametrize("model_type", SHAPES)
def test_states_of_a_source_are_there_once_for_all_layers(
    monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    cache = run_encoder_decoder(monkeypatch, model_type, num_beams=4, source_cache="states")
    _, (layers, heads, head_dim) = SHAPES[model_type]
    samples, width, item = 3, 24, 4
    elements = 2 * layers * samples * heads * head_dim * (1 + 6 * 4) + samples * SOURCE * width
    assert cache.nbytes == elements * item
    assert (cache.cross_keys, cache.cross_values) == ([], [])
    assert cache.states is not None and cache.states.shape == (samples, SOURCE, width)
    for states, length in zip(cache.states, LENGTHS, strict=True):
        assert (states[:length] != 0).any(dim=-1).all()
        assert (states[length:] == 0).all()


@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_the_source_is_written_by_the_prefill_alone(
    monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    """Every step finds keys and values of the source, and of the prompt, as they were at first."""
    seen: list[list[torch.Tensor]] = []
    step = EncoderDecoder.step

    def parts(cache: EncoderDecoderCache) -> list[torch.Tensor]:
        own = cache.own
        return [*cache.cross_keys, *cache.cross_values, *own.source_keys, *own.source_values]

    def watch(self: Any, tokens: Any, lineage: Any, cache: EncoderDecoderCache) -> torch.Tensor:
        if not seen:
            seen.append([part.clone() for part in parts(cache)])
        places = [part.data_ptr() for part in parts(cache)]
        logits = step(self, tokens, lineage, cache)
        assert [part.data_ptr() for part in parts(cache)] == places
        for part, first in zip(parts(cache), seen[0], strict=True):
            assert torch.equal(part, first)
        return logits

    monkeypatch.setattr(EncoderDecoder, "step", watch)
    start = torch.tensor([[START, 9]] * 3)
    cache = run_encoder_decoder(monkeypatch, model_type, num_beams=4, decoder_input_ids=start)
    assert cache.own.step.tolist() == [-1, -1, -1]
    # What lies behind a source's end was never written.
    for part in (*cache.cross_keys, *cache.cross_values):
        for sample, length in enumerate(LENGTHS):
            assert (part[sample, :, length:] == 0).all()
            assert (part[sample, :, :length] != 0).any(dim=-1).all()
