"""Configurations of `ban_ngrams`, `ngram_mask` and `ngram_bans`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

from tritonseq.kernels.ngrams.call import NgramCall
from tritonseq.kernels.ngrams.kernel import ngram_launches

from . import floats, meta, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritonseq.kernels.launch import Launch


def cases(target: str, every: bool) -> Iterator[tuple[str, Launch]]:
    for dtype in floats(target) if every else [torch.float16]:
        yield from ngram_cases(dtype)
    # The mask, and the list.
    yield from ngram_cases(torch.uint8)
    yield from itertools.islice(ngram_cases(torch.int32), None if every else 4)


def ngram_cases(dtype: torch.dtype) -> Iterator[tuple[str, Launch]]:
    """Outputs of `dtype` by lineage behind a prefix, and by plain tokens from a source.

    All of them also with a table of tokens to pass over.
    """
    rows, vocab_size = 32, 50257
    tokens, lengths = meta(rows, 600, dtype=torch.int64), meta(8, dtype=torch.int64)
    slots = meta(8, 32, 4, dtype=torch.int64)
    table = meta(vocab_size, dtype=torch.bool)
    plain = NgramCall(tokens, 3, rows, vocab_size)
    lineage = plain._replace(tokens=slots, lengths=lengths, lineage=slots)
    source = plain._replace(source=tokens[:8], source_starts=lengths, source_lengths=lengths)
    calls = (
        ("plain", plain),
        ("lineage", lineage),
        ("lineage+prefix", lineage._replace(prefix=tokens[:8], prefix_starts=lengths)),
        ("source", source),
    )
    ignoring = ((f"{case}+ignored", call._replace(ignored=table)) for case, call in calls)
    for case, call in (*calls, *ignoring):
        for launch in ngram_launches(meta(rows, vocab_size, dtype=dtype), call):
            yield f"{short(dtype)} {case}", launch
