"""Live models of transformers, read like a file of weights.

Its configuration and its weights say all about a model as transformers made it. What its owner
has put into it since, or changed in a module or in the configuration, would be lost: it is found
beside a second model, on no device, which takes milliseconds and no memory, and refused by name.
"""

from __future__ import annotations

import copy
import math
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .state_dict import MERGE, refuse_parts
from .weights import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from torch import Tensor

    from .weights import WeightReader


PLAIN = (bool, int, float, str, type(None))
"""Settings of a module that are compared."""

# Sizes show in the weights, and the scale of embeddings is compared where it is known to stand. A
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

COMPILED = "_orig_mod"
"""What torch.compile calls the module that it wraps."""
VALUED = "pretrained_model"
"""What trl calls the model that it puts a value head beside."""
PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
# Whose forward functions compute what a configuration says.
MAKERS = ("transformers.", "torch.nn.modules.")
# Whose hooks only look, or move inputs to another device.
WATCHERS = ("transformers.", "accelerate.")

_OURS = (
    "bart", "blenderbot", "fsmt", "gpt2", "m2m_100", "marian", "mbart", "mt5", "mvp", "pegasus",
    "plbart", "prophetnet", "t5", "umt5",
)  # fmt: skip
"""The types that transformers has the code of: a UniLM is made by others."""


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
            if module is None or not _is_same_function(module, made):
                _refuse(name, "computes something else than", "another activation function")
        elif module is not None and not _is_same_kind(module, made):
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


def _is_same_kind(module: nn.Module, made: nn.Module) -> bool:
    """Whether both compute the same, but for their settings."""
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
        if isinstance(wanted, PLAIN) and isinstance(found, PLAIN) and not _is_equal(found, wanted):
            yield setting, found, wanted


def _is_equal(found: Any, wanted: Any) -> bool:
    if isinstance(found, float) and isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=1e-6)
    return bool(found == wanted)


def _is_same_function(module: nn.Module, made: nn.Module) -> bool:
    """Whether two activations give the same; those with weights are compared by their kinds."""
    if any(True for _ in made.parameters()) or any(True for _ in module.parameters()):
        return type(module) is type(made)
    x = torch.linspace(-12, 12, 97)
    return bool(torch.allclose(module(x), made(x), rtol=1e-4, atol=1e-5))


def unwrapped_model(model: Any) -> Any:
    """The transformers model in what was passed; ValueError if there is none, or an adapter."""
    while True:
        if COMPILED in getattr(model, "_modules", {}):
            model = getattr(model, COMPILED)
        elif isinstance(model, PARALLEL):
            model = model.module
        elif VALUED in getattr(model, "_modules", {}):
            model = getattr(model, VALUED)
        else:
            break
    kind = type(model).__name__
    if _is_adapted(model):
        raise ValueError(
            f"a {kind} is a model with an adapter: merge it first ({MERGE}), and pass what "
            "merge_and_unload() returns"
        )
    if not isinstance(model, nn.Module) or not hasattr(getattr(model, "config", None), "to_dict"):
        inner = (name for name in ("module", "model") if hasattr(model, name))
        hints = (f": pass the model that it holds, its .{name}" for name in inner)
        raise ValueError(f"a {kind} is not a transformers model{next(hints, '')}")
    return model


def plain_state(model: Any) -> WeightReader:
    """The weights of a model in memory; ValueError for what counts beside them, by its name."""
    refuse_parts({}, [name for name, _ in model.named_parameters()])
    model_type = getattr(model.config, "model_type", None)
    for name, module in model.named_modules():
        _refuse_hooks(name, module)
        if model_type in _OURS and type(module).__name__ != "OptimizedModule":
            _refuse_strange(name, module)
    _check_scales(model)
    if model_type in _OURS:
        refuse_own_steps(model)
        refuse_changes(model, _modules(model))
    # Of models in parts on several devices only now, since those are refused.
    state = model.state_dict()
    for name, value in state.items():
        if not hasattr(value, "shape"):
            raise ValueError(
                f"{name} is a {type(value).__name__}: only plain weights are supported"
            )
        if name.endswith("lm_head.bias"):
            raise ValueError(
                f"{name}: {model_type} has no bias in its head here; set it to None"
                + (" and add it to final_logits_bias" if "final_logits_bias" in state else "")
            )
    return _Live({name.replace(f"{COMPILED}.", ""): value for name, value in state.items()})


class _Live:
    """The state of a model in memory, read like a file."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = state
        self.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}

    def read(self, name: str) -> Tensor:
        tensor = self._state[name].detach()
        if tensor.is_meta:
            raise ValueError(f"{name} is not in memory: load the model without offloading")
        return tensor

    def pieces(self, name: str) -> Iterator[Tensor]:
        return rows_of(self.read(name))


def _modules(model: Any) -> dict[str, nn.Module]:
    """All modules by the names that they have where nothing is compiled."""
    compiled = [name for name, module in model.named_modules() if COMPILED in module._modules]
    return {
        f"{name}.".replace(f"{COMPILED}.", "").removesuffix("."): module
        for name, module in model.named_modules()
        if name not in compiled
    }


class Watch:
    """Sees whether tensors are changed in place that a network has copies of.

    Weights that are shared change with their owner's. Were those that had to be copied not to,
    the network would be a mixture, or stay what the owner's is no longer.
    """

    def __init__(self, model: nn.Module, copied: Collection[int]) -> None:
        """`copied`: where in memory those tensors of `model` begin."""
        tensors = (*model.named_parameters(), *model.named_buffers())
        self._seen = [
            # Without it being kept in memory: its owner may drop it.
            (name, weakref.ref(tensor), tensor._version)
            for name, tensor in tensors
            if tensor.data_ptr() in copied and not tensor.is_inference()
        ]

    def check(self) -> None:
        """Raise ValueError if one was changed."""
        for name, seen, version in self._seen:
            tensor = seen()
            if tensor is not None and tensor._version != version:
                raise ValueError(
                    f"{name} was changed in place, and this model holds a copy of what it was "
                    "(other weights are shared, and change with it): call "
                    "tritonseq.from_transformers with the model again"
                )


def _is_adapted(model: Any) -> bool:
    classes = [cls.__name__ for cls in type(model).__mro__]
    return any(name.startswith("Peft") and "Mixin" not in name for name in classes) or any(
        hasattr(model, method) for method in ("merge_and_unload", "get_base_model")
    )


def _refuse_hooks(name: str, module: nn.Module) -> None:
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    for hook in hooks:
        if not _maker(hook).startswith(WATCHERS):
            raise ValueError(
                f"{name or 'the model'} has a hook ({_named(hook)}), which may change what it "
                "computes, and does not run here: remove it, or put its effect into the weights"
            )


def _refuse_strange(name: str, module: nn.Module) -> None:
    forward: Callable[..., Any] = module.forward
    if not _maker(forward).startswith(MAKERS):
        kind = f"{type(module).__module__}.{type(module).__name__}"
        own = "forward" in vars(module)
        what = f"has another forward ({_named(forward)})" if own else f"is a {kind}"
        raise ValueError(
            f"{name or 'the model'} {what}, and what that computes is not known here: "
            f"pass a model of transformers' own modules; an adapter is merged first ({MERGE}), "
            "and a quantised module dequantised"
        )


def _check_scales(model: Any) -> None:
    """Raise ValueError if embeddings were replaced by such as scale otherwise.

    The scale of BART's family is a part of the module that is replaced.
    """
    if not hasattr(model.config, "scale_embedding"):
        return
    wanted = math.sqrt(model.config.d_model) if model.config.scale_embedding else 1.0
    for name, module in model.named_modules():
        table = getattr(module, "embed_tokens", None)
        if table is None:
            continue
        scale = getattr(table, "embed_scale", getattr(module, "embed_scale", 1.0))
        if not math.isclose(float(scale), wanted, rel_tol=1e-4):
            raise ValueError(
                f"{name}.embed_tokens multiplies by {float(scale):g}, but config.scale_embedding "
                f"is {model.config.scale_embedding}: copy new weights into the old module, or set "
                "config.scale_embedding"
            )


def _maker(function: Any) -> str:
    return str(getattr(function, "__module__", None) or type(function).__module__)


def _named(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))
