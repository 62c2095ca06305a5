"""Which parameters of a network are one tensor, by what is in the weights.

A configuration says that tables are tied, or says nothing, which means the same; the weights say
whether it is so. As in transformers, a table that differs from the one it should be is a weight of
its own, whatever config.json says, and a warning tells it.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch

from tritonseq.callers import warn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from tritonseq.models.network import TensorSpec

    from .weights import WeightReader


def tied(
    sources: Mapping[str, TensorSpec],
    groups: Sequence[Sequence[str]],
    reader: WeightReader,
    config: Mapping[str, Any],
) -> dict[str, TensorSpec]:
    """Point the parameters of each group that are copies of each other to the same tensor.

    Checkpoints may repeat a shared embedding under every name it has. Warns of those that are no
    copies, unless the configuration has said so.
    """
    found = dict(sources)
    for group in groups:
        distinct: list[TensorSpec] = []
        for name in group:
            source = sources[name]
            copies = (other for other in distinct if _is_copy(source, other, reader))
            same = next(copies, None)
            if same is None:
                distinct.append(source)
            else:
                found[name] = same
        if len(distinct) > 1 and _says_tied(config):
            names = " and ".join(source.names[0] for source in distinct)
            warn(
                f"{names} differ, and are one tensor by what config.json says or leaves open: "
                "each is used for its own part, as the weights have it; "
                "tie_word_embeddings=false in config.json would say so",
            )
    return found


def _says_tied(config: Mapping[str, Any]) -> bool:
    # Since version 5, transformers writes true for every T5, and this in place of false.
    scales = config.get("scale_decoder_outputs")
    return config.get("tie_word_embeddings") is not False and scales is not False


def _is_copy(one: TensorSpec, other: TensorSpec, reader: WeightReader) -> bool:
    if one == other:
        return True
    (a,), (b,) = one.names, other.names
    return one.transpose == other.transpose and same_tensors(a, b, reader)


def same_tensors(one: str, other: str, reader: WeightReader) -> bool:
    """Are two tensors of a checkpoint equal? They are compared piece by piece."""
    if reader.shapes[one] != reader.shapes[other]:
        return False
    pairs = zip_longest(reader.pieces(one), reader.pieces(other))
    return all(_equal(*pair) for pair in pairs)


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    assert one is not None and other is not None  # of one shape, and so in as many pieces
    if one.dtype != other.dtype:
        one, other = one.double(), other.double()
    return torch.equal(one, other)
