"""A benchmark case: a kernel at a shape, its random arguments, and its plain formulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tritonseq import kernels
from tritonseq.kernels import reference

from .draw import Draw

if TYPE_CHECKING:
    from .shapes import Shape

# By how much the error of a kernel may exceed that of torch's own operations in its dtype.
ERROR_RATIO = 2.5

Arguments = dict[str, Any]
"""Of a kernel, all by name."""

Judge = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], str]
"""Says what is wrong with a result beside the truth and torch's own result in the same dtype."""


@dataclass(frozen=True)
class Case:
    """A call of `tritonseq.kernels`'s function `kernel`, as a workload's step makes it.

    `draw(draw, samples)` makes its arguments. `naive` does the same work in plain torch and returns
    the same result, followed by what it wrote, as far as that is to be compared. It takes the
    same arguments, or those that `held` makes of them: what a plain formulation would hold
    instead of what we hold, which is no part of the work that is timed.
    """

    kernel: str
    shape: Shape
    part: str
    draw: Callable[[Draw, int], Arguments]
    naive: Callable[..., Any]
    written: tuple[str, ...] = ()
    """Arguments that the kernel changes in place, without its result."""
    moved: Callable[[Arguments], int] | None = None
    """The fewest bytes that must move; by default every argument and result once."""
    held: Callable[[Arguments], Arguments] | None = None
    judge: Judge | None = None
    """In place of `close`."""
    same: bool = True
    """Whether `naive` gives the same result, rather than only doing the same work."""
    judged: int = 2
    """Samples that the reference, which is slow, has to judge."""
    repeatable: bool = True
    """Whether a call on what the last one left does the same work, however often."""

    @property
    def name(self) -> str:
        return f"{self.kernel} {self.shape.letter}" + (f" {self.part}" if self.part else "")

    def run(self, arguments: Arguments, impl: str) -> Any:
        """The kernel by the path `impl`."""
        return getattr(kernels, self.kernel)(**arguments, impl=impl)

    def naive_arguments(self, arguments: Arguments) -> Arguments:
        return copied(arguments) if self.held is None else self.held(copied(arguments))

    def bytes_moved(self, arguments: Arguments) -> int:
        """By arithmetic: each input read once, each output written once."""
        if self.moved is not None:
            return self.moved(arguments)
        own = copied(arguments)
        outputs = self._outputs(self.run(own, "torch"), own)
        return sum(map(size, [*tensors(arguments), *outputs]))

    def fault(self, device: torch.device, dtype: torch.dtype, impl: str) -> str:
        """Why this kernel is not to be timed; empty where it is right.

        The reference, by definition and slow, judges a few samples, and the naive formulation
        in float32 the whole batch.
        """
        few = self.draw(Draw(device, dtype, 1), min(self.judged, self.shape.samples))
        own = copied(widened(few))
        truth = self._outputs(getattr(reference, self.kernel)(**own), own)
        fault = self._judged(few, truth, impl)
        if fault or not self.same:
            return fault and f"against the reference: {fault}"
        full = self.draw(Draw(device, dtype, 2), self.shape.samples)
        truth = tensors(self.naive(**self.naive_arguments(widened(full))))
        fault = self._judged(full, truth, impl)
        return fault and f"against the naive formulation: {fault}"

    def _judged(self, arguments: Arguments, truth: list[Tensor], impl: str) -> str:
        own = copied(arguments)
        result = self._outputs(self.run(own, impl), own)
        plain = tensors(self.naive(**self.naive_arguments(arguments))) if self.same else []
        judge: Judge = self.judge or close
        return judge(result, truth, plain)

    def _outputs(self, result: Any, arguments: Arguments) -> list[Tensor]:
        """The result and what was written; once only where a kernel returns the latter."""
        written = [arguments[name] for name in self.written]
        return list({x.data_ptr(): x for x in tensors([result, written])}.values())


def close(result: Sequence[Tensor], truth: Sequence[Tensor], plain: Sequence[Tensor]) -> str:
    """Floats err little more than `plain`, torch's own in the same dtype; all else is equal.

    Of the three the shorter ones leave out what is not compared.
    """
    for index, (ours, true) in enumerate(zip(result, truth, strict=False)):
        own = plain[index] if index < len(plain) else None
        if fault := distance(ours, true, own):
            return f"result {index} {fault}"
    return ""


def distance(ours: Tensor, true: Tensor, own: Tensor | None) -> str:
    """What is wrong with one tensor; empty where nothing is."""
    if ours.shape != true.shape:
        return f"is {list(ours.shape)} instead of {list(true.shape)}"
    if not true.is_floating_point():
        different = int((ours != true).sum())
        return f"differs in {different} of {true.numel()} places" if different else ""
    finite = true.isfinite()
    if not bool(torch.where(finite, ours.isfinite(), ours == true).all()):
        return "has infinities or NaN in the wrong places"
    error = _error(ours, true, finite)
    allowed = 1e-5 * max(1.0, _largest(true.where(finite, 0)))
    if own is not None:
        allowed += ERROR_RATIO * _error(own, true, finite)
    return f"errs by {error:.1e}, allowed {allowed:.1e}" if error > allowed else ""


def _error(ours: Tensor, true: Tensor, finite: Tensor) -> float:
    return _largest(torch.where(finite, ours.float() - true.float(), 0))


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def tensors(values: Any) -> list[Tensor]:
    """All of them within nested tuples, lists and dictionaries, or the one that this is."""
    found: list[Tensor] = []
    mapped(values, found.append)
    return found


def copied(arguments: Arguments) -> Arguments:
    """With memory of their own, laid out alike down to what pads rows: a call writes to some."""
    copies: Arguments = mapped(arguments, _copied)
    return copies


def _copied(x: Tensor) -> Tensor:
    count = x.untyped_storage().nbytes() // x.element_size()
    whole = x.as_strided((count,), (1,), 0).clone()
    return whole.as_strided(x.shape, x.stride(), x.storage_offset())


def widened(arguments: Arguments) -> Arguments:
    """With all floats in float32."""
    wide: Arguments = mapped(arguments, lambda x: x.float() if x.is_floating_point() else x)
    return wide


def mapped(values: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same structure with every tensor changed; what is no tensor stays."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, dict):
        return {name: mapped(value, change) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        parts = [mapped(value, change) for value in values]
        return type(values)(*parts) if hasattr(values, "_fields") else type(values)(parts)
    return values


def size(x: Tensor) -> int:
    return x.numel() * x.element_size()
