"""Memory of the caches: the formula, nothing per beam in the prompt, nothing moved."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from tritonseq.cache import KVCache


def run(monkeypatch: pytest.MonkeyPatch, **options: Any) -> KVCache:
    """Generate and hand out the cache that was used."""
    kept: list[KVCache] = []
    allocate = KVCache.allocate

    def spy(**sizes: Any) -> KVCache:
        kept.append(allocate(**sizes))
        return kept[-1]

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
    advance = KVCache.advance

    def watch(self: KVCache) -> None:
        if seen:
            written = self.target_keys[0][:, :, : self.bound]
            assert torch.equal(written, seen[-1][:, :, : self.bound])
        seen.append(self.target_keys[0].clone())
        advance(self)

    monkeypatch.setattr(KVCache, "advance", watch)
    cache = run(monkeypatch, num_beams=4, max_new_tokens=9)
    assert len(seen) == 8
    assert cache.step.tolist() == [8, 8, 8]
