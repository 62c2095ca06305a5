"""What a step of GPT-2 launches on a GPU, and that it computes the same there."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from launches import as_on_gpu, counted
from torch import nn
from walk import begin, feed

# As few channels as attention takes: every program of a kernel is interpreted.
SMALL: dict[str, Any] = {"n_embd": 16, "n_head": 1, "n_inner": 24}


def decoder(**config: Any) -> Any:
    """A random network whose weights lie as a GPU likes them, with the inputs adjacent."""
    network = tiny.pair(seed=1, **(SMALL | config)).ours.decoder
    for name, parameter in list(network.named_parameters()):
        dim = network.input_dim(name) if parameter.dim() == 2 else None
        weight = parameter.t().contiguous().t() if dim == 0 else parameter.contiguous()
        owner, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(owner), leaf, nn.Parameter(weight, requires_grad=False))
    return network


def steps(network: Any, samples: int, beams: int, *, count: int = 1) -> list[torch.Tensor]:
    """The logits of the last of `count` steps after ragged prompts, on the CPU and as on a GPU."""
    ids, _ = tiny.prompts(samples, 6, seed=2)
    lengths = torch.arange(samples) % 6 + 1
    tokens = torch.randint(0, tiny.VOCAB, (count, samples, beams))
    lineage = torch.randint(0, beams, (samples, count, beams)) if beams > 1 else None
    results = []
    for on_gpu in (False, True):
        cache, _ = begin(network, ids, lengths, beams=beams, target_length=count)
        for step in tokens[:-1]:
            feed(network, step, lineage, cache)
        if on_gpu:
            with as_on_gpu():
                results.append(network.step(tokens[-1], lineage, cache))
        else:
            results.append(network.step(tokens[-1], lineage, cache))
    return results


def launches(network: Any, samples: int, beams: int) -> list[str]:
    ids, _ = tiny.prompts(samples, 6, seed=2)
    cache, _ = begin(network, ids, torch.full((samples,), 6), beams=beams, target_length=1)
    lineage = torch.zeros(samples, 1, beams, dtype=torch.int64) if beams > 1 else None
    tokens = torch.zeros(samples, beams, dtype=torch.int64)
    with counted(dry=True) as names:
        network.step(tokens, lineage, cache)
    return names


def test_a_greedy_step_of_twelve_layers() -> None:
    names = launches(decoder(n_layer=12), 1, 1)
    layer = ["norm_linear", "attend", "norm_linear", "norm_linear", "norm_linear"]
    assert names == ["embed", *12 * layer, "norm_linear"]


@pytest.mark.parametrize(("act", "dtype"), [("relu", torch.float32), ("gelu_new", torch.float16)])
def test_a_layer_for_many_rows(act: str, dtype: torch.dtype) -> None:
    network = decoder(n_layer=2, activation_function=act).to(dtype)
    layer = ["add_norm", "addmm", "attend", "addmm", "add_norm", "_addmm_activation", "addmm"]
    assert launches(network, 8, 4) == ["embed", *2 * layer, "add_norm", "mm"]


def test_gelu_in_float32_is_not_left_to_an_epilogue() -> None:
    names = launches(decoder(n_layer=1), 3, 3)
    assert names[6:8] == ["addmm", "activate"]


@pytest.mark.parametrize(
    "config",
    [
        {"n_layer": 12},
        {"activation_function": "relu", "tie_word_embeddings": False},
        # A function that no kernel knows.
        {"activation_function": "quick_gelu"},
    ],
    ids=str,
)
def test_same_logits_for_one_row(config: dict[str, Any]) -> None:
    wanted, logits = steps(decoder(**config), 1, 1)
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max())


@pytest.mark.parametrize(("samples", "beams"), [(2, 3), (4, 3)])
def test_same_logits_for_beams(samples: int, beams: int) -> None:
    """With few rows, and with so many that norms are launches of their own."""
    wanted, logits = steps(decoder(n_layer=1), samples, beams, count=3)
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max())


def test_logits_of_prompts_lie_in_whole_vectors() -> None:
    network = decoder(n_layer=1)
    ids, _ = tiny.prompts(9, 3, seed=3)
    lengths = torch.full((9,), 3)
    _, wanted = begin(network, ids, lengths, beams=1, target_length=1)
    with as_on_gpu():
        _, logits = begin(network, ids, lengths, beams=1, target_length=1)
    assert logits.stride() == (64, 1)
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-4)
