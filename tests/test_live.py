"""A live model is taken as it is: what its owner put into it is honoured, or refused by name."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import networks
import pytest
import tiny
import torch
from torch import nn

import tritonseq
from tritonseq.checkpoint import from_transformers_model

if TYPE_CHECKING:
    from collections.abc import Callable

    Change = Callable[[Any], Any]

SEQ2SEQ = ("t5", "bart", "mbart", "pegasus", "marian")
START = {"decoder_start_token_id": 2}


def assert_same(ours: tritonseq.Model, theirs: Any, *, low: int = 5, high: int = 45) -> None:
    theirs = getattr(theirs, "_orig_mod", theirs)
    ids = torch.randint(low, high, (2, 6), generator=torch.Generator().manual_seed(1))
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": 2, "pad_token_id": 3}
    wanted = theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(ours.generate(ids, **options), wanted)


def own_head(model: Any) -> Any:
    table = model.lm_head.weight
    torch.manual_seed(5)
    model.lm_head = nn.Linear(table.shape[1], table.shape[0], bias=False)
    return model


def own_embedding(model: Any) -> Any:
    table = model.get_input_embeddings().weight
    torch.manual_seed(6)
    model.set_input_embeddings(nn.Embedding(*table.shape))
    return model


@pytest.mark.parametrize("change", [own_head, own_embedding])
def test_what_was_replaced_by_hand_counts(change: Change) -> None:
    theirs = change(tiny.hf_gpt2())
    with pytest.warns(UserWarning, match=r"lm_head\.weight differ"):
        ours = tritonseq.from_transformers(theirs)
    assert_same(ours, theirs)
    for model_type in SEQ2SEQ:
        other = change(networks.network(model_type, **START))
        with pytest.warns(UserWarning, match=r"lm_head\.weight differ"):
            ours = tritonseq.from_transformers(other)
        assert_same(ours, other)


def test_vocabularies_that_were_resized() -> None:
    gpt2 = tiny.hf_gpt2()
    others = [networks.network(model_type, **START) for model_type in SEQ2SEQ]
    for model in (gpt2, *others):
        size = model.config.vocab_size + 5
        model.resize_token_embeddings(size)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours = tritonseq.from_transformers(model)
        assert ours.decoder.vocab_size == size
        assert_same(ours, model, low=size - 9, high=size)


class Parallel(nn.Module):
    """Another wrapper of some trainer's."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class ValueHead(nn.Module):
    """As trl wraps a model to be trained by rewards."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.pretrained_model = model
        self.v_head = nn.Linear(32, 1)


class Pipeline:
    def __init__(self, model: nn.Module) -> None:
        self.model = model


def compiled_inside(model: Any) -> Any:
    model.transformer.h[0] = torch.compile(model.transformer.h[0])
    return model


def compiled_forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward)
    return model


def watched(model: Any) -> Any:
    """transformers leaves hooks of its own behind."""
    model(torch.tensor([[5, 6]]), output_hidden_states=True)
    assert any(module._forward_hooks for module in model.modules())
    return model


class Tuned(type(tiny.hf_gpt2())):  # type: ignore[misc]
    """A class of the owner's, which only adds to training."""

    def training_step(self) -> None: ...


def renamed_class(model: Any) -> Any:
    model.__class__ = Tuned
    return model


@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        nn.DataParallel,
        lambda m: torch.compile(nn.DataParallel(m)),
        lambda m: nn.DataParallel(torch.compile(m)),
        ValueHead,
        compiled_inside,
        compiled_forward,
        watched,
        renamed_class,
        lambda m: m.train(),
        lambda m: m.requires_grad_(False),
    ],
)
def test_wrappers_that_change_nothing(wrap: Change) -> None:
    theirs = tiny.hf_gpt2()
    wanted = copy.deepcopy(theirs)
    assert_same(tritonseq.from_transformers(wrap(theirs)), wanted)


def hooked(model: Any) -> Any:
    model.transformer.h[1].register_forward_hook(lambda module, args, output: output)
    return model


def hooked_before(model: Any) -> Any:
    model.lm_head.register_forward_pre_hook(lambda module, args: args)
    return model


class Linear4bit(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.round())


def strange_module(model: Any) -> Any:
    head = Linear4bit(32, tiny.VOCAB, bias=False)
    head.weight = model.lm_head.weight
    model.lm_head = head
    return model


def strange_forward(model: Any) -> Any:
    attention = model.transformer.h[0].attn
    old = attention.forward
    attention.forward = lambda *args, **options: old(*args, **options)
    return model


def pruned(model: Any) -> Any:
    from torch.nn.utils import prune

    prune.random_unstructured(model.transformer.h[0].mlp.c_fc, "weight", amount=0.5)
    return model


def parametrized(model: Any) -> Any:
    nn.utils.parametrizations.orthogonal(model.transformer.wpe)
    return model


def biased_head(model: Any) -> Any:
    model.lm_head = nn.Linear(32, tiny.VOCAB)
    return model


def deeper_head(model: Any) -> Any:
    model.lm_head = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, tiny.VOCAB))
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (hooked, r"transformer\.h\.1 has a hook \(hooked.*remove it"),
        (hooked_before, r"lm_head has a hook"),
        (strange_module, r"lm_head is a \S*test_live\.Linear4bit, .*dequantised"),
        (strange_forward, r"transformer\.h\.0\.attn has another forward \(strange_forward"),
        (pruned, r"h\.0\.mlp\.c_fc has a hook .*remove it"),
        (parametrized, r"transformer\.wpe\.parametrizations.* is a torch\.nn\.utils\.parametr"),
        (biased_head, r"lm_head\.bias: gpt2 has no bias in its head here; set it to None"),
        (deeper_head, r"left over: lm_head\.0\.bias"),
        (Parallel, r"a Parallel is not a transformers model: pass .* its \.module"),
        (Pipeline, r"a Pipeline is not a transformers model: pass .* its \.model"),
    ],
)
def test_what_counts_beside_the_weights_is_refused(change: Change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_transformers_model(change(tiny.hf_gpt2()))


@pytest.mark.parametrize("model_type", ["bart", "mbart"])
def test_the_scale_of_an_embedding_goes_with_its_module(model_type: str) -> None:
    model = networks.network(model_type, scale_embedding=True, **START)
    assert_same(tritonseq.from_transformers(model), model)
    with pytest.raises(ValueError, match=r"embed_tokens multiplies by 1, but config\.scale_embed"):
        from_transformers_model(own_embedding(model))
    model.config.scale_embedding = False
    with pytest.warns(UserWarning, match="differ"):
        assert_same(tritonseq.from_transformers(model), model)


def test_a_bias_in_the_head_of_a_bart_goes_elsewhere() -> None:
    model = networks.network("bart")
    model.lm_head = nn.Linear(24, networks.VOCAB)
    with pytest.raises(ValueError, match=r"set it to None and add it to final_logits_bias"):
        from_transformers_model(model)
