"""Checks that the public operations share: host integers only, so that no device is waited for."""

from __future__ import annotations

import reprlib
import sys
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Impl = Literal["auto", "triton", "torch"]

FLOATS = frozenset((torch.float16, torch.bfloat16, torch.float32))
INTEGERS = frozenset((torch.int32, torch.int64))

_DENSE = torch.strided
_LARGEST = sys.float_info.max


def is_gpu(device: torch.device) -> bool:
    """Whether Triton compiles for `device`, and the host has to wait for its values."""
    return device.type == "cuda"


def takes_triton(impl: str, device: torch.device) -> bool:
    """Resolve `impl` for tensors on `device`: "auto" means Triton wherever it can run.

    What `torch.compile` looks into stays in torch, which it fuses by itself.
    """
    if impl == "auto":
        return is_gpu(device) and not torch.compiler.is_compiling()
    if impl not in ("triton", "torch"):
        raise ValueError(f'impl is {impl!r}; choose "auto", "triton" or "torch"')
    return impl == "triton"


def check_tensors(
    tensors: Mapping[str, Tensor | None], optional: Collection[str] = ()
) -> torch.device:
    """Demand tensors that kernels can read, all of them on the device of the first one.

    Every operation begins with this: what comes after it may ask for shapes and strides. The names
    are those of the arguments; `optional` ones may be None.

    Raises:
        TypeError: for what is no tensor.
        ValueError: for a tensor that is sparse, nested, packed, negated, fake, or on another
            device.
    """
    # What is traced cannot be asked whether it is negated.
    device, traced = None, torch.compiler.is_compiling()
    for name, tensor in tensors.items():
        if tensor is None and name in optional:
            continue
        if (
            not isinstance(tensor, Tensor)
            or tensor.layout is not _DENSE
            or tensor.is_nested
            or (not traced and tensor.is_neg())
            or (type(tensor) is not Tensor and not traced and _is_stray(tensor))
        ):
            raise _unfit(name, tensor)
        if device is None:
            first, device = name, tensor.device
            if device.type == "meta":
                raise ValueError(f"{name} is on the meta device, which holds no values")
        elif tensor.device != device:
            raise ValueError(
                f"{name} is on {tensor.device} and {first} on {device}; move them to one device"
            )
    assert device is not None
    return device


def _is_stray(tensor: Tensor) -> bool:
    """Is it a fake tensor, which has no values, where nothing else is fake?"""
    return hasattr(tensor, "fake_mode") and not hasattr(torch.empty(0), "fake_mode")


def _unfit(name: str, x: object) -> Exception:
    """What is wrong with an argument that is no dense tensor."""
    if not isinstance(x, Tensor):
        return TypeError(f"{name} is {_shown(x)}; pass a tensor")
    if x.is_nested:
        return ValueError(f"{name} is a nested tensor; pad it with torch.nested.to_padded_tensor")
    if x.layout is not _DENSE:
        return ValueError(f"{name} has the layout {x.layout}; pass {name}.to_dense()")
    if _is_stray(x):
        return ValueError(f"{name} is a fake tensor, which holds no values, outside of its mode")
    return ValueError(f"{name} is a negated view of other memory; pass {name}.resolve_neg()")


def number(name: str, value: Any, least: float = -_LARGEST) -> float:
    """`value`, which must be a finite number, `least` or more."""
    if type(value) is float and least <= value <= _LARGEST:
        return value
    if not _is_a(Real, value):
        raise TypeError(f"{name} is {_shown(value)}; pass a number")
    # Such comparisons hold for integers that are too large for a float as well.
    if not least <= value <= _LARGEST:
        limit = "" if least == -_LARGEST else f", {least:g} or more"
        raise ValueError(f"{name} is {_shown(value)}; pass a finite number{limit}")
    return float(value)


def whole(name: str, value: Any) -> int:
    """`value`, which must be an integer; its range is a matter of the operation."""
    if type(value) is not int and not _is_a(Integral, value):
        raise TypeError(f"{name} is {_shown(value)}; pass an integer")
    return int(value)


def _is_a(kind: type, value: object) -> bool:
    """Is it a number of a kind? True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def check_flags(**flags: bool) -> None:
    """Demand True or False: a word that says no would count as yes."""
    for name, value in flags.items():
        if value is not True and value is not False:
            raise TypeError(f"{name} is {_shown(value)}; pass True or False")


def check_integers(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    """Demand int32 or int64 of exactly `shape`; None passes."""
    if tensor is not None and (tensor.shape != shape or tensor.dtype not in INTEGERS):
        raise ValueError(
            f"{name} is {tensor.dtype} {list(tensor.shape)}; pass int32 or int64 {list(shape)}"
        )


def check_last_dim(name: str, tensor: Tensor) -> None:
    """Demand that the last dimension is contiguous in memory."""
    if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
        raise ValueError(
            f"{name} has strides {list(tensor.stride())}; make its last dimension contiguous"
        )


def check_rows(**tensors: Tensor | None) -> None:
    """Demand that rows are contiguous in memory; the names are those of the arguments."""
    for name, tensor in tensors.items():
        if tensor is not None:
            check_last_dim(name, tensor)


def _shown(value: object) -> str:
    """A value and its type, in a few words whatever it is."""
    return f"{reprlib.repr(value)} ({type(value).__name__})"
