"""The attentions of encoder-decoder models: their definitions, at any length, in little memory."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from tritonseq.memory.kv_cache import EncoderDecoderCache, Sizes
from tritonseq.models import attention
from tritonseq.models.attention import CrossAttention, DecoderAttention, EncoderAttention
from tritonseq.models.layers import ResidualStream
from tritonseq.models.network import place_parameter
from tritonseq.models.varlen import varlen_batches


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor
) -> Tensor:
    """Every score by itself; `bias` is `[H, s, t]`."""
    scores = query.double() @ key.double().transpose(-1, -2) * scale + bias.double()
    return torch.softmax(scores, -1) @ value.double()


def by_offset(table: Tensor, length: int) -> Tensor:
    """`[H, s, s]` of a table `[H, 2 S - 1]`, whose middle is the bias of a position on itself."""
    position = torch.arange(length)
    return table[:, position - position[:, None] + table.shape[1] // 2]


WAYS = pytest.mark.parametrize("way", ["strided", "one block", "uneven blocks", "single queries"])


@pytest.fixture
def blocks(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks through strides, or laid out as for GPUs, a number of queries at a time."""
    if way != "strided":
        monkeypatch.setattr(attention, "STRIDED_MASKS", ())
    if way == "uneven blocks":
        monkeypatch.setattr(attention, "BIAS_ELEMENTS", 2 * 3 * 11 * 4)
    if way == "single queries":
        monkeypatch.setattr(attention, "BIAS_ELEMENTS", 1)


@WAYS
@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("length", [1, 2, 11, 70])
@pytest.mark.parametrize("longer_by", [0, 1, 9])
def test_source_attention_with_a_bias(length: int, longer_by: int) -> None:
    """The table may be for longer sources than this one."""
    query, key, value = torch.randn(3, 2, 3, length, 8)
    table = torch.randn(3, 2 * (length + longer_by) - 1)
    result = attention._attend_source(query, key, value, 0.7, table)
    wanted = plain_attention(query, key, value, 0.7, by_offset(table, length))
    torch.testing.assert_close(result.double(), wanted, rtol=1e-5, atol=1e-5)


@WAYS
@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_source_attention_in_half_precision(dtype: torch.dtype) -> None:
    query, key, value = torch.randn(3, 2, 3, 70, 8).to(dtype)
    table = torch.randn(3, 139)
    result = attention._attend_source(query, key, value, 1.0, table)
    bias = by_offset(table.to(dtype), 70)
    wanted = plain_attention(query, key, value, 1.0, bias)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), wanted, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_source_attention_without_a_bias() -> None:
    query, key, value = torch.randn(3, 2, 3, 11, 8)
    result = attention._attend_source(query, key, value, 0.3, None)
    wanted = plain_attention(query, key, value, 0.3, torch.zeros(3, 11, 11))
    torch.testing.assert_close(result.double(), wanted, rtol=1e-5, atol=1e-5)


WIDTH, HEADS, HEAD_DIM = 12, 3, 5


def filled(module: torch.nn.Module) -> Any:
    for name, parameter in list(module.named_parameters()):
        place_parameter(module, name, torch.randn(parameter.shape) * 0.3, pack=False)
    return module


def output(part: Any, x: Tensor, *args: Any) -> Tensor:
    """What a part of a block adds to a stream that it reads as it is."""
    stream = ResidualStream(x, post_norm=True)
    part(stream, lambda added, _: added, *args)
    return stream.x


def cache_for(lengths: Tensor, beams: int, prompt_length: int = 1) -> EncoderDecoderCache:
    cache = EncoderDecoderCache.allocate(
        Sizes(len(lengths), beams, int(lengths.max()), 6, prompt_length),
        biases=[torch.randn(HEADS, 4)],
        heads=HEADS,
        head_dim=HEAD_DIM,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    cache.source_len.copy_(lengths)
    cache.own.source_len.fill_(prompt_length)
    for part in (*cache.cross_keys, *cache.cross_values):
        part.fill_(math.nan)
    return cache


def test_cross_attention_reads_each_source_to_its_end() -> None:
    """NaN behind the ends reaches nothing, whatever the number of beams."""
    cross = filled(CrossAttention(0, WIDTH, HEADS, HEAD_DIM, scale=0.4, has_bias=True))
    lengths = torch.tensor([9, 1, 5, 5])
    (source,) = varlen_batches(torch.zeros(4, 9, dtype=torch.int64), lengths, padded=False)
    states = torch.randn(20, WIDTH)
    for beams in (1, 3, 20):
        cache = cache_for(lengths, beams)
        cross.store(states, source, cache)
        x = torch.randn(4 * beams, WIDTH)
        result = output(cross, x, cache).view(4, beams, WIDTH)
        keys, values = (states @ cross.kv.weight + cross.kv.bias).chunk(2, dim=-1)
        queries = (x @ cross.query.weight + cross.query.bias).view(4, beams, HEADS, -1)
        start = 0
        for sample, length in enumerate(lengths.tolist()):
            key, value = (
                part[start : start + length].view(length, HEADS, -1).transpose(0, 1)
                for part in (keys, values)
            )
            query = queries[sample].transpose(0, 1)
            attended = plain_attention(query, key, value, 0.4, torch.zeros(HEADS, beams, length))
            rows = attended.float().transpose(0, 1).flatten(1)
            wanted = rows @ cross.out.weight + cross.out.bias
            torch.testing.assert_close(result[sample], wanted, rtol=1e-4, atol=1e-5)
            start += length


@pytest.mark.parametrize("prompt_length", [1, 2, 7])
def test_reading_a_prompt_equals_taking_its_steps(prompt_length: int) -> None:
    """Distances beyond the table of the bias share its last entry."""
    own = filled(DecoderAttention(0, WIDTH, HEADS, HEAD_DIM, scale=0.4, has_bias=False))
    x = torch.randn(2, prompt_length + 5, WIDTH)
    at_once = cache_for(torch.tensor([3, 3]), 1, prompt_length + 5)
    wanted = output(own.prefill, x.flatten(0, 1), at_once).view_as(x)
    cache = cache_for(torch.tensor([3, 3]), 1, prompt_length)
    cache.bias = at_once.bias
    read = output(own.prefill, x[:, :prompt_length].flatten(0, 1), cache)
    rows = list(read.view(2, prompt_length, WIDTH).unbind(1))
    for position in range(prompt_length, prompt_length + 5):
        rows.append(output(own.step, x[:, position], None, cache))
        cache.own.advance()
    torch.testing.assert_close(torch.stack(rows, 1), wanted, rtol=1e-4, atol=1e-5)


def test_packed_sources_do_not_see_each_other() -> None:
    own = filled(EncoderAttention(WIDTH, HEADS, HEAD_DIM, scale=0.4, has_bias=True))
    lengths = [4, 4, 1, 9, 4]
    (source,) = varlen_batches(
        torch.zeros(5, 9, dtype=torch.int64), torch.tensor(lengths), padded=False
    )
    x, table = torch.randn(sum(lengths), WIDTH), torch.randn(HEADS, 17)
    together = output(own, x, source, table).split(lengths)
    for part, length, result in zip(x.split(lengths), lengths, together, strict=True):
        (alone,) = varlen_batches(
            torch.zeros(1, length, dtype=torch.int64), torch.tensor([length]), padded=False
        )
        torch.testing.assert_close(output(own, part, alone, table), result, rtol=1e-4, atol=1e-5)


MEASURE = """
import torch
from tritonseq.models.network import place_parameter
from tritonseq.models.varlen import varlen_batches
from tritonseq.models.t5 import T5, T5Config

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

def encode(length):
    tokens = torch.randint(0, 50, (1, length))
    (source,) = varlen_batches(tokens, torch.tensor([length]), padded=False)
    assert model.encode(source).isfinite().all()

config = T5Config(vocab_size=50, d_model=64, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=1)
model = T5(config)
for name, parameter in list(model.named_parameters()):
    place_parameter(model, name, torch.randn(parameter.shape) * 0.3)
encode(16)
idle = peak()
encode(4096)
print((peak() - idle) / (config.num_heads * 4096 * 4096 * 4))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_a_long_source() -> None:
    """No scores, and no bias, of every head for every pair of positions: half a gigabyte each."""
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert float(done.stdout) < 0.1


def test_groups_of_sources_hold_true_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """One long source does not make a group of every short one."""
    monkeypatch.setattr("tritonseq.models.varlen.PREFILL_TOKENS", 10)
    lengths = [2, 9, 1, 1, 12, 3, 3, 3, 3]
    tokens = torch.randint(0, 50, (9, 12))

    def grouped(**options: bool) -> list[tuple[int, ...]]:
        groups = list(varlen_batches(tokens, torch.tensor(lengths), **options))
        for group in groups:
            rows = zip(tokens[group.samples], group.lengths, strict=True)
            assert torch.equal(group.tokens, torch.cat([row[:length] for row, length in rows]))
            positions = torch.cat([torch.arange(length) for length in group.lengths])
            assert torch.equal(group.positions, positions)
        return [group.lengths for group in groups]

    assert grouped(padded=False) == [(2,), (9, 1), (1,), (12,), (3, 3, 3), (3,)]
    # Where pads count, a group costs as many of its longest.
    assert grouped(padded=True) == [(2,), (9,), (1, 1), (12,), (3, 3, 3), (3,)]
