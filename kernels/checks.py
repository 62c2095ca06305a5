"""Argument checks of all operations: on host integers only, so that no device is waited for."""

from __future__ import annotations

import reprlib
import sys
from contextlib import nullcontext
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    # A tensor: the address of its first byte and the one behind its last, its name, and itself.
    _Place = tuple[int, int, str, Tensor]

Impl = Literal["auto", "triton", "torch"]

FLOATS = frozenset((torch.float16, torch.bfloat16, torch.float32))
INTEGERS = frozenset((torch.int32, torch.int64))

_DENSE = torch.strided
_LARGEST = sys.float_info.max

# Places of one dimension that are compared with another tensor one by one.
_MOST_SHIFTS = 64


def is_gpu(device: torch.device) -> bool:
    """Whether Triton compiles for `device`, and the host has to wait for its values."""
    return device.type == "cuda"


def is_for_triton(impl: str, device: torch.device) -> bool:
    """Whether `impl` means Triton for tensors on `device`, as "auto" does wherever it can run.

    What `torch.compile` looks into stays in torch, which it fuses by itself.
    """
    if impl == "auto":
        return is_gpu(device) and not torch.compiler.is_compiling()
    if impl not in ("triton", "torch"):
        raise ValueError(f'impl is {impl!r}; choose "auto", "triton" or "torch"')
    return impl == "triton"


def grad_off() -> AbstractContextManager[None]:
    """`torch.no_grad()`, or nothing where gradients are off already, which costs less."""
    return torch.no_grad() if torch.is_grad_enabled() else nullcontext()


def check_tensors(
    names: Sequence[str], tensors: Iterable[Tensor | None], required: int = 1
) -> None:
    """Demand tensors that kernels can read, all of them on the device of the first one.

    Every operation begins with this: what comes after it may ask for shapes and strides. The names
    are those of the arguments; all but the first `required` tensors may be None.

    Raises:
        TypeError: for what is no tensor.
        ValueError: for a tensor that is sparse, nested, packed, negated, fake, or on another
            device.
    """
    # What is traced cannot be asked whether it is negated.
    device, traced = None, torch.compiler.is_compiling()
    for place, tensor in enumerate(tensors):
        if tensor is None and place >= required:
            continue
        if (
            not isinstance(tensor, Tensor)
            or tensor.layout is not _DENSE
            or tensor.is_nested
            or (not traced and tensor.is_neg())
            or (type(tensor) is not Tensor and not traced and _is_stray(tensor))
        ):
            raise _unfit(names[place], tensor)
        if device is None:
            device = tensor.device
            if device.type == "meta":
                raise ValueError(f"{names[0]} is on the meta device, which holds no values")
        elif tensor.device != device:
            raise ValueError(
                f"{names[place]} is on {tensor.device} and {names[0]} on {device}; "
                "move them to one device"
            )


def _is_stray(tensor: Tensor) -> bool:
    """Whether this is a fake tensor, which has no values, where nothing else is fake."""
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
    """Whether this is a number of a kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def check_flags(**flags: bool) -> None:
    """Demand True or False: a word that says no would count as yes."""
    for name, value in flags.items():
        if value is not True and value is not False:
            raise TypeError(f"{name} is {_shown(value)}; pass True or False")


def check_floats(name: str, tensor: Tensor, sizes: str) -> None:
    """Demand float16, bfloat16 or float32, and the dimensions that `sizes` lists, as in "N, d"."""
    if tensor.dtype not in FLOATS or tensor.dim() != sizes.count(",") + 1:
        raise ValueError(
            f"{name} is {tensor.dtype} {list(tensor.shape)}; "
            f"pass float16, bfloat16 or float32 [{sizes}]"
        )


def check_shape(
    name: str, tensor: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """Demand one dtype and exactly `shape`; None passes."""
    if tensor is not None and (tensor.shape != shape or tensor.dtype != dtype):
        raise ValueError(
            f"{name} is {tensor.dtype} {list(tensor.shape)}; pass {dtype} {list(shape)}"
        )


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


def check_written(written: Mapping[str, Tensor | None], read: Mapping[str, Tensor | None]) -> None:
    """Demand that arguments can be written in place, and that nothing else lies where they do.

    Strides and addresses alone are looked at, and only as far as layouts go in which every
    dimension steps over all that lies within it; of others it is assumed that they may meet.

    Raises ValueError if elements of one of the `written` tensors share memory with each other or
    with those of another tensor, or if autograd would have to know of the change.
    """
    # What is traced has no address, and is not written before it runs.
    traced = torch.compiler.is_compiling()
    tracked = not traced and torch.is_grad_enabled()
    guarded = not traced and not torch.is_inference_mode_enabled()
    alone = traced or len(written) + len(read) == 1
    places = [] if alone else [_place(name, x) for name, x in read.items() if x is not None]
    for name, x in written.items():
        if x is None:
            continue
        reach = x.numel() if x.is_contiguous() else _reach(x)
        if reach < 0:
            raise ValueError(
                f"{name} is written in place, and with strides {list(x.stride())} its elements "
                f"share memory; pass {name}.contiguous()"
            )
        if tracked and x.requires_grad:
            raise ValueError(
                f"{name} requires a gradient and is written in place; "
                f"pass {name}.detach(), or call within torch.no_grad()"
            )
        if guarded and x.is_inference():
            raise ValueError(
                f"{name} is an inference tensor and is written in place; "
                f"pass {name}.clone(), or call within torch.inference_mode()"
            )
        if alone:
            continue
        start = x.data_ptr()
        end = start + reach * x.element_size()
        place = start, end, name, x
        for other in places:
            # What begins at 0 is a stand-in without memory.
            if other[0] < end and start < other[1] and start and _can_overlap(place, other):
                raise ValueError(
                    f"{name} is written in place and shares memory with {other[2]}; "
                    f"pass {other[2]}.clone()"
                )
        places.append(place)


def _place(name: str, x: Tensor) -> _Place:
    start = x.data_ptr()
    if x.is_contiguous():
        return start, start + x.nbytes, name, x
    return start, start + abs(_reach(x)) * x.element_size(), name, x


def _reach(x: Tensor) -> int:
    """The elements from the first to the last one; negative if two may lie in one place."""
    reach, in_order = 1, True
    shape, steps = x.shape, x.stride()
    for i in range(len(shape) - 1, -1, -1):
        if shape[i] > 1:
            in_order = in_order and steps[i] >= reach
            reach += steps[i] * (shape[i] - 1)
    return reach if in_order or not _can_overlap_itself(x) else -reach


def _can_overlap_itself(x: Tensor) -> bool:
    """Whether two elements may lie in one place, whatever the order of the dimensions."""
    reach = 1
    for step, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1:
            if step < reach:
                return True
            reach += step * (size - 1)
    return False


def _can_overlap(one: _Place, other: _Place) -> bool:
    """Whether elements of two tensors may lie in one place."""
    shift = other[0] - one[0]
    if _is_interleaved(shift, one, other):
        return False
    return _can_meet(shift, _steps(one[3]), _steps(other[3]))


def _is_interleaved(shift: int, one: _Place, other: _Place) -> bool:
    """Whether each has a range of its own in every step of the same first dimensions.

    The parts of a cache do, which meet here at every step of a model: a quick answer for them.
    """
    x, y = one[3], other[3]
    if x.dtype != y.dtype:
        return False
    shape, steps, other_shape, other_steps = x.shape, x.stride(), y.shape, y.stride()
    item, reach, other_reach, outer = x.element_size(), one[1] - one[0], other[1] - other[0], 0
    for i in range(min(len(shape), len(other_shape))):
        step = steps[i] * item
        if steps[i] != other_steps[i] or not step or outer % step:
            return False
        outer = step
        reach -= (shape[i] - 1) * step
        other_reach -= (other_shape[i] - 1) * step
        first = shift % step
        if first >= reach and first + other_reach <= step:
            return True
    return False


def _steps(x: Tensor) -> list[tuple[int, int]]:
    """Steps in bytes and sizes of the dimensions, widest first, down to the bytes of an element."""
    item = x.element_size()
    pairs = zip(x.stride(), x.shape, strict=True)
    return [*sorted(((s * item, n) for s, n in pairs if s and n > 1), reverse=True), (1, item)]


def _can_meet(shift: int, one: list[tuple[int, int]], other: list[tuple[int, int]]) -> bool:
    """Whether elements of both may lie in one place, if the other starts `shift` bytes later."""
    reach, other_reach = _width(one), _width(other)
    if shift > reach or -shift > other_reach:
        return False
    if not one or not other:
        return True
    step = max(one[0][0], other[0][0])
    # A dimension that the other one has not is one place there.
    size, one = (one[0][1], one[1:]) if one[0][0] == step else (1, one)
    other_size, other = (other[0][1], other[1:]) if other[0][0] == step else (1, other)
    # Only shifts by which what lies within a step can meet.
    least = max(-((_width(other) + shift) // step), 1 - size)
    most = min((_width(one) - shift) // step, other_size - 1)
    if most - least > _MOST_SHIFTS:
        return True
    return any(_can_meet(shift + n * step, one, other) for n in range(least, most + 1))


def _width(steps: list[tuple[int, int]]) -> int:
    """The bytes from the first to the last one."""
    return sum(step * (size - 1) for step, size in steps)
