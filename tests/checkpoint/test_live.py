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
from tritonseq.checkpoint.loader import from_transformers_model

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
        (deeper_head, r"lm_head is a Sequential, not as .* be a Linear"),
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


def other_act(model: Any) -> Any:
    model.transformer.h[0].mlp.act = nn.ReLU()
    return model


def other_config(model: Any) -> Any:
    model.config.activation_function = "relu"
    return model


def unknown_config(model: Any) -> Any:
    model.config.activation_function = "mystery"
    return model


def other_scaling(model: Any) -> Any:
    model.transformer.h[0].attn.scaling = 2.0
    return model


def other_epsilon(model: Any) -> Any:
    model.transformer.ln_f.eps = 0.5
    return model


def other_kind(model: Any) -> Any:
    old = model.transformer.h[1].attn.c_proj
    new = nn.Linear(32, 32)
    new.weight, new.bias = old.weight, old.bias
    model.transformer.h[1].attn.c_proj = new
    return model


class Short(type(tiny.hf_gpt2())):  # type: ignore[misc]
    """Says another number of tokens than it is asked for."""

    def generate(self, *args: Any, **options: Any) -> Any:
        return super().generate(*args, **{**options, "max_new_tokens": 2})


def own_generate(model: Any) -> Any:
    model.__class__ = Short
    return model


def patched_generate(model: Any) -> Any:
    model.generate = lambda *args, **options: None
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_act, r"transformer\.h\.0\.mlp\.act computes something else .* put this back"),
        (other_config, r"transformer\.h\.0\.mlp\.act computes something else"),
        (unknown_config, r"GPT2LMHeadModel cannot be made .*mystery"),
        (other_scaling, r"transformer\.h\.0\.attn\.scaling is 2\.0, not as .* be 0\.35"),
        (other_epsilon, r"transformer\.ln_f\.eps is 0\.5, not as .* 1e-05"),
        (other_kind, r"transformer\.h\.1\.attn\.c_proj is a Linear, not as .* a Conv1D"),
        (own_generate, r"the Short has its own generate \(\S*test_live\)"),
        (patched_generate, r"has its own generate"),
    ],
)
def test_what_is_not_as_the_configuration_makes_it_is_refused(change: Change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_transformers_model(change(tiny.hf_gpt2()))


@pytest.mark.parametrize(
    ("model_type", "place", "setting", "value"),
    [
        ("bart", "model.encoder.layers.0.self_attn", "scaling", 1.0),
        ("bart", "model.decoder.layers.1.encoder_attn", "scaling", 1.0),
        ("marian", "model.decoder.layers.1.final_layer_norm", "eps", 0.5),
        ("pegasus", "model.encoder.layers.1", "activation_fn", nn.Tanh()),
        ("t5", "encoder.final_layer_norm", "variance_epsilon", 0.5),
        ("t5", "encoder.block.0.layer.0.SelfAttention", "has_relative_attention_bias", False),
        ("t5", "decoder.block.0.layer.0.SelfAttention", "relative_attention_max_distance", 9),
        ("mt5", "decoder.block.1.layer.2.DenseReluDense", "act", nn.ReLU()),
    ],
)
def test_settings_of_other_families_are_seen(
    model_type: str, place: str, setting: str, value: Any
) -> None:
    model = networks.network(model_type, **START)
    tritonseq.from_transformers(model)
    setattr(model.get_submodule(place), setting, value)
    with pytest.raises(ValueError, match=rf"{place}\.{setting} "):
        from_transformers_model(model)


def test_what_computes_the_same_is_no_matter() -> None:
    torch.manual_seed(9)
    drawn = torch.rand(1)
    torch.manual_seed(9)
    model = tiny.hf_gpt2(activation_function="gelu")
    model.transformer.h[0].mlp.act = nn.GELU()
    model.transformer.drop = nn.Identity()
    model.transformer.h[1].attn.resid_dropout.p = 0.9
    model.config.use_cache, model.config.resid_pdrop = False, 0.0
    model.gradient_checkpointing_enable()
    torch.manual_seed(9)
    ours = tritonseq.from_transformers(model)
    # Nothing is drawn for it.
    assert torch.equal(torch.rand(1), drawn)
    model.gradient_checkpointing_disable()
    model.config.use_cache = True
    assert_same(ours, model)


def test_layers_that_were_taken_out_or_turned_round() -> None:
    theirs = tiny.hf_gpt2(n_layer=3)
    layers = list(theirs.transformer.h)
    theirs.transformer.h = nn.ModuleList([layers[2], layers[0]])
    with pytest.raises(ValueError, match="n_layer is 3, and the weights have 2 layers"):
        from_transformers_model(theirs)
    theirs.config.n_layer = 2
    ours = tritonseq.from_transformers(theirs)
    ids = torch.tensor([[9, 10, 11, 12]])
    wanted = theirs.generate(ids, max_new_tokens=6, use_cache=False)
    assert torch.equal(ours.generate(ids, max_new_tokens=6), wanted)
