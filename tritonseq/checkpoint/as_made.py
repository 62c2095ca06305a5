"""A live model of transformers beside the one that its own configuration makes.

A network here is made of the configuration and the weights. What an owner has changed in a module
since, or in the configuration, would be lost: it is found by a second model, on no device, which
takes milliseconds and no memory.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PLAIN = (bool, int, float, str, type(None))
"""Settings of a module that are compared."""

# Sizes show in the weights, and the scale of embeddings is compared by who knows where it stands. A
# layer's number only says where its keys are kept: what was scaled by it is compared itself. The
# rest is for training, or no part of what is computed.
UNIMPORTANT = frozenset(
    (
        "embed_scale", "embedding_dim", "gradient_checkpointing", "in_features", "inplace",
        "layer_idx", "nf", "num_embeddings", "num_labels", "nx", "out_features", "padding_idx",
        "training",
    )
)  # fmt: skip

ACTIVATIONS = ("act", "activation_fn")
"""What families call the activation within a feed-forward."""

# A table of tokens may be replaced by one of another kind: its weights count, and its scale.
ALIKE = ((nn.Embedding, nn.Embedding), (nn.Dropout, nn.Identity))

STEPS = (
    "generate",
    "prepare_inputs_for_generation",
    "_get_logits_processor",
    "_get_stopping_criteria",
    "_update_model_kwargs_for_generation",
    "_sample",
    "_beam_search",
)
"""Methods by which transformers generates, and that this package has in its own way."""


def refuse_own_steps(model: Any) -> None:
    """Raise ValueError for a model whose class, or owner, generates in a way of its own."""
    for name in STEPS:
        method = getattr(model, name, None)
        maker = getattr(method, "__module__", None) or type(method).__module__
        if method is not None and not str(maker).startswith("transformers."):
            raise ValueError(
                f"the {type(model).__name__} has its own {name} ({maker}), and what that does is "
                "not known here: pass a model of transformers' own class, and what it adds as "
                "options, logits_processor or stopping_criteria"
            )


def refuse_changes(model: Any, modules: Mapping[str, nn.Module]) -> None:
    """Raise ValueError for a module that is not as the configuration makes it, by its name.

    modules: those of the model by the names that transformers gives them.
    """
    for name, made in _made(model).named_modules():
        module, (owner, _, leaf) = modules.get(name), name.rpartition(".")
        if owner not in modules:
            continue  # a whole layer is missing, which shows in the weights
        if leaf in ACTIVATIONS:
            if module is None or not _same_function(module, made):
                _refuse(name, "computes something else than", "another activation function")
        elif module is not None and not _same_kind(module, made):
            _refuse(name, f"is a {type(module).__name__}, not as", f"a {type(made).__name__}")
        elif module is not None:
            for setting, found, wanted in _changes(module, made):
                _refuse(f"{name}.{setting}".lstrip("."), f"is {found!r}, not as", repr(wanted))


def _refuse(name: str, what: str, wanted: str) -> None:
    raise ValueError(
        f"{name} {what} the model's own config says, by which it would be {wanted}: the network "
        "here is made of config and weights alone, so change the config as well, or put this back"
    )


def _made(model: Any) -> nn.Module:
    """A model as transformers makes it of this one's configuration, without any weights."""
    made_by = next(c for c in type(model).__mro__ if c.__module__.startswith("transformers."))
    make: Callable[[Any], nn.Module] = made_by
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return make(copy.deepcopy(model.config))
    except Exception as error:
        raise ValueError(
            f"{made_by.__name__} cannot be made of the model's own config any more: {error}"
        ) from error


def _same_kind(module: nn.Module, made: nn.Module) -> bool:
    """Do both compute the same, but for their settings?"""
    if isinstance(module, type(made)):
        return True
    return any(isinstance(made, one) and isinstance(module, other) for one, other in ALIKE)


def _changes(module: nn.Module, made: nn.Module) -> Iterator[tuple[str, Any, Any]]:
    """Settings that differ, with what they are and what they would be."""
    if isinstance(made, nn.Dropout) or not isinstance(module, type(made)):
        return
    for setting, wanted in vars(made).items():
        if setting.startswith("_") or "drop" in setting or setting in UNIMPORTANT:
            continue
        found = vars(module).get(setting)
        if isinstance(wanted, PLAIN) and isinstance(found, PLAIN) and not _equal(found, wanted):
            yield setting, found, wanted


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(found, float) and isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=1e-6)
    return bool(found == wanted)


def _same_function(module: nn.Module, made: nn.Module) -> bool:
    """Do two activations give the same? Those with weights are as they are, by their kinds."""
    if any(True for _ in made.parameters()) or any(True for _ in module.parameters()):
        return type(module) is type(made)
    x = torch.linspace(-12, 12, 97)
    return bool(torch.allclose(module(x), made(x), rtol=1e-4, atol=1e-5))
