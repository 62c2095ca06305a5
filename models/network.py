"""Networks: parameters in layouts of their own, placed from the tensors of a file.

Copies and pickles have the values, in the layouts that suit their machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tritonseq.callers import warn

from .layers import DenseOutside, input_dim
from .matmul import (
    Int8,
    address,
    dense,
    empty_weight,
    fingerprint,
    from_bytes,
    is_int8,
    nbytes,
    to_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    Group = tuple[Sequence[str], Tensor]


_SHOWN = 8
"""Names of tensors that a message lists."""

OTHER_HEADS = (
    "classification_head.",
    "classifier.",
    "multiple_choice_head.",
    "qa_outputs.",
    "score.",
    "v_head.",
)
"""How the names begin of what fine-tuning for other tasks puts beside a network that generates:
the heads of transformers' classes for them, and the value head of reinforcement learning."""


SOURCE_CACHES = ("projected", "states")
"""What a cache may keep of sources: keys and values of every layer, or, once for all of them, the
encoder's states, which is EL-attention."""


class TensorSpec(NamedTuple):
    """What a parameter is made of: one tensor of the checkpoint, or several side by side."""

    names: tuple[str, ...]
    """More than one are joined along the last dimension, after any transposition."""
    transpose: bool = False
    """Whether the checkpoint stores as `[out, in]` what the parameter holds as `[in, out]`."""
    widths: tuple[int, ...] = ()
    """Of each tensor along that dimension, where they differ."""

    def parts(self, width: int) -> tuple[int, ...]:
        """How the tensors share a parameter of this width."""
        count = len(self.names)
        return self.widths or (width // count,) * count


@runtime_checkable
class Packable(Protocol):
    """A module that may put its weight into a layout of its own."""

    def pack(self) -> None: ...


def place_parameter(model: nn.Module, name: str, value: Tensor, *, pack: bool = True) -> Tensor:
    """Put `value` itself, not a copy, in the place of the parameter `name` of `model`.

    Returns the parameter. With `pack`, modules that know a faster layout for it may convert it;
    a weight that several modules share must stay as it is.
    """
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if not isinstance(value, nn.Parameter):
        value = nn.Parameter(value.detach(), requires_grad=False)
    setattr(module, leaf, value)
    if pack and leaf == "weight" and isinstance(module, Packable):
        module.pack()
    parameter: Tensor = getattr(module, leaf)
    return parameter


def lay_out(
    model: Any,
    names: Sequence[str],
    shape: Sequence[int],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """A weight to be filled for the parameters of these names, which share it.

    An embedding that is also the head is laid out for the product.
    """
    dims = (model.input_dim(name) for name in names)
    dim = next((dim for dim in dims if dim is not None), None)
    return empty_weight(shape, dim, device=device, dtype=dtype)


def quantized(model: Any, name: str, values: Tensor) -> Int8:
    """The values of the parameter `name`, one that `is_multiplied_by`, as int8."""
    return Int8.of(values, is_transposed=model.input_dim(name) == 0)


def is_multiplied_by(model: Any, name: str) -> bool:
    """Whether the parameter is the weight of a matrix product: these are what int8 is for."""
    return model.get_parameter(name).dim() == 2 and model.input_dim(name) is not None


def place(model: nn.Module, names: Sequence[str], value: Tensor) -> None:
    """Put `value` in the place of these parameters; one that is alone may be packed."""
    first, *others = names
    parameter = place_parameter(model, first, value, pack=not others)
    for name in others:
        place_parameter(model, name, parameter, pack=False)


def match(
    wanted: dict[str, TensorSpec],
    names: Collection[str],
    *,
    ignorable: Callable[[str], bool],
) -> dict[str, TensorSpec]:
    """`wanted` itself, if a checkpoint with these `names` has all of it and nothing else.

    What is `ignorable` may be there; so may the heads of other tasks, and a warning names them.
    Raises ValueError that names what is missing or left over, or the half of a network that is
    not there at all.
    """
    used = {name for source in wanted.values() for name in source.names}
    missing = sorted(used.difference(names))
    unused = sorted(name for name in names if name not in used and not ignorable(name))
    left = [name for name in unused if not name.startswith(OTHER_HEADS)]
    for half in ("encoder", "decoder"):
        if _has(used, half) and not _has(names, half):
            raise ValueError(
                f"the checkpoint holds no {half}: it is a part of an encoder-decoder model, and "
                "generation needs both halves"
            )
    if missing or left:
        raise ValueError(
            "the checkpoint does not fit its config.json"
            + (f"; missing: {_listed(missing)}" if missing else "")
            + (f"; left over: {_listed(left)}" if left else "")
        )
    warn_of_unused(name for name in unused if name.startswith(OTHER_HEADS))
    return wanted


def warn_of_unused(names: Iterable[str]) -> None:
    """Say once which weights of a checkpoint are left alone, if any are."""
    unused = sorted(names)
    if unused:
        warn(
            f"generation does not use these weights of the checkpoint: {_listed(unused)}",
        )


def _has(names: Collection[str], part: str) -> bool:
    return any(part in name.split(".") for name in names)


def _listed(names: Sequence[str]) -> str:
    """The names, or the first of many."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


class Network(DenseOutside):
    """A module that is made of its configuration, and gets its parameters by `place`."""

    config: Any
    source_cache = "projected"
    """One of `SOURCE_CACHES`."""

    def keep_of_sources(self, source_cache: str) -> None:
        """Choose one of `SOURCE_CACHES`, before there are weights, whose layout depends on it.

        Raises ValueError for states if no cross-attention would read them.
        """
        assert source_cache in SOURCE_CACHES
        if source_cache == "states":
            self._read_states()
        self.source_cache = source_cache

    def _read_states(self) -> None:
        raise ValueError(
            f"source_cache='states' is for models with cross-attention, and a {type(self).__name__}"
            " has none: leave it out"
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of what goes through the layers and into caches, and of the weights that are no int8."""
        return next(weight.dtype for weight in self.parameters() if not is_int8(weight))

    @property
    def weights_dtype(self) -> torch.dtype:
        """Of the weights of matrix products."""
        return torch.int8 if any(map(is_int8, self.parameters())) else self.dtype

    @property
    def nbytes(self) -> int:
        """The bytes of all weights; what is shared counts once."""
        return sum(map(nbytes, self.parameters()))

    @property
    def size(self) -> int:
        """The number of all weights; what is shared counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def addresses(self) -> tuple[int, ...]:
        """Where the weights are in memory, which launched work refers to."""
        return tuple(map(address, self.parameters()))

    def checksum(self) -> str:
        """Of all values under their names, whatever their layout, dtype and device."""
        return fingerprint(self._groups())

    @torch.no_grad()
    def broken_weights(self) -> list[str]:
        """The names of the parameters that hold NaN or infinity."""
        return [name for name, weight in self.named_parameters() if not _is_finite(dense(weight))]

    def input_dim(self, name: str) -> int | None:
        """Which dimension of the parameter `name` is the input side of a matrix product."""
        return input_dim(self, name)

    def _groups(self) -> Iterator[Group]:
        """Every parameter with all of its names."""
        names: dict[int, list[str]] = {}
        parameters: dict[int, nn.Parameter] = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
            parameters[id(parameter)] = parameter
        for key, parameter in parameters.items():
            yield names[key], parameter

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        """A network with weights of its own, copied one by one."""
        groups = ((names, weight, is_int8(weight)) for names, weight in self._groups())
        twin = _made(type(self), self.config, self.source_cache, groups)
        memo[id(self)] = twin
        return twin

    def __reduce__(self) -> tuple[Callable[..., Network], tuple[Any, ...]]:
        """By the dense values, in memory that holds nothing else."""
        groups = [(list(names), _alone(one), is_int8(one)) for names, one in self._groups()]
        return _unpickled, (type(self), self.config, self.source_cache, to_bytes(groups))


def _unpickled(cls: type[Network], config: Any, source_cache: str, groups: bytes) -> Network:
    return _made(cls, config, source_cache, from_bytes(groups))


def _made(
    cls: type[Network],
    config: Any,
    source_cache: str,
    groups: Iterable[tuple[Sequence[str], Tensor, bool]],
) -> Network:
    """A network with copies of these values, as int8 or laid out as it suits this machine."""
    network = cls(config)
    network.keep_of_sources(source_cache)
    for names, parameter, as_int8 in groups:
        values = dense(parameter)
        if as_int8:
            place(network, names, quantized(network, names[0], values))
            continue
        weight = lay_out(network, names, values.shape, device=values.device, dtype=values.dtype)
        place(network, names, weight.copy_(values))
    return network


def _is_finite(weight: Tensor) -> bool:
    # One pass, without a mask of the weight's size.
    low, high = weight.aminmax()
    return bool((high - low).isfinite()) or bool(weight.isfinite().all())


def _alone(parameter: Tensor) -> Tensor:
    values = dense(parameter)
    own = values.contiguous()
    # What torch pickles is the whole memory that a tensor lies in.
    return own if own.untyped_storage().nbytes() == own.nbytes else own.clone()
