"""Where the elements of tensors lie: what is written must be neither shared nor read elsewhere.

Strides and addresses alone are looked at, and only as far as layouts go in which every dimension
steps over all that lies within it; of others it is assumed that they may meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

# Places of one dimension that are compared with another tensor one by one.
_MOST_SHIFTS = 64

# A tensor: the address of its first byte and the one behind its last, its name, and itself.
_Place = tuple[int, int, str, "Tensor"]


def check_written(written: Mapping[str, Tensor | None], read: Mapping[str, Tensor | None]) -> None:
    """Demand that arguments can be written in place, and that nothing else lies where they do.

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
            if other[0] < end and start < other[1] and start and _share(place, other):
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
    return reach if in_order or not _meets_itself(x) else -reach


def _meets_itself(x: Tensor) -> bool:
    """May two elements lie in one place, whatever the order of the dimensions?"""
    reach = 1
    for step, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1:
            if step < reach:
                return True
            reach += step * (size - 1)
    return False


def _share(one: _Place, other: _Place) -> bool:
    """May elements of two tensors lie in one place?"""
    shift = other[0] - one[0]
    if _take_turns(shift, one, other):
        return False
    return _meet(shift, _steps(one[3]), _steps(other[3]))


def _take_turns(shift: int, one: _Place, other: _Place) -> bool:
    """Does each have a range of its own in every step of the same first dimensions?

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


def _meet(shift: int, one: list[tuple[int, int]], other: list[tuple[int, int]]) -> bool:
    """May elements of two tensors lie in one place, where the other starts `shift` bytes later?"""
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
    return any(_meet(shift + n * step, one, other) for n in range(least, most + 1))


def _width(steps: list[tuple[int, int]]) -> int:
    """The bytes from the first to the last one."""
    return sum(step * (size - 1) for step, size in steps)
