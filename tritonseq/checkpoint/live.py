"""A live transformers model, read like a file of weights.

Its configuration and its weights say all about a model as transformers made it. What its owner
has put into it since may say more: that is seen here, and refused by name.
"""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

from torch import nn

from .adapters import MERGE, refuse_parts
from .as_made import refuse_changes, refuse_own_steps
from .weights import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from torch import Tensor

    from .weights import WeightReader

COMPILED = "_orig_mod"
"""What torch.compile calls the module that it wraps."""
VALUED = "pretrained_model"
"""What trl calls the model that it puts a value head beside."""
PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
# Whose forward functions compute what a configuration says.
MAKERS = ("transformers.", "torch.nn.modules.")
# Whose hooks only look, or move inputs to another device.
WATCHERS = ("transformers.", "accelerate.")


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


_OURS = ("bart", "gpt2", "marian", "mbart", "mt5", "pegasus", "t5", "umt5")
"""The types that transformers has the code of: a UniLM is made by others."""


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
