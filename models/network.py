"""What every network is: parameters in layouts of their own, which copies and pickles leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .layers import input_dim
from .layout import address, dense, fingerprint, from_bytes, nbytes, to_bytes
from .parameters import lay_out, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import torch

    Group = tuple[Sequence[str], Tensor]


class Network(nn.Module):
    """A module that is made of its configuration, and gets its parameters by `place`."""

    config: Any

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and of what goes through the layers."""
        return next(self.parameters()).dtype

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
        """Where the weights are in memory, for whoever has launched work on them."""
        return tuple(map(address, self.parameters()))

    def checksum(self) -> str:
        """Of all values under their names, whatever their layout, dtype and device."""
        return fingerprint(self._groups())

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
        twin = _made(type(self), self.config, self._groups())
        memo[id(self)] = twin
        return twin

    def __reduce__(self) -> tuple[Callable[..., Network], tuple[Any, ...]]:
        """By the dense values, in memory that holds nothing else."""
        groups = [(list(names), _alone(parameter)) for names, parameter in self._groups()]
        return _unpickled, (type(self), self.config, to_bytes(groups))


def _unpickled(cls: type[Network], config: Any, groups: bytes) -> Network:
    return _made(cls, config, from_bytes(groups))


def _made(cls: type[Network], config: Any, groups: Iterable[Group]) -> Network:
    """A network with copies of these values, laid out as it suits this machine."""
    network = cls(config)
    for names, parameter in groups:
        values = dense(parameter)
        weight = lay_out(network, names, values.shape, device=values.device, dtype=values.dtype)
        place(network, names, weight.copy_(values))
    return network


def _alone(parameter: Tensor) -> Tensor:
    values = dense(parameter)
    own = values.contiguous()
    # What torch pickles is the whole memory that a tensor lies in.
    return own if own.untyped_storage().nbytes() == own.nbytes else own.clone()
