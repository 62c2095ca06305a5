"""The operations as operators: same signatures as their references, and under `torch.compile`."""

from __future__ import annotations

import inspect

import pytest
import torch
from attention_cases import random_case

import tritonseq.kernels
from tritonseq.kernels import (
    activate,
    add_norm,
    ban_ngrams,
    decode_attention,
    embed,
    ngram_mask,
    reference,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", tritonseq.kernels.__all__)
def test_reference_has_the_same_signature(name):
    public, plain = getattr(tritonseq.kernels, name), getattr(reference, name)
    assert inspect.signature(public) == inspect.signature(plain)


@pytest.mark.parametrize("name", ["decode_attention", "ban_ngrams_", "ngram_mask"])
def test_operator_has_the_same_arguments(name):
    schema = getattr(torch.ops.tritonseq, name).default._schema
    parameters = inspect.signature(getattr(tritonseq.kernels, name.rstrip("_"))).parameters
    assert [argument.name for argument in schema.arguments] == list(parameters)
    for argument, parameter in zip(schema.arguments, parameters.values(), strict=True):
        if parameter.default is not inspect.Parameter.empty:
            assert argument.default_value == parameter.default


@pytest.mark.parametrize("seed", range(6))
def test_opcheck_decode_attention(seed):
    case = random_case(seed, CPU, small=True)
    clean = case.map(lambda _, x: x.nan_to_num(0, 0, 0) if x.is_floating_point() else x)
    options = dict(clean.options)
    if seed % 2:
        options["counters"] = torch.zeros(120, dtype=torch.int32)
    torch.library.opcheck(torch.ops.tritonseq.decode_attention, clean.rows, options)


def test_opcheck_ngrams():
    slots = torch.randint(0, 3, (2, 12, 3))
    options = {"lineage": slots, "prefix": torch.randint(0, 9, (2, 4))}
    options["ignored"] = torch.arange(9) % 3 == 0
    scores = torch.randn(6, 9)
    torch.library.opcheck(torch.ops.tritonseq.ban_ngrams_, (scores, slots, 2), options)
    torch.library.opcheck(torch.ops.tritonseq.ngram_mask, (slots, 2, 9), options)
    torch.library.opcheck(torch.ops.tritonseq.ngram_mask, (slots[:, :, 0], 2, 9), {})


def step(case, scores, tokens):
    """A step of decoding with all three operations in one graph."""
    attended = decode_attention(*(row * 1 for row in case.rows), **case.options)
    banned = ban_ngrams(scores * 2, tokens, 2, lengths=torch.full((2,), 9))
    mask = ngram_mask(tokens, 2, 5, ignored=torch.arange(5) == 1)
    return attended + 1, banned - 1, mask & True


@pytest.mark.parametrize("seed", range(4))
def test_compiled_whole(seed):
    case = random_case(seed, CPU, small=True)
    case = case.map(lambda _, x: x.nan_to_num(0, 0, 0) if x.is_floating_point() else x)
    other = case.copy()
    scores, tokens = torch.randn(2, 5), torch.randint(0, 5, (2, 12))
    expected = step(case, scores, tokens)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for result, wanted in zip(compiled(other, scores, tokens), expected, strict=True):
        assert torch.equal(result, wanted)
    for name in ("target_key", "target_value"):
        if name in case.options:
            assert torch.equal(other.options[name], case.options[name])


def test_rowwise_operations_compile_as_torch():
    """They are plain torch to the compiler, which fuses them as it sees fit."""

    def block(tokens, table, weight, bias):
        x = embed(tokens, table, scale=2.0, positions=tokens, position_table=table, row=bias)
        normed = add_norm(x * 1, weight, bias, residual=x, epsilon=1e-5)
        normed = add_norm(normed, weight, residual=x, epsilon=1e-5, rms=True)
        return activate(normed + x, "gelu", bias, gate=x), activate(normed, "silu", bias)

    tokens, table = torch.randint(0, 9, (5,)), torch.randn(9, 24)
    weight, bias = torch.randn(2, 24)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    expected = block(tokens, table, weight, bias)
    for result, wanted in zip(compiled(tokens, table, weight, bias), expected, strict=True):
        torch.testing.assert_close(result, wanted)
