"""What is written shares memory with nothing, and what only lies close by is no fault."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tritonseq.kernels import (
    activate,
    add_norm,
    ban_ngrams,
    decode_attention,
    norm_linear,
    reference,
)
from tritonseq.kernels.checks import check_written

STEPS = (0, 1, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)


def random_view(g, room):
    while True:
        shape = [g.choice((1, 2, 2, 3, 4)) for _ in range(g.randint(1, 4))]
        steps, start = [g.choice(STEPS) for _ in shape], g.randint(0, 120)
        if start + sum((n - 1) * s for n, s in zip(shape, steps, strict=True)) < len(room):
            return room.as_strided(shape, steps, start)


def found(written, read):
    try:
        check_written({"one": written}, {"other": read})
    except ValueError as error:
        return str(error)
    return ""


def test_every_shared_element_is_found_and_no_other():
    """`room[i]` is `i`: views that share no number share no memory."""
    g, room, neighbours = random.Random(0), torch.arange(400), 0
    for _ in range(4000):
        one, other = random_view(g, room), random_view(g, room)
        own, others = set(one.flatten().tolist()), set(other.flatten().tolist())
        text = found(one, other)
        if len(own) < one.numel():
            assert "its elements share memory" in text
        elif "its elements share memory" in text:
            continue  # taken for granted of dimensions that interleave
        elif own & others:
            assert "shares memory with other; pass other.clone()" in text
        else:
            assert not text
            neighbours += max(own) > min(others) and max(others) > min(own)
    assert neighbours > 100


def test_layouts_of_real_use_pass():
    both = torch.zeros(2, 3, 20, 8)
    source, target = both[:, :, :8], both[:, :, 8:].unflatten(2, (4, 3))
    assert not found(target, source)
    assert not found(target[1:], target[:1])
    assert not found(target.transpose(1, 2), source)
    halves = torch.zeros(4, 64).chunk(2, 1)
    assert not found(*halves)
    records = torch.zeros(5, 3, 2).unbind(2)
    assert not found(*records)
    assert not found(torch.zeros(4, 0), torch.zeros(4, 0))


def test_memory_that_is_shared_beyond_torch_is_found():
    array = np.zeros(64, dtype=np.float32)
    one, other = torch.from_numpy(array)[None], torch.from_numpy(array[32:])[None]
    assert "shares memory with other" in found(one, other)


def attention(**changes):
    query, key, value = torch.randn(3, 2, 2, 1, 3, 8)
    cache = torch.randn(2, 2, 3, 4, 2, 8)
    call = {"query": query, "new_key": key, "new_value": value}
    call |= {"target_key": cache[0], "target_value": cache[1], "step": torch.tensor([1, 2])}
    call["lineage"] = torch.zeros(2, 4, 2).long()
    return {**call, **changes}


ROOM = torch.zeros(2, 2, 3, 4, 2, 8)
SHARED = {
    "an expanded value": (
        lambda: decode_attention(**attention(target_value=torch.zeros(8).expand(2, 3, 4, 2, 8))),
        r"target_value is written in place, and with strides \[0, 0, 0, 0, 1\]",
    ),
    "one memory for keys and values": (
        lambda: decode_attention(**attention(target_key=ROOM[0], target_value=ROOM[0])),
        "target_value is written in place and shares memory with target_key",
    ),
    "the query within the cache": (
        lambda: decode_attention(
            **attention(target_key=ROOM[0], query=ROOM[0, :, :, 1].transpose(1, 2)[:, :, None])
        ),
        "target_key is written in place and shares memory with query",
    ),
    "new values within the cache": (
        lambda: decode_attention(
            **attention(target_value=ROOM[0], new_value=ROOM[0].permute(0, 3, 2, 1, 4)[:, :, 3:])
        ),
        "target_value is written in place and shares memory with new_value",
    ),
    "steps that are the counters": (
        lambda: decode_attention(
            **attention(counters=(c := torch.zeros(12, dtype=torch.int32)), step=c[:2])
        ),
        "counters is written in place and shares memory with step",
    ),
    "expanded scores": (
        lambda: ban_ngrams(torch.zeros(1, 5).expand(2, 5), torch.zeros(2, 3).long(), 2),
        r"scores is written in place, and with strides \[0, 1\]",
    ),
    "rows that meet": (
        lambda: activate(torch.zeros(20).as_strided((4, 8), (4, 1)), "relu"),
        r"x is written in place, and with strides \[4, 1\]",
    ),
    "a residual that is also read": (
        lambda: add_norm(ROOM[0, 0, 0, 0], torch.ones(8), residual=ROOM[0, 0, 0, 0], epsilon=0),
        "residual is written in place and shares memory with x",
    ),
    "a residual within the weight": (
        lambda: norm_linear(torch.zeros(2, 8), (w := torch.zeros(8, 8)), residual=w[2:4]),
        "residual is written in place and shares memory with weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "text"), SHARED.values(), ids=SHARED.keys())
def test_named(call, text):
    with torch.no_grad(), pytest.raises(ValueError, match=text):
        call()


def test_gradients_and_inference_tensors():
    x = torch.zeros(2, 8, requires_grad=True)
    with pytest.raises(ValueError, match=r"x requires a gradient and is written in place"):
        activate(x, "relu")
    with torch.no_grad():
        activate(x, "relu")
    with torch.inference_mode():
        own = torch.zeros(2, 8)
        activate(own, "relu")
    with pytest.raises(ValueError, match=r"x is an inference tensor and is written in place"):
        activate(own, "relu")


@pytest.mark.parametrize("length", [-1, -20, -(2**63), 5])
def test_lengths_that_no_source_has(length):
    """A negative one once ended the process."""
    query, source = torch.randn(2, 1, 1, 2, 8), torch.randn(2, 2, 4, 8)
    lengths = torch.tensor([4, length])
    with pytest.raises(ValueError, match=f"source_len {length} is (negative|beyond)"):
        decode_attention(query, source_key=source, source_value=source, source_len=lengths)
    options = {"source_key": source, "source_value": source}
    clamped = decode_attention(query, source_len=lengths.clamp(0, 4), **options)
    for run in (decode_attention, reference.decode_attention):
        result = run(query, source_len=lengths, impl="triton", **options)
        torch.testing.assert_close(result, clamped)


def test_lengths_and_steps_may_be_strided():
    call = attention(step=torch.tensor([1, 9, 2])[::2], bias=torch.randn(5, 3).t())
    plain = {k: v.contiguous() if k in ("step", "bias") else v.clone() for k, v in call.items()}
    expected = decode_attention(**plain, impl="torch")
    torch.testing.assert_close(decode_attention(**call, impl="triton"), expected)
