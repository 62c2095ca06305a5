"""The operations as operators: same signatures as their references, and under `torch.compile`."""

from __future__ import annotations

import inspect
import random

import pytest
import torch
from attention_cases import random_case
from kernel_calls import KERNELS, changed, tensors

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


# The others are compiled above.
TRACED = ("beam_topk", "beam_advance", "greedy_advance", "ngram_bans", "norm_linear")


@pytest.mark.parametrize("name", TRACED)
def test_every_operation_is_traced_with_its_checks(name):
    """Whole, whatever the checks look at; eager code and compiled code write the same."""
    torch._dynamo.reset()
    run, call = KERNELS[name].run, KERNELS[name].call(random.Random(1), 0.0)
    own, other = (changed(call, lambda x: x.clone()) for _ in range(2))
    expected = tensors(run(**own)) + tensors(own)
    compiled = torch.compile(lambda call: run(**call), backend="aot_eager", fullgraph=True)
    found = tensors(compiled(other)) + tensors(other)
    for result, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(result, wanted, equal_nan=True)


@pytest.mark.parametrize("compiled", [False, True])
def test_operators_refuse_what_the_public_functions_do(compiled):
    def attend(rows, options):
        if compiled:
            return torch.compile(decode_attention, backend="aot_eager")(*rows, **options)
        return torch.ops.tritonseq.decode_attention(*rows, **options)

    rows, cache = torch.randn(3, 1, 2, 1, 1, 8).unbind(0), torch.zeros(2, 1, 1, 3, 2, 8)
    options = {"target_key": cache[0], "target_value": cache[1][:, :, :, :1].expand(1, 1, 3, 2, 8)}
    options |= {"step": torch.zeros(1).long(), "lineage": torch.zeros(1, 3, 2).long()}
    with pytest.raises(ValueError, match="target_value is written in place, and with strides"):
        attend(rows, options)
    with pytest.raises(ValueError, match=r"query has the layout torch.sparse_coo; pass query"):
        attend((rows[0].to_sparse(), *rows[1:]), {})
    with pytest.raises(ValueError, match=r"is on meta and query on cpu|tensors are on cpu, meta"):
        attend((rows[0], rows[1].to("meta"), rows[2]), {})
